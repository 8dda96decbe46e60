"""Sealed shards on disk: the create body of their rows without the prefix of the ids, and the custom_ids.

    body │ custom_ids 0, 1, … │ fallback lines 0, 1, … │ ends of params, custom_ids, fallback lines, as u64 │ footer

The body serves any attempt: it lacks its tail, and a NUL, which cannot occur in JSON, takes the place of an attempt's
id prefix. So it is sent in pieces of a quarter of a megabyte, each made by one replacement, and memory does not grow
with the shard. The body holds the params as the caller gave them; custom_ids are kept as JSON strings. The file of a
retry shard also holds, per row, the line that the row gets if no later try brings a better one.

A file is complete and durable before it appears under its name (temporary file, fsync, rename, fsync of the folder),
and it appears before its `Planned` fact is recorded. It is removed after its `Drained` fact. The `Planned` fact holds
two digests: one of the body, which is checked while the body is sent, before the commit point, and one of the rest,
which is checked whenever the file is opened. All calls except `open_spool` block, so they are made through
`threads.run`.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
from array import array
from bisect import bisect_left
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate, chain, islice
from typing import IO, TYPE_CHECKING, Final

import msgspec

from abatch.errors import SpoolDamaged, SpoolUnusable, TooManyOpenFiles
from abatch.journal.kept import params_marks
from abatch.protocol import wire
from abatch.protocol.facts import Planned
from abatch.system import threads
from abatch.system.disk import OUT_OF_FILES
from abatch.system.drafts import Draft

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from abatch.protocol.facts import Headers

__all__ = [
    "FREE_DISK",
    "SpoolReader",
    "SpoolWriter",
    "Written",
    "guarded",
    "open_spool",
]

MAGIC: Final = b"abatch-spool-2\n\0"
FOOTER: Final = struct.Struct("<QQQQ16s")
"""The number of rows, the bytes of the body, of the custom_ids and of the fallback lines, and MAGIC."""
PREFIX: Final = b"\0"
"""The byte that takes the place of the prefix of an attempt's ids."""
HEAD: Final = wire.ROW_END + b"," + wire.ROW_HEAD + PREFIX
FIRST_HEAD: Final = wire.BODY_HEAD + wire.ROW_HEAD + PREFIX
GAP: Final = len(HEAD) + wire.ROW_SUFFIX + len(wire.ROW_MIDDLE)
"""Bytes between the params of two rows."""
START: Final = len(FIRST_HEAD) - len(HEAD)
"""The offset at which the first gap would begin if it were as long as the others."""
FREE_DISK: Final = "Free the disk, then run again."
"""The remedy for SpoolUnusable."""
PIECE: Final = 2**18
"""Bytes of a body composed at once; larger pieces save little, and each thread's allocator keeps their memory."""
IDS_IN_MEMORY: Final = 4 * 2**20


