"""The lock that marks the one process that drives a journal on this host; the kernel frees it when that process dies.

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
"""Hundredths of a second within which the process that took the lock writes its id into the file."""
TRIES: Final = 4
"""The number of tries to take the lock, a hundredth of a second apart, because `is_locked` holds it for a moment."""


class DriverLock:
    """The lock, which is held until it is closed."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            JournalLocked: another process has it.
            OSError: the file cannot be opened.

        """
        self._file = _take_lock(path)
        _held.add(self)

    def close(self) -> None:
        """Close the descriptor; in the process that took the lock, this releases it."""
        self._file.close()
        _held.discard(self)

    @property
    def held(self) -> bool:
        """Whether this process still has the lock; a forked child does not have it."""
        return not self._file.closed


_held: weakref.WeakSet[DriverLock] = weakref.WeakSet()


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock: this one or another, in any container of this machine.

    The lock decides, not the process id in the file, because the id means nothing in another container and may belong
    to another process by now.
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
    """Return the id of the process that took the lock last; 0 if it has not written its id yet."""
    said = path.read_text().strip()
    return int(said) if said.isdigit() else 0


def _take_lock(path: Path) -> FileIO:
    """Take the lock, and return the open lock file; closing or losing the file releases the lock."""
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
    file.write(b"%-19d\n" % os.getpid())  # overwrite the previous id, so that the file is never empty again
    return file


def _await_holder(file: FileIO) -> int:
    """Return the id of the process that holds the lock; 0 if no process has written its id in time."""
    for _ in range(SAYS_WITHIN):
        said = os.pread(file.fileno(), 20, 0).strip()
        if said.isdigit():
            return int(said)
        time.sleep(0.01)
    return 0


def forget_locks() -> None:
    """Close every lock that this process took.

    A forked child shares the descriptors and with them the locks, which must not outlive the driver in the child.
    """
    for lock in list(_held):
        lock.close()


os.register_at_fork(after_in_child=forget_locks)
