"""Slots of drains: so many at once, the lowest rank first, and a sleeper holds none."""

from __future__ import annotations

import anyio
import pytest

from abatch.engine.slots import SHORT_REST, Postponed, PrioritySlots

pytestmark = pytest.mark.anyio


async def test_of_those_that_wait_the_lowest_rank_is_next_and_equal_ranks_keep_their_order() -> None:
    slots, order = PrioritySlots(1), list[str]()

    async def take(rank: float, name: str) -> None:
        async with slots.slot(rank):
            order.append(name)

    async with anyio.create_task_group() as group, slots.slot(0):
        for rank, name in [(3, "c"), (1, "a"), (2, "b"), (2, "b2")]:
            group.start_soon(take, rank, name)
            await anyio.wait_all_tasks_blocked()
        assert order == []
    assert order == ["a", "b", "b2", "c"]


async def test_a_sleeper_releases_its_slot_and_takes_one_again() -> None:
    slots, events = PrioritySlots(1), list[str]()

    async def sleeper() -> None:
        async with slots.slot(1) as rest:
            events.append("sleeps")
            await rest(0.05)
            events.append("woke")

    async def other() -> None:
        async with slots.slot(2):
            events.append("other")

    async with anyio.create_task_group() as group:
        group.start_soon(sleeper)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(other)
    assert events == ["sleeps", "other", "woke"]


async def test_a_long_sleep_is_postponed_where_as_many_sleep_as_there_are_slots() -> None:
    slots = PrioritySlots(1)

    async def sleeper() -> None:
        async with slots.slot(1) as rest:
            await rest(3600)

    async with anyio.create_task_group() as group:
        group.start_soon(sleeper)
        await anyio.wait_all_tasks_blocked()
        async with slots.slot(2) as rest:
            with pytest.raises(Postponed) as postponed:
                await rest(SHORT_REST + 1)
            assert postponed.value.seconds == SHORT_REST + 1
            await rest(0.01)  # a short one is slept in the slot
        group.cancel_scope.cancel()


async def test_a_slot_whose_waiter_is_cancelled_goes_to_the_next() -> None:
    slots, taken = PrioritySlots(1), anyio.Event()

    async def take() -> None:
        async with slots.slot(2):
            taken.set()

    async with anyio.create_task_group() as group:
        async with slots.slot(0):
            with anyio.move_on_after(0.05):
                async with slots.slot(1):
                    raise AssertionError("the slot is held")
            group.start_soon(take)
            await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            await taken.wait()
