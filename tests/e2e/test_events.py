"""The events of a manager: what happens to its jobs, once and in order, and again from the journal."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from abatch import BatchManager, JobStopped, events
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.e2e.jobs import config, requests

pytestmark = pytest.mark.anyio


async def test_a_reader_gets_what_happens_to_a_job_in_order_until_the_manager_is_left(api: Sandbox) -> None:
    seen: list[Any] = []

    async with anyio.create_task_group() as group, BatchManager(config=config()) as manager:
        stream = manager.events()

        async def read() -> None:
            seen.extend([event async for event in stream])

        group.start_soon(read)
        job = await manager.submit(requests(8), to="results.jsonl", key="job")
        await job.wait()
    kinds = [event.kind for event in seen]
    assert kinds[0] == "job.submitted"
    assert kinds[-1] == "job.finished"
    assert [kind for kind in kinds if not kind.startswith("job.")] == [
        "shard.planned",
        "shard.committed",
        "batch.accepted",
        "batch.ended",
        "shard.sealed",
    ]
    assert [event.seq for event in seen] == sorted({event.seq for event in seen})
    (sealed,) = [event for event in seen if isinstance(event, events.ShardSealed)]
    assert (sealed.counts.succeeded, sealed.missing) == (8, 0)


async def test_on_event_is_called_with_the_last_event_and_its_failures_stop_nothing(api: Sandbox) -> None:
    seen: list[str] = []

    async def call(event: events.Event | events.EventsMissed) -> None:
        assert not isinstance(event, events.EventsMissed)
        seen.append(event.kind)
        await anyio.sleep(0.01)  # slower than the job
        raise RuntimeError

    async with BatchManager(config=config(), on_event=call) as manager:
        summary = await (await manager.submit(requests(8), to="results.jsonl", key="job")).wait()
    assert summary.ok
    assert seen[-1] == "job.finished"


async def test_a_stop_is_an_event_with_its_remedy(api: Sandbox) -> None:
    api.faults.next("create", Status(400, "invalid_request_error", "max_tokens: too large"))
    seen: list[Any] = []
    async with BatchManager(config=config(), on_event=seen.append) as manager:
        job = await manager.submit(requests(8), to="results.jsonl", key="job")
        with pytest.raises(JobStopped) as stopped:
            await job.wait()
    told = [event for event in seen if isinstance(event, events.JobStopped)]
    assert stopped.value.reason == told[-1].reason
    assert told[-1].remedy


async def test_what_another_process_asks_for_is_an_event_here(api: Sandbox) -> None:
    from abatch.journal.folder import JournalFolder
    from abatch.journal.ledger import Ledger
    from abatch.journal.log import Entry
    from abatch.journal.sqlite import SqliteLog
    from abatch.protocol.facts import CancelWished

    api.faults.next("create", Status(429, retry_after=600.0))
    with anyio.fail_after(60):
        async with BatchManager(config=config()) as manager:
            stream = manager.events()
            job = await manager.submit(requests(8), to="results.jsonl", key="job")
            other = await SqliteLog.open(JournalFolder(manager._folder), drive=False)
            record = (await Ledger.load(other, other.folder)).job("job")
            assert record is not None
            await other.append(Entry(record.job, CancelWished()))
            await other.aclose()
            async for event in stream:
                if isinstance(event, events.CancelRequested):
                    break
            await job.wait()
