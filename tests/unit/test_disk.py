"""Names on disk: a folder that failed to sync is not synced again before somebody begins anew with it."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from abatch.disk import sync_folder, trust


@pytest.fixture
def failing(monkeypatch, tmp_path):
    fsync, calls = os.fsync, list[bool]()

    def fails_once(descriptor: int) -> None:
        calls.append(not calls)
        if calls[-1]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_once)
    yield calls
    trust(tmp_path)


def test_a_folder_that_failed_to_sync_is_not_synced_again(tmp_path, failing):
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    with pytest.raises(OSError, match="its names could not be made durable a moment ago"):
        sync_folder(tmp_path)
    assert failing == [True]


def test_who_begins_anew_with_a_folder_syncs_it(tmp_path, failing):
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    trust(tmp_path)
    sync_folder(tmp_path)
    assert failing == [True, False]


def test_another_folder_is_not_concerned(tmp_path, failing):
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
    sync_folder(other)
    assert failing == [True, False]


def test_who_waits_for_a_sync_that_fails_hears_of_it(monkeypatch, tmp_path):
    begun, go, heard = threading.Event(), threading.Event(), list[str]()

    def slowly(_: int) -> None:
        begun.set()
        go.wait(60)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def sync() -> None:
        with pytest.raises(OSError, match=r"made durable|Input") as failure:
            sync_folder(tmp_path)
        heard.append(str(failure.value.strerror))

    monkeypatch.setattr(os, "fsync", slowly)
    threads = [threading.Thread(target=sync) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(60)
    trust(tmp_path)
    assert sorted(heard) == ["Input/output error", "its names could not be made durable a moment ago"]
