"""A doubt is settled by what the lists show, and by an operator where they cannot settle it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from abatch.engine.doubt import DoubtSettler
from abatch.engine.wishes import OperatorWishes
from abatch.errors import Overtaken
from abatch.protocol.facts import Withdrawn
from abatch.protocol.lifecycle import Held, InDoubt, Processing, Ready
from abatch.sandbox.api import Settings
from abatch.sandbox.faults import Garbage, ResetAfterAccept, ResetBeforeAccept
from tests.unit.engine import Engine, engine, until, while_running
from tests.unit.make import GRACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from abatch.journal.records import ShardRecord
    from abatch.sandbox.faults import AnyFault

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def settling(
    folder: Path, fault: AnyFault, *, fingerprint: str | None = None, **more: Any
) -> AsyncIterator[tuple[Engine, ShardRecord, list[bool | type[Overtaken]]]]:
    """A doubt that a settler waits for; the list is read only where the test says so."""
    async with engine(folder, grace=GRACE, **more) as bench:
        if fingerprint is not None:
            bench.manager.fingerprint = fingerprint
        shard = await bench.shard("a", "b")
        bench.machine.faults.next("create", fault)
        await bench.upload(shard)
        recorder = bench.recorder(shard)
        settler = DoubtSettler(bench.context, shard, recorder, OperatorWishes(bench.context, shard, recorder))
        outcome: list[bool | type[Overtaken]] = []

        async def settle() -> None:
            try:
                outcome.append(await settler.settle(committed_here=True))
            except Overtaken:
                outcome.append(Overtaken)

        async with while_running(settle, bench.scope.audit.examiner.run):
            yield bench, shard, outcome


async def look(bench: Engine, times: int = 1) -> None:
    """Read the list so often, and let everything happen that follows from it."""
    for _ in range(times):
        await bench.scope._look()
        await anyio.wait_all_tasks_blocked()


def pass_grace(bench: Engine) -> None:
    """Let the grace be over by both clocks, as if the process had waited."""
    (pending,) = bench.scope.doubts.pending.values()
    pending.doubt = replace(pending.doubt, waited=pending.doubt.waited + 2 * GRACE)


async def settle_by_absence(bench: Engine) -> None:
    """Read the lists that it takes to settle a doubt for which no batch appears."""
    await look(bench, 2)
    pass_grace(bench)
    await look(bench)
    if bench.scope.doubts.pending:
        pass_grace(bench)
        await look(bench)


async def test_batch_whose_results_carry_our_tag_is_found(tmp_path: Path) -> None:
    async with settling(tmp_path, ResetAfterAccept()) as (bench, shard, outcome):
        await look(bench, 2)
        await until(lambda: bool(outcome))
        assert (outcome, bench.facts(shard)[-1]) == ([True], "Found")
        assert isinstance(shard.state, Processing)
        assert shard.state.proven
        assert bench.scope.known.bound == {shard.state.batch_id}


async def test_absence_counts_after_the_grace_and_two_lists(tmp_path: Path) -> None:
    async with settling(tmp_path, ResetBeforeAccept()) as (bench, shard, outcome):
        await look(bench)
        pass_grace(bench)
        await look(bench)
        assert outcome == []
        pass_grace(bench)
        await look(bench)
        assert (outcome, bench.facts(shard)[-1], shard.state) == ([True], "Withdrawn", Ready(attempt=1))


async def test_absence_proves_nothing_within_the_grace(tmp_path: Path) -> None:
    async with settling(tmp_path, ResetBeforeAccept()) as (bench, shard, outcome):
        await look(bench, 4)
        assert outcome == []
        assert isinstance(shard.state, InDoubt)


async def test_batch_of_others_is_never_claimed_and_keeps_the_doubt_open_while_it_runs(tmp_path: Path) -> None:
    settings = Settings(latency=3_600.0)
    async with settling(tmp_path, ResetBeforeAccept(), settings=settings) as (bench, shard, outcome):
        bench.machine.add_foreign(2)
        await settle_by_absence(bench)
        assert (outcome, bench.facts(shard)[-1]) == ([], "CandidatesChanged")


async def test_batch_of_others_that_has_ended_without_a_tag_does_not_keep_the_doubt_open(tmp_path: Path) -> None:
    async with settling(tmp_path, ResetBeforeAccept()) as (bench, shard, outcome):
        bench.machine.add_foreign(2)
        await settle_by_absence(bench)
        assert outcome == [True]
        assert shard.state == Ready(attempt=1)


async def test_absence_is_not_concluded_with_another_key(tmp_path: Path) -> None:
    """Its lists may be those of another workspace, and none of our batches is seen in them."""
    async with settling(tmp_path, ResetBeforeAccept(), fingerprint="of an older key") as (bench, shard, outcome):
        await settle_by_absence(bench)
        assert outcome == [True]
        assert isinstance(shard.state, Held)


async def test_absence_is_held_if_an_operator_has_to_decide(tmp_path: Path) -> None:
    async with settling(tmp_path, ResetBeforeAccept(), unresolved="hold") as (bench, shard, outcome):
        await settle_by_absence(bench)
        assert outcome == [True]
        assert isinstance(shard.state, Held)


async def test_attempt_that_was_answered_with_2xx_is_never_sent_again(tmp_path: Path) -> None:
    settings = Settings(latency=3_600.0)
    async with settling(tmp_path, Garbage(), settings=settings) as (bench, shard, outcome):
        bench.machine.delete(bench.machine.account.created[0])
        await settle_by_absence(bench)
        assert outcome == [True]
        assert isinstance(shard.state, Held)


async def test_ruling_on_an_attempt_that_another_process_settled_is_not_recorded(tmp_path: Path) -> None:
    async with settling(tmp_path, ResetBeforeAccept()) as (bench, shard, outcome):
        await bench.elsewhere(shard, Withdrawn(why="B8, elsewhere"))
        await settle_by_absence(bench)
        assert outcome == [Overtaken]
        assert bench.facts(shard) == ["Planned", "Committing", "Withdrawn"]
