"""Names on disk: who gave a name before a sync of its folder failed hears of it; what comes later begins anew."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from abatch.system import disk
from abatch.system.disk import AHEAD, SYNC_FILE_RANGE_WRITE, Writeback, durable, make_folders


@pytest.fixture
def failing(monkeypatch):
    fsync, calls = os.fsync, list[bool]()

    def fails_once(descriptor: int) -> None:
        calls.append(not calls)
        if calls[-1]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_once)
    return calls


def give(name: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    with durable(name.parent):
        name.touch()
        meanwhile()


def give_in_vain(name: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        give(name)


def test_a_name_given_before_another_sync_failed_is_not_called_durable(tmp_path, failing):
    with pytest.raises(OSError, match="its names could not be made durable a moment ago"):
        give(tmp_path / "early", lambda: give_in_vain(tmp_path / "late"))
    assert failing == [True]


def test_who_gives_a_name_after_a_failure_syncs_it(tmp_path, failing):
    give_in_vain(tmp_path / "early")
    give(tmp_path / "late")
    assert failing == [True, False]


def test_another_folder_is_not_concerned(tmp_path, failing):
    other = tmp_path / "other"
    other.mkdir()
    give(other / "name", lambda: give_in_vain(tmp_path / "name"))
    assert failing == [True, False]


def test_who_waits_for_a_sync_that_fails_hears_of_it(monkeypatch, tmp_path):
    begun, go, heard = threading.Event(), threading.Event(), list[str]()

    def slowly(_: int) -> None:
        begun.set()
        go.wait(60)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def listen(name: Path) -> None:
        with pytest.raises(OSError, match=r"made durable|Input") as failure:
            give(name, lambda: both_named.wait(60))
        heard.append(str(failure.value.strerror))

    both_named = threading.Barrier(2)
    monkeypatch.setattr(os, "fsync", slowly)
    threads = [threading.Thread(target=listen, args=(tmp_path / name,)) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    go.set()
    for thread in threads:
        thread.join(60)
    assert sorted(heard) == ["Input/output error", "its names could not be made durable a moment ago"]


def test_nothing_is_synced_when_no_name_was_given(tmp_path, failing):
    with pytest.raises(FileNotFoundError), durable(tmp_path):
        (tmp_path / "not there").rename(tmp_path / "name")
    assert failing == []


def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    fsync, folders = os.fsync, list[int]()

    def noting(descriptor: int) -> None:
        folders.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    return folders


def test_each_folder_is_durable_before_one_is_made_in_it(monkeypatch, tmp_path):
    folders = synced(monkeypatch)
    make_folders(tmp_path / "a" / "b")
    assert folders == [folder.stat().st_ino for folder in (tmp_path.parent, tmp_path, tmp_path / "a")]
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]


def test_a_folder_that_a_dead_run_made_gets_a_durable_name(monkeypatch, tmp_path):
    (tmp_path / "a").mkdir()
    folders = synced(monkeypatch)
    make_folders(tmp_path / "a")
    assert folders == [tmp_path.stat().st_ino]


@pytest.mark.parametrize("call", ["open", "fsync"])
@pytest.mark.parametrize("error", [errno.EACCES, errno.EINVAL])
def test_a_parent_that_cannot_be_synced_is_no_obstacle(monkeypatch, tmp_path, call, error):
    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, call, refuse)
    make_folders(tmp_path)
    make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("names", ["", "a"])
def test_a_parent_whose_sync_fails_is_named(monkeypatch, tmp_path, names, failing):
    with pytest.raises(OSError, match="Input/output error") as failure:
        make_folders(tmp_path / names)
    assert failure.value.filename == str(tmp_path.parent)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(NotADirectoryError, match="/a'"):
        make_folders(tmp_path / "a" / "b")


def test_writeback_begins_with_all_but_the_last_bytes_of_a_file(monkeypatch):
    begun = []
    monkeypatch.setattr(disk, "_sync_file_range", lambda: lambda *what: begun.append(what))
    writeback = Writeback()
    for size in (AHEAD - 1, AHEAD, AHEAD + 1, 3 * AHEAD, 3 * AHEAD + 5):
        writeback.reached(7, size)
    assert begun == [(7, 0, AHEAD, SYNC_FILE_RANGE_WRITE), (7, AHEAD, 2 * AHEAD, SYNC_FILE_RANGE_WRITE)]


def test_writeback_is_nothing_where_the_system_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_sync_file_range", lambda: None)
    with (tmp_path / "file").open("wb") as file:
        file.write(b"x")
        Writeback().reached(file.fileno(), AHEAD)
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.skipif(sys.platform != "linux", reason="sync_file_range is Linux's")
def test_writeback_is_taken_by_the_kernel(tmp_path):
    begin = disk._sync_file_range()
    with (tmp_path / "file").open("wb") as file:
        file.write(bytes(AHEAD))
        file.flush()
        assert begin(file.fileno(), 0, AHEAD, SYNC_FILE_RANGE_WRITE) == 0


def test_where_there_is_a_full_sync_it_is_what_makes_a_file_durable(tmp_path, monkeypatch):
    """An fsync of macOS leaves the data in the disk's cache."""
    asked, synced = list[tuple[int, int]](), list[int]()
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, command: asked.append((descriptor, command)))
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "x").open("wb") as file:
        disk.sync(file.fileno())
        assert (asked, synced) == ([(file.fileno(), 51)], [])
    disk.sync_folder(tmp_path)
    assert (len(asked), synced) == (2, [])


@pytest.mark.parametrize(("code", "is_synced"), [(errno.ENOTSUP, True), (errno.EINVAL, True), (errno.EIO, False)])
def test_a_file_system_without_a_full_sync_gets_the_usual_one_and_a_failure_is_a_failure(
    tmp_path, monkeypatch, code, is_synced
):
    def refuse(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    synced: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "x").open("wb") as file:
        if is_synced:
            disk.sync(file.fileno())
        else:
            with pytest.raises(OSError, match="Input/output"):
                disk.sync(file.fileno())
        assert synced == [file.fileno()] * is_synced
