"""Open jobs: every acknowledged request has one line, whatever dies, and its answer can be awaited alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import BatchManager, JobConflict, JobNotFound, JournalView, events
from abatch.errors import (
    BadRequest,
    ConfigError,
    InboxClosed,
    ManagerClosed,
    NoResult,
    RequestConflict,
    RequestNotFound,
)
from abatch.journal.folder import JournalFolder
from abatch.journal.inbox import InboxRequest, digest_of
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.protocol.facts import Closed
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import MissingLine
from abatch.testing import memory
from tests.e2e.jobs import config

pytestmark = pytest.mark.anyio

SOON = timedelta(seconds=0.05)
NEVER = timedelta(days=1)


def request(custom_id: str, **more: Any) -> dict[str, Any]:
    params = {
        "model": "claude-haiku-4-5",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": custom_id}],
        **more,
    }
    return {"custom_id": custom_id, "params": params}


@pytest.fixture(autouse=True)
def _empty_memory() -> None:
    memory.clear()


async def test_requests_of_many_tasks_are_answered_each_alone(api: Sandbox) -> None:
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="answers.db", linger=SOON)
        answered: list[str] = []

        async def ask(custom_id: str) -> None:
            assert await job.put(request(custom_id))
            answered.append((await job.result(custom_id)).custom_id)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as asking:
                for number in range(300):
                    asking.start_soon(ask, f"ticket-{number}")
        assert len(set(answered)) == 300
        assert not job.closed
        await job.close()
        summary = await job.wait()
    assert (summary.requests, summary.succeeded) == (300, 300)
    assert api.account.requests == 300


async def test_a_batch_waits_for_others_until_it_is_full_or_its_first_request_has_lingered(api: Sandbox) -> None:
    async with BatchManager(config=config(requests_per_batch=4)) as manager:
        job = await manager.open_job("full", to="memory:full", linger=NEVER)
        await job.put_many([request(f"r{number}") for number in range(5)])
        assert (await job.result("r0")).outcome == "succeeded"  # a full batch does not wait
        planned = job.progress().planned
        assert 0 < planned < 5
        await job.put_many([request(f"r{number}") for number in range(5, 10)])
        await job.close()
        assert (await job.wait()).succeeded == 10

        job = await manager.open_job("lingering", to="memory:lingering", linger=SOON)
        await job.put(request("one"))
        assert (await job.result("one")).outcome == "succeeded"


async def test_the_same_request_again_is_one_request_and_another_under_its_id_is_refused(api: Sandbox) -> None:
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="memory:tickets", linger=SOON)
        assert await job.put(request("a"))
        same = request("a")
        same["params"] = dict(reversed(same["params"].items()))
        assert not await job.put(same)
        await job.result("a")  # it is planned and sent now
        assert not await job.put(same)
        with pytest.raises(RequestConflict, match="'tickets' has another request with custom_id 'a'; nothing of this"):
            await job.put_many([request("b"), request("a", max_tokens=9)])
        with pytest.raises(RequestNotFound, match="no request with custom_id 'b'"):
            await job.result("b")
        with pytest.raises(BadRequest) as bad:
            await job.put_many([request("b"), request("c", max_tokens=0)])
        assert (bad.value.line, bad.value.custom_id) == (2, "c")
        await job.close()
        assert (await job.wait()).requests == 1


async def test_a_closed_job_takes_no_request_and_ends(api: Sandbox) -> None:
    seen: list[str] = []
    async with BatchManager(config=config(), on_event=lambda event: seen.append(event.kind)) as manager:
        job = await manager.open_job("tickets", to="memory:tickets", linger=NEVER)
        await job.put(request("a"))
        await job.close()
        with pytest.raises(InboxClosed, match="'tickets' takes no further requests"):
            await job.put(request("b"))
        assert (await job.wait()).succeeded == 1
        assert job.closed
        assert (await job.result("a")).outcome == "succeeded"
        with pytest.raises(RequestNotFound):
            await job.result("b")
        again = await manager.open_job("tickets", to="memory:tickets")
        assert again.done
        with pytest.raises(InboxClosed):
            await again.put(request("b"))
    assert seen.count("job.closed") == 1


async def test_an_empty_open_job_ends_when_it_is_closed(api: Sandbox) -> None:
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="memory:tickets")
        await job.close()
        summary = await job.wait()
    assert summary.requests == 0
    assert api.account.batches == 0


async def test_every_request_of_a_cancelled_job_has_its_line(api: Sandbox) -> None:
    async with BatchManager(config=config(requests_per_batch=10)) as manager:
        job = await manager.open_job("tickets", to="memory:tickets", linger=NEVER)
        await job.put_many([request(f"r{number}") for number in range(25)])
        await job.cancel()
        with pytest.raises(InboxClosed):
            await job.put(request("late"))
        with anyio.fail_after(60):
            summary = await job.wait()
        assert summary.requests == 25
        assert summary.succeeded + summary.canceled == 25
        assert (await job.result("r24")).outcome == "canceled"
    ids = Counter([line.custom_id async for line in job_lines("tickets")])
    assert ids == Counter(f"r{number}" for number in range(25))


async def job_lines(key: str) -> Any:
    async with JournalView(".abatch") as view:
        async for result in view.results(key):
            yield result


async def test_after_a_restart_it_goes_on_without_its_callers(api: Sandbox) -> None:
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="answers.db", linger=NEVER)
        await job.put_many([request(f"r{number}") for number in range(3)])
        waiting = asyncio.ensure_future(job.result("r0"))
        await asyncio.sleep(0)
    with pytest.raises(ManagerClosed):
        await waiting
    assert api.account.batches == 0

    log = await SqliteLog.open(JournalFolder(Path(".abatch").absolute()), drive=False)  # nobody drives
    params = b'{"model":"claude-haiku-4-5","max_tokens":8,"messages":[{"role":"user","content":"x"}]}'
    await log.put(1, [InboxRequest(b'"other"', params, (), digest_of(params, ()))])
    await log.append(Entry(1, Closed()))
    await log.aclose()

    async with BatchManager(config=config()) as manager:
        job_again = manager.job("tickets")
        with anyio.fail_after(60):
            summary = await job_again.wait()
    assert summary.succeeded == 4
    assert api.account.requests == 4


async def test_a_process_that_does_not_drive_puts_requests_and_waits_for_answers(api: Sandbox) -> None:
    async with BatchManager(config=config(inbox_bytes=200)) as manager:
        job = await manager.open_job("tickets", to="answers.db", linger=SOON)
        await manager.submit([request("a")], to="other.db", key="other")
        async with JournalView(".abatch") as view:
            inbox = await view.open_job("tickets", config=config(inbox_bytes=200))
            assert await view.open_job("tickets") is inbox
            answered: list[str] = []

            async def ask(custom_id: str) -> None:
                await inbox.put(request(custom_id))
                answered.append((await inbox.result(custom_id)).custom_id)

            with anyio.fail_after(120):
                async with anyio.create_task_group() as asking:
                    for number in range(20):
                        asking.start_soon(ask, f"r{number}")
            assert len(set(answered)) == 20
            with pytest.raises(RequestConflict):
                await inbox.put(request("r1", max_tokens=9))
            with pytest.raises(RequestNotFound):
                await inbox.result("nothing")
            with pytest.raises(ConfigError, match="'other' is not an open job"):
                await view.open_job("other")
            with pytest.raises(JobNotFound):
                await view.open_job("none")
            await inbox.close()
            assert inbox.closed
            assert repr(inbox) == "<Inbox of 'tickets', closed>"
        with anyio.fail_after(60):
            assert (await job.wait()).succeeded == 20


KILLED = """
import asyncio, os, signal, sys
from datetime import timedelta
from abatch import BatchManager
from tests.e2e.jobs import config
from tests.e2e.test_open_jobs import request

