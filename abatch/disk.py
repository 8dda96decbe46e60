"""Names on disk: made durable, and removed. These calls block; they are made through `threads.run`.

After a failed fsync nobody knows which names of a folder are on the disk, and the next fsync may well succeed without
them. So a folder is synced by one thread at a time, and not again until somebody begins anew with it: `trust`.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["remove", "sync_folder", "trust"]

_turn = threading.Lock()
_doubtful: set[Path] = set()
"""Folders whose sync failed."""


def remove(path: Path) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        path.unlink()


def trust(folder: Path) -> None:
    """Begin anew with a folder: nobody relies any more on names that were to be durable when a sync of it failed."""
    _doubtful.discard(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: it failed, now or before.

    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _turn:
            if folder in _doubtful:
                raise OSError(errno.EIO, "its names could not be made durable a moment ago", str(folder))
            try:
                os.fsync(descriptor)
            except OSError:
                _doubtful.add(folder)
                raise
    finally:
        os.close(descriptor)
