"""The wish to leave: it cancels nothing past its commit point before the patience is over."""

from __future__ import annotations

import anyio
import pytest

from abatch.engine.shutdown import Shutdown

pytestmark = pytest.mark.anyio


async def test_an_attempt_past_its_commit_point_is_shielded_until_it_has_its_answer() -> None:
    shutdown, answered = Shutdown(), []

    async def attempt() -> None:
        with anyio.CancelScope() as scope:
            shutdown.commit(scope)
            await anyio.sleep(0.05)
            answered.append(True)
        shutdown.over(scope)

    async with anyio.create_task_group() as group:
        group.start_soon(attempt)
        await anyio.wait_all_tasks_blocked()
        shutdown.wish()
        group.cancel_scope.cancel()
    assert answered == [True]


@pytest.mark.parametrize("wished_first", [True, False])
async def test_an_attempt_without_an_answer_ends_when_the_patience_is_over(wished_first: bool) -> None:
    shutdown = Shutdown(patience=0.05)
    if wished_first:
        shutdown.wish()
    with anyio.fail_after(5), anyio.CancelScope() as scope:
        shutdown.commit(scope)
        shutdown.wish()
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_leaving_waits_until_no_attempt_waits_for_its_answer() -> None:
    shutdown, scopes = Shutdown(), [anyio.CancelScope(), anyio.CancelScope()]
    for scope in scopes:
        shutdown.commit(scope)
    async with anyio.create_task_group() as group:
        done = anyio.Event()

        async def leave() -> None:
            await shutdown.answered()
            done.set()

        group.start_soon(leave)
        for scope in scopes:
            await anyio.wait_all_tasks_blocked()
            assert not done.is_set()
            shutdown.over(scope)
        with anyio.fail_after(5):
            await done.wait()


async def test_leaving_does_not_wait_where_nothing_was_committed() -> None:
    with anyio.fail_after(5):
        await Shutdown().answered()
