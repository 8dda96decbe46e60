"""A manager outside of its block says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anthropic
import pytest

from abatch import BatchManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[BatchManager]:
    async with anthropic.AsyncAnthropic(api_key="key", base_url="http://127.0.0.1:1", max_retries=0) as sdk:
        yield BatchManager(tmp_path / "journal", client=sdk)


async def each_says(manager: BatchManager, when: str) -> None:
    says = pytest.raises(RuntimeError, match=rf"{when}; call it inside `async with BatchManager")
    with says:
        await manager.submit([], to="memory:", key="job")
    with says:
        manager.jobs()
    with says:
        manager.job("job")
    with says:
        await manager.check_api()


async def test_call_before_the_block_is_entered_says_so(manager):
    await each_says(manager, "before its block is entered")


async def test_call_after_the_block_was_left_says_so(manager):
    async with manager:
        assert manager.jobs() == []
    await each_says(manager, "after its block was left")
