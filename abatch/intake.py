"""Read requests: files of JSON lines and callers' iterables, as blocks of checked rows, once, under bounded memory.

A file is read twice: checked from end to end before anything is promised, then planned. An iterable is read once
and checked as it comes. Both forbid a custom_id twice in a job; the digests of those seen are kept on disk.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sqlite3
import tempfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import ExitStack, aclosing, nullcontext
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar, cast

from anyio.lowlevel import checkpoint

from abatch import threads
from abatch.errors import BackendUnavailable, BadRequest, ConfigError
from abatch.facts import FileSource
from abatch.request import Request, Row, from_line, from_object
from abatch.wire import body_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["FileInput", "IterableInput", "Numbered", "SeenIds", "check_file"]

T = TypeVar("T")

BLOCK: Final = 2**20
"""Bytes of input handled in one turn of a worker thread."""
PROBLEMS: Final = 20
HEADER_SETS: Final = 16
"""Sets of headers in one job, at most: each has an open shard."""
PACKED: Final = 2**8
"""Bytes of a `.zst` that are unpacked at once: four may stand for 128 KiB, so a bomb goes off in parts of 8 MiB."""
TURN: Final = 0.005
"""Seconds that a synchronous iterable may hold the event loop."""


class Numbered(NamedTuple):
    """A row and where it came from."""

    row: Row
    number: int
    """Line of the file, or position in the iterable, from 1."""
    end: int
    """Byte offset after it in a plain file; 0 elsewhere."""


class SeenIds:
    """The custom_ids of a job, by 128-bit digest, in a file without a name: memory does not grow with them."""

    def __init__(self, folder: Path) -> None:
        descriptor, name = tempfile.mkstemp(prefix=".seen-", suffix=".tmp", dir=folder)
        os.close(descriptor)
        self._db = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "locking_mode = EXCLUSIVE",
            "cache_size = -16000",
        ):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE seen (id BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID")
        Path(name).unlink()

    def close(self) -> None:
        """Free the file."""
        self._db.close()

    def add(self, rows: Sequence[Numbered]) -> list[BadRequest]:
        """Note these rows; the problems are those whose custom_id was noted before, or stands here twice.

        Raises:
            OSError: the disk does not take it.

        """
        try:
            return self._add(rows)
        except sqlite3.OperationalError as failure:
            raise OSError(f"the custom_ids cannot be noted: {failure}") from failure

    def _add(self, rows: Sequence[Numbered]) -> list[BadRequest]:
        marks = sorted((blake2b(item.row.custom_id, digest_size=16).digest(), item.number) for item in rows)
        before = self._db.total_changes
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", marks)
        self._db.execute("COMMIT")
        if self._db.total_changes - before == len(marks):
            return []
        return [problem for item in rows if (problem := self._duplicate(item)) is not None]

    def _duplicate(self, item: Numbered) -> BadRequest | None:
        mark = blake2b(item.row.custom_id, digest_size=16).digest()
        (first,) = self._db.execute("SELECT number FROM seen WHERE id = ?", (mark,)).fetchone()
        if first == item.number:
            return None
        return BadRequest(item.number, id_text(item.row), f"custom_id stands on line {first} already")


def id_text(row: Row) -> str:
    """A row's custom_id as the caller wrote it."""
    import json  # noqa: PLC0415

    return str(json.loads(row.custom_id))


def check_size(item: Numbered, bytes_per_batch: int) -> BadRequest | None:
    """The problem of a request that no batch can hold."""
    size = body_size(1, len(item.row.params))
    if size <= bytes_per_batch:
        return None
    return BadRequest(item.number, id_text(item.row), f"it takes {size} bytes, a batch holds {bytes_per_batch}")


