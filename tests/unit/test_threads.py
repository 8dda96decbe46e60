"""Work that no cancellation splits."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from abatch.system import threads

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("native", [True, False], ids=["task.cancel()", "a cancel scope"])
async def test_a_cancelled_caller_goes_on_only_once_the_work_is_done(native):
    began, go_on, done = threading.Event(), threading.Event(), []

    def work():
        began.set()
        go_on.wait(10)
        done.append("done")

    async def call():
        try:
            await threads.run(work)
        finally:
            done.append("left")

    async with anyio.create_task_group() as group:
        if native:
            task = asyncio.ensure_future(call())
        else:
            group.start_soon(call)
        await anyio.to_thread.run_sync(began.wait)
        if native:
            task.cancel()
        else:
            group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
            assert done == []
            go_on.set()
            while len(done) < 2:
                await anyio.sleep(0)
    assert done == ["done", "left"]
    if native:
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_error_of_the_work_comes_out_as_it_is():
    def work():
        raise KeyError("this")

    with pytest.raises(KeyError, match="this"):
        await threads.run(work)


async def test_work_of_a_caller_who_was_cancelled_before_does_not_begin():
    began = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await threads.run(lambda: began.append(1))
    assert began == []


async def test_what_was_opened_for_a_cancelled_caller_is_closed():
    began, go_on, closed = threading.Event(), threading.Event(), []

    def work():
        began.set()
        go_on.wait(10)
        return "a file"

    task = asyncio.ensure_future(threads.opened(closed.append, work))
    await anyio.to_thread.run_sync(began.wait)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == ["a file"]
    assert await threads.opened(closed.append, lambda: "another") == "another"
    assert closed == ["a file"]
