"""Find the jobs of a journal that hold the same requests as some files, because sending them again means paying again.

A job holds the same requests if one of these files has the content of one of the job's files, or begins with it,
whatever their names are. The files that a job had before its input changed count, too, because their requests may have
been sent.
"""

from __future__ import annotations

import io
from collections import defaultdict
from hashlib import sha256
from typing import TYPE_CHECKING

from abatch.input.answered import answering
from abatch.input.files import BLOCK, stat_of
from abatch.input.request import exact, paths_of
from abatch.protocol.facts import files_of
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch.input.request import RequestSource
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["same_requests"]


async def same_requests(
    ledger: Ledger, requests: RequestSource, *, betas: Sequence[str], skip_answered: str | None
) -> list[JobRecord]:
    """Return the jobs of a journal that hold requests of these files: see `BatchManager.same_requests`.

    Raises:
        ConfigError: a file cannot be read, or `skip_answered` cannot work.

    """
    jobs = await _repeated(ledger, paths_of(requests), tuple(map(exact, betas)))
    left_out = () if skip_answered is None else answering(ledger, skip_answered)
    numbers = {job.job for job in left_out}
    return [job for job in jobs if job.job not in numbers]


async def _repeated(ledger: Ledger, paths: Sequence[Path], betas: tuple[str, ...]) -> list[JobRecord]:
    """Return the jobs with requests of these files that were or may be paid for; the job with most answers is first.

    Raises:
        ConfigError: a file cannot be read.

    """
    betas = tuple(sorted(set(betas)))
    jobs = {job.job: job for job in ledger.jobs.values() if job.submitted.headers.betas == betas and _costs(job)}
    by_content = await threads.run(_by_content, list(jobs.values()))
    sizes = {size for size, _ in by_content}
    found: set[int] = set()
    for path in paths if jobs else ():
        size, _ = await threads.run(stat_of, path)
        for content in (await _digests(path, {each for each in sizes if each <= size})).items():
            found.update(by_content.get(content, ()))
    return sorted((jobs[number] for number in jobs if number in found), key=lambda job: -_answered(job))


def _by_content(jobs: Sequence[JobRecord]) -> dict[tuple[int, str], set[int]]:
    """Return the numbers of the jobs by the size and SHA-256 of their files."""
    found: defaultdict[tuple[int, str], set[int]] = defaultdict(set)
    for job in jobs:
        for file in (*files_of(job.submitted.source), *job.earlier_files):
            found[file.size, file.sha256].add(job.job)
    return found


def _costs(job: JobRecord) -> bool:
    """Return whether requests of a job were paid for, or will be when it resumes; failed requests are not paid for."""
    if job.finished is not None:
        return _answered(job) > 0
    return not job.cancel_wished or job.progress().submitted > 0


def _answered(job: JobRecord) -> int:
    progress = job.progress()
    return progress.sealed - progress.failed


async def _digests(path: Path, sizes: set[int]) -> dict[int, str]:
    """Return for each of these sizes the SHA-256 of that many bytes at the beginning of a file."""
    digests: dict[int, str] = {}
    if not sizes:
        return digests
    file = await threads.opened(io.FileIO.close, io.FileIO, path)
    try:
        digest, read = sha256(), 0
        for size in sorted(sizes):
            while read < size and (block := await threads.run(file.read, min(BLOCK, size - read))):
                await threads.run(digest.update, block)
                read += len(block)
            digests[size] = digest.hexdigest() if read == size else ""
    finally:
        await threads.clean_up(file.close)
    return digests
