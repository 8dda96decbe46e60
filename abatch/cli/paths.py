"""How a command that drives nothing finds a journal, and reads it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from abatch.backend import JobRef
from abatch.errors import ConfigError, JobNotFound
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.sqlite import SqliteLog
from abatch.system.paths import folder_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from abatch.journal.records import JobRecord

__all__ = [
    "DEFAULT_JOURNAL",
    "PORT",
    "SANDBOX_JOURNAL",
    "asked_for",
    "has_sandbox",
    "job_named",
    "ledger_of",
    "place_of",
    "ref_of",
]

DEFAULT_JOURNAL: Final = Path(".abatch")
SANDBOX_JOURNAL: Final = Path(".abatch-sandbox")
PORT: Final = "port"
"""The file in a journal's folder that keeps its sandbox's."""


def has_sandbox(folder: Path) -> bool:
    """Whether a journal is of a sandbox beside it."""
    return (folder / PORT).exists()


def asked_for(journal: Path | None, *, sandbox: bool) -> Path | None:
    """The journal that the options name; None where they leave it to `place_of`."""
    return SANDBOX_JOURNAL if journal is None and sandbox else journal


def place_of(journal: Path | None, *, sandbox: bool) -> Path:
    """The journal to read: the one that was named, or the one that goes without saying.

    Raises:
        ConfigError: none was named, and there is only that of a sandbox.

    """
    if (asked := asked_for(journal, sandbox=sandbox)) is not None:
        return asked
    if not DEFAULT_JOURNAL.exists() and SANDBOX_JOURNAL.exists():
        raise ConfigError(
            f"there is no journal {DEFAULT_JOURNAL} here, but one of the sandbox: add --sandbox to see it"
        )
    return DEFAULT_JOURNAL


@asynccontextmanager
async def ledger_of(folder: Path) -> AsyncGenerator[Ledger]:
    """The jobs of a journal, read beside whoever drives it."""
    place = JournalFolder(folder_of(folder))
    facts = await SqliteLog.open(place, drive=False)
    try:
        yield await Ledger.load(facts, place)
    finally:
        await facts.aclose()


def job_named(ledger: Ledger, key: str) -> JobRecord:
    """The job of this key.

    Raises:
        JobNotFound: there is none.

    """
    job = ledger.job(key)
    if job is None:
        raise JobNotFound(ledger.folder.path, key, tuple(each.key for each in ledger.jobs.values()))
    return job


def ref_of(ledger: Ledger, job: JobRecord) -> JobRef:
    """The job as backends know it, to read."""
    return JobRef(key=job.key, lineage=ledger.lineage.name, finished=job.finished is not None)
