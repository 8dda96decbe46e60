"""A fact is appended at the position at which it was decided, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from abatch.errors import Overtaken
from abatch.journal.log import Entry
from abatch.protocol.facts import Accepted, Candidate, CandidatesChanged, Held, Split, Stopped, Withdrawn
from abatch.protocol.lifecycle import InDoubt, Processing, Ready
from tests.unit.engine import Engine, engine
from tests.unit.make import NOON, committing, planned

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

ACCEPTED = Accepted(batch_id="msgbatch_1", created_at=NOON)
WITHDRAWN = Withdrawn(why="429")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine(tmp_path) as made:
        yield made


def seen(*batch_ids: str) -> CandidatesChanged:
    return CandidatesChanged(seen=tuple(Candidate(batch_id=each, created_at=NOON) for each in batch_ids))


def candidates(state: object) -> list[str]:
    assert isinstance(state, InDoubt)
    return [each.batch_id for each in state.candidates]


async def test_several_facts_of_one_action_follow_one_another(bench: Engine) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await recorder.record(committing())
    await recorder.record(WITHDRAWN)
    assert bench.facts(shard) == ["Planned", "Committing", "Withdrawn"]


async def test_fact_of_another_process_at_the_position_overtakes_and_is_known_afterwards(bench: Engine) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await bench.elsewhere(shard, committing())
    with pytest.raises(Overtaken):
        await recorder.record(committing())
    assert bench.facts(shard) == ["Planned", "Committing"]
    assert isinstance(shard.state, InDoubt)


async def test_fact_that_was_read_since_the_action_began_overtakes_it_as_well(bench: Engine) -> None:
    """The ledger knows it by now: what was decided without it is not appended behind it."""
    shard = await bench.shard("a")
    await bench.recorder(shard).record(committing())
    recorder = bench.recorder(shard)
    await bench.elsewhere(shard, WITHDRAWN, committing(2))
    await bench.ledger.refresh()
    assert isinstance(shard.state, InDoubt)
    with pytest.raises(Overtaken):
        await recorder.record(ACCEPTED)
    assert bench.facts(shard) == ["Planned", "Committing", "Withdrawn", "Committing"]


async def test_next_action_is_decided_from_what_overtook_the_last_one(bench: Engine) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await bench.elsewhere(shard, committing())
    with pytest.raises(Overtaken):
        await recorder.record(committing())
    recorder.begin()
    await recorder.record(WITHDRAWN)
    assert shard.state == Ready(attempt=1)


async def test_entries_are_recorded_with_facts_of_others_or_not_at_all(bench: Engine) -> None:
    shard = await bench.shard("a", "b")
    recorder = bench.recorder(shard)
    entries = [*recorder.entries(Split(into=(7, 8))), *(Entry(bench.job.job, planned(), each, 0) for each in (7, 8))]
    await bench.elsewhere(shard, committing())
    with pytest.raises(Overtaken):
        await bench.ledger.record(*entries, Entry(bench.job.job, Stopped(reason="r", remedy="r")))
    assert (bench.facts(), list(bench.job.shards)) == (["Submitted"], [shard.shard])


async def test_candidate_that_is_noted_beside_an_action_does_not_overtake_it(bench: Engine) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await recorder.record(committing())
    await recorder.note(1, seen("one"))
    await recorder.record(ACCEPTED)
    assert bench.facts(shard) == ["Planned", "Committing", "CandidatesChanged", "Accepted"]
    assert isinstance(shard.state, Processing)


async def test_candidates_are_noted_after_facts_of_another_process_while_the_doubt_lasts(bench: Engine) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await recorder.record(committing())
    await bench.elsewhere(shard, seen("theirs"))
    await recorder.note(1, seen("ours", "theirs"))
    assert candidates(shard.state) == ["theirs", "ours"]
    with pytest.raises(Overtaken):  # what the driver decided did not know theirs
        await recorder.record(WITHDRAWN)


async def test_candidate_is_noted_once(bench: Engine) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await recorder.record(committing())
    await recorder.note(1, seen("one"))
    await recorder.note(1, seen("one"))
    assert bench.facts(shard) == ["Planned", "Committing", "CandidatesChanged"]


@pytest.mark.parametrize("settled", [(ACCEPTED,), (WITHDRAWN,), (WITHDRAWN, committing(2))])
async def test_nothing_is_noted_of_an_attempt_that_another_process_settled(
    bench: Engine, settled: tuple[Accepted | Withdrawn, ...]
) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await recorder.record(committing())
    await bench.elsewhere(shard, *settled)
    with pytest.raises(Overtaken):
        await recorder.note(1, seen("one"))
    assert "CandidatesChanged" not in bench.facts(shard)


async def test_candidate_of_a_held_shard_is_noted_too(bench: Engine) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await recorder.record(committing(), Held(reason="only an operator can decide"))
    await recorder.note(1, seen("one"))
    assert bench.facts(shard)[-1] == "CandidatesChanged"


async def test_fact_and_note_at_the_same_moment_are_both_recorded(bench: Engine) -> None:
    shard = await bench.shard("a")
    recorder = bench.recorder(shard)
    await recorder.record(committing())
    async with anyio.create_task_group() as group:
        group.start_soon(recorder.note, 1, seen("one"))
        group.start_soon(recorder.record, ACCEPTED)
    assert bench.facts(shard) == ["Planned", "Committing", "CandidatesChanged", "Accepted"]
