"""A manager is left by whoever has it, at once for those who read; what fails in it reaches the task that entered."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import anyio
import pytest

from abatch import BatchManager, Job, JournalError, LimitReached, ManagerClosed
from abatch.journal.ledger import Ledger
from abatch.sandbox import Sandbox
from abatch.system import threads
from tests.e2e.jobs import assert_each_answered, assert_paid_once, manager, raw_params, requests, run

pytestmark = pytest.mark.anyio


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """An API whose batches take a day."""
    with Sandbox(seed=7, latency=86_000.0) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", sandbox.key)
        yield sandbox


async def until(job: Job, true: Any) -> None:
    with anyio.fail_after(60):
        while not true(job.progress()):
            await job._job.change()


async def break_journal(*_: Any) -> None:
    raise JournalError("the disk is gone")


def test_a_fixture_of_pytest_asyncio_may_enter_in_one_task_and_leave_in_another(api: Sandbox) -> None:
    """As pytest-asyncio does it: each half of a yield fixture, and the test, is a task of one event loop."""
    rows = requests(23)

    async def fixture() -> AsyncIterator[BatchManager]:
        async with manager() as running:
            yield running

    async def test(running: BatchManager) -> None:
        job = await running.submit(rows, to="results.jsonl", key="job")
        assert (await job.wait()).ok

    with asyncio.Runner() as runner:
        steps = fixture()
        running = runner.run(anext(steps))
        runner.run(test(running))
        with pytest.raises(StopAsyncIteration):
            runner.run(anext(steps))
        assert runner.run(others()) == []
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def others() -> list[Any]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_cells_of_a_notebook_may_enter_use_and_leave_a_manager(api: Sandbox) -> None:
    """As a kernel does it: each cell is compiled with `await` allowed at its top, and run as a task of its own."""
    rows = requests(23)
    cells = [
        "manager = await stack.enter_async_context(new_manager())",
        "job = await manager.submit(rows, to='results.jsonl', key='job')",
        "summary = await job.wait()",
        "found = [result.custom_id async for result in job.results()]",
        "await stack.aclose()",
    ]
    names: dict[str, Any] = {"new_manager": manager, "rows": rows}
    for cell in ["from contextlib import AsyncExitStack", "stack = AsyncExitStack()", *cells]:
        code = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)
        if inspect.iscoroutine(running):
            await asyncio.create_task(running)
    assert sorted(names["found"]) == sorted(row["custom_id"] for row in rows)
    assert names["summary"].ok
    assert_paid_once(api, rows)


def test_a_manager_of_a_loop_in_another_thread_is_used_by_one_task_for_each_call(api: Sandbox) -> None:
    """As programs without a loop of their own do it: each call is another task, and waits in another thread."""
    rows = requests(23)
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def call(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    try:
        running = manager()
        call(running.__aenter__())
        job = call(running.submit(rows, to="results.jsonl", key="job"))
        with pytest.raises(RuntimeError, match="another event loop than the one that entered"):
            asyncio.run(running.submit(rows, to="results.jsonl", key="job"))
        with pytest.raises(RuntimeError, match=r"leaving is called .* use asyncio\.run_coroutine_threadsafe"):
            asyncio.run(running.__aexit__(None, None, None))
        assert call(job.wait()).ok
        assert "1 jobs, 0 unfinished" in repr(running)
        call(running.__aexit__(None, None, None))
        assert call(others()) == []
        assert repr(running).endswith("left>")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


def test_a_manager_whose_loop_ended_says_so_and_may_be_left(api: Sandbox) -> None:
    """`asyncio.run` for each call ends the loop each time, and with it the manager: nothing is lost."""
    rows = requests(5)
    running = manager()
    asyncio.run(running.__aenter__())
    with pytest.raises(RuntimeError, match="after its block was left; call it inside"):
        asyncio.run(running.submit(rows, to="results.jsonl", key="job"))
    asyncio.run(running.__aexit__(None, None, None))
    assert asyncio.run(run(rows))[1].ok
    assert_paid_once(api, rows)


async def test_a_job_says_how_it_stands(api: Sandbox) -> None:
    async with manager() as running:
        job = await running.submit(requests(12), to="memory:", key="job")
        assert job.state in ("planning", "running", "in doubt")
        await job.wait()
        assert (job.state, job.reason, job.remedy, job.eta) == ("done", "", "", None)
        assert repr(job) == "<Job 'job' done: 12 of 12 requests done>"
        trial = await running.submit(requests(12), to="memory:trial", key="trial", limit=5)
        with pytest.raises(LimitReached):
            await trial.wait()
        assert trial.state == "stopped"
        assert "only its first 5 requests" in trial.reason
        assert "to send the rest" in trial.remedy


async def test_a_job_says_when_it_will_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(latency=3_600.0) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        async with manager() as running:
            job = await running.submit(requests(10), to="memory:job", key="job")
            await until(job, lambda now: now.batches_in_flight == 1)
            assert (job.state, job.eta, job.forecast().why) == ("running", None, "no history yet")
            assert repr(job) == "<Job 'job' running: 0 of 10 requests done>"
            api.advance(3_600.0)
            with anyio.fail_after(60):
                await job.wait()
            like_it = await running.submit(requests(10), to="memory:other", key="other")
            await until(like_it, lambda now: now.batches_in_flight == 1)
            assert like_it.eta is not None
            assert abs((like_it.eta - datetime.now(UTC)).total_seconds() - 3_600) < 60


async def test_a_broken_journal_interrupts_the_block_and_is_raised_by_it(
    slow: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, interrupted = asyncio.current_task(), list[str]()
    assert task is not None

    async def block() -> None:
        async with manager() as running:
            job = await running.submit(requests(3), to="memory:", key="job")
            await until(job, lambda progress: progress.in_flight)
            monkeypatch.setattr(Ledger, "refresh", break_journal)
            try:
                await anyio.sleep_forever()
            finally:
                interrupted.append("block")

    with pytest.raises(JournalError, match="the disk is gone"):
        await block()
    assert interrupted == ["block"]
    assert task.cancelling() == 0
    await anyio.lowlevel.checkpoint()  # and nothing of the cancellation is left
    assert slow.account.violated == 0


def test_a_journal_that_breaks_while_no_task_is_in_the_block_is_raised_on_leaving(
    slow: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(running: BatchManager) -> None:
        job = await running.submit(requests(3), to="memory:", key="job")
        await until(job, lambda progress: progress.in_flight)
        monkeypatch.setattr(Ledger, "refresh", break_journal)
        with pytest.raises((JournalError, ManagerClosed)):
            await job.wait()

    with asyncio.Runner() as runner:
        running = manager()
        runner.run(running.__aenter__())
        runner.run(wait(running))
        with pytest.raises(JournalError, match="the disk is gone"):
            runner.run(running.__aexit__(None, None, None))
    assert slow.account.violated == 0


async def test_a_cancellation_of_the_block_is_raised_once_everything_is_closed(slow: Sandbox) -> None:
    before = asyncio.all_tasks()

    async def block() -> None:
        async with asyncio.timeout(None) as timeout, manager() as running:
            job = await running.submit(requests(3), to="memory:", key="job")
            await until(job, lambda progress: progress.in_flight)
            timeout.reschedule(0)
            await job.wait()

    with pytest.raises(TimeoutError):
        await block()
    assert asyncio.all_tasks() == before
    with anyio.CancelScope() as scope:
        async with manager() as running:
            scope.cancel()
            await running.job("job").wait()
    assert scope.cancelled_caught
    assert asyncio.all_tasks() == before
    assert slow.account.violated == 0


async def test_an_error_of_the_block_is_raised_as_it_is(api: Sandbox) -> None:
    error = LookupError("mine")
    with pytest.raises(LookupError) as raised:
        async with manager():
            raise error
    assert raised.value is error
    assert api.account.violated == 0


async def test_a_cancellation_while_the_manager_is_entered_leaves_nothing_open(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, opening, opened = asyncio.all_tasks(), asyncio.Event(), threads.run

    async def run(work: Any, /, *args: Any, **more: Any) -> Any:
        opening.set()
        return await opened(work, *args, **more)

    monkeypatch.setattr(threads, "run", run)
    entering = asyncio.create_task(manager().__aenter__())
    await opening.wait()
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert asyncio.all_tasks() == before
    async with manager() as running:  # its journal is free
        assert running.jobs() == []
    assert api.account.violated == 0


async def test_leaving_ends_who_reads_results_or_waits_with_manager_closed_at_once(slow: Sandbox) -> None:
    """While the answer to a create is awaited: leaving gives it up to 30 seconds, of which a reader needs none."""
    rows, ended = requests(3), []

    async def read(job: Job) -> None:
        with pytest.raises(ManagerClosed, match="'job'"):
            async for _ in job.results():
                pass
        ended.append("results")

    async def wait(job: Job) -> None:
        with pytest.raises(ManagerClosed, match="'job'"):
            await job.wait()
        ended.append("wait")

    async with anyio.create_task_group() as group:
        running = manager()
        async with running:
            job = await running.submit(rows, to="memory:", key="job")
            await until(job, lambda progress: progress.in_flight)
            group.start_soon(read, job)
            group.start_soon(wait, job)
            await anyio.wait_all_tasks_blocked()
            answered = running._shutdown.answered

            async def answered_after_the_readers_ended() -> None:
                while len(ended) < 2:
                    await anyio.lowlevel.checkpoint()
                await answered()

            running._shutdown.answered = answered_after_the_readers_ended  # type: ignore[method-assign]
    assert sorted(ended) == ["results", "wait"]
    assert [slow.account.times(raw_params(row)) for row in rows] == [1, 1, 1]
    assert slow.account.violated == 0


async def test_a_reader_in_the_middle_of_a_finished_job_hears_that_the_manager_is_closed(api: Sandbox) -> None:
    async with manager() as running:
        job = await running.submit(requests(23), to="results.db", key="job")
        await job.wait()
        results = job.results()
        assert (await anext(results)).outcome == "succeeded"
    with pytest.raises(ManagerClosed, match="same key"):
        await anext(results)
    assert (await job.wait()).succeeded == 23
    assert api.account.violated == 0
