"""Fixtures of the unit tests, and how many examples their properties try: fewer with ABATCH_QUICK=1."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.sqlite import SqliteLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

settings.register_profile(
    "unit",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=15 if os.environ.get("ABATCH_QUICK") == "1" else 60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("unit")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """A journal that this process drives."""
    opened = await SqliteLog.open(JournalFolder(tmp_path / "journal"), drive=True)
    yield opened
    await opened.aclose()


@pytest.fixture
async def ledger(journal: SqliteLog) -> Ledger:
    return await Ledger.load(journal, journal.folder)
