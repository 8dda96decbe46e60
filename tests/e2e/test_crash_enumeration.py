"""Die at effect 1, 2, 3 … until a run survives: the next run makes everything good, and nothing is paid twice."""

from __future__ import annotations

import gc
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from httpx2 import AsyncClient

from abatch import BatchManager, Summary
from abatch.sandbox.api import Machine
from abatch.sandbox.faults import Status
from abatch.sandbox.transport import URL, MachineTransport
from abatch.testing.crash import Crash, CrashPoints, died
from tests.e2e.jobs import assert_each_answered, config, raw_params, requests, write

pytestmark = [
    pytest.mark.anyio,
    # a dead run closes nothing
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Server:
    """A machine whose clock goes on a second with each call, so that every grace passes."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        self.machine = Machine(clock=self._tick, rng=Random(5))

    def _tick(self) -> datetime:
        self.now += timedelta(seconds=0.5)
        return self.now

    async def run(self, path: Path, to: str, crash: CrashPoints) -> Summary:
        transport = crash.wrap(MachineTransport(self.machine))
        async with AsyncClient(transport=transport) as http:
            client = AsyncAnthropic(api_key="sandbox-key", base_url=URL, http_client=http)
            quick: dict[str, Any] = {
                "poll_every": timedelta(milliseconds=10),
                "poll_at_most": timedelta(milliseconds=10),
            }
            async with BatchManager(client=client, config=config(requests_per_batch=8, **quick)) as manager:
                job = await manager.submit(path, to=to, key="job")
                return await job.wait()


async def die_at(server: Server, path: Path, to: str, point: int) -> bool:
    """Whether the run died; a run that is to die never ends in any other way."""
    crash = CrashPoints(point)
    with crash:
        try:
            await server.run(path, to, crash)
        except BaseException as error:
            if not died(error):
                raise
    return crash.happened


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
async def test_death_at_any_effect_loses_nothing_and_pays_once(
    twice: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = requests(11)
    rows[2]["params"]["metadata"] = {"user_id": "sandbox:errored-once:overloaded_error"}
    points = 0
    for point in count(1):
        home = tmp_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, path = Server(), write(rows)
        died_here = await die_at(server, path, "results.jsonl", point)
        if died_here and twice:
            await die_at(server, path, "results.jsonl", 1 + point * 7 % 40)
        summary = await server.run(path, "results.jsonl", CrashPoints(0))
        account = server.machine.account
        assert account.violated == 0, f"paid twice after death at point {point}"
        assert [account.times(raw_params(row)) for row in rows] == [1, 1, 2] + [1] * 8, point
        assert summary.succeeded == 11, point
        assert_each_answered("results.jsonl", rows)
        if not died_here:
            points = point
            break
    gc.collect()
    assert points > 60


async def test_request_that_is_too_large_is_not_sent_again_whenever_it_dies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows, points = requests(1), 0
    for point in count(1):
        home = tmp_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, path = Server(), write(rows)
        server.machine.faults.next("create", Status(413, "request_too_large", "too large"))
        died_here = await die_at(server, path, "results.jsonl", point)
        summary = await server.run(path, "results.jsonl", CrashPoints(0))
        # an answer that died with the process may come again; one that was heard counts
        assert (summary.errored, server.machine.account.requests) in [(1, 0), (0, 1)], point
        if not died_here:
            points = point
            break
    gc.collect()
    assert summary.errored == 1
    assert points > 25


def test_crash_is_not_an_ordinary_exception() -> None:
    assert not issubclass(Crash, Exception)
