"""Names on disk: given, made durable, removed. These calls block; they are made through `threads.run`.

After a failed fsync nobody knows which names of a folder are on the disk, and the next fsync may well succeed without
them. So a folder is synced by one thread at a time, and whoever gave a name before a sync failed hears of it. A name
that a run finds is synced again, and that is believed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = ["durable", "make_folders", "remove", "sync_folder"]

UNABLE: Final = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS}
"""Why a folder is never synced: it cannot be opened to read, or its file system has nothing to sync (automounts)."""
_turn = threading.Lock()
_failures: Counter[Path] = Counter()
"""How often the sync of a folder failed."""


def remove(path: Path) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        path.unlink()


@contextmanager
def durable(folder: Path) -> Generator[None, None, None]:
    """Make the names durable that are given in a folder in here.

    Raises:
        OSError: they may be lost: a sync of the folder failed, this one or another since the first name was given.

    """
    before = _failures[folder]
    yield
    _sync(folder, before)


def sync_folder(folder: Path) -> None:
    """Make the names durable that stand in a folder.

    Raises:
        OSError: it failed.

    """
    _sync(folder, _failures[folder])


def make_folders(folder: Path) -> None:
    """Make a folder and those above it that are missing, for us alone; each is durable before one is made in it.

    So is one that is there: a run may have made it, and died. What its file system cannot do is not asked for.

    Raises:
        OSError: one of them cannot be made.

    """
    failures = _failures[folder.parent]
    if not os.path.lexists(folder):
        make_folders(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    elif not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    try:
        _sync(folder.parent, failures)
    except OSError as refused:
        if refused.errno not in UNABLE:
            raise


def _sync(folder: Path, failures: int) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _turn:
            if _failures[folder] != failures:
                raise OSError(errno.EIO, "its names could not be made durable a moment ago", str(folder))
            try:
                os.fsync(descriptor)
            except OSError as failure:
                _failures[folder] += 1
                failure.filename = str(folder)
                raise
    finally:
        os.close(descriptor)
