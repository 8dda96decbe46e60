"""Read files of JSON lines, plain or compressed, one after the other, some lines at a time, from any cut on.

A file is read twice: the whole file is checked before a job is recorded (`check.py`), then it is planned. Reading
blocks, so it runs in worker threads. Memory is bounded by the longest line that a batch can hold.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import zlib
from bisect import bisect_left
from contextlib import closing
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from abatch.config import BATCH_BYTES
from abatch.errors import BackendUnavailable, BadRequest, ConfigError
from abatch.input.kinds import is_gzip, is_zstd
from abatch.input.request import BLANK, BOM, Rows, from_checked_lines
from abatch.journal.kept import QUICK
from abatch.protocol.facts import ChangedSource, FilePart, SelectedSource
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from abatch.protocol.facts import SourceOfFiles

__all__ = [
    "BLOCK",
    "CHANGED_MEANWHILE",
    "FileInput",
    "FilesInput",
    "Lines",
    "SelectedInput",
    "file_sha256",
    "is_same",
    "open_input",
    "opened_input",
    "opened_source",
    "packed_mask",
    "read_again",
    "stat_of",
    "unskipped",
]

BLOCK: Final = 2**20
"""Bytes of input handled in one turn of a worker thread."""
PART: Final = 2**16
"""Bytes of lines checked together: so few that the objects made of them are freed before the garbage collector runs."""
PACKED: Final = 2**8
"""Bytes of a `.zst` that are unpacked at once: four may expand to 128 KiB, so a zip bomb expands 8 MiB at a time."""
CHANGED_MEANWHILE: Final = "the input changed while it was checked; run again once it is complete"


class Lines(NamedTuple):
    """Whole, unchanged lines of a file; the last may lack its newline."""

    text: bytes
    before: int
    """Number of lines before these."""
    offset: int
    """Number of decompressed bytes before these."""

    def requests(self) -> list[tuple[bytes, int, int]]:
        """Return the lines that are not blank, each with its number and the offset after it."""
        told: list[tuple[bytes, int, int]] = []
        end = self.offset
        for number, line in enumerate(io.BytesIO(self.text), self.before + 1):
            end += len(line)
            if request := line.strip(BLANK):
                told.append((request, number, end))
        return told


class _Hashing(io.RawIOBase):
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - the buffer protocol has no name before 3.12
        count = int(self._file.readinto(buffer))
        self.sha256.update(memoryview(buffer)[:count])
        return count

    def drain(self) -> str:
        """Read the rest of the file to complete the hash, and return the hash."""
        while self.read(BLOCK):
            pass
        return self.sha256.hexdigest()


class _Frame(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Zstd(io.RawIOBase):
    """A zstd file, read frame by frame; unlike the package's own reader, it raises if the last frame is truncated."""

    def __init__(self, file: io.BufferedReader, frames: Callable[[], _Frame]) -> None:
        self._file = file
        self._frames = frames
        self._frame: _Frame | None = None
        self._rest = b""
        self._out = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - the buffer protocol has no name before 3.12
        while not self._out:
            data = self._rest or self._file.read(PACKED)
            if not data:
                if self._frame is not None:
                    raise EOFError("the last frame is cut short")
                return 0
            frame = self._frame or self._frames()
            self._out = memoryview(frame.decompress(data))
            self._frame, self._rest = (None, frame.unused_data) if frame.eof else (frame, b"")
        count = min(len(buffer), len(self._out))
        buffer[:count] = self._out[:count]
        self._out = self._out[count:]
        return count


