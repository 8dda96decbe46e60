"""Find the lines of an input that a message of the API means by their places in a batch: `requests.37…`."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING, Final

import msgspec

from abatch import threads
from abatch.config import BATCH_BYTES
from abatch.errors import BadRequest, ConfigError
from abatch.facts import files_of
from abatch.intake import opened_input
from abatch.places import absolute
from abatch.request import from_checked_lines
from abatch.spool import SpoolDamaged, SpoolUnusable, open_spool

if TYPE_CHECKING:
    from pathlib import Path

    from abatch.facts import Planned
    from abatch.intake import FileInput, FilesInput
    from abatch.ledger import JobRecord

__all__ = ["located"]

PLACE: Final = re.compile(r"\brequests(?:\.|\[)(\d{1,6})\b")
NAMED: Final = 3
"""Places of one message that are looked up."""


async def located(reason: str, job: JobRecord, planned: Planned, spool: Path) -> str:
    """The reason, with custom_id and line of each request that it names by its place in the batch."""
    indices = [each for each in dict.fromkeys(map(int, PLACE.findall(reason))) if each < planned.rows][:NAMED]
    if not indices:
        return reason
    try:
        with closing(await open_spool(spool, planned)) as reader:
            ids = [await threads.run(reader.custom_id, index) for index in indices]
    except (SpoolDamaged, SpoolUnusable):  # whoever sends the shard again reports it
        return reason
    lines = await _lines_of(job, set(ids))
    named: list[str] = []
    for index, custom_id in zip(indices, ids, strict=True):
        line = f"{lines[custom_id]}, " if custom_id in lines else ""
        told = msgspec.json.decode(custom_id, type=str)
        named.append(f"requests.{index} of this batch is {line}custom_id {told[:80]!r}")
    return f"{reason.removesuffix('.')}; {'; '.join(named)}"


async def _lines_of(job: JobRecord, wanted: set[bytes]) -> dict[bytes, str]:
    """Where these custom_ids stand in the files of a job; those that are not found are left out."""
    paths = [absolute(job.folder, file.path) for file in files_of(job.submitted.source)]
    found: dict[bytes, str] = {}
    if not paths:
        return found
    try:
        with closing(await opened_input(paths, longest=2 * BATCH_BYTES)) as file:
            while len(found) < len(wanted) and await threads.run(_look, file, wanted, found, str(paths[0])):
                pass
    except (BadRequest, ConfigError):  # the file is gone, or is another
        return found
    return found


def _look(file: FileInput | FilesInput, wanted: set[bytes], found: dict[bytes, str], only: str) -> bool:
    block = file.block()
    if block is None:
        return False
    numbers = [number for _, number, _ in block.requests()]
    for custom_id, number in zip(from_checked_lines(block.text).custom_ids, numbers, strict=False):
        if custom_id in wanted:
            name, line = file.place(number)
            found[custom_id] = f"line {line} of {name or only}"
    return True
