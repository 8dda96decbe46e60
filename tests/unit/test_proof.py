"""Whose a batch is, told by its first lines: how often they are looked at, and when that is given up."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import anthropic
import anyio
import httpx2
from anthropic._base_client import get_platform

from abatch.engine import proof
from abatch.engine.client import Client
from abatch.engine.proof import GONE_AFTER, LOOK_WITHIN, SHORT_LOOKS, Examiner
from abatch.protocol.reconcile import Known
from tests.simulation.loop import SimulatedLoop
from tests.unit.make import NOON, batch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BEGINNING = 1_000_000_000.0
"""Seconds of the virtual clock, so many that it cannot tell a moment from the next."""


def looking(use: Callable[[Examiner, Known], Awaitable[None]], asked: list[str]) -> None:
    """An examiner on a virtual clock, at an API where every batch's results are a 404; endless turns are an error."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        return httpx2.Response(404, json={"type": "error", "error": {"type": "not_found_error"}})

    async def nothing(*_: object) -> None:
        return

    async def story() -> None:
        await asyncio.sleep(BEGINNING)
        known = Known()
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        sdk = anthropic.AsyncAnthropic(api_key="key", http_client=http, max_retries=0)
        sdk._platform = get_platform()  # else it asks a thread
        examiner = Examiner(
            Client(sdk, own=False), None, known, prove=lambda _: None, proved=nothing, done=lambda: None
        )
        await use(examiner, known)

    loop = SimulatedLoop(Random(1), most_steps=20_000)
    try:
        loop.run_until_complete(story())
    finally:
        loop.close()


def test_a_rest_of_the_budget_that_is_lost_in_rounding_is_not_waited_for_without_end():
    async def look(examiner: Examiner, _known: Known) -> None:
        examiner._allowance = LOOK_WITHIN - 1e-12
        examiner.ask(batch(ended=True), date=NOON, urgent=True)
        with anyio.move_on_after(1.0):
            await examiner.run()

    asked: list[str] = []
    looking(look, asked)
    assert len(asked) == 1


def gone_after_days_of_looks(date: float, here: float, monkeypatch) -> bool:
    """Whether a batch of noon is given up, where `Date` and this machine's time are so many seconds later."""
    monkeypatch.setattr(proof.time, "time", lambda: NOON + here)
    outcome: list[bool] = []

    async def look(examiner: Examiner, known: Known) -> None:
        seen = batch(ended=True, created_at=NOON)
        examiner.ask(seen, date=NOON + date, urgent=True)
        with anyio.move_on_after(3 * GONE_AFTER):
            await examiner.run()
        outcome.append(seen.batch_id in known.gone)

    asked: list[str] = []
    looking(look, asked)
    assert len(asked) > SHORT_LOOKS
    return outcome[0]


def test_results_that_nobody_can_read_are_given_up_once_both_clocks_say_that_two_days_passed(monkeypatch):
    later, month = GONE_AFTER + 1, 30 * 24 * 3600.0
    assert gone_after_days_of_looks(later, later, monkeypatch)
    assert not gone_after_days_of_looks(month, 3600.0, monkeypatch)
    assert not gone_after_days_of_looks(3600.0, month, monkeypatch)
