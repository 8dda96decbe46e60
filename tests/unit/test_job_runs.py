"""The runs of a manager: each is kept as long as it is needed, and none begins once the manager was left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from abatch.engine.runs import JobRuns
from abatch.errors import ManagerClosed
from tests.unit.engine import engine

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


async def test_no_run_begins_once_the_manager_was_left(tmp_path: Path) -> None:
    """A run that begins and never ends would hold up whoever pauses it."""
    async with engine(tmp_path) as bench:
        runs = JobRuns(bench.manager)
        async with runs.open():
            run = runs.of(bench.job)
        with pytest.raises(ManagerClosed):
            runs.start(run, may_submit=True)
        with anyio.fail_after(5):
            async with run.paused():
                assert run.is_over
        await runs.aclose()
