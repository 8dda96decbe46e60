"""Where a journal and what it names lie, and how a command that drives nothing reads and steers it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from abatch.backend import JobRef
from abatch.errors import ConfigError
from abatch.journal import Journal
from abatch.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from abatch.ledger import JobRecord

__all__ = [
    "DEFAULT_JOURNAL",
    "absolute",
    "absolute_url",
    "folder_of",
    "job_named",
    "ledger_of",
    "ref_of",
    "relative_url",
    "shown",
]

DEFAULT_JOURNAL: Final = Path(".abatch")
LOCAL: Final = frozenset({"jsonl", "sqlite"})
"""Schemes whose URL is a path on this machine; the journal keeps it relative to its own place."""


def folder_of(journal: Path) -> Path:
    """A journal's folder from the root; links stay as they were given."""
    return Path(os.path.abspath(journal))  # noqa: PTH100 - this would follow links


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


def absolute(journal: Path, path: str) -> Path:
    """A path that the journal keeps."""
    return Path(os.path.normpath(journal.parent / path))


def absolute_url(journal: Path, url: str) -> str:
    """A destination that the journal keeps, to connect to."""
    scheme, path, rest = _taken_apart(url)
    if scheme not in LOCAL:
        return url
    return f"{scheme}:///{absolute(journal, path)}{'/' * path.endswith('/')}{rest}"


def relative_url(journal: Path, url: str) -> str:
    """A destination as the journal keeps it."""
    scheme, path, rest = _taken_apart(url)
    if scheme not in LOCAL:
        return url
    return f"{scheme}:///{os.path.relpath(path, journal.parent)}{'/' * path.endswith('/')}{rest}"


def shown(url: str) -> str:
    """A destination's URL as people write it: a path where it is one."""
    scheme, path, rest = _taken_apart(url)
    return path + rest if scheme in LOCAL else url


def _taken_apart(url: str) -> tuple[str, str, str]:
    scheme, _, rest = url.partition(":///")
    path, mark, query = rest.partition("?")
    return scheme, path, mark + query
