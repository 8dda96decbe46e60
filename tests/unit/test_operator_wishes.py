"""An operator's word on a shard stays until a fact answers it: what he asks for, or that it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from abatch.engine.driver import Driver
from abatch.engine.wishes import OperatorWishes
from abatch.errors import ConfigError
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.wishes import wish_lost, wish_resolved
from abatch.protocol.facts import Accepted, JobFact, LostWished, ResolveWished, WishRefused, Withdrawn
from abatch.protocol.facts import Lost as LostFact
from abatch.protocol.lifecycle import InDoubt, Lost, Processing, Ready
from abatch.sandbox.api import Settings
from abatch.sandbox.faults import ResetAfterAccept, ResetBeforeAccept
from abatch.snapshot import job_status
from tests.unit.engine import Engine, engine, until, while_running
from tests.unit.make import NOON, committing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from abatch.journal.records import ShardRecord

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine(tmp_path, settings=Settings(latency=3_600.0), grace=3_600.0) as made:
        yield made


async def say(bench: Engine, word: JobFact) -> None:
    """Record an operator's word as another process does: after what this one has recorded."""
    other = bench.store.open(drive=False)
    await other.append(Entry(bench.job.job, word))
    await bench.ledger.refresh()


def wishes(bench: Engine, shard: ShardRecord) -> OperatorWishes:
    return OperatorWishes(bench.context, shard, bench.recorder(shard))


async def in_doubt(bench: Engine) -> ShardRecord:
    """A shard whose create was not answered, and not taken either."""
    shard = await bench.shard("a", "b")
    bench.machine.faults.next("create", ResetBeforeAccept())
    await bench.upload(shard)
    return shard


async def test_word_on_a_doubt_is_answered_by_the_fact_it_asks_for(bench: Engine) -> None:
    shard = await in_doubt(bench)
    await say(bench, word := ResolveWished(shard=shard.shard, attempt=1, batch_id=None))
    await wishes(bench, shard).obey(word)
    assert (bench.facts(shard)[-1], shard.state, bench.job.wishes) == ("Withdrawn", Ready(attempt=1), {})


async def test_true_word_that_came_late_is_not_refused_once_the_next_attempt_begins(bench: Engine) -> None:
    shard = await in_doubt(bench)
    await wishes(bench, shard).obey(word := ResolveWished(shard=shard.shard, attempt=1, batch_id=None))
    await say(bench, word)  # once more, by somebody who did not see that it was done
    assert bench.job.wishes == {shard.shard: word}
    await bench.uploader(shard).upload(2)
    assert (isinstance(shard.state, Processing), bench.job.wishes) == (True, {})
    await wishes(bench, shard).refuse_if_late()
    assert "WishRefused" not in bench.facts()


async def test_word_that_names_a_batch_of_another_size_is_refused_and_the_doubt_stays(bench: Engine) -> None:
    shard = await in_doubt(bench)
    (foreign,) = bench.machine.add_foreign(3)
    await say(bench, word := ResolveWished(shard=shard.shard, attempt=1, batch_id=foreign))
    await wishes(bench, shard).obey(word)
    assert (bench.facts()[-1], bench.job.wishes) == ("WishRefused", {})
    assert isinstance(shard.state, InDoubt)


async def test_batch_that_an_operator_names_is_ours_but_not_proven(bench: Engine) -> None:
    shard = await bench.shard("a", "b")
    bench.machine.faults.next("create", ResetAfterAccept())
    await bench.upload(shard)
    (made,) = bench.machine.account.created
    await say(bench, word := ResolveWished(shard=shard.shard, attempt=1, batch_id=made))
    await wishes(bench, shard).obey(word)
    assert isinstance(shard.state, Processing)
    assert (shard.state.batch_id, shard.state.proven, bench.job.wishes) == (made, False, {})


LATE: dict[str, tuple[list[Any], JobFact]] = {
    "not created, but it was accepted": (
        [Accepted(batch_id="msgbatch_1", created_at=NOON)],
        ResolveWished(shard=1, attempt=1, batch_id=None),
    ),
    "another batch than the accepted one": (
        [Accepted(batch_id="msgbatch_1", created_at=NOON)],
        ResolveWished(shard=1, attempt=1, batch_id="msgbatch_2"),
    ),
    "a batch, but it is ready to be sent again": (
        [Withdrawn(why="B8")],
        ResolveWished(shard=1, attempt=1, batch_id="msgbatch_1"),
    ),
    "lost, but it is ready to be sent again": ([Withdrawn(why="B8")], LostWished(shard=1, attempt=1)),
    "not created, but another attempt is in doubt": (
        [Withdrawn(why="B8"), committing(2)],
        ResolveWished(shard=1, attempt=1, batch_id=None),
    ),
    "lost, but another attempt is in doubt": ([Withdrawn(why="B8"), committing(2)], LostWished(shard=1, attempt=1)),
}


@pytest.mark.parametrize(("settled", "word"), LATE.values(), ids=LATE)
async def test_word_that_comes_after_its_attempt_was_settled_otherwise_is_refused_once(
    bench: Engine, settled: list[Any], word: JobFact
) -> None:
    shard = await bench.shard("a")
    await bench.recorder(shard).record(committing(), *settled)
    await say(bench, word)
    late = wishes(bench, shard)
    await late.refuse_if_late()
    await late.refuse_if_late()
    assert bench.facts()[-2:] == [type(word).__name__, "WishRefused"]
    assert (bench.job.wishes, bench.job.refused) == ({}, {1: word})


