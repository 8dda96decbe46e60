"""Find the input lines of the requests that an API error names by their index in a batch: `requests.37…`."""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from abatch.config import BATCH_BYTES
from abatch.errors import BadRequest, ConfigError, SpoolDamaged, SpoolUnusable
from abatch.input.files import opened_input
from abatch.input.request import from_checked_lines
from abatch.input.spool import open_spool
from abatch.protocol.facts import ChangedSource, SelectedSource, files_of
from abatch.system import threads
from abatch.system.paths import absolute

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from abatch.input.files import FileInput, FilesInput
    from abatch.journal.records import JobRecord
    from abatch.protocol.facts import Planned

__all__ = ["Named", "lines_of", "named"]

PLACE: Final = re.compile(r"\brequests(?:\.|\[)(\d{1,6})\b")
NAMED: Final = 3
"""The maximum number of indices in one message that are looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A message of the API, with the custom_id of each request that it names by its index in a batch."""

    reason: str
    requests: tuple[tuple[int, bytes], ...] = ()
    """The index of each of these requests, with its custom_id as a JSON string."""

    def told(self, lines: Mapping[bytes, str] | None = None) -> str:
        """Return the message with these custom_ids, and with the lines that were found for them."""
        if not self.requests:
            return self.reason
        found = lines or {}
        each = (
            f"requests.{index} of this batch is {f'{found[custom_id]}, ' if custom_id in found else ''}"
            f"custom_id {msgspec.json.decode(custom_id, type=str)[:80]!r}"
            for index, custom_id in self.requests
        )
        return f"{self.reason.removesuffix('.')}; {'; '.join(each)}"


async def named(reason: str, planned: Planned, spool: Path) -> Named:
    """Return the reason with the custom_ids of the requests that it names, read from the spool file of the batch."""
    indices = [each for each in dict.fromkeys(map(int, PLACE.findall(reason))) if each < planned.rows][:NAMED]
    if not indices:
        return Named(reason=reason)
    try:
        with closing(await open_spool(spool, planned)) as reader:
            found = tuple([(index, await threads.run(reader.custom_id, index)) for index in indices])
    except (SpoolDamaged, SpoolUnusable):  # The next attempt to send the shard reports this.
        return Named(reason=reason)
    return Named(reason=reason, requests=found)


async def lines_of(job: JobRecord, custom_ids: Collection[bytes]) -> dict[bytes, str]:
    """Find the lines of these custom_ids in the files of a job; custom_ids that are not found are left out.

    This may read the whole planned part of the files, which takes a while.
    """
    paths = [absolute(job.folder, file.path) for file in files_of(job.submitted.source)]
    found: dict[bytes, str] = {}
    if not paths:
        return found
    left = await threads.run(_planned, job)
    try:
        with closing(await opened_input(paths, longest=2 * BATCH_BYTES)) as file:
            while len(found) < len(custom_ids) and left > 0:
                if (passed := await threads.run(_look, file, custom_ids, found, str(paths[0]))) is None:
                    break
                left -= passed
    except (BadRequest, ConfigError):  # The file is gone or has changed.
        return found
    return found


def _planned(job: JobRecord) -> int:
    """Count the requests of a job's files before the end of the planned part, including those that are not sent."""
    match job.submitted.source:
        case SelectedSource(mask=mask):
            skipped, rows = zlib.decompress(mask), job.cut.rows
            return bisect_left(range(len(skipped)), rows, key=lambda end: skipped.count(0, 0, end))
        case ChangedSource(mask=mask):  # The rows sent before the change may be anywhere in the files.
            return len(zlib.decompress(mask))
        case _:
            return job.cut.rows


def _look(file: FileInput | FilesInput, wanted: Collection[bytes], found: dict[bytes, str], only: str) -> int | None:
    """Search one block; return how many requests it holds, or None at the end."""
    block = file.block()
    if block is None:
        return None
    numbers = [number for _, number, _ in block.requests()]
    for custom_id, number in zip(from_checked_lines(block.text).custom_ids, numbers, strict=False):
        if custom_id in wanted:
            name, line = file.place(number)
            found[custom_id] = f"line {line} of {name or only}"
    return len(numbers)
