"""A fresh handful of seeds, those that once failed, and what the simulation itself must be able to do.

`python -m tests.simulation --seeds 20000 --reach 50` is the whole lane.
"""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import replace
from random import Random

import pytest

from abatch.sandbox.faults import ResetAt
from tests.simulation.loop import OWNER, Owner, SimulatedLoop, Stuck
from tests.simulation.plan import FAULTS, Life, requests
from tests.simulation.reach import MUST, shortfall
from tests.simulation.seeds import ready, regressions, run_here, run_seed
from tests.simulation.unkind import CLOCKS, LESS_KIND, draw

HANDFUL = 50


@pytest.mark.parametrize("first", range(0, 300, HANDFUL))
def test_seeds_keep_every_promise(first: int) -> None:
    told = run_here(range(first, first + HANDFUL))
    assert told.violations == {}
    assert told.seeds == HANDFUL


def test_seeds_that_once_failed_keep_every_promise() -> None:
    assert run_here(regressions()).violations == {}


def test_a_seed_is_the_same_history_wherever_it_runs() -> None:
    seeds = list(range(40, 60))
    forwards, backwards = run_here(seeds), run_here(seeds[::-1])
    assert forwards.digests == backwards.digests
    assert len(set(forwards.digests.values())) == len(seeds)


def test_a_trace_tells_the_history() -> None:
    lines: list[str] = []
    with ready():
        run_seed(3, trace=lines.append)
    assert any("calm0 ended" in line for line in lines)
    assert any("shard_committing" in line for line in lines)


def test_what_was_met_too_rarely_is_named() -> None:
    told = run_here(range(3))
    missed = shortfall(told.hits, 50)
    assert {"A2", "B5", "B10"} <= missed.keys()
    assert shortfall(told.hits, 0) == {}


def test_every_fault_and_rule_is_to_be_met() -> None:
    kinds = {f"{site} {type(make(Random(1))).__name__}" for site, make in [*FAULTS, *LESS_KIND]}
    kinds |= {f"list {type(make(Random(1))).__name__}" for make in CLOCKS}
    assert kinds <= set(MUST)
    assert {f"A{row}" for row in range(1, 13)} | {f"B{row}" for row in range(1, 11)} <= set(MUST)


def test_results_that_cannot_be_read_are_asked_for_ever_more_seldom_also_by_those_who_make_room() -> None:
    plan = draw(0)
    job = replace(plan.jobs[0], rows=requests(Random(0), 0, 6), workspace_id=None, tries=1)
    plan = replace(
        plan,
        jobs=[job],
        config=replace(plan.config, requests_per_batch=1, drains=1),
        settings=replace(plan.settings, latency=(0.0, 0.0)),
        faults=[("results", ResetAt(0), 1.0)],
        lives=[Life(stops_at=8 * 3600.0)],
        full_at=frozenset(),
        broken_at=frozenset(),
        no_room_until=0.0,
    )
    lines: list[str] = []
    with ready():
        told = run_seed(0, plan=plan, trace=lines.append)
    assert told.violations == {}
    assert 100 < sum(line.endswith("/results -> 200 Reset") for line in lines) < 1500


# ---- the loop -------------------------------------------------------------------------------------------------


def _loop() -> SimulatedLoop:
    return SimulatedLoop(Random(1), most_steps=1000)


def _owned(owner: Owner) -> contextvars.Context:
    context = contextvars.Context()
    context.run(OWNER.set, owner)
    return context


def test_clock_jumps_to_the_next_timer() -> None:
    loop = _loop()
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.time() == 86_400
    loop.close()


def test_nothing_to_wait_for_is_an_error_not_a_hang() -> None:
    loop = _loop()
    with pytest.raises(Stuck):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_endless_turns_are_an_error_not_a_hang() -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    loop = _loop()
    with pytest.raises(Stuck):
        loop.run_until_complete(spin())
    loop.close()


def test_the_dead_do_nothing_more() -> None:
    loop, owner, done = _loop(), Owner(), list[str]()

    async def work() -> None:
        done.append("begun")
        await asyncio.sleep(2)
        done.append("ended")

    task = loop.create_task(work(), context=_owned(owner))
    loop.call_later(1, owner.die)
    loop.run_until_complete(asyncio.sleep(10))
    assert done == ["begun"]
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


def test_the_paused_go_on_when_they_may_and_not_before() -> None:
    loop, owner, done = _loop(), Owner(), list[float]()

    async def work() -> None:
        await asyncio.sleep(2)
        done.append(loop.time())

    task = loop.create_task(work(), context=_owned(owner))

    def pause() -> None:
        owner.paused = True
        loop.call_later(60, loop.resume, owner)

    loop.call_later(1, pause)
    loop.run_until_complete(task)
    assert done == [61]
    loop.close()


def test_chance_orders_what_is_ready_together() -> None:
    def order(seed: int) -> list[int]:
        loop, seen = SimulatedLoop(Random(seed), most_steps=1000), list[int]()
        for number in range(10):
            loop.call_soon(seen.append, number)
        loop.run_until_complete(asyncio.sleep(1))
        loop.close()
        return seen

    assert order(1) != order(2)
    assert order(1) == order(1)
    assert sorted(order(1)) == list(range(10))