def too_many_header_sets(item: Numbered) -> BadRequest:
    """The problem of a row whose betas make one set of headers too many."""
    return BadRequest(item.number, id_text(item.row), f"a job has at most {HEADER_SETS} different sets of betas")


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
        self._file, self._frames = file, frames
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
    """A file of JSON lines, plain, `.gz` or `.zst`; read in a worker thread, a block at a time.

    Raises:
        ConfigError: it cannot be opened.
        BackendUnavailable: reading `.zst` needs a package that is not installed.

    """

    def __init__(self, path: Path, *, longest: int) -> None:
        self._path, self._longest = path, longest
        try:
            self._raw = path.open("rb", buffering=0)
        except OSError as failure:
            raise ConfigError(f"input {path} cannot be read: {failure.strerror}") from failure
        self.plain = path.suffix not in {".gz", ".zst"}
        self._hashing = _Hashing(self._raw)
        self._file = self._decompressed(io.BufferedReader(self._hashing, BLOCK))
        self._number = 0
        self._offset = 0
        self._broken: BadRequest | None = None

    def _decompressed(self, raw: io.BufferedReader) -> IO[bytes]:
        if self._path.suffix == ".gz":
            return io.BufferedReader(gzip.GzipFile(fileobj=raw), BLOCK)
        if self._path.suffix == ".zst":
            try:
                import zstandard  # noqa: PLC0415 - an extra
            except ModuleNotFoundError as missing:
                raise BackendUnavailable(str(self._path), "zstd") from missing
            unpacker = zstandard.ZstdDecompressor()
            return io.BufferedReader(_Zstd(raw, unpacker.decompressobj), BLOCK)
        return raw

    def stat(self) -> tuple[int, int]:
        """Size and time of the last change, as the file is now."""
        now = os.fstat(self._raw.fileno())
        return now.st_size, now.st_mtime_ns

    def skip(self, *, offset: int, rows: int) -> None:
        """Go to the position of a cut: a byte offset, or past so many rows of a compressed file."""
        if self.plain:
            self._raw.seek(offset)
            self._file = io.BufferedReader(self._raw, BLOCK)
            self._offset = offset
            self._number = rows
            return
        for _ in islice(filter(bytes.strip, self._lines()), rows):
            pass

    def block(self) -> list[tuple[bytes, int, int]] | None:
        """The next lines, about a megabyte with the blank ones: each with its number and the offset after it.

        None at the end.

        Raises:
            BadRequest: the file is not the compressed file it seems to be, or a line is longer than any batch.

        """
        if self._broken is not None:
            raise self._broken
        lines: list[tuple[bytes, int, int]] = []
        weight = 0
        try:
            for line in self._lines():
                weight += len(line) + 64
                if request := line.strip():
                    lines.append((request, self._number, self._offset))
                if weight >= BLOCK:
                    return lines
        except BadRequest as broken:
            if not lines:
                raise
            self._broken = broken  # once the lines before it are dealt with
        return lines or None

    def _lines(self) -> Iterator[bytes]:
        while True:
            try:
                line = self._file.readline(self._longest + 1)
            except (OSError, EOFError, ValueError, zlib.error) as broken:
                raise BadRequest(self._number + 1, None, f"the file cannot be decompressed: {broken}") from broken
            except Exception as broken:
                if type(broken).__module__.partition(".")[0] != "zstandard":
                    raise
                raise BadRequest(self._number + 1, None, f"the file cannot be decompressed: {broken}") from broken
            if not line:
                return
            self._number += 1
            self._offset += len(line)
            if len(line) > self._longest:
                raise BadRequest(
                    self._number, None, f"the line is longer than {self._longest} bytes, no batch holds it"
                )
            if self._number == 1 and line.startswith(b"\xef\xbb\xbf"):
                line = line[3:]
            yield line

    def sha256(self) -> str:
        """Of the whole file, once it was read from its beginning."""
        return self._hashing.drain()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()


