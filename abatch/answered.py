"""Leave out of an input the requests that an earlier job answered, so that only the others are sent and paid for.

A request counts as answered if the job, one of its retries, or a job whose answers it left out itself has a success
for its custom_id, and its params are those that were answered. Of params a digest is kept for as long as the API
keeps results (`kept.py`); where there is none, the custom_id decides.
"""

from __future__ import annotations

import zlib
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import compress
from typing import TYPE_CHECKING, Final

from msgspec.json import encode

from abatch import threads, wire
from abatch.config import BATCH_BYTES
from abatch.errors import BadRequest, ConfigError
from abatch.facts import SelectedSource, files_of
from abatch.intake import opened_input
from abatch.kept import MARK, params_mark, read_kept
from abatch.request import Rows, from_checked_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from abatch.facts import FileSource, FilesSource
    from abatch.intake import FileInput, FilesInput
    from abatch.ledger import JobRecord, Ledger, ShardRecord
    from abatch.runner import JobRun

__all__ = ["answering", "retries_of", "without_answered"]

QUICK: Final = 1
"""Of zlib."""


def retries_of(ledger: Ledger, job: JobRecord) -> list[JobRecord]:
    """The retries of a job, the first one first; the last may be unfinished."""
    found: list[JobRecord] = []
    while (retry := ledger.job(f"{job.key}.retry-{len(found) + 1}")) is not None:
        found.append(retry)
    return found


def answering(ledger: Ledger, key: str) -> list[JobRecord]:
    """The job of this key, its retries, and the jobs whose answers it left out itself.

    Raises:
        ConfigError: there is no such job, or one of them is not finished: what is in flight would be paid for twice.

    """
    found: list[JobRecord] = []
    while key:
        job = ledger.job(key)
        if job is None:
            raise ConfigError(f"journal {ledger.journal.folder} has no job {key!r} whose answers could be left out")
        family = [job, *retries_of(ledger, job)]
        for each in family:
            if each.finished is None:
                raise ConfigError(
                    f"job {each.key!r} is not finished, so its answers are not all known; run it to its end first"
                )
        found += family
        source = job.submitted.source
        key = source.answered_by if isinstance(source, SelectedSource) else ""
    return found


async def without_answered(
    ledger: Ledger,
    source: FileSource | FilesSource,
    paths: Sequence[Path],
    *,
    betas: tuple[str, ...],
    answered_by: str,
    run_of: Callable[[JobRecord], JobRun],
    note: Callable[[Rows], None] | None = None,
) -> SelectedSource:
    """The input without the requests that were answered.

    Args:
        ledger: the journal's jobs.
        source: the checked files.
        paths: where they are.
        betas: those of all requests of the new job.
        answered_by: the key of the earlier job.
        run_of: gives the run of a job, by which its results are read.
        note: called in a worker thread with the requests that are left, in their order.

    Raises:
        ConfigError: as of `answering`; or every request was answered; or a file changes meanwhile.
        BackendError: the results of a job are not where they were.

    """
    answered: dict[bytes, bytes] = {}
    for job in answering(ledger, answered_by):
        answers = _Answers()
        async with (run := run_of(job)).reading() as backend:
            for sealed in await run.sealed_since(0):
                async for raw in backend.read(sealed):
                    answers.note(raw)
        for shard in (await ledger.in_full(job)).shards.values():
            await threads.run(answers.note_params, ledger.journal.ids, shard)
        for mark, params in answers.marks.items():  # of one job may be known what is not known of another
            answered[mark] = answered.get(mark, b"") + params
    selection = _Selection(answered, betas, note)
    with closing(await opened_input(paths, longest=2 * BATCH_BYTES)) as file:
        try:
            while await threads.run(selection.turn, file):
                pass
        except BadRequest as bad:  # every line was good when it was checked
            raise ConfigError("the input changed while it was checked; run again once it is complete") from bad
    rows = selection.mask.count(0)
    if not rows:
        raise ConfigError(
            f"all {source.rows:,} requests were answered by job {answered_by!r}, so nothing is left to send; nothing "
            "was begun"
        )
    return SelectedSource(
        files=files_of(source),
        rows=rows,
        answered_by=answered_by,
        skipped=len(selection.mask) - rows,
        changed=selection.changed,
        uncompared=selection.uncompared,
        mask=await threads.run(zlib.compress, bytes(selection.mask), QUICK),
    )


@dataclass(slots=True)
class _Answers:
    """The requests that one job answered, each by a digest of its custom_id."""

    marks: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """With the digest of the params that were answered; empty where it is not known."""

    def note(self, raw: bytes) -> None:
        """Take a result line."""
        line = wire.delivered(raw)
        if line.outcome == "succeeded" and line.custom_id:
            self.marks.setdefault(_mark(encode(line.custom_id)), b"")

    def note_params(self, folder: Path, shard: ShardRecord) -> None:
        """Take the digests of a shard's params, if they were kept."""
        kept = read_kept(folder, shard.shard, shard.planned.rows)
        if kept is None:
            return
        for row in range(shard.planned.rows):
            if (mark := _mark(kept.custom_id(row))) in self.marks:
                self.marks[mark] = kept.params_mark(row)


@dataclass(slots=True)
class _Selection:
    """Which rows of an input are left out, row by row."""

    answered: dict[bytes, bytes]
    """By custom_id: the digests of the params that were answered, one after the other; empty if none is known."""
    betas: tuple[str, ...]
    """Of the whole job."""
    note: Callable[[Rows], None] | None
    mask: bytearray = field(default_factory=bytearray)
    changed: int = 0
    uncompared: int = 0

    def turn(self, file: FileInput | FilesInput) -> bool:
        """Look at one block of lines; False at the end."""
        block = file.block()
        if block is None:
            return False
        rows = from_checked_lines(block.text)
        begin = len(self.mask)
        for custom_id, params, betas in zip(rows.custom_ids, rows.params, rows.betas, strict=True):
            self.mask.append(self._is_answered(custom_id, params, betas))
        if self.note is not None:
            self.note(_left(rows, self.mask[begin:]))
        return True

    def _is_answered(self, custom_id: bytes, params: bytes, betas: tuple[str, ...]) -> bool:
        known = self.answered.get(_mark(custom_id))
        if known is None:
            return False
        if not known:
            self.uncompared += 1
            return True
        both = tuple(sorted({*self.betas, *betas})) if betas else self.betas
        if params_mark(params, both) in _each(known):
            return True
        self.changed += 1
        return False


def _left(rows: Rows, mask: bytearray) -> Rows:
    left = [not skipped for skipped in mask]
    params, betas = compress(rows.params, left), compress(rows.betas, left)
    return Rows(list(compress(rows.custom_ids, left)), list(params), list(betas))


def _each(marks: bytes) -> list[bytes]:
    return [marks[at : at + MARK] for at in range(0, len(marks), MARK)]


def _mark(custom_id: bytes) -> bytes:
    """What stands for a custom_id, given as a JSON string."""
    return blake2b(custom_id, digest_size=16).digest()