@contextmanager
def guarded(folder: Path) -> Generator[None, None, None]:
    """Raise SpoolUnusable for a disk error in work on the spool, and TooManyOpenFiles if no descriptor is left."""
    try:
        yield
    except OSError as failure:
        if failure.errno in OUT_OF_FILES:
            raise TooManyOpenFiles(str(folder)) from failure
        raise SpoolUnusable(folder, failure.strerror or str(failure)) from failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The contents of a sealed spool file in numbers: rows, size and digests."""

    rows: int
    body_bytes: int
    """Size of the create body that is made from the file."""
    params_digest: str
    ids_digest: str

    def planned(
        self, name: str, headers: Headers, *, part: int = 0, parent: int | None = None, trial: int = 1
    ) -> Planned:
        """Return the fact that makes the file sealed under `name` a shard."""
        return Planned(
            part=part,
            rows=self.rows,
            body_bytes=self.body_bytes,
            spool=name,
            params_digest=self.params_digest,
            ids_digest=self.ids_digest,
            headers=headers,
            parent=parent,
            trial=trial,
        )


class SpoolWriter:
    """Write one shard's file: `add` its rows, then `seal`, or `discard`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._draft = Draft(folder, buffering=PIECE)
        self._file = self._draft.file
        self._ids: IO[bytes] = self._spill()
        self._fallbacks: IO[bytes] | None = None
        self._params_ends = array("Q")
        self._ids_ends = array("Q")
        self._fallback_ends = array("Q")
        self._digest = blake2b(digest_size=16)
        self._params_bytes = 0
        self._fallback_bytes = 0

    def _spill(self) -> IO[bytes]:
        return tempfile.SpooledTemporaryFile(IDS_IN_MEMORY, dir=str(self._folder))  # 0600, without a name

    @property
    def rows(self) -> int:
        """The number of rows added so far."""
        return len(self._params_ends)

    @property
    def body_bytes(self) -> int:
        """The size of the create body of the rows added so far."""
        return wire.body_size(max(self.rows, 1), self._params_bytes)

    def room_for(self, sizes: Sequence[int], bytes_per_batch: int) -> int:
        """Return how many rows with params of these sizes can be added; the shard's first row always can."""
        if wire.body_size(self.rows + len(sizes), self._params_bytes + sum(sizes)) <= bytes_per_batch:
            return len(sizes)
        params = self._params_bytes
        for row, size in enumerate(sizes, self.rows):
            params += size
            if row and wire.body_size(row + 1, params) > bytes_per_batch:
                return row - self.rows
        return len(sizes)

    def add(self, custom_id: bytes, params: bytes, fallback: bytes = b"") -> None:
        """Add a row: its custom_id as a JSON string, its params as JSON, its fallback line if it has one."""
        self.extend([custom_id], [params])
        if fallback:
            if self._fallbacks is None:
                self._fallbacks = self._spill()
                self._fallback_ends.extend([0] * (self.rows - 1))
            self._fallbacks.write(fallback)
            self._fallback_bytes += len(fallback)
        if self._fallbacks is not None:
            self._fallback_ends.append(self._fallback_bytes)

    def extend(self, custom_ids: Sequence[bytes], params: Sequence[bytes]) -> None:
        """Add rows, as many as there are custom_ids; they have no fallback lines."""
        suffix = wire.row_suffix
        heads = [HEAD + suffix(row) + wire.ROW_MIDDLE for row in range(self.rows, self.rows + len(params))]
        if not self.rows:
            heads[0] = FIRST_HEAD + suffix(0) + wire.ROW_MIDDLE
        text = b"".join(chain.from_iterable(zip(heads, params, strict=True)))
        self._file.write(text)
        self._digest.update(text)
        sizes = list(map(len, params))
        self._params_bytes += sum(sizes)
        _extend(self._params_ends, map(GAP.__add__, sizes), START)
        self._ids.write(b"".join(custom_ids))
        _extend(self._ids_ends, map(len, custom_ids), 0)

    def seal(self, name: str) -> Written:
        """Make the file durable under `name`, and replace any file that an earlier run left there."""
        self._file.write(wire.ROW_END)
        self._digest.update(wire.ROW_END)
        rest = blake2b(digest_size=16)

        def put(block: bytes) -> None:
            self._file.write(block)
            rest.update(block)

        for part in (self._ids, self._fallbacks):
            if part is not None:
                part.seek(0)
                while block := part.read(PIECE):
                    put(block)
        for ends in (self._params_ends, self._ids_ends, self._fallback_ends):
            put(_little(ends).tobytes())
        body = self._params_ends[-1] + len(wire.ROW_END)
        put(FOOTER.pack(self.rows, body, self._ids_ends[-1], self._fallback_bytes, MAGIC))
        self._close_spilled()
        self._draft.publish(name)
        return Written(
            rows=self.rows,
            body_bytes=self.body_bytes,
            params_digest=self._digest.hexdigest(),
            ids_digest=rest.hexdigest(),
        )

    def discard(self) -> None:
        """Close and remove the unsealed file."""
        with suppress(OSError):  # Closing flushes, which fails on a full disk, but the file is removed anyway.
            self._close_spilled()
        self._draft.discard()

    def _close_spilled(self) -> None:
        self._ids.close()
        if self._fallbacks is not None:
            self._fallbacks.close()