async def check_file(path: Path, folder: Path, *, bytes_per_batch: int) -> FileSource:
    """Check a file from end to end; nothing is promised or sent.

    Args:
        path: the file.
        folder: where the digests of its custom_ids may be kept meanwhile.
        bytes_per_batch: what a request must fit into.

    Raises:
        BadRequest: with up to twenty problems, each with line and custom_id.
        ConfigError: the file cannot be read, or holds no request.

    """
    problems: list[BadRequest] = []
    header_sets: set[frozenset[str]] = set()
    rows = total = 0
    opened: list[FileInput | SeenIds] = []  # closed even if the caller is cancelled while they are opened
    with ExitStack() as open_:
        open_.callback(lambda: [each.close() for each in opened])
        file = await threads.run(_kept, opened, lambda: FileInput(path, longest=2 * bytes_per_batch))
        try:
            seen = await threads.run(_kept, opened, lambda: SeenIds(folder))
        except OSError as failure:
            raise _cannot_check(path, folder, failure) from failure
        size, mtime_ns = file.stat()

        def check_block() -> int | None:
            """The number of good rows in the next block, None at the end."""
            nonlocal total
            lines = file.block()
            if lines is None:
                return None
            good: list[Numbered] = []
            found: list[BadRequest] = []
            for line, number, end in lines:
                try:
                    item = Numbered(from_line(line, number), number, end)
                except BadRequest as bad:
                    found.append(bad)
                    continue
                header_sets.add(frozenset(item.row.betas))
                if len(header_sets) > HEADER_SETS:
                    header_sets.remove(frozenset(item.row.betas))
                    found.append(too_many_header_sets(item))
                if (too_large := check_size(item, bytes_per_batch)) is not None:
                    found.append(too_large)
                good.append(item)
            found += seen.add(good)
            total += len(found)
            problems.extend(sorted(found, key=lambda bad: bad.line)[: PROBLEMS - len(problems)])
            return len(good)

        while True:
            try:
                count = await threads.run(check_block)
            except OSError as failure:
                raise _cannot_check(path, folder, failure) from failure
            except BadRequest as bad:  # nothing after this line can be read
                problems, total = [*problems[: PROBLEMS - 1], bad], total + 1
                break
            if count is None:
                break
            rows += count
        if problems:
            first, *more = problems
            raise BadRequest(first.line, first.custom_id, first.why, more=more, total=total)
        if rows == 0:
            raise ConfigError(f"input {path} holds no request")
        sha256 = await threads.run(file.sha256)
        if file.stat() != (size, mtime_ns):
            raise ConfigError(f"input {path} changed while it was checked; run again once it is complete")
    return FileSource(path=str(path), size=size, mtime_ns=mtime_ns, sha256=sha256, rows=rows)


def _kept(opened: list[Any], make: Callable[[], T]) -> T:
    opened.append(made := make())
    return made


def _cannot_check(path: Path, folder: Path, failure: OSError) -> ConfigError:
    return ConfigError(f"input {path} cannot be checked in {folder}: {failure}; free the disk")


def file_sha256(path: Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- iterables ------------------------------------------------------------------------------------------------


class IterableInput:
    """A caller's iterable or async iterable, read once: blocks of checked rows, and a digest of all so far."""

    def __init__(self, requests: object) -> None:
        self._requests = requests
        self._digest = blake2b(digest_size=16)
        self._number = 0

    def digest(self) -> str:
        """Of every row given out so far, in order: custom_id, params and betas."""
        return self._digest.copy().hexdigest()

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
                async for request in items:
                    self._number += 1
                    read = from_line if isinstance(request, bytes) else from_object
                    row = read(request, self._number)  # type: ignore[arg-type]  # bytes go to the one that takes bytes
                    block.append(Numbered(row, self._number, 0))
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
        """Take a row into the digest."""
        update = self._digest.update
        for part in (row.custom_id, row.params, *(beta.encode() for beta in row.betas)):
            update(b"%d:" % len(part))
            update(part)
        update(b";")

    async def _items(self) -> AsyncGenerator[object, None]:
        requests = self._requests
        if isinstance(requests, AsyncIterable):
            coming = cast("AsyncGenerator[object, None]", requests)
            # a generator that is not read to its end is closed here, not by the garbage collector some day
            async with aclosing(coming) if isinstance(requests, AsyncGenerator) else nullcontext():
                async for request in coming:
                    yield request
            return
        if isinstance(requests, Mapping | Request) or not isinstance(requests, Iterable):
            kind = type(self._requests).__name__
            raise ConfigError(f"requests must be a path, an iterable or an async iterable, got {kind}")
        turn = perf_counter() + TURN
        for request in cast("Iterable[object]", requests):
            yield request
            if perf_counter() > turn:
                await checkpoint()
                turn = perf_counter() + TURN
