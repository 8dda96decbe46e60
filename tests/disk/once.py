"""A disk that fails once and is well again at once, which tempts to try again: the errors of `os` and of SQLite.

After a failed fsync nobody knows what is on the disk; the pages may be marked clean and lost. So what failed must not
be synced again, and no file that failed to sync may get its name.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from abatch.journal import sqlite


class FsyncFailsOnce:
    """The nth `os.fsync` fails; what is done to that file afterwards is watched."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._failed: int | None = None
        self._kept: int | None = None
        """A descriptor of that file: while it is open, no other file gets its inode."""
        self.happened = False
        self.wrongs: list[str] = []
        """What must not follow, and did."""

    def close(self) -> None:
        """Let go of the file."""
        if self._kept is not None:
            os.close(self._kept)
            self._kept = None

    def patch(self, setattr_: Callable[[Any, str, Any], None]) -> None:
        """Stand before the calls."""
        fsync, rename, link = os.fsync, os.rename, os.link

        def failing_fsync(descriptor: int) -> None:
            now = os.fstat(descriptor)
            inode = now.st_ino
            # a folder may be, for other names: whoever gave one before the failure hears of it (`disk.durable`)
            if inode == self._failed and not stat.S_ISDIR(now.st_mode):
                self.wrongs.append("it was synced again")
            self._left -= 1
            if self._left == 0:
                self._failed, self._kept, self.happened = inode, os.dup(descriptor), True
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fsync(descriptor)

        def named(real: Callable[..., None]) -> Callable[..., None]:
            def name(source: Any, target: Any, **more: Any) -> None:
                if Path(source).stat().st_ino == self._failed:
                    self.wrongs.append(f"it got its name, {Path(target).name}")
                real(source, target, **more)

            return name

        setattr_(os, "fsync", failing_fsync)
        setattr_(os, "rename", named(rename))
        setattr_(os, "link", named(link))


class CommitFailsOnce:
    """The nth COMMIT of the journal fails, with its facts written or without; any later statement is a wrong."""

    def __init__(self, number: int, *, done: bool) -> None:
        self._left, self._done = number, done
        self.happened = False
        self.wrongs: list[str] = []

    def patch(self, setattr_: Callable[[Any, str, Any], None]) -> None:
        """Stand between the journal and SQLite."""
        connect = sqlite._connect

        def connected(path: Path, **more: Any) -> tuple[Any, bytes]:
            database, lineage_key = connect(path, **more)
            return _Failing(self, database), lineage_key

        setattr_(sqlite, "_connect", connected)

    def execute(self, database: sqlite3.Connection, statement: str, *values: Any) -> Any:
        """One statement."""
        if self.happened and statement != "ROLLBACK":
            self.wrongs.append(f"the journal was used again: {statement}")
        if statement == "COMMIT":
            self._left -= 1
            if self._left == 0:
                self.happened = True
                database.execute("COMMIT" if self._done else "ROLLBACK")
                raise sqlite3.OperationalError("disk I/O error")
        return database.execute(statement, *values)


class _Failing:
    def __init__(self, fault: CommitFailsOnce, database: sqlite3.Connection) -> None:
        self._fault, self._database = fault, database

    def execute(self, statement: str, *values: Any) -> Any:
        return self._fault.execute(self._database, statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)
