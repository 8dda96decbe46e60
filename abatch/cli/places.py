"""How a command that drives nothing finds a journal, and reads it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from abatch.backend import JobRef
from abatch.errors import ConfigError
from abatch.journal import Journal
from abatch.ledger import Ledger
from abatch.places import folder_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from abatch.ledger import JobRecord

__all__ = ["DEFAULT_JOURNAL", "PORT", "SANDBOX_JOURNAL", "has_sandbox", "job_named", "ledger_of", "ref_of"]

DEFAULT_JOURNAL: Final = Path(".abatch")
SANDBOX_JOURNAL: Final = Path(".abatch-sandbox")
PORT: Final = "port"
"""The file in a journal's folder that keeps its sandbox's."""


def has_sandbox(folder: Path) -> bool:
    """Whether a journal is of a sandbox beside it."""
    return (folder / PORT).exists()


@asynccontextmanager
async def ledger_of(folder: Path) -> AsyncGenerator[Ledger]:
    """The jobs of a journal, read beside whoever drives it."""
    journal = await Journal.open(folder_of(folder), drive=False)
    try:
        yield await Ledger.load(journal)
    finally:
        await journal.aclose()


def job_named(ledger: Ledger, key: str) -> JobRecord:
    """The job of this key.

    Raises:
        ConfigError: there is none.

    """
    job = ledger.job(key)
    if job is None:
        known = ", ".join(each.key for each in ledger.jobs.values()) or "none"
        raise ConfigError(f"journal {ledger.journal.folder} has no job {key!r}; it has: {known}")
    return job


def ref_of(ledger: Ledger, job: JobRecord) -> JobRef:
    """The job as backends know it, to read."""
    return JobRef(key=job.key, lineage=ledger.journal.lineage, finished=job.finished is not None)
