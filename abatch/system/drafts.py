"""Write a file under a temporary name, and rename it once it is complete, so that no reader sees a part of it.

A death leaves the temporary file, whose name begins with a dot and ends with `.tmp`: see `JournalFolder.tidy`. These
calls block: see `threads.run`.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from abatch.system.disk import durable, remove, sync

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

__all__ = ["Draft", "replaced"]


class Draft:
    """A file that is not complete: write to `file`, then `publish` it, or `discard` it.

    Args:
        folder: the folder in which the file is published.
        prefix: the beginning of its temporary name.
        buffering: the size of the buffer of `file`, as for `open`.

    """

    def __init__(self, folder: Path, *, prefix: str = ".", buffering: int = -1) -> None:
        self._folder = folder
        descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=folder)  # O_EXCL, 0600
        self._path = folder / name
        self.file: IO[bytes] = os.fdopen(descriptor, "wb", buffering=buffering)

    def publish(self, name: str, *, durably: bool = True) -> None:
        """Close the file and rename it, in place of any file of that name.

        Args:
            name: the name of the file from now on.
            durably: whether its bytes, and then its name, survive a crash of the machine.

        Raises:
            OSError: the file has no new name, or it is not certain that its name survives.

        """
        if not durably:
            self.file.close()
            self._path.rename(self._folder / name)
            return
        self.file.flush()
        sync(self.file.fileno())
        self.file.close()
        with durable(self._folder):
            self._path.rename(self._folder / name)

    def discard(self) -> None:
        """Close and remove the file."""
        with suppress(OSError):  # Closing flushes, which fails on a full disk, but the file is removed anyway.
            self.file.close()
        remove(self._path)


@contextmanager
def replaced(path: Path, *, durably: bool = True, prefix: str = ".") -> Generator[IO[bytes]]:
    """Open a file that takes the place of `path` at the end of the block; after a failure `path` is as it was.

    Args:
        path: the file to replace; it need not exist.
        durably: whether the new file survives a crash of the machine.
        prefix: the beginning of its temporary name.

    Raises:
        OSError: the file cannot be written.

    """
    draft = Draft(path.parent, prefix=prefix)
    try:
        yield draft.file
        draft.publish(path.name, durably=durably)
    except BaseException:
        draft.discard()
        raise
