"""Make the standard streams safe for work that costs money: a stream that fails never ends it, nor changes its status.

A message that cannot be written to stderr is dropped. What cannot be written to stdout raises OutputGone, once: the
stream leads to the null device from then on, so that the interpreter's own last flush cannot fail and replace the
exit status. A stream that was closed before the start keeps its descriptor taken: otherwise the journal would be opened
as descriptor 1 or 2, and whatever is printed would be written into it.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final, TextIO

from abatch.errors import AbatchError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["OutputGone", "secure_streams"]

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2


class OutputGone(AbatchError):
    """Stdout cannot be written; it is no OSError, because a failure of the work must not be taken for one of this."""

    def __init__(self, failure: OSError) -> None:
        super().__init__(failure)
        self.failure = failure

    @property
    def reader_left(self) -> bool:
        """Whether the reader of a pipe closed it."""
        return self.failure.errno == errno.EPIPE

    def __str__(self) -> str:
        return f"stdout cannot be written ({self.failure.strerror})"


def secure_streams() -> None:
    """Replace the standard streams of this process; called once, before anything is opened or written."""
    _take_descriptors()
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - it is None where it was closed
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115 - reads of it fail, as they should
    sys.stdout = _text(io.BufferedWriter(_Output()), of=sys.stdout)
    sys.stderr = _text(_Messages(), of=sys.stderr)


def _take_descriptors() -> None:
    """Open the null device in place of each stream that was closed, in the direction in which its use fails."""
    for descriptor, way in ((STDIN, os.O_WRONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, way)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)


def _text(binary: io.RawIOBase | io.BufferedWriter, *, of: TextIO | None) -> io.TextIOWrapper:
    """Make a text stream that replaces another one; characters that its encoding lacks are written as escapes."""
    encoding = "utf-8" if of is None else of.encoding
    return io.TextIOWrapper(
        binary,  # type: ignore[arg-type] # a raw stream does, where every write goes through
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=True,
    )


class _Standard(io.RawIOBase):
    """A standard stream of this process, unbuffered."""

    descriptor: int

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def _write(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self.descriptor, data)
            except BlockingIOError:  # another process that shares it made it non-blocking
                select.select([], [self.descriptor], [])


class _Messages(_Standard):
    """Stderr. Text that it refuses is dropped; later text is tried again, because a disk may have space then."""

    descriptor = STDERR

    def write(self, data: ReadableBuffer, /) -> int:
        whole = memoryview(data).cast("B")
        rest = whole
        try:
            while rest:
                rest = rest[self._write(rest) :]
        except OSError:  # it cannot be reported anywhere, and the exit status is that of the work
            return len(whole)
        return len(whole)


class _Output(_Standard):
    """Stdout. Its first failure is raised as OutputGone."""

    descriptor = STDOUT

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return self._write(memoryview(data).cast("B"))
        except OSError as failure:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.descriptor)
            os.close(nowhere)
            raise OutputGone(failure) from failure
