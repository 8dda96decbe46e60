"""The lifetime of a manager is its block: outside it says so, and nothing of it outlives the end."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING

import anthropic
import anyio
import httpx2
import pytest

from abatch import BatchManager
from abatch.errors import ConfigError, JournalLocked, ManagerClosed
from abatch.sandbox.api import Machine, Settings
from abatch.sandbox.transport import URL, MachineTransport
from abatch.testing import memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
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


@pytest.fixture
def machine() -> Iterator[Machine]:
    yield Machine(clock=lambda: datetime.now(UTC), rng=Random(1), settings=Settings(latency=3_600.0))
    memory.clear()


@pytest.fixture
async def sdk(machine: Machine) -> AsyncIterator[anthropic.AsyncAnthropic]:
    http = httpx2.AsyncClient(transport=MachineTransport(machine))
    async with anthropic.AsyncAnthropic(api_key="key", base_url=URL, http_client=http, max_retries=0) as made:
        yield made


REQUEST = {
    "custom_id": "a",
    "params": {"model": "claude-haiku-4-5", "max_tokens": 1, "messages": [{"role": "user", "content": "q"}]},
}


async def test_manager_is_entered_once(manager):
    async with manager:
        pass
    with pytest.raises(RuntimeError, match="entered once"):
        async with manager:
            pytest.fail("it was entered twice")


async def test_second_manager_of_a_journal_is_refused_and_the_first_goes_on(tmp_path, sdk):
    async with BatchManager(tmp_path / "journal", client=sdk) as first:
        with pytest.raises(JournalLocked):
            async with BatchManager(tmp_path / "journal", client=sdk):
                pytest.fail("two managers drive one journal")
        assert first.jobs() == []
    async with BatchManager(tmp_path / "journal", client=sdk) as next_one:
        assert next_one.jobs() == []


async def test_manager_that_cannot_be_entered_leaves_the_journal_free(tmp_path, sdk):
    """The journal belongs to another API than the client's, which is found out when it is open."""
    async with BatchManager(tmp_path / "journal", client=sdk) as first:
        await first.submit([REQUEST], to="memory:results", key="job")
        while not first.job("job").progress().in_flight:
            await anyio.sleep(0)
    other = sdk.copy(base_url="http://127.0.0.1:2")
    with pytest.raises(ConfigError, match="belongs to"):
        async with BatchManager(tmp_path / "journal", client=other):
            pytest.fail("it was entered")
    async with BatchManager(tmp_path / "journal", client=sdk) as again:
        assert [job.key for job in again.jobs()] == ["job"]


async def test_leaving_wakes_those_who_wait_and_the_next_manager_goes_on_without_a_second_batch(tmp_path, sdk, machine):
    ends: list[type[Exception]] = []

    async def wait(manager: BatchManager) -> None:
        try:
            await manager.job("job").wait()
        except ManagerClosed as closed:
            ends.append(type(closed))

    async with anyio.create_task_group() as group:
        async with BatchManager(tmp_path / "journal", client=sdk) as manager:
            await manager.submit([REQUEST], to="memory:results", key="job")
            group.start_soon(wait, manager)
            while not machine.account.created:
                await anyio.sleep(0)
        await anyio.wait_all_tasks_blocked()
        assert ends == [ManagerClosed]
    async with BatchManager(tmp_path / "journal", client=sdk) as manager:
        while manager.job("job").progress().in_flight != 1:
            await anyio.sleep(0)
    assert len(machine.account.created) == 1


async def test_exception_of_the_block_comes_out_alone_and_no_task_outlives_it(tmp_path, sdk):
    async def fail() -> None:
        async with BatchManager(tmp_path / "journal", client=sdk) as manager:
            await manager.submit([REQUEST], to="memory:results", key="job")
            raise LookupError("of the application")

    before = {task.id for task in anyio.get_running_tasks()}
    with pytest.raises(LookupError, match="of the application"):
        await fail()
    assert {task.id for task in anyio.get_running_tasks()} == before
