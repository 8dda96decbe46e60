"""The run of one job: it is idle, running or over, and each way from one to the next keeps what was submitted."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from abatch.engine.runner import JobRun
from abatch.errors import BackendError, JobStopped, JournalError
from abatch.journal.log import Entry
from abatch.protocol.facts import Limited
from abatch.sandbox.api import Settings
from abatch.testing import memory
from tests.unit.engine import Engine, engine, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

LATENCY = 3_600.0


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    yield
    memory.clear()


@asynccontextmanager
async def running(folder: Path, **more: Any) -> AsyncIterator[tuple[Engine, JobRun, Any]]:
    """An engine whose scope reads its list, the run of its job, and where tasks can be started."""
    async with engine(folder, poll_interval=timedelta(milliseconds=10), **more) as bench:
        run = JobRun(bench.manager, bench.job, url="memory:results")
        async with anyio.create_task_group() as group:
            group.start_soon(bench.scope.run)
            yield bench, run, group
            group.cancel_scope.cancel()


def requests(*names: str) -> list[dict[str, Any]]:
    params = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": "q"}]}
    return [{"custom_id": name, "params": params} for name in names]


async def endless(began: anyio.Event) -> AsyncIterator[dict[str, Any]]:
    """One request, and no more for ever."""
    yield requests("first")[0]
    began.set()
    await anyio.sleep_forever()


async def test_run_plans_drives_and_finishes_the_job(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, run, _):
        assert (run.is_over, run.error) == (True, None)
        run.input.add(requests("a", "b"))
        run.begin(may_submit=True)
        assert not run.is_over
        await run.run()
        assert (run.is_over, run.verdict(), bench.created) == (True, None, 1)
        assert len(memory.lines("results")) == 2


async def test_run_that_is_over_begins_again_and_goes_on_with_what_is_handed_over_then(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, run, _):
        run.begin(may_submit=True)
        await run.run()
        assert isinstance(run.verdict(), JobStopped)  # no requests were handed over
        run.input.add(requests("a"))
        run.begin(may_submit=True, resumes=True)
        await run.run()
        assert (run.verdict(), bench.created) == (None, 1)


async def test_all_who_wait_for_the_end_are_woken_however_it_comes(tmp_path: Path) -> None:
    async with running(tmp_path, settings=Settings(latency=LATENCY)) as (_, run, _group):
        ends: list[str] = []

        async def wait() -> None:
            while not run.is_over:
                await run.job.change()
            ends.append("heard")

        run.input.add(requests("a"))
        run.begin(may_submit=True)
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(run.run)
                    await until(lambda: bool(run.job.open_shards))
                    scope.cancel()
        assert ends == ["heard", "heard"]
        assert (run.is_over, run.left) == (True, True)


async def test_failure_of_the_storage_ends_the_run_and_is_its_error(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, run, _):
        memory.outage("results", passes=False)
        run.input.add(requests("a"))
        run.begin(may_submit=True)
        await run.run()
        assert isinstance(run.verdict(), BackendError)
        memory.restore("results")
        run.input.add(requests("a"))
        run.begin(may_submit=True, resumes=True)
        await run.run()
        assert (run.verdict(), bench.created) == (None, 1)


async def test_broken_journal_ends_the_run_and_is_raised(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, run, _):

        async def disk_is_full() -> None:
            raise OSError("no space left")

        bench.store.sync = disk_is_full
        run.input.add(requests("a"))
        run.begin(may_submit=True)
        with pytest.raises(JournalError):
            await run.run()
        assert (run.is_over, bench.created) == (True, 0)
        assert isinstance(run.error, JournalError)


async def test_nothing_of_a_paused_run_goes_on_and_all_of_it_does_after_the_block(tmp_path: Path) -> None:
    async with running(tmp_path, settings=Settings(latency=LATENCY)) as (bench, run, group):
        run.input.add(requests("a"))
        run.begin(may_submit=True)
        group.start_soon(run.run)
        await until(lambda: bench.created == 1)
        async with run.paused():
            assert (run.is_over, run._live_round) == (False, None)
            run.look()  # as for a wish that comes meanwhile
            await anyio.wait_all_tasks_blocked()
            assert run._live_round is None
        await until(lambda: run._live_round is not None and bool(run._live_round.driven))
        assert bench.created == 1


async def test_round_after_a_pause_has_the_destination_and_the_limits_of_that_time(tmp_path: Path) -> None:
    """What the drivers of the round before were given is not used again."""
    async with running(tmp_path, settings=Settings(latency=LATENCY)) as (bench, run, group):
        run.input.add(requests("a"))
        run.begin(may_submit=True)
        group.start_soon(run.run)
        await until(lambda: bench.created == 1)
        assert run._live_round is not None
        before = run._live_round.context
        async with run.paused():
            await run.destination.move_to("memory:elsewhere")
            await bench.ledger.record(Entry(bench.job.job, Limited(rows=1)))
        await until(lambda: run._live_round is not None and bool(run._live_round.driven))
        context = run._live_round.context
        assert context is not before
        assert context.drainer is not None
        assert getattr(context.drainer.backend, "name", "") == "elsewhere"


async def test_run_that_is_paused_before_its_first_round_begins_after_the_pause(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, run, group):
        run.input.add(requests("a"))
        run.begin(may_submit=True)
        async with run_paused_first(run, group):
            await anyio.wait_all_tasks_blocked()
            assert bench.job.shards == {}
        await until(lambda: run.is_over)
        assert (run.verdict(), bench.created) == (None, 1)


@asynccontextmanager
async def run_paused_first(run: JobRun, group: Any) -> AsyncIterator[None]:
    """A pause that is asked for before the run has taken its first step."""
    group.start_soon(run.run)
    async with run.paused():
        yield


async def test_pause_that_is_given_up_before_the_run_is_still_does_not_end_it(tmp_path: Path) -> None:
    """Its caller lost patience while an attempt past its commit point waited for its answer."""
    async with running(tmp_path) as (bench, run, group):
        reached, go_on = anyio.Event(), anyio.Event()
        run.input.add(requests("a"))
        run.begin(may_submit=True)

        async def hold() -> None:
            if bench.facts()[-1] == "Cut":  # the write of `Committing`
                reached.set()
                await go_on.wait()

        bench.store.sync = hold
        group.start_soon(run.run)
        await reached.wait()
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with run.paused():
                pytest.fail("the attempt has no answer yet")
        go_on.set()
        await until(lambda: run.is_over)
        assert (run.verdict(), bench.created) == (None, 1)


async def test_requests_handed_over_while_a_round_is_cut_off_are_read_by_the_next(tmp_path: Path) -> None:
    """The round cannot end yet: an attempt past its commit point waits for its answer."""
    async with running(tmp_path, requests_per_batch=1) as (bench, run, group):
        reached, go_on, began = anyio.Event(), anyio.Event(), anyio.Event()

        async def hold() -> None:
            if bench.facts()[-1] == "Cut":  # the write of `Committing`
                reached.set()
                await go_on.wait()

        bench.store.sync = hold
        run.input.add(endless(began))
        run.begin(may_submit=True)
        group.start_soon(run.run)
        await reached.wait()
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with run.paused():
                pytest.fail("the attempt has no answer yet")
        iterable = run.input.add(requests("first", "second"))
        await run.join()
        go_on.set()
        await until(lambda: run.is_over)
        assert (iterable.cut_short, run.verdict()) == (None, None)
        assert (bench.created, len(memory.lines("results"))) == (2, 2)


async def test_requests_handed_over_during_a_round_are_read_in_it(tmp_path: Path) -> None:
    async with running(tmp_path, settings=Settings(latency=LATENCY)) as (bench, run, group):
        run.begin(may_submit=True)
        run.input.add(requests("a"))
        group.start_soon(run.run)
        await until(lambda: bench.created == 1)
        now = run._live_round
        again = run.input.add(requests("a"))
        await run.join()
        await until(lambda: not run.input.iterables)
        assert (again.error, run._live_round is now, bench.created) == (None, True, 1)