class FileInput:
    """A file of JSON lines, plain, `.gz` or `.zst`; read in a worker thread, some lines at a time.

    Raises:
        ConfigError: the file cannot be opened.
        BackendUnavailable: reading `.zst` needs a package that is not installed.

    """

    def __init__(self, path: Path, *, longest: int) -> None:
        self._path = path
        self._longest = longest
        try:
            kind = path.stat().st_mode
            # This is checked before opening, because opening a pipe waits for its writer.
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise ConfigError(f"input {path} is no file; a file is read twice: save it as one, or pass it on stdin")
            self._raw = path.open("rb", buffering=0)
        except OSError as failure:
            raise ConfigError(f"input {path} cannot be read: {failure.strerror}") from failure
        self.plain = not (is_gzip(path) or is_zstd(path))
        self._hashing = _Hashing(self._raw)
        self._file = self._decompressed(io.BufferedReader(self._hashing, BLOCK))
        self._number = 0
        self._offset = 0
        self._put_back: Lines | None = None
        self._broken: BadRequest | None = None

    def _decompressed(self, raw: io.BufferedReader) -> io.BufferedReader:
        if is_gzip(self._path):
            return io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK)
        if is_zstd(self._path):
            try:
                import zstandard  # noqa: PLC0415 - an extra
            except ModuleNotFoundError as missing:
                raise BackendUnavailable(str(self._path), "zstd") from missing
            unpacker = zstandard.ZstdDecompressor()
            return io.BufferedReader(_Zstd(raw, unpacker.decompressobj), BLOCK)
        return raw

    def stats(self) -> tuple[tuple[int, int], ...]:
        """Return the current size and modification time of the file, as `FilesInput.stats` does of several."""
        return (self.stat(),)

    def sha256s(self) -> tuple[str, ...]:
        """Return the hash of the file, as `FilesInput.sha256s` does of several."""
        return (self.sha256(),)

    def place(self, number: int) -> tuple[str | None, int]:
        """Return no file name and the line number: a single file needs no name."""
        return None, number

    def stat(self) -> tuple[int, int]:
        """Return the current size and modification time of the file."""
        now = os.fstat(self._raw.fileno())
        return now.st_size, now.st_mtime_ns

    def skip(self, *, offset: int, rows: int) -> int:
        """Go to the position of a cut: a byte offset, or in a compressed file past this many rows.

        One call takes no longer than one turn of a worker thread. It returns how many rows the next call has to skip.
        """
        if self.plain:
            self._raw.seek(offset)
            self._file = io.BufferedReader(self._raw, BLOCK)
            self._offset = offset
            self._number = rows
            return 0
        left, self._put_back = _skip(self.block, rows)
        return left

    def block(self) -> Lines | None:
        """Return the next 64 KiB of lines, or more if the last of them is longer; None at the end.

        Raises:
            BadRequest: the file cannot be decompressed, or a line is longer than any batch.

        """
        if (lines := self._put_back) is not None:
            self._put_back = None
            return lines
        text = self._whole_lines()
        if not text:
            if self._broken is not None:  # The lines before the bad one were returned first.
                raise self._broken
            return None
        begins = BOM if not self._offset and text.startswith(BOM) else b""
        lines = Lines(text.removeprefix(begins), self._number, self._offset + len(begins))
        self._number += text.count(b"\n") + (not text.endswith(b"\n"))
        self._offset += len(text)
        return lines

    def _whole_lines(self) -> bytes:
        if self._broken is not None:
            return b""
        text = b""
        try:
            text = self._file.read1(PART)
            if not text.endswith(b"\n"):
                text += self._file.readline(self._longest + 1)
        except (OSError, EOFError, ValueError, zlib.error) as broken:
            return self._before_the_break(text, broken)
        except Exception as broken:
            if type(broken).__module__.partition(".")[0] != "zstandard":
                raise
            return self._before_the_break(text, broken)
        return text if len(text) <= self._longest else self._before_what_is_too_long(text)

    def _before_the_break(self, text: bytes, broken: Exception) -> bytes:
        good = text[: text.rfind(b"\n") + 1]
        number = self._number + good.count(b"\n") + 1
        why = f"the file cannot be decompressed: {broken}"
        if isinstance(broken, gzip.BadGzipFile):
            why += "; it is no gzip file, or something stands behind its data: gzip -dc OLD > NEW writes what is whole"
        self._broken = BadRequest(number, None, why)
        self._broken.__cause__ = broken
        return good

    def _before_what_is_too_long(self, text: bytes) -> bytes:
        end = 0
        for number, line in enumerate(io.BytesIO(text), self._number + 1):
            if len(line) > self._longest:
                why = f"the line is longer than {self._longest} bytes, no batch holds it"
                self._broken = BadRequest(number, None, why)
                break
            end += len(line)
        return text[:end]

    def sha256(self) -> str:
        """Return the hash of the whole file, which must have been read from its beginning."""
        return self._hashing.drain()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()


