"""Read requests: files of JSON lines and callers' iterables, as blocks of checked rows, once, under bounded memory.

A file is read twice: checked from end to end before anything is promised, then planned. An iterable is read once
and checked as it comes. No custom_id may stand twice in a job. What an iterable gave may be on its way when it gives
more, so it is told at once (`DuplicateIndex`); a file is told at its end, for a sixth of the price (`HashPartitions`).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sqlite3
import stat
import struct
import tempfile
import zlib
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager, closing, nullcontext, suppress
from functools import partial
from hashlib import blake2b
from itertools import accumulate, chain, compress
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, cast

import msgspec
from anyio.lowlevel import checkpoint

from abatch.config import BATCH_BYTES
from abatch.errors import BackendUnavailable, BadRequest, ConfigError
from abatch.input.kinds import check_kind, is_gzip, is_zstd
from abatch.input.problems import Problems
from abatch.input.request import BLANK, BOM, Request, Row, Rows, check_lines, from_checked_lines, from_line, from_object
from abatch.journal.kept import ID_MARK, QUICK, mark_of
from abatch.protocol.facts import ChangedSource, FilePart, FileSource, FilesSource, SelectedSource, source_of
from abatch.protocol.wire import body_size
from abatch.system import threads
from abatch.system.scratch import scratch_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from abatch.input.params import Check
    from abatch.protocol.facts import SourceOfFiles

__all__ = [
    "CHANGED_MEANWHILE",
    "HEAD_ROWS",
    "DuplicateIndex",
    "FileInput",
    "FilesInput",
    "HashPartitions",
    "IterableInput",
    "Lines",
    "Numbered",
    "Preview",
    "SelectedInput",
    "check_beginning",
    "check_file",
    "check_files",
    "is_same",
    "not_empty",
    "open_input",
    "opened_input",
    "opened_source",
    "other_row",
    "packed_mask",
    "read_again",
    "read_row",
    "stat_of",
    "unskipped",
]

S = TypeVar("S", "HashPartitions", "DuplicateIndex")
BLOCK: Final = 2**20
"""Bytes of input handled in one turn of a worker thread."""
PART: Final = 2**16
"""Bytes of lines checked together: few enough that what is made of them is gone before the garbage collector looks."""
HEADER_SETS: Final = 16
"""Sets of headers in one job, at most: each has an open shard."""
PACKED: Final = 2**8
"""Bytes of a `.zst` that are unpacked at once: four may stand for 128 KiB, so a bomb goes off in parts of 8 MiB."""
TURN: Final = 0.005
"""Seconds that an iterable may hold the event loop, if it does not wait for anything."""
IDS_IN_MEMORY: Final = 2**24
"""Bytes that custom_ids take in memory before they go to disk, each with what Python needs for it."""
ID_WEIGHT: Final = 100
SPILLED_AT_ONCE: Final = 2**14
PARTITIONS: Final = 2**10
"""Of the digests of a file, by their first ten bits; those of one are compared in memory."""
PARTITIONS_AT_ONCE: Final = 2**6
"""Compared in one turn of a worker thread."""
HEAD_ROWS: Final = 8
"""First rows of an iterable that are kept one by one, so that other requests are found out at the first difference."""
HEAD_BYTES: Final = 4
"""Of the digest of each; two rows that share it are told apart by the digest of all."""
CHANGED_MEANWHILE: Final = "the input changed while it was checked; run again once it is complete"
PARTITIONS_IN_MEMORY: Final = 2**22
"""Bytes of digests before they go to disk."""


class Numbered(NamedTuple):
    """A row of an iterable and its position in it, from 1."""

    row: Row
    number: int


class Lines(NamedTuple):
    """Whole lines of a file as they stand there, the last perhaps without its newline."""

    text: bytes
    before: int
    """Lines before these."""
    offset: int
    """Bytes before these, once decompressed."""

    def requests(self) -> list[tuple[bytes, int, int]]:
        """The lines that are not blank: each with its number and the offset after it."""
        told: list[tuple[bytes, int, int]] = []
        end = self.offset
        for number, line in enumerate(io.BytesIO(self.text), self.before + 1):
            end += len(line)
            if request := line.strip(BLANK):
                told.append((request, number, end))
        return told


class Preview(Protocol):
    """Sees the requests of files that are about to be sent, and may refuse before anything is recorded."""

    def add(self, rows: Rows, /) -> None:
        """Take in the next requests of the input; called in a worker thread."""

    async def agree(self) -> None:
        """All of them are sound, and nothing of them was recorded or sent. What this raises is raised by `submit`."""


class HashPartitions:
    """The custom_ids of a file, each as a digest on the partition that it chooses, in a file without a name."""

    def __init__(self, folder: Path | None) -> None:
        self._partitions: defaultdict[int, bytearray] = defaultdict(bytearray)
        self._noted = self._weight = 0
        self._written: list[array[int]] = []
        """For each time that all partitions were put behind one another in the file, where each began; and the end."""
        self._folder = folder
        self._file: IO[bytes] | None = None

    def close(self) -> None:
        """Free the file, if there is one."""
        if self._file is not None:
            self._file.close()

    def add(self, custom_ids: Sequence[bytes], _numbers: Sequence[int]) -> list[BadRequest]:
        """Note these custom_ids, JSON strings. No problem is found before the end.

        Raises:
            OSError: the disk does not take it.

        """
        partitions = self._partitions
        for mark in map(mark_of, custom_ids):
            partitions[mark[0] << 2 | mark[1] >> 6] += mark
        self._noted += len(custom_ids)
        self._weight += ID_MARK * len(custom_ids)
        if self._weight >= PARTITIONS_IN_MEMORY and self._folder is not None:
            self._write()
        return []

    def _write(self) -> None:
        if self._file is None:
            folder = self._folder
            self._file = tempfile.TemporaryFile(prefix=".seen-", suffix=".tmp", dir=folder)  # noqa: SIM115 - see close
        partitions = [self._partitions[number] for number in range(PARTITIONS)]
        begin = self._written[-1][-1] if self._written else 0
        self._written.append(array("Q", accumulate(map(len, partitions), initial=begin)))
        self._file.write(b"".join(partitions))
        self._file.flush()
        self._partitions.clear()
        self._weight = 0

    async def all_different(self) -> bool:
        """Whether no custom_id stands twice.

        Raises:
            OSError: the disk does not give it back.

        """
        if not self._written:
            return await threads.run(self._different_in, self._partitions) == self._noted
        different = 0
        for first in range(0, PARTITIONS, PARTITIONS_AT_ONCE):
            different += await threads.run(self._different_in, range(first, first + PARTITIONS_AT_ONCE))
        return different == self._noted

    def _different_in(self, partitions: Iterable[int]) -> int:
        return sum(map(self._different, partitions))

    def _different(self, number: int) -> int:
        different = set(_marks_in(self._partitions.get(number, b"")))
        for at in self._written:  # one by one: a custom_id that stands everywhere has one partition
            assert self._file is not None
            different.update(_marks_in(os.pread(self._file.fileno(), at[number + 1] - at[number], at[number])))
        return len(different)


class DuplicateIndex:
    """The custom_ids of a job: some megabytes in memory; if more, all by digest in a file without a name.

    Without a folder for that file the digests stay in memory, too.
    """

    def __init__(self, folder: Path | None, place: Callable[[int], tuple[str | None, int]] | None = None) -> None:
        self._place = place
        # all different, in the order of their numbers, as long as there is room and none stood twice
        self._early: dict[bytes, None] = {}
        self._numbers = array("Q")
        self._weight = 0
        self._folder = folder
        self._digests: _Digests | None = None

    def close(self) -> None:
        """Free the file, if there is one."""
        if self._digests is not None:
            self._digests.close()

    def add(self, custom_ids: Sequence[bytes], numbers: Sequence[int]) -> list[BadRequest]:
        """Note these custom_ids, JSON strings; the problems are those that were noted before, or stand here twice.

        Raises:
            OSError: the disk does not take it.

        """
        if self._digests is None:
            self._early.update(dict.fromkeys(custom_ids))
            if len(self._early) == len(self._numbers) + len(custom_ids):
                self._numbers.extend(numbers)
                self._weight += _weigh(custom_ids)
                if self._weight < IDS_IN_MEMORY:
                    return []
                custom_ids = numbers = ()
        try:
            digests = self._digests or self._spill()
            if digests.note(custom_ids, numbers):
                return []
            return [
                BadRequest(number, id_text(custom_id), f"custom_id stands on {self._named(first)} already")
                for custom_id, number in zip(custom_ids, numbers, strict=True)
                if (first := digests.first(custom_id)) != number
            ]
        except sqlite3.OperationalError as failure:
            raise OSError(f"the custom_ids cannot be noted: {failure}") from failure

    def _named(self, number: int) -> str:
        file, line = (None, number) if self._place is None else self._place(number)
        return f"line {line}" if file is None else f"line {line} of {file}"

    def _spill(self) -> _Digests:
        self._digests = digests = _Digests(self._folder)
        # from the end, so that memory becomes free while the disk's pages take some
        early = self._early
        while len(early) > len(self._numbers):  # these are noted next
            early.popitem()
        while early:
            custom_ids = [early.popitem()[0] for _ in range(min(len(early), SPILLED_AT_ONCE))]
            digests.note(custom_ids, reversed(self._numbers[-len(custom_ids) :]))
            del self._numbers[-len(custom_ids) :]
        self._early = {}  # emptied, but as large as it was
        return digests


class _Digests:
    """Numbers by digests of custom_ids, in a file without a name; without a folder for it, in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._db = scratch_database(
            folder, "CREATE TABLE seen (id BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Free the file."""
        self._db.close()

    def note(self, custom_ids: Iterable[bytes], numbers: Iterable[int]) -> bool:
        """Note these; whether they were all new."""
        marks = sorted(zip(map(mark_of, custom_ids), numbers, strict=True))
        before = self._db.total_changes
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", marks)
        self._db.execute("COMMIT")
        return self._db.total_changes - before == len(marks)

    def first(self, custom_id: bytes) -> int:
        """The number with which it was noted first."""
        (first,) = self._db.execute("SELECT number FROM seen WHERE id = ?", (mark_of(custom_id),)).fetchone()
        return int(first)


def _marks_in(partition: bytes | bytearray) -> Iterator[tuple[bytes]]:
    return cast("Iterator[tuple[bytes]]", struct.iter_unpack(f"{ID_MARK}s", partition))


def _weigh(custom_ids: Sequence[bytes]) -> int:
    return sum(map(len, custom_ids)) + ID_WEIGHT * len(custom_ids)


def id_text(custom_id: bytes) -> str:
    """A custom_id as the caller wrote it."""
    return str(json.loads(custom_id))


def check_size(row: Row, number: int, bytes_per_batch: int) -> BadRequest | None:
    """The problem of a request that no batch can hold."""
    size = body_size(1, len(row.params))
    if size <= bytes_per_batch:
        return None
    return BadRequest(number, id_text(row.custom_id), f"it takes {size} bytes, a batch holds {bytes_per_batch}")


def too_many_header_sets(custom_id: bytes, number: int) -> BadRequest:
    """The problem of a row whose betas make one set of headers too many."""
    return BadRequest(number, id_text(custom_id), f"a job has at most {HEADER_SETS} different sets of betas")


# ---- files ----------------------------------------------------------------------------------------------------


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
        """Read what is left, for the hash alone."""
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
    """A zstd file, frame after frame; unlike the package's own reader it tells when the last one is cut short."""

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
        ConfigError: it cannot be opened.
        BackendUnavailable: reading `.zst` needs a package that is not installed.

    """

    def __init__(self, path: Path, *, longest: int) -> None:
        self._path = path
        self._longest = longest
        try:
            kind = path.stat().st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # before it is opened: that waits for a pipe's writer
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
        """As those of `FilesInput`."""
        return (self.stat(),)

    def sha256s(self) -> tuple[str, ...]:
        """As those of `FilesInput`."""
        return (self.sha256(),)

    def place(self, number: int) -> tuple[str | None, int]:
        """The line of that number needs no file's name: there is one."""
        return None, number

    def stat(self) -> tuple[int, int]:
        """Size and time of the last change, as the file is now."""
        now = os.fstat(self._raw.fileno())
        return now.st_size, now.st_mtime_ns

    def skip(self, *, offset: int, rows: int) -> int:
        """Go to the position of a cut: a byte offset, or past so many rows of a compressed file.

        Returns how many of them are still to be passed, by another call: one takes no longer than a turn.
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
        """The next 64 KiB of lines, or as much as the one that ends them takes; None at the end.

        Raises:
            BadRequest: the file is not the compressed file it seems to be, or a line is longer than any batch.

        """
        if (lines := self._put_back) is not None:
            self._put_back = None
            return lines
        text = self._whole_lines()
        if not text:
            if self._broken is not None:  # once the lines before it are dealt with
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
        """Of the whole file, once it was read from its beginning."""
        return self._hashing.drain()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()


def _skip(read: Callable[[], Lines | None], rows: int) -> tuple[int, Lines | None]:
    """Read past so many rows, as far as one turn allows: how many are left to pass, and what was read too far."""
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
        passed += len(block.text) or BLOCK  # a block of which nothing is sent took its time, too
    return rows, None


class FilesInput:
    """Several files, one behind the other, as one input; a place in it is found by its rows, as in a compressed file.

    Raises:
        ConfigError, BackendUnavailable: as of `FileInput`.

    """

    plain = False

    def __init__(self, paths: Sequence[Path], *, longest: int) -> None:
        self._paths = tuple(paths)
        self._longest = longest
        self._file: FileInput | None = None
        self._opened = 0
        self._begins: list[int] = []
        """Lines before each file that was opened."""
        self._number = 0
        self._sha256s: list[str] = []
        self._put_back: Lines | None = None
        for path in self._paths:  # before time is spent on the first
            FileInput(path, longest=longest).close()

    def stats(self) -> tuple[tuple[int, int], ...]:
        """Size and time of the last change of each file, as they are now."""
        return tuple(map(stat_of, self._paths))

    def place(self, number: int) -> tuple[str | None, int]:
        """The file, and the line in it, of a line that was read."""
        at = bisect_left(self._begins, number) - 1
        return str(self._paths[at]), number - self._begins[at]

    def skip(self, *, offset: int, rows: int) -> int:  # noqa: ARG002 - as of a compressed file
        """Pass so many rows; as of a compressed file."""
        left, self._put_back = _skip(self.block, rows)
        return left

    def block(self) -> Lines | None:
        """The next lines, none of two files; None at the end.

        Raises:
            BadRequest: as of `FileInput`.

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
        """Of each file, once all were read from their beginning."""
        return tuple(self._sha256s)

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()


class SelectedInput:
    """Files without the requests that are not to be sent; a place in it is found by its rows, as in several files."""

    plain = False

    def __init__(self, file: FileInput | FilesInput, mask: bytes) -> None:
        self._file = file
        self._skipped = zlib.decompress(mask)
        self._row = 0
        self._put_back: Lines | None = None

    def stats(self) -> tuple[tuple[int, int], ...]:
        """As those of `FilesInput`."""
        return self._file.stats()

    def skip(self, *, offset: int, rows: int) -> int:  # noqa: ARG002 - as of several files
        """Pass so many rows of those that are sent; as of several files."""
        left, self._put_back = _skip(self.block, rows)
        return left

    def block(self) -> Lines | None:
        """The next lines that are sent, perhaps none of a block; None at the end.

        Raises:
            BadRequest: as of `FileInput`; or there are more requests than there were.

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
    """A byte per request of some files, 1 where it is not sent, as the journal keeps it."""
    return zlib.compress(skipped, QUICK)


def unskipped(rows: Rows, skipped: bytes | bytearray) -> Rows:
    """Those of these requests whose byte is 0."""
    left = [not each for each in skipped]
    return Rows(
        list(compress(rows.custom_ids, left)), list(compress(rows.params, left)), list(compress(rows.betas, left))
    )


async def opened_source(
    source: SourceOfFiles, paths: Sequence[Path], *, longest: int
) -> FileInput | FilesInput | SelectedInput:
    """Open the files of a job, without the requests of them that it does not send.

    Raises:
        ConfigError, BackendUnavailable: as of `FileInput`.

    """
    file = await opened_input(paths, longest=longest)
    return SelectedInput(file, source.mask) if isinstance(source, SelectedSource | ChangedSource) else file


def open_input(paths: Sequence[Path], *, longest: int) -> FileInput | FilesInput:
    """Open a file, or several as one.

    Raises:
        ConfigError, BackendUnavailable: as of `FileInput`.

    """
    return FileInput(paths[0], longest=longest) if len(paths) == 1 else FilesInput(paths, longest=longest)


async def opened_input(paths: Sequence[Path], *, longest: int) -> FileInput | FilesInput:
    """Open inputs as `open_input` does, in a worker thread; they are closed at once if the caller is cancelled."""

    def close(file: FileInput | FilesInput) -> None:
        file.close()

    return await threads.opened(close, open_input, paths, longest=longest)


async def read_again(source: SourceOfFiles, paths: Sequence[Path], look: Callable[[Rows], object]) -> None:
    """Read files once more that were checked; `look` is called in a worker thread with the requests that are sent.

    Raises:
        ConfigError: a file changed since.

    """
    with closing(await opened_source(source, paths, longest=2 * BATCH_BYTES)) as file:
        try:
            while await threads.run(_look_at_block, file, look):
                pass
        except BadRequest as bad:  # every line was good when it was checked
            raise ConfigError(CHANGED_MEANWHILE) from bad


def _look_at_block(file: FileInput | FilesInput | SelectedInput, look: Callable[[Rows], object]) -> bool:
    block = file.block()
    if block is None:
        return False
    look(from_checked_lines(block.text))
    return True


def stat_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file.

    Raises:
        ConfigError: it cannot be read.

    """
    try:
        now = path.stat()
    except OSError as failure:
        raise ConfigError(f"input {path} cannot be read: {failure.strerror}") from failure
    return now.st_size, now.st_mtime_ns


def check_beginning(path: Path, *, longest: int) -> None:
    """Make sure that a file does not begin as one of another kind, of which every line would be a problem.

    Raises:
        ConfigError: it does, or it cannot be read.

    """
    with closing(FileInput(path, longest=longest)) as file, suppress(BadRequest):  # that is told when it is checked
        block = file.block()
        if block is not None:
            check_kind(block.text, path)


async def check_file(
    path: Path, folder: Path | None, *, bytes_per_batch: int, params: Check | None = None
) -> FileSource:
    """Check one file, as `check_files` checks several."""
    source = await check_files([path], folder, bytes_per_batch=bytes_per_batch, params=params)
    assert isinstance(source, FileSource)
    return source


async def check_files(
    paths: Sequence[Path],
    folder: Path | None,
    *,
    bytes_per_batch: int,
    params: Check | None = None,
    note: Callable[[Rows], None] | None = None,
) -> FileSource | FilesSource:
    """Check files from end to end, which are one input in this order; nothing is promised or sent.

    Args:
        paths: the files.
        folder: where the digests of their custom_ids may be kept meanwhile; None keeps them in memory.
        bytes_per_batch: what a request must fit into.
        params: checks params; else any will do.
        note: called in a worker thread with the requests that are read, in their order, as long as all are sound.

    Raises:
        BadRequest: with up to twenty problems, each with line and custom_id, and with its file if there are several.
        ConfigError: a file cannot be read, is of another kind, or there is no request.

    """
    named = ", ".join(map(str, paths[:3])) + ", …" * (len(paths) > 3)
    open_all = partial(opened_input, paths, longest=2 * bytes_per_batch)
    for path in paths:
        await threads.run(check_beginning, path, longest=2 * bytes_per_batch)
    with ExitStack() as open_:
        file = await open_all()
        open_.callback(file.close)
        stats = file.stats()
        try:
            async with _closing(HashPartitions(folder)) as partitions:
                check = await _check(file, partitions, bytes_per_batch, params, note)
                different = await partitions.all_different()
            if not different:  # once more, to say where
                again = await open_all()
                open_.callback(again.close)
                async with _closing(DuplicateIndex(folder, again.place)) as seen:
                    check = await _check(again, seen, bytes_per_batch, params, None)
                if not check.problems.total or again.stats() != stats:
                    raise _changed(named)
        except OSError as failure:
            raise _cannot_check(named, folder, failure) from failure
        if (bad := check.problems.error()) is not None:
            raise bad
        if check.rows == 0:
            raise ConfigError(f"input {named} holds no request")
        sha256s = await threads.run(file.sha256s)
        if file.stats() != stats:
            raise _changed(named)
    files = [
        FilePart(path=str(path), size=size, mtime_ns=mtime_ns, sha256=sha256)
        for path, (size, mtime_ns), sha256 in zip(paths, stats, sha256s, strict=True)
    ]
    return source_of(files, check.rows)


@asynccontextmanager
async def _closing(seen: S) -> AsyncGenerator[S, None]:
    try:
        yield seen
    finally:
        await threads.clean_up(seen.close)  # a large file is freed


async def _check(
    file: FileInput | FilesInput,
    seen: HashPartitions | DuplicateIndex,
    bytes_per_batch: int,
    params: Check | None,
    note: Callable[[Rows], None] | None,
) -> _Check:
    if params is not None:
        params.begin(file.place)
    check = _Check(seen, bytes_per_batch, params, Problems(file.place), note)
    while await threads.run(check.turn, file):
        pass
    return check


class _Check:
    """What was found in a file so far."""

    def __init__(
        self,
        seen: HashPartitions | DuplicateIndex,
        bytes_per_batch: int,
        params: Check | None,
        problems: Problems,
        rows_read: Callable[[Rows], None] | None,
    ) -> None:
        self._seen = seen
        self._rows_read = rows_read
        self._bytes_per_batch = bytes_per_batch
        self._params = params
        self._header_sets: set[frozenset[str]] = set()
        self.rows = 0
        """Requests that can be read."""
        self.problems = problems

    def turn(self, file: FileInput | FilesInput) -> bool:
        """Check about a megabyte; False once nothing is left that can be read."""
        weight = 0
        while weight < BLOCK:
            try:
                block = file.block()
            except BadRequest as bad:  # nothing after this line can be read
                self.problems.add([bad])
                return False
            if block is None:
                return False
            weight += len(block.text)
            if not self._takes(block):
                self._look_at_each(block)
            if self._rows_read is not None and not self.problems.total:
                self._rows_read(from_checked_lines(block.text))
        return True

    def _takes(self, block: Lines) -> bool:
        """Note all of it, unless a line has to be looked at by itself."""
        if body_size(1, len(block.text)) > self._bytes_per_batch or (checked := self._read(block.text)) is None:
            return False
        custom_ids, betas = checked
        header_sets = self._header_sets.union(map(frozenset, betas))
        if len(header_sets) > HEADER_SETS:
            return False
        self._header_sets = header_sets
        self._note(custom_ids, range(block.before + 1, block.before + 1 + len(custom_ids)), [])
        return True

    def _read(self, text: bytes) -> tuple[list[bytes], set[tuple[str, ...]]] | None:
        return check_lines(text, None if self._params is None else self._params.lines)

    def _look_at_each(self, block: Lines) -> None:
        custom_ids: list[bytes] = []
        numbers: list[int] = []
        found: list[BadRequest] = []
        for line, number, _ in block.requests():
            try:
                row = from_line(line, number)
            except BadRequest as bad:
                found.append(bad)
                continue
            self._header_sets.add(frozenset(row.betas))
            if len(self._header_sets) > HEADER_SETS:
                self._header_sets.remove(frozenset(row.betas))
                found.append(too_many_header_sets(row.custom_id, number))
            if (too_large := check_size(row, number, self._bytes_per_batch)) is not None:
                found.append(too_large)
            if self._params is not None:
                found += self._params.row(row, number)
            custom_ids.append(row.custom_id)
            numbers.append(number)
        self._note(custom_ids, numbers, found)

    def _note(self, custom_ids: Sequence[bytes], numbers: Sequence[int], found: list[BadRequest]) -> None:
        self.rows += len(custom_ids)
        self.problems.add([*found, *self._seen.add(custom_ids, numbers)])


def _changed(named: str) -> ConfigError:
    return ConfigError(f"input {named} changed while it was checked; run again once it is complete")


def _cannot_check(named: str, folder: Path | None, failure: OSError) -> ConfigError:
    if folder is None:
        return ConfigError(f"input {named} cannot be checked: {failure}")
    return ConfigError(f"input {named} cannot be checked in {folder}: {failure}; free the disk")


async def file_sha256(path: Path) -> str:
    """The hash of a file's bytes, which are read a block at a time: a large file can be given up."""
    file = await threads.opened(io.FileIO.close, io.FileIO, path)
    hashing = _Hashing(file)
    try:
        while await threads.run(hashing.read, BLOCK):
            pass
    finally:
        await threads.clean_up(file.close)
    return hashing.sha256.hexdigest()


async def is_same(file: FilePart, path: Path) -> bool:
    """Whether a file has the content that is named here; equal size and time are taken as equal.

    Raises:
        ConfigError: it cannot be read.

    """
    now = await threads.run(stat_of, path)
    return now == (file.size, file.mtime_ns) or await file_sha256(path) == file.sha256


# ---- iterables ------------------------------------------------------------------------------------------------


class IterableInput:
    """A caller's iterable or async iterable, read once: blocks of checked rows, and a digest of all so far."""

    def __init__(self, requests: object) -> None:
        self._requests = requests
        self._digest = blake2b(digest_size=16)
        self._number = 0
        self._head: list[str] = []

    def digest(self) -> str:
        """Of every row given out so far, in order: custom_id, params and betas."""
        return self._digest.copy().hexdigest()

    def head(self) -> str:
        """A short digest of each of the first rows, one after the other."""
        return "".join(self._head)

    async def blocks(self, *, most: int) -> AsyncGenerator[list[Numbered], None]:
        """The rows, about a megabyte at a time, and no more than `most`.

        Raises:
            BadRequest: a row cannot be sent; those before it were given out.
            ConfigError: it is not an iterable.
            Exception: whatever the caller's iterable raises.

        """
        block: list[Numbered] = []
        weight = 0
        try:
            async with aclosing(self._items()) as items:
                turn = perf_counter() + TURN
                async for request in items:
                    if perf_counter() > turn:  # what is made without a wait, by a generator of either kind
                        await checkpoint()
                        turn = perf_counter() + TURN
                    self._number += 1
                    row = read_row(request, self._number)
                    block.append(Numbered(row, self._number))
                    weight += len(row.params) + 64
                    if weight >= BLOCK or len(block) >= most:
                        yield block
                        block, weight = [], 0
        except Exception:  # a bad row, or whatever the iterable raises: what came before it is good
            if block:
                yield block
            raise
        if block:
            yield block

    def note(self, row: Row) -> None:
        """Take a row into the digests."""
        _digest_row(self._digest, row)
        if len(self._head) < HEAD_ROWS:
            self._head.append(_short_digest(row))

    async def _items(self) -> AsyncGenerator[object, None]:
        requests = self._requests
        if isinstance(requests, AsyncIterable):
            coming = cast("AsyncGenerator[object, None]", requests)
            # a generator that is not read to its end is closed here, not by the garbage collector some day
            async with aclosing(coming) if isinstance(requests, AsyncGenerator) else nullcontext():
                async for request in coming:
                    yield request
            return
        for request in _iterable(requests):
            yield request


def read_row(request: object, number: int) -> Row:
    """Check one request of an iterable.

    Raises:
        BadRequest: it cannot be sent.

    """
    read = from_line if isinstance(request, bytes) else from_object
    return read(request, number)  # type: ignore[arg-type]  # bytes go to the one that takes bytes


def not_empty(requests: object) -> object:
    """The same requests, of which at least one is there. An async iterable is not looked at: it may wait for its first.

    Raises:
        ConfigError: there is none, or it is not an iterable.
        Exception: what the caller's iterable raises.

    """
    if isinstance(requests, AsyncIterable):
        return cast("object", requests)
    coming = iter(_iterable(requests))
    for first in coming:
        return cast("object", requests) if isinstance(requests, Collection) else chain([first], coming)
    raise ConfigError("the iterable holds no request; nothing was begun")


def other_row(head: str, row: Row, number: int) -> str | None:
    """How a row, counted from 1, differs from the one that a job began with; None if it does not, or is not kept."""
    begin = 2 * HEAD_BYTES * (number - 1)
    kept = head[begin : begin + 2 * HEAD_BYTES]
    if not kept or kept == _short_digest(row):
        return None
    custom_id = msgspec.json.decode(row.custom_id, type=str)
    return f"other requests: its row {number} is not this one's (custom_id {custom_id[:80]!r})"


def _iterable(requests: object) -> Iterable[object]:
    if isinstance(requests, Mapping | Request) or not isinstance(requests, Iterable):
        kind = type(requests).__name__  # pyright: ignore[reportUnknownArgumentType]
        raise ConfigError(f"requests must be a path, an iterable or an async iterable, got {kind}")
    return cast("Iterable[object]", requests)


def _digest_row(into: blake2b, row: Row) -> None:
    for part in (row.custom_id, row.params, *(beta.encode() for beta in row.betas)):
        into.update(b"%d:" % len(part))
        into.update(part)
    into.update(b";")


def _short_digest(row: Row) -> str:
    digest = blake2b(digest_size=HEAD_BYTES)
    _digest_row(digest, row)
    return digest.hexdigest()
