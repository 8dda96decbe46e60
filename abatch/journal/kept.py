"""Keep the custom_ids of a drained shard as long as the API keeps its results, so that the results can be read again.

    ids/NNNNNNNN      magic, digest of the rest, a digest of each row's params, then compressed: one byte per row (1 if
                      it went to a retry shard), the end of each custom_id, the custom_ids as JSON strings

The digests of params show whether a request is still the one that was answered. Files of an older abatch have none. A
damaged file is ignored. These calls block: see `threads.run`.
"""

from __future__ import annotations

import zlib
from array import array
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from abatch.system.drafts import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = [
    "ID_MARK",
    "MARK",
    "QUICK",
    "KeptIds",
    "kept_name",
    "mark_of",
    "params_mark",
    "params_marks",
    "read_kept",
    "write_kept",
]

MAGIC: Final = b"abatch-ids-1\n\0\0\0"
"""The first bytes of a file without digests of params."""
WITH_MARKS: Final = b"abatch-ids-2\n\0\0\0"
"""The first bytes of a file with digests of params."""
MARK: Final = 8
"""The size of the digest of a request's params, in bytes."""
ID_MARK: Final = 16
"""The size of the digest of a custom_id, in bytes."""
DIGEST: Final = 16
QUICK: Final = 1
"""The level of zlib: it gives a third of the size and takes a few milliseconds for ten thousand rows."""


def kept_name(shard: int) -> str:
    """Return the name of a shard's file."""
    return f"{shard:08d}"


class KeptIds:
    """The custom_ids of one shard, by row."""

    def __init__(self, withheld: bytes, ends: array[int], ids: bytes, marks: bytes = b"") -> None:
        self.withheld = withheld
        """One byte per row: 1 if the row went to a retry shard."""
        self._marks = marks
        self._ends = ends
        self._ids = ids

    def custom_id(self, row: int) -> bytes:
        """Return the custom_id of a row, as a JSON string."""
        return self._ids[self._ends[row - 1] if row else 0 : self._ends[row]]

    def params_mark(self, row: int) -> bytes:
        """Return the digest of the params and betas of a row; empty if none was kept."""
        return self._marks[MARK * row : MARK * (row + 1)]

    def close(self) -> None:
        """Do nothing, because everything is in memory."""


def mark_of(custom_id: bytes) -> bytes:
    """Return the digest of a custom_id, which is given as a JSON string."""
    return blake2b(custom_id, digest_size=ID_MARK).digest()


def params_mark(params: bytes, betas: Iterable[str]) -> bytes:
    """Return the digest of a request's params, as they were given, and of its betas."""
    return params_marks((params,), betas)


def params_marks(rows: Iterable[bytes], betas: Iterable[str]) -> bytes:
    """Return the digests of the params of several requests with the same betas, one after the other."""
    behind = b"".join([b"\0%b" % beta.encode() for beta in betas])  # NUL is a safe separator: JSON cannot hold it
    if behind:
        rows = (b"%b%b" % (params, behind) for params in rows)
    return b"".join([blake2b(params, digest_size=MARK).digest() for params in rows])


def write_kept(
    folder: Path, shard: int, custom_id: Callable[[int], bytes], withheld: bytes | bytearray, marks: bytes = b""
) -> None:
    """Write the file of a shard durably, or replace it. `marks` are the digests of its rows' params."""
    ids = [custom_id(row) for row in range(len(withheld))]
    ends = array("Q", accumulate(map(len, ids)))
    packed = marks + zlib.compress(b"".join((withheld, ends.tobytes(), *ids)), QUICK)
    magic = WITH_MARKS if marks else MAGIC
    with replaced(folder / kept_name(shard)) as file:
        file.write(magic + blake2b(packed, digest_size=DIGEST).digest() + packed)


def read_kept(folder: Path, shard: int, rows: int) -> KeptIds | None:
    """Read the file of a shard with this number of rows; None if there is no file, or it is damaged."""
    try:
        content = (folder / kept_name(shard)).read_bytes()
    except FileNotFoundError:
        return None
    begin = len(MAGIC) + DIGEST
    packed = content[begin:]
    digest = blake2b(packed, digest_size=DIGEST).digest()
    if content[:begin] not in (MAGIC + digest, WITH_MARKS + digest):
        return None
    marks = packed[: MARK * rows] if content.startswith(WITH_MARKS) else b""
    try:
        unpacked = zlib.decompress(packed[len(marks) :])
    except zlib.error:  # the file has another number of rows
        return None
    ends = array("Q")
    ends.frombytes(unpacked[rows : 9 * rows])
    ids = unpacked[9 * rows :]
    if len(ends) != rows or not rows or ends[-1] != len(ids):
        return None
    return KeptIds(unpacked[:rows], ends, ids, marks)