def _skip(read: Callable[[], Lines | None], rows: int) -> tuple[int, Lines | None]:
    """Skip this many rows, as far as one turn allows; return how many are left, and the lines read beyond them."""
    passed = 0
    while rows and passed < BLOCK:
        block = read()
        if block is None:
            return 0, None
        requests = block.requests()
        if len(requests) > rows:
            _, number, end = requests[rows - 1]
            return 0, Lines(block.text[end - block.offset :], number, end)
        rows -= len(requests)
        passed += len(block.text) or BLOCK  # An empty block took as long to read, so it counts as a full one.
    return rows, None


class FilesInput:
    """Several files, read one after the other as one input; as in a compressed file, positions are counted in rows.

    Raises:
        ConfigError, BackendUnavailable: as `FileInput` does.

    """

    plain = False

    def __init__(self, paths: Sequence[Path], *, longest: int) -> None:
        self._paths = tuple(paths)
        self._longest = longest
        self._file: FileInput | None = None
        self._opened = 0
        self._begins: list[int] = []
        """Per opened file: the number of lines before it."""
        self._number = 0
        self._sha256s: list[str] = []
        self._put_back: Lines | None = None
        for path in self._paths:  # A file that cannot be opened is reported before the first one is read.
            FileInput(path, longest=longest).close()

    def stats(self) -> tuple[tuple[int, int], ...]:
        """Return the current size and modification time of each file."""
        return tuple(map(stat_of, self._paths))

    def place(self, number: int) -> tuple[str | None, int]:
        """Return the file of a line that was read, and the line's number in that file."""
        at = bisect_left(self._begins, number) - 1
        return str(self._paths[at]), number - self._begins[at]

    def skip(self, *, offset: int, rows: int) -> int:  # noqa: ARG002 - as in a compressed file
        """Skip this many rows, as in a compressed file."""
        left, self._put_back = _skip(self.block, rows)
        return left

    def block(self) -> Lines | None:
        """Return the next lines, which are all of one file; None at the end.

        Raises:
            BadRequest: as `FileInput.block` does.

        """
        if (lines := self._put_back) is not None:
            self._put_back = None
            return lines
        while True:
            if self._file is None:
                if self._opened == len(self._paths):
                    return None
                self._file = FileInput(self._paths[self._opened], longest=self._longest)
                self._begins.append(self._number)
                self._opened += 1
            base = self._begins[-1]
            try:
                block = self._file.block()
            except BadRequest as bad:
                raise BadRequest(base + bad.line, bad.custom_id, bad.why) from bad
            if block is not None:
                number = base + block.before
                self._number = number + block.text.count(b"\n") + (not block.text.endswith(b"\n"))
                return Lines(block.text, number, block.offset)
            self._sha256s.append(self._file.sha256())
            self._file.close()
            self._file = None

    def sha256s(self) -> tuple[str, ...]:
        """Return the hash of each file; all must have been read from their beginning."""
        return tuple(self._sha256s)

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()


class SelectedInput:
    """Files without the requests that must not be sent; positions are counted in rows, as in several files."""

    plain = False

    def __init__(self, file: FileInput | FilesInput, mask: bytes) -> None:
        self._file = file
        self._skipped = zlib.decompress(mask)
        self._row = 0
        self._put_back: Lines | None = None

    def stats(self) -> tuple[tuple[int, int], ...]:
        """Return the current size and modification time of each file."""
        return self._file.stats()

    def skip(self, *, offset: int, rows: int) -> int:  # noqa: ARG002 - as in several files
        """Skip this many of the rows that are sent, as in several files."""
        left, self._put_back = _skip(self.block, rows)
        return left

    def block(self) -> Lines | None:
        """Return the next lines that are sent, which may be none of a block; None at the end.

        Raises:
            BadRequest: as `FileInput.block` does; or the files hold more requests than when they were checked.

        """
        if (lines := self._put_back) is not None:
            self._put_back = None
            return lines
        block = self._file.block()
        if block is None:
            return None
        requests = block.requests()
        skipped = self._skipped[self._row : self._row + len(requests)]
        if len(skipped) < len(requests):
            raise BadRequest(block.before + 1, None, "more requests than there were")
        self._row += len(requests)
        kept = [line for (line, _, _), is_skipped in zip(requests, skipped, strict=True) if not is_skipped]
        return Lines(b"".join(line + b"\n" for line in kept), block.before, block.offset)

    def close(self) -> None:
        """Close the file that is open."""
        self._file.close()


