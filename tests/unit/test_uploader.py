"""One attempt, from its admission to the verdict on its answer, against the sandbox's machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from abatch.errors import JobStopped, JournalError
from abatch.input.spool import SpoolReader
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished
from abatch.protocol.lifecycle import InDoubt, Processing, Ready, Rejected
from abatch.sandbox.faults import Garbage, OutOfCredit, ResetAfterAccept, ResetBeforeAccept, StaleAnswer, Status
from tests.unit.engine import Engine, engine, until, while_running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine(tmp_path) as made:
        yield made


async def test_answer_binds_the_batch_to_its_shard(bench: Engine) -> None:
    shard = await bench.shard("a", "b")
    assert await bench.upload(shard)
    assert bench.facts(shard) == ["Planned", "Committing", "Accepted"]
    assert isinstance(shard.state, Processing)
    assert (shard.state.proven, bench.created) == (True, 1)
    assert bench.scope.known.bound == {shard.state.batch_id}


async def test_no_batch_is_made_if_the_commit_point_cannot_be_made_durable(bench: Engine) -> None:
    shard = await bench.shard("a")

    async def disk_is_full() -> None:
        raise OSError("no space left")

    bench.store.sync = disk_is_full
    with pytest.raises(JournalError, match="no space left"):
        await bench.upload(shard)
    assert (bench.facts(shard), bench.created) == (["Planned"], 0)


async def test_commit_point_is_on_record_before_the_body_is_complete(bench: Engine) -> None:
    """The write that makes it durable is held: until it is over, the API has an incomplete body."""
    shard, reached, go_on = await bench.shard("a"), anyio.Event(), anyio.Event()

    async def hold() -> None:
        reached.set()
        await go_on.wait()

    bench.store.sync = hold
    async with anyio.create_task_group() as group:
        group.start_soon(bench.upload, shard)
        await reached.wait()
        await anyio.wait_all_tasks_blocked()
        assert (bench.created, bench.facts(shard)) == (0, ["Planned"])
        go_on.set()
    assert bench.created == 1


async def test_tail_is_withheld_if_a_stop_is_wished_at_the_commit_point(bench: Engine) -> None:
    shard = await bench.shard("a")

    async def stop() -> None:
        bench.manager.shutdown.wish()

    bench.store.sync = stop
    await bench.upload(shard)
    assert bench.facts(shard) == ["Planned", "Committing", "Withdrawn"]
    assert (shard.state, bench.created) == (Ready(attempt=1), 0)


async def test_attempt_past_its_commit_point_gets_its_answer_although_it_is_cancelled(bench: Engine) -> None:
    shard = await bench.shard("a")
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            scope.cancel()

        bench.store.sync = cancel
        await bench.upload(shard)
        await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert bench.facts(shard) == ["Planned", "Committing", "Accepted"]


@pytest.mark.parametrize("fault", [ResetAfterAccept(), ResetBeforeAccept()])
async def test_lost_answer_leaves_a_doubt_and_is_not_repeated(bench: Engine, fault: ResetAfterAccept) -> None:
    shard = await bench.shard("a")
    bench.machine.faults.next("create", fault)
    assert await bench.upload(shard)
    assert bench.facts(shard) == ["Planned", "Committing"]
    assert isinstance(shard.state, InDoubt)
    assert bench.created == isinstance(fault, ResetAfterAccept)


@pytest.mark.parametrize("fault", [Garbage(), StaleAnswer()])
async def test_answer_that_names_no_batch_of_ours_is_no_reason_to_send_again(bench: Engine, fault: Garbage) -> None:
    await bench.upload(await bench.shard("a"))
    shard = await bench.shard("b")
    bench.machine.faults.next("create", fault)
    assert await bench.upload(shard)
    assert bench.facts(shard) == ["Planned", "Committing", "Unreadable"]
    assert isinstance(shard.state, InDoubt)
    assert shard.state.certain


async def test_refusal_of_one_request_stops_its_job_and_no_other(bench: Engine) -> None:
    shard = await bench.shard("a")
    bench.machine.faults.next("create", Status(400, message="requests.0.params: wrong"))
    with pytest.raises(JobStopped, match="wrong"):
        await bench.upload(shard)
    assert bench.facts(shard) == ["Planned", "Committing", "Withdrawn"]
    assert (bench.facts(), len(bench.looked_up)) == (["Submitted", "Stopped"], 1)
    assert bench.scope.availability.refused is None


async def test_refusal_that_holds_for_every_create_keeps_back_the_whole_scope(bench: Engine) -> None:
    shard, other = await bench.shard("a"), await bench.shard("b")
    bench.machine.faults.next("create", OutOfCredit())
    with pytest.raises(JobStopped):
        await bench.upload(shard)
    assert bench.scope.availability.refused is not None
    assert not await bench.upload(other)
    assert bench.facts(other) == ["Planned"]


async def test_refusal_for_the_rate_withdraws_the_attempt_and_slows_the_scope_down(bench: Engine) -> None:
    shard = await bench.shard("a")
    bench.machine.faults.next("create", Status(429, retry_after=60.0))
    assert await bench.upload(shard)
    assert (bench.facts(shard), shard.state) == (["Planned", "Committing", "Withdrawn"], Ready(attempt=1))
    assert bench.scope.pace.wait(anyio.current_time()) > 50
    assert bench.job.stopped is None


async def test_body_that_is_too_large_goes_as_two_shards_with_every_row_once_and_in_order(bench: Engine) -> None:
    shard = await bench.shard("a", "b", "c")
    bench.machine.faults.next("create", Status(413))
    assert await bench.upload(shard)
    assert bench.facts(shard) == ["Planned", "Committing", "Withdrawn", "Split"]
    halves = [bench.job.shards[number] for number in bench.spawned]
    ids: list[bytes] = []
    for half in halves:
        reader = SpoolReader(bench.ledger.folder.spool, half.planned)
        ids += [reader.custom_id(row) for row in range(reader.rows)]
        reader.close()
    assert ids == [b'"a"', b'"b"', b'"c"']
    assert list(bench.job.open_shards) == bench.spawned


async def test_request_that_is_too_large_alone_is_never_sent_again(bench: Engine) -> None:
    shard = await bench.shard("a")
    bench.machine.faults.next("create", Status(413))
    assert await bench.upload(shard)
    assert isinstance(shard.state, Rejected)
    assert bench.spawned == []


async def test_nothing_is_committed_if_the_list_fails_in_the_gate(bench: Engine) -> None:
    shard = await bench.shard("a")
    bench.scope.availability.checks.worked()  # so that the list of the gate is the first one
    bench.machine.faults.next("list", Status(503))
    async with while_running(lambda: bench.upload(shard)):
        await until(lambda: bench.scope.availability.trouble is not None)
    assert (bench.facts(shard), bench.created) == (["Planned"], 0)
    assert not bench.scope.availability.usable


async def test_shard_that_waits_for_room_is_given_up_once_its_job_is_cancelled(bench: Engine) -> None:
    shard = await bench.shard("a")
    bench.scope.pace.refused(anyio.current_time(), 3_600.0, 0.0)
    outcome: list[bool] = []

    async def upload() -> None:
        outcome.append(await bench.upload(shard))

    async with anyio.create_task_group() as group:
        group.start_soon(upload)
        await until(lambda: bench.scope.availability.usable)
        await bench.ledger.record(Entry(bench.job.job, CancelWished()))
    assert outcome == [True]  # another action follows: the shard is abandoned
    assert (bench.facts(shard), bench.scope.pace.queued) == (["Planned"], 0)