class SpoolReader:
    """An open sealed shard: its rows by number, and the body of any attempt.

    Raises:
        SpoolDamaged: the file is missing, truncated, or differs from its `Planned` fact.

    """

    def __init__(self, folder: Path, planned: Planned) -> None:
        self._path = folder / planned.spool
        self._planned = planned
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError as missing:
            raise SpoolDamaged(self._path, "is gone") from missing
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if size < FOOTER.size:
            raise SpoolDamaged(self._path, "is cut short")
        self._file.seek(size - FOOTER.size)
        rows, body, ids, fallbacks, magic = FOOTER.unpack(self._file.read(FOOTER.size))
        indices = 3 if fallbacks else 2
        if (
            magic != MAGIC
            or rows != self._planned.rows
            or size != (body + ids + fallbacks + indices * 8 * rows + FOOTER.size)
        ):
            raise SpoolDamaged(self._path, "is not the file that was sealed")
        self._file.seek(body)
        rest = blake2b(digest_size=16)
        while block := self._file.read(PIECE):
            rest.update(block)
        if rest.hexdigest() != self._planned.ids_digest:
            raise SpoolDamaged(self._path, "has changed since it was sealed")
        self._file.seek(body + ids + fallbacks)
        self._params_ends = self._ends(rows)
        self._ids_ends = self._ends(rows)
        self._fallback_ends = self._ends(rows) if fallbacks else None
        self._body_bytes = body
        self._ids_bytes = ids
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def _ends(self, rows: int) -> array[int]:
        ends = array("Q")
        ends.frombytes(self._file.read(8 * rows))
        return _little(ends)

    def close(self) -> None:
        """Close the file; bytes that were returned do not depend on it."""
        self._map.close()
        self._file.close()

    @property
    def rows(self) -> int:
        """The number of rows of the shard."""
        return len(self._params_ends)

    def custom_id(self, row: int) -> bytes:
        """Return the custom_id of a row as a JSON string."""
        # This runs for every result line, so it makes no further call.
        ends, origin = self._ids_ends, self._body_bytes
        return self._map[origin + (ends[row - 1] if row else 0) : origin + ends[row]]

    def params(self, row: int) -> bytes:
        """Return the params of a row as the caller gave them."""
        ends = self._params_ends
        return self._map[(ends[row - 1] if row else START) + GAP : ends[row]]

    def params_marks(self) -> bytes:
        """Return the digests of the params and betas of all rows, joined in order, as `kept.py` keeps them."""
        return params_marks(self._all_params(), self._planned.headers.betas)

    def _all_params(self) -> Iterator[bytes]:
        begin, forget_at = START, PIECE
        for end in self._params_ends:
            yield self._map[begin + GAP : end]
            begin = end
            if end >= forget_at:
                self._forget()
                forget_at = end + PIECE

    def own_fallback(self, row: int) -> bytes:
        """Return the line that an earlier try left for this row; empty if there is none."""
        if self._fallback_ends is None:
            return b""
        return self._slice(self._fallback_ends, row, self._body_bytes + self._ids_bytes)

    def fallback(self, row: int) -> bytes:
        """Return the line that this row gets if no result of this shard brings a better one."""
        return self.own_fallback(row) or wire.fallback(self.custom_id(row))

    def _slice(self, ends: array[int], row: int, origin: int) -> bytes:
        begin = ends[row - 1] if row else 0
        return self._map[origin + begin : origin + ends[row]]

    def body(self, prefix: bytes) -> Generator[bytes, None, None]:
        """Yield the create body of the attempt with this id prefix, without its tail, in pieces of about 256 KiB.

        Raises:
            SpoolDamaged: the body is not the one that was sealed; it is raised before the last piece.

        """
        digest, ends = blake2b(digest_size=16), self._params_ends
        row = begin = 0
        while row < len(ends):
            first, row = row, min(bisect_left(ends, begin + PIECE) + 1, len(ends))
            end = ends[row - 1] if row < len(ends) else self._body_bytes
            piece = self._map[begin:end]
            self._forget()
            digest.update(piece)
            begin = end
            rows = row - first
            sent = piece.replace(PREFIX, prefix, rows + 1)
            has_its_rows = len(sent) - len(piece) == rows * (len(prefix) - len(PREFIX))
            if not has_its_rows or (row == len(ends) and digest.hexdigest() != self._planned.params_digest):
                raise SpoolDamaged(self._path, "has changed since it was sealed")
            yield sent

    def _forget(self) -> None:
        # Mapped pages count as memory of this process, so the pages that were read are released.
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def id_text(self, row: int) -> str:
        """Return the custom_id of a row as the caller wrote it."""
        return msgspec.json.decode(self.custom_id(row), type=str)


async def open_spool(folder: Path, planned: Planned) -> SpoolReader:
    """Open a sealed shard in a worker thread.

    Raises:
        SpoolDamaged: the file is missing, truncated, or differs from its `Planned` fact.
        SpoolUnusable: the file cannot be read from disk.
        TooManyOpenFiles: no descriptor is left.

    """
    with guarded(folder):
        return await threads.opened(SpoolReader.close, SpoolReader, folder, planned)


def examine(path: Path) -> Written | None:
    """Examine a sealed file that no `Planned` fact describes yet; return None if there is no such file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size < FOOTER.size:
            raise SpoolDamaged(path, "is cut short")
        file.seek(size - FOOTER.size)
        rows, body, _, _, magic = FOOTER.unpack(file.read(FOOTER.size))
        if magic != MAGIC or body > size:
            raise SpoolDamaged(path, "is not a sealed file")
        file.seek(0)
        digests = blake2b(digest_size=16), blake2b(digest_size=16)
        left = body
        while block := file.read(min(PIECE, left) if left else PIECE):
            digests[0 if left else 1].update(block)
            left = max(left - len(block), 0)
    return Written(
        rows=rows,
        body_bytes=wire.body_size(rows, body - START - len(wire.ROW_END) - rows * GAP),
        params_digest=digests[0].hexdigest(),
        ids_digest=digests[1].hexdigest(),
    )


def _extend(ends: array[int], sizes: Iterable[int], start: int) -> None:
    """Add the end offsets of adjacent parts of these sizes; the first part of all begins at `start`."""
    ends.extend(islice(accumulate(sizes, initial=ends[-1] if ends else start), 1, None))


def _little(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers = array("Q", numbers)
        numbers.byteswap()
    return numbers