def packed_mask(skipped: bytearray) -> bytes:
    """Compress a mask for the journal: one byte per request of the files, 1 if the request is not sent."""
    return zlib.compress(skipped, QUICK)


def unskipped(rows: Rows, skipped: bytes | bytearray) -> Rows:
    """Return the requests whose byte in the mask is 0."""
    left = [not each for each in skipped]
    return Rows(
        list(compress(rows.custom_ids, left)), list(compress(rows.params, left)), list(compress(rows.betas, left))
    )


async def opened_source(
    source: SourceOfFiles, paths: Sequence[Path], *, longest: int
) -> FileInput | FilesInput | SelectedInput:
    """Open the files of a job, without the requests that the job does not send.

    Raises:
        ConfigError, BackendUnavailable: as `FileInput` does.

    """
    file = await opened_input(paths, longest=longest)
    return SelectedInput(file, source.mask) if isinstance(source, SelectedSource | ChangedSource) else file


def open_input(paths: Sequence[Path], *, longest: int) -> FileInput | FilesInput:
    """Open one file, or several as one input.

    Raises:
        ConfigError, BackendUnavailable: as `FileInput` does.

    """
    return FileInput(paths[0], longest=longest) if len(paths) == 1 else FilesInput(paths, longest=longest)


async def opened_input(paths: Sequence[Path], *, longest: int) -> FileInput | FilesInput:
    """Open files in a worker thread, as `open_input` does; close them at once if the caller is cancelled."""

    def close(file: FileInput | FilesInput) -> None:
        file.close()

    return await threads.opened(close, open_input, paths, longest=longest)


async def read_again(source: SourceOfFiles, paths: Sequence[Path], look: Callable[[Rows], object]) -> None:
    """Read checked files once more; `look` is called in a worker thread with the requests that are sent.

    Raises:
        ConfigError: a file changed since it was checked.

    """
    with closing(await opened_source(source, paths, longest=2 * BATCH_BYTES)) as file:
        try:
            while await threads.run(_look_at_block, file, look):
                pass
        except BadRequest as bad:  # Every line was valid when it was checked, so the file has changed.
            raise ConfigError(CHANGED_MEANWHILE) from bad


def _look_at_block(file: FileInput | FilesInput | SelectedInput, look: Callable[[Rows], object]) -> bool:
    block = file.block()
    if block is None:
        return False
    look(from_checked_lines(block.text))
    return True


def stat_of(path: Path) -> tuple[int, int]:
    """Return the current size and modification time of a file.

    Raises:
        ConfigError: the file cannot be read.

    """
    try:
        now = path.stat()
    except OSError as failure:
        raise ConfigError(f"input {path} cannot be read: {failure.strerror}") from failure
    return now.st_size, now.st_mtime_ns


async def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes; they are read block by block, so hashing a large file can be cancelled."""
    file = await threads.opened(io.FileIO.close, io.FileIO, path)
    hashing = _Hashing(file)
    try:
        while await threads.run(hashing.read, BLOCK):
            pass
    finally:
        await threads.clean_up(file.close)
    return hashing.sha256.hexdigest()


async def is_same(file: FilePart, path: Path) -> bool:
    """Return whether a file still has its recorded content; equal size and time count as equal content.

    Raises:
        ConfigError: the file cannot be read.

    """
    now = await threads.run(stat_of, path)
    return now == (file.size, file.mtime_ns) or await file_sha256(path) == file.sha256
