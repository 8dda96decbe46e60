"""The folder of a journal: its files, who may read them, and when they are removed.

    .abatch/            0700
      journal.db        the facts, in the order they became durable (`sqlite.py`)
      lock              held by the one process that drives (`lock.py`)
      driver.json       the status of the driving process (`status.py`)
      spool/            sealed request bodies
      missing/          ids of rows that have no result, per shard (`missing.py`)
      inputs/           requests of jobs that were submitted from outside without a file (`queued.py`)
      ids/              ids of drained shards, for as long as the API keeps their results (`kept.py`)
      .seen-*.tmp       scratch files of a check, without a name where the system allows it
      .*.tmp            files that are not complete, in each folder (`drafts.py`)

Only this package builds paths inside the journal. Files are made with mode 0600. The command line also keeps the state
of a sandbox in the same folder, which this package ignores. These calls block: see `threads.run`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from abatch.errors import JournalError
from abatch.journal import lock
from abatch.log import log
from abatch.system.disk import close_to_others, make_folders, remove

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

__all__ = ["JournalFolder"]


class JournalFolder:
    """The paths of the files of one journal."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """The name of the journal in messages, the base of its relative paths, and the folder of scratch files."""
        self.spool = path / "spool"
        """The folder of sealed shards; the `Planned` of each names its file."""
        self.missing = path / "missing"
        """The folder of the lists of rows without a result."""
        self.ids = path / "ids"
        """The folder of the custom_ids of drained shards; `kept.py` describes its files."""
        self.inputs = path / "inputs"
        """The folder of kept inputs, made with the first of them; each is named after its content."""
        self.database = path / "journal.db"
        """The file of `SqliteLog`."""
        self.lock = path / "lock"
        """The file of `DriverLock`."""
        self.status = path / "driver.json"
        """The file of `DriverStatus`."""

    def __str__(self) -> str:
        return str(self.path)

    @staticmethod
    def spool_name(shard: int) -> str:
        """Return the name of a shard's spool file."""
        return f"{shard:08d}.spool"

    @staticmethod
    def retry_name(shard: int) -> str:
        """Return the name of the spool file with the rows of a shard that are sent again."""
        return f"retry-{shard:08d}.spool"

    def spool_file(self, name: str) -> Path:
        """Return the path of the spool file with this name."""
        return self.spool / name

    def missing_list(self, shard: int) -> Path:
        """Return the path of the list of a shard's rows without a result; it need not exist."""
        return self.missing / f"{shard:08d}.jsonl"

    def missing_lists(self, shards: Iterable[int]) -> tuple[Path, ...]:
        """Return the paths of the lists of these shards, in the order of their numbers."""
        return tuple(map(self.missing_list, sorted(shards)))

    def prepare(self) -> None:
        """Make the missing folders, and close all folders to other users.

        Raises:
            JournalError: one of the folders belongs to another user.
            OSError: one of the folders cannot be made.

        """
        for part in (self.path, self.spool, self.missing, self.ids):
            make_folders(part)
            _make_ours_alone(part)

    def prepare_inputs(self) -> None:
        """Make the folder of kept inputs, and close it to other users.

        Raises:
            JournalError: it belongs to another user.
            OSError: it cannot be made.

        """
        make_folders(self.inputs)
        _make_ours_alone(self.inputs)

    def is_driven(self) -> bool:
        """Return whether a process drives the journal: this one or another, in any container of this machine."""
        return lock.is_locked(self.lock)

    def tidy(self, *, spool: Collection[str], ids_for: float, inputs: Collection[str] = ()) -> None:
        """Remove the leftovers of runs that died, and custom_ids that were kept for long enough.

        Args:
            spool: the names of the spool files that are still needed.
            ids_for: the number of seconds for which the custom_ids of a drained shard, and inputs that no job needs,
                are kept.
            inputs: the names of the kept inputs that are still needed.

        """
        old = time.time() - ids_for
        for path in self.ids.iterdir():
            if path.stat().st_mtime < old:
                remove(path)
        for path in self.inputs.iterdir() if self.inputs.is_dir() else ():
            if path.name not in inputs and path.stat().st_mtime < old:
                remove(path)
        for path in self.spool.iterdir():
            if path.name not in spool and not path.is_dir():
                remove(path)
        for folder, drafts in (
            (self.path, ".seen-*.tmp"),
            (self.path, ".driver-*.tmp"),
            (self.missing, ".*.tmp"),
            (self.ids, ".*.tmp"),
        ):
            for path in folder.glob(drafts):
                remove(path)


def _make_ours_alone(folder: Path) -> None:
    """Refuse a folder of another user, and close our own to other users, because it contains prompts."""
    try:
        bits = close_to_others(folder)
    except OSError as refused:
        raise JournalError(
            f"{folder} is not for its owner alone: {refused.strerror}; choose another journal with journal=, "
            "or give the folder to the user who runs this (chown, chmod 700)"
        ) from refused
    if bits:
        log.warning("journal_folder_was_open", folder=str(folder), others_had=f"{bits:03o}")