async def main():
    async with BatchManager(config=config(requests_per_batch=7)) as manager:
        job = await manager.open_job("tickets", to="answers.db", linger=timedelta(seconds=0.02))

        async def put(first):
            for number in range(first, first + 1000):
                await job.put(request(f"r{number}"))
                print(number, flush=True)

        await asyncio.gather(*(put(task * 1000) for task in range(10)))

asyncio.run(main())
"""


async def test_every_acknowledged_request_has_one_line_after_a_kill(api: Sandbox, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    acknowledged: set[int] = set()
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED],
            stdout=subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
        ) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout):
                acknowledged.add(int(line))
                if count == 150:
                    process.kill()
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="answers.db")
        await job.close()
        with anyio.fail_after(120):
            summary = await job.wait()
    ids = Counter([line.custom_id async for line in job_lines("tickets")])
    assert set(ids.values()) == {1}
    assert {f"r{number}" for number in acknowledged} <= set(ids)
    assert len(ids) == summary.requests
    assert api.account.requests == summary.requests  # nothing is paid twice


async def test_no_prompt_stays_in_the_journal_once_the_job_is_done(api: Sandbox) -> None:
    secret = "the canary of a prompt"
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="answers.db", linger=SOON)
        rows = [request(f"r{number}") for number in range(50)]
        for row in rows:
            row["params"]["system"] = secret * 20
        await job.put_many(rows)
        await job.close()
        assert (await job.wait()).succeeded == 50
    files = [path for path in Path(".abatch").rglob("*") if path.is_file()]
    assert len(files) > 1
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


async def test_a_put_waits_while_the_inbox_is_full(api: Sandbox) -> None:
    async with BatchManager(config=config(inbox_bytes=1000, requests_per_batch=2)) as manager:
        job = await manager.open_job("tickets", to="memory:tickets", linger=SOON)
        with anyio.fail_after(60):
            for number in range(40):
                await job.put(request(f"r{number}"))
        state = await manager._context.ledger.facts.inbox(1)
        assert state.unreleased < 2000
        await job.close()
        assert (await job.wait()).succeeded == 40


async def test_other_headers_of_single_requests_share_a_job(api: Sandbox) -> None:
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="memory:tickets", linger=SOON)
        await job.put_many([{**request(f"r{number}"), "betas": [f"beta-{number}"]} for number in range(40)])
        await job.close()
        assert (await job.wait()).succeeded == 40


async def test_a_key_of_another_kind_of_job_is_refused(api: Sandbox) -> None:
    async with BatchManager(config=config()) as manager:
        await manager.open_job("open", to="memory:open")
        await manager.submit([request("a")], to="memory:closed", key="closed")
        with pytest.raises(JobConflict, match="put one by one"):
            await manager.submit([request("a")], to="memory:open", key="open")
        with pytest.raises(JobConflict, match="submitted together"):
            await manager.open_job("closed", to="memory:closed")
        with pytest.raises(JobConflict):
            await manager.open_job("open", to="memory:open", betas=["other"])
        with pytest.raises(ConfigError, match="linger must not be negative"):
            await manager.open_job("new", to="memory:new", linger=timedelta(seconds=-1))


async def test_a_request_whose_result_is_lost_says_why(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abatch.engine.shard_drain.READ_AGAIN", (0.01,))
    api.faults.always("results", MissingLine())
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="memory:tickets", linger=SOON)
        await job.put(request("a"))
        with (
            anyio.fail_after(60),
            pytest.raises(NoResult, match="has no result") as lost,
        ):
            await job.result("a")
        assert lost.value.reason
        await job.close()
        assert (await job.wait()).missing == 1


async def test_results_that_cannot_be_found_singly_are_read_together(api: Sandbox) -> None:
    async with BatchManager(config=config()) as manager:
        job = await manager.open_job("tickets", to="answers.jsonl", linger=SOON)
        await job.put(request("a"))
        with anyio.fail_after(60), pytest.raises(ConfigError, match=r"does not find single results.*results\(\)"):
            await job.result("a")
        await job.close()
        assert [result.custom_id async for result in job.results()] == ["a"]


def test_the_events_of_an_open_job_are_public() -> None:
    assert events.JobClosed.kind == "job.closed"
