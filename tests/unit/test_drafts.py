"""Files that get their name once they are complete, and the temporary files that a death leaves."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from abatch.journal.folder import JournalFolder
from abatch.system import drafts
from abatch.system.drafts import Draft, replaced

if TYPE_CHECKING:
    from pathlib import Path


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("durably", [True, False])
def test_a_file_is_replaced_as_a_whole_and_is_for_its_owner_alone(tmp_path: Path, durably: bool) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"old")
    with replaced(path, durably=durably) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert _names(tmp_path) == ["list"]


@pytest.mark.parametrize("durably", [True, False])
def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path: Path, durably: bool) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), replaced(path, durably=durably) as file:
        file.writelines([b"ne", "w"])  # type: ignore[list-item]
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["list"]


def test_bytes_that_cannot_be_synced_get_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError("no")

    monkeypatch.setattr(drafts, "sync", fail)
    with pytest.raises(OSError, match="no"), replaced(tmp_path / "list") as file:
        file.write(b"new")
    assert _names(tmp_path) == []


def test_only_a_durable_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(drafts, "sync", synced.append)
    for durably in (False, True):
        with replaced(tmp_path / "list", durably=durably) as file:
            file.write(b"new")
        assert len(synced) == durably


def test_what_a_death_left_is_removed_before_the_journal_is_driven(tmp_path: Path) -> None:
    folder = JournalFolder(tmp_path / "journal")
    folder.prepare()
    for part in (folder.spool, folder.missing, folder.ids):
        Draft(part).file.close()
    Draft(folder.path, prefix=".driver-").file.close()
    kept = [folder.spool / "00000001.spool", folder.missing / "00000001.jsonl", folder.ids / "00000001", folder.status]
    for path in [*kept, folder.path / ".seen-abcd1234.tmp"]:
        path.write_bytes(b"")
    old = folder.ids / "00000002"
    old.write_bytes(b"")
    os.utime(old, (time.time() - 100, time.time() - 100))
    folder.tidy(spool={"00000001.spool"}, ids_for=50)
    assert sorted(path for path in folder.path.rglob("*") if path.is_file()) == sorted(kept)
