"""Make names on disk durable, remove them, and start the writeback of files. These calls block: see `threads.run`.

After a failed fsync it is not known which names of a folder are on the disk, and the next fsync may well succeed
without them. So only one thread at a time syncs a folder, and every thread that created a name before a failed sync
gets the error. A name that a later run finds is synced again, and that sync is believed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = [
    "OUT_OF_FILES",
    "Writeback",
    "can_open_more",
    "close_to_others",
    "durable",
    "is_out_of_files",
    "make_folders",
    "passes",
    "remove",
    "sync",
    "sync_folder",
]

AHEAD: Final = 2**21
"""The largest number of a file's bytes that are left to its fsync."""
SYNC_FILE_RANGE_WRITE: Final = 2
"""An option of Linux's `sync_file_range`: begin to write, and do not wait."""

OUT_OF_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
"""This process, or this machine, has no descriptor left. That passes, and has nothing to do with the disk."""
UNABLE: Final = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EROFS}
"""Errors of a folder that cannot be synced: it cannot be read, or its file system has nothing to sync (automounts)."""
NO_FULL_SYNC: Final = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
"""Errors of a file system without `F_FULLFSYNC`, for example a network file system."""
PASSING: Final = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EMFILE,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOLCK,
    errno.EPIPE,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
"""Errors that may pass by themselves. A full disk, a refused permission and a failing device (EIO) do not."""
_turn = threading.Lock()
_failures: Counter[Path] = Counter()
"""The number of failed syncs of each folder."""


class Writeback:
    """Let the kernel begin to write a growing file to the disk, so that little is left for the final fsync.

    This only saves time: the fsync reports an error of the disk.
    """

    def __init__(self) -> None:
        self._begun = 0

    def reached(self, descriptor: int, size: int) -> None:
        """Note that the file has `size` bytes now."""
        if size - self._begun >= AHEAD:
            begin = _sync_file_range()
            if begin is not None:
                begin(descriptor, self._begun, size - self._begun, SYNC_FILE_RANGE_WRITE)
            self._begun = size


@cache
def _sync_file_range() -> Any:  # noqa: ANN401 - a function of `ctypes`, or None if the system lacks it
    try:
        import ctypes  # noqa: PLC0415 - a Python may lack it

        function = ctypes.CDLL(None).sync_file_range
    except (ImportError, OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


def sync(descriptor: int) -> None:
    """Make the bytes of a file, or the names in a folder, durable: on the disk itself, not in its cache.

    On macOS, fsync lets the disk decide when it writes; `F_FULLFSYNC` does not.

    Raises:
        OSError: the sync failed. Never try again, because the effect of a failed sync is not known.

    """
    full: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError as refused:
            if refused.errno not in NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(descriptor)


def close_to_others(folder: Path) -> int:
    """Remove the permissions of other users on a folder that is ours, and return them; 0 if there were none.

    Raises:
        OSError: the folder belongs to another user, or its permissions cannot be changed.

    """
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"it belongs to another user (uid {found.st_uid})", str(folder))
    others = stat.S_IMODE(found.st_mode) & 0o077
    if others:
        folder.chmod(stat.S_IMODE(found.st_mode) & ~0o077)
    return others


def passes(failure: OSError) -> bool:
    """Return whether this failure may pass by itself."""
    return failure.errno in PASSING


def remove(path: Path) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        path.unlink()


@contextmanager
def durable(folder: Path) -> Generator[None, None, None]:
    """Make the names durable that are created in a folder inside this block.

    Raises:
        OSError: the names may be lost, because this sync of the folder failed, or another one since the block began.

    """
    before = _failures[folder]
    yield
    _sync(folder, before)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: the sync failed.

    """
    _sync(folder, _failures[folder])


def make_folders(folder: Path) -> None:
    """Make a folder and its missing parents, for us alone; each is durable before the next one is made in it.

    A folder that exists is made durable, too, because an earlier run may have made it and died. A file system that
    cannot sync a folder is not an error.

    Raises:
        OSError: one of the folders cannot be made.

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
                sync(descriptor)
            except OSError as failure:
                _failures[folder] += 1
                failure.filename = str(folder)
                raise
    finally:
        os.close(descriptor)


def is_out_of_files(failure: OSError) -> bool:
    """Return whether a file or connection could not be opened because no descriptor is left."""
    return failure.errno in OUT_OF_FILES


def can_open_more() -> bool:
    """Return whether a descriptor is left, because some libraries do not report why they could not open a file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as refused:
        return not is_out_of_files(refused)
    return True