IN_TIME: dict[str, tuple[list[Any], JobFact]] = {
    "a doubt": ([], ResolveWished(shard=1, attempt=1, batch_id=None)),
    "a doubt that is given up": ([], LostWished(shard=1, attempt=1)),
    "a batch that is given up": (
        [Accepted(batch_id="msgbatch_1", created_at=NOON)],
        LostWished(shard=1, attempt=1),
    ),
    "the batch that it is": (
        [Accepted(batch_id="msgbatch_1", created_at=NOON)],
        ResolveWished(shard=1, attempt=1, batch_id="msgbatch_1"),
    ),
    "not created, as was found": ([Withdrawn(why="B8")], ResolveWished(shard=1, attempt=1, batch_id=None)),
}


@pytest.mark.parametrize(("settled", "word"), IN_TIME.values(), ids=IN_TIME)
async def test_word_that_can_be_obeyed_or_is_true_already_is_not_refused(
    bench: Engine, settled: list[Any], word: JobFact
) -> None:
    shard = await bench.shard("a")
    await bench.recorder(shard).record(committing(), *settled)
    await say(bench, word)
    await wishes(bench, shard).refuse_if_late()
    assert (bench.facts()[-1], bench.job.wishes) == (type(word).__name__, {1: word})


async def test_driver_that_watches_a_batch_refuses_a_late_word_and_watches_on(bench: Engine) -> None:
    """`abatch resolve` looked at the journal just before the answer came, and recorded its word just after."""
    shard = await bench.shard("a")
    async with while_running(bench.scope.run, Driver(bench.context, shard).run):
        await until(lambda: isinstance(shard.state, Processing) and not bench.scope.in_flight.is_empty)
        await say(bench, ResolveWished(shard=shard.shard, attempt=1, batch_id=None))
        bench.scope.interrupt(shard.shard)
        await until(lambda: bench.facts()[-1] == "WishRefused")
    assert (bench.facts(shard), bench.created) == (["Planned", "Committing", "Accepted"], 1)


async def test_late_word_is_refused_where_it_is_given_if_the_state_is_known_there(bench: Engine) -> None:
    shard = await bench.shard("a")
    await bench.upload(shard)
    with pytest.raises(ConfigError, match="neither in doubt nor held"):
        await wish_resolved(bench.ledger, shard.shard, None)
    await bench.ledger.record(*bench.ledger.next(shard, LostFact(why="an operator says so")))
    with pytest.raises(ConfigError, match="no batch to give up"):
        await wish_lost(bench.ledger, shard.shard, any_key=False)
    assert bench.job.wishes == {}


ANSWERS = ("Withdrawn", "Found", "Lost", "WishRefused", "Held", "Ended", "Drained", "Abandoned")
"""The facts that may take a word away."""


@pytest.mark.parametrize("word", [ResolveWished(shard=1, attempt=1, batch_id=None), LostWished(shard=1, attempt=1)])
@pytest.mark.parametrize("settled", ["accepted", "withdrawn", "in doubt", "given up"])
async def test_no_word_disappears_without_a_fact_that_comes_after_it(
    bench: Engine, settled: str, word: ResolveWished | LostWished
) -> None:
    """A process that reads the journal from its beginning knows the same words as the one that drives it."""
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await recorder.record(committing())
    if settled == "accepted":
        await recorder.record(Accepted(batch_id="msgbatch_1", created_at=NOON))
    elif settled == "withdrawn":
        await recorder.record(Withdrawn(why="B8"))
    await say(bench, word)
    heed = wishes(bench, shard)
    await heed.refuse_if_late()
    if settled == "given up" and isinstance(word, LostWished):
        await heed.lose()
        assert isinstance(shard.state, Lost)
    elif (known := heed.wish()) is not None and isinstance(known, ResolveWished):
        await heed.obey(known)
    after = [type(row.recorded.fact).__name__ for row in bench.store.rows]
    after = after[after.index(type(word).__name__) + 1 :]
    replayed = await Ledger.load(bench.store.open(drive=False), bench.ledger.folder)
    assert replayed.jobs[bench.job.job].wishes == bench.job.wishes
    assert bool(bench.job.wishes) != bool(set(after).intersection(ANSWERS))


async def test_refused_word_can_be_said_again_and_is_looked_at_again(bench: Engine) -> None:
    shard = await in_doubt(bench)
    word = ResolveWished(shard=shard.shard, attempt=1, batch_id=None)
    other = ResolveWished(shard=shard.shard, attempt=1, batch_id="msgbatch_other")
    await say(bench, other)
    await say(bench, WishRefused(shard=shard.shard))
    assert bench.job.refused == {shard.shard: other}
    (shown,) = job_status(bench.ledger, bench.job).resolutions
    assert (shown.shard, shown.says, shown.refused) == (shard.shard, "is batch msgbatch_other", True)
    await say(bench, word)
    assert (bench.job.refused, bench.job.wishes) == ({}, {shard.shard: word})
