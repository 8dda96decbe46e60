"""Find duplicate custom_ids in a job, in memory that hardly grows with the input.

Rows of an iterable may already be sent when the next rows arrive, so a duplicate there is reported at once
(`DuplicateIndex`). No row of a file is sent before the whole file was read, so its custom_ids are compared only at the
end of the file (`HashPartitions`), at a sixth of the cost.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import tempfile
from array import array
from collections import defaultdict
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Final, cast

from abatch.errors import BadRequest
from abatch.journal.kept import ID_MARK, mark_of
from abatch.system import threads
from abatch.system.scratch import scratch_database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["DuplicateIndex", "HashPartitions", "id_text"]

IDS_IN_MEMORY: Final = 2**24
"""Bytes that custom_ids take in memory, including Python's overhead for each, before they are written to disk."""
ID_WEIGHT: Final = 100
SPILLED_AT_ONCE: Final = 2**14
PARTITIONS: Final = 2**10
"""Number of partitions of a file's digests, chosen by their first ten bits; one partition is compared in memory."""
PARTITIONS_AT_ONCE: Final = 2**6
"""Partitions compared in one turn of a worker thread."""
PARTITIONS_IN_MEMORY: Final = 2**22
"""Bytes of digests in memory before they are written to disk."""


class HashPartitions:
    """The digests of a file's custom_ids, partitioned by their first bits, in a file without a name."""

    def __init__(self, folder: Path | None) -> None:
        self._partitions: defaultdict[int, bytearray] = defaultdict(bytearray)
        self._noted = 0
        self._weight = 0
        self._written: list[array[int]] = []
        """Per write of all partitions to the file: the offset of each partition, and the offset of the end."""
        self._folder = folder
        self._file: IO[bytes] | None = None

    def close(self) -> None:
        """Free the file, if there is one."""
        if self._file is not None:
            self._file.close()

    def add(self, custom_ids: Sequence[bytes], _numbers: Sequence[int]) -> list[BadRequest]:
        """Note these custom_ids, which are JSON strings; return no problem, because duplicates are found at the end.

        Raises:
            OSError: the digests cannot be written to disk.

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
        """Return whether no custom_id occurs twice.

        Raises:
            OSError: the digests cannot be read from disk.

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
        # The pieces are not joined: one partition holds most of the digests if one custom_id is repeated throughout.
        for at in self._written:
            assert self._file is not None
            different.update(_marks_in(os.pread(self._file.fileno(), at[number + 1] - at[number], at[number])))
        return len(different)


class DuplicateIndex:
    """The custom_ids of a job: some megabytes in memory, and beyond that the digests of all in a file without a name.

    Without a folder for that file, the digests stay in memory, too.
    """

    def __init__(self, folder: Path | None, place: Callable[[int], tuple[str | None, int]] | None = None) -> None:
        self._place = place
        self.unit = "line"
        """What the numbers count; the texts of problems name it."""
        # It holds distinct custom_ids in the order of their numbers, until memory is full or a duplicate is found.
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
        """Note these custom_ids, which are JSON strings; return a problem for each that was noted before.

        A custom_id that occurs twice among them is a problem, too.

        Raises:
            OSError: the custom_ids cannot be written to disk.

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
        return f"{self.unit} {line}" if file is None else f"{self.unit} {line} of {file}"

    def _spill(self) -> _Digests:
        self._digests = digests = _Digests(self._folder)
        # Spill from the end, so that memory is freed while the database's page cache grows.
        early = self._early
        while len(early) > len(self._numbers):  # The caller notes these next.
            early.popitem()
        while early:
            custom_ids = [early.popitem()[0] for _ in range(min(len(early), SPILLED_AT_ONCE))]
            digests.note(custom_ids, reversed(self._numbers[-len(custom_ids) :]))
            del self._numbers[-len(custom_ids) :]
        self._early = {}  # An emptied dict keeps its memory, so a new one replaces it.
        return digests


class _Digests:
    """Row numbers by the digests of custom_ids, in a file without a name, or in memory if there is no folder."""

    def __init__(self, folder: Path | None) -> None:
        self._db = scratch_database(
            folder, "CREATE TABLE seen (id BLOB PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID"
        )

    def close(self) -> None:
        """Free the file."""
        self._db.close()

    def note(self, custom_ids: Iterable[bytes], numbers: Iterable[int]) -> bool:
        """Note these custom_ids; return whether all were new."""
        marks = sorted(zip(map(mark_of, custom_ids), numbers, strict=True))
        before = self._db.total_changes
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO seen VALUES (?, ?) ON CONFLICT DO NOTHING", marks)
        self._db.execute("COMMIT")
        return self._db.total_changes - before == len(marks)

    def first(self, custom_id: bytes) -> int:
        """Return the number with which the custom_id was noted first."""
        (first,) = self._db.execute("SELECT number FROM seen WHERE id = ?", (mark_of(custom_id),)).fetchone()
        return int(first)


def _marks_in(partition: bytes | bytearray) -> Iterator[tuple[bytes]]:
    return cast("Iterator[tuple[bytes]]", struct.iter_unpack(f"{ID_MARK}s", partition))


def _weigh(custom_ids: Sequence[bytes]) -> int:
    return sum(map(len, custom_ids)) + ID_WEIGHT * len(custom_ids)


def id_text(custom_id: bytes) -> str:
    """Return a custom_id as the caller wrote it."""
    return str(json.loads(custom_id))
