"""The lock that marks the one process that drives a journal on this host; the kernel frees it at that process's death.

These calls block: see `threads.run`.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from io import FileIO
from typing import TYPE_CHECKING, Final

from abatch.errors import JournalLocked

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DriverLock", "forget_locks", "holder", "is_locked"]

SAYS_WITHIN: Final = 50
"""Hundredths of a second in which the process that took the lock writes its id into the file."""
TRIES: Final = 4
"""How often the lock is asked for, a hundredth of a second apart: `is_locked` holds it for a moment."""


class DriverLock:
    """The lock, held until it is closed."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            JournalLocked: another process has it.
            OSError: the file cannot be opened.

        """
        self._file = _take_lock(path)
        _held.add(self)

    def close(self) -> None:
        """Close the descriptor; in the process that took the lock, that gives it up."""
        self._file.close()
        _held.discard(self)

    @property
    def held(self) -> bool:
        """Whether this process still has the lock: a child that was forked from it has not."""
        return not self._file.closed


_held: weakref.WeakSet[DriverLock] = weakref.WeakSet()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock: this one or another, in whatever container of this machine.

    The lock tells it, and not the process id in the file: in another container the id means nothing, and it may have
    been given to another process since.
    """
    try:
        file = FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW))
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def holder(path: Path) -> int:
    """The id of the process that took the lock last; 0 if it has not written it yet."""
    said = path.read_text().strip()
    return int(said) if said.isdigit() else 0


def _take_lock(path: Path) -> FileIO:
    """The open lock file; closing it, or losing it, gives the lock up."""
    file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
    for tries_left in reversed(range(TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            if tries_left:
                time.sleep(0.01)
                continue
            with file:
                raise JournalLocked(path.parent, _await_holder(file)) from held
        break
    file.write(b"%-19d\n" % os.getpid())  # over what the last one wrote, so that it is never empty again
    return file


def _await_holder(file: FileIO) -> int:
    """The process that holds the lock; 0 if it has taken it for the first time and does not say so."""
    for _ in range(SAYS_WITHIN):
        said = os.pread(file.fileno(), 20, 0).strip()
        if said.isdigit():
            return int(said)
        time.sleep(0.01)
    return 0


def forget_locks() -> None:
    """Close every lock that was taken here.

    A forked child shares the descriptors, and with them the locks, which must not outlive the driver in it.
    """
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=forget_locks)
