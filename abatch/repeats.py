"""Find the jobs of a journal that hold the same requests as some files: to send these again is to pay again.

A job holds the same requests if one of its files has the content of one of these, whatever their names. One of its
files that has grown since, at its end alone, counts too: the requests at its beginning are the same.
"""

from __future__ import annotations

import io
from hashlib import sha256
from typing import TYPE_CHECKING

from abatch import threads
from abatch.facts import files_of
from abatch.intake import BLOCK, stat_of
from abatch.places import relative

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch.ledger import JobRecord, Ledger

__all__ = ["repeated"]


async def repeated(ledger: Ledger, paths: Sequence[Path], betas: tuple[str, ...]) -> list[JobRecord]:
    """The jobs with requests of these files that were paid for, or may be; those with the most answers first.

    Raises:
        ConfigError: a file cannot be read.

    """
    betas = tuple(sorted(set(betas)))
    jobs = [job for job in ledger.jobs.values() if job.submitted.headers.betas == betas and _costs(job)]
    found: set[int] = set()
    for path in paths if jobs else ():
        size, _ = await threads.run(stat_of, path)
        name = relative(ledger.journal.folder, path.absolute())
        digests = await _digests(path, _sizes(jobs, name, size))
        for job in jobs:
            if any(digests.get(file.size) == file.sha256 for file in files_of(job.submitted.source)):
                found.add(job.job)
    return sorted((job for job in jobs if job.job in found), key=lambda job: -_answered(job))


def _costs(job: JobRecord) -> bool:
    """Whether requests of a job were paid for, or will be when it goes on; those that failed are not."""
    if job.finished is not None:
        return _answered(job) > 0
    return not job.cancel_wished or job.progress().submitted > 0


def _answered(job: JobRecord) -> int:
    progress = job.progress()
    return progress.sealed - progress.failed


def _sizes(jobs: Sequence[JobRecord], name: str, size: int) -> set[int]:
    """The sizes of files of these jobs that may be the file of this name and size, or have been it before it grew."""
    return {
        file.size
        for job in jobs
        for file in files_of(job.submitted.source)
        if file.size == size or (file.path == name and file.size < size)
    }


async def _digests(path: Path, sizes: set[int]) -> dict[int, str]:
    """SHA-256 of so many bytes at the beginning of a file, for each of these sizes."""
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
