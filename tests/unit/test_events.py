"""Every fact is an event; a reader that is too slow is told what it missed."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest

from abatch import events
from abatch.events import BatchLost, EventsMissed, JobFinished, event_of
from abatch.journal.log import Recorded
from abatch.protocol import facts
from abatch.streams import BUFFER, Events, EventStream, call_with_events
from tests.unit.make import submitted
from tests.unit.test_lifecycle import FACTS

pytestmark = pytest.mark.anyio
FOLDER = Path("/here/.abatch")
OF_JOB = [
    submitted(to="sqlite:///answers.db"),
    facts.Limited(rows=7),
    facts.Cut(rows=1, last=True),
    facts.InputChanged(source=facts.ChangedSource(files=(), rows=3, sent=1, mask=b"m")),
    facts.Closed(),
    facts.CancelWished(),
    facts.Stopped(reason="r", remedy="m"),
    facts.Resumed(),
    facts.Moved(to="jsonl:///out.jsonl"),
    facts.Finished(location="x"),
    facts.ResolveWished(shard=7, attempt=1, batch_id="msgbatch_1"),
    facts.LostWished(shard=7, attempt=1),
    facts.WishRefused(shard=7),
    facts.DuplicateSeen(shard=7, attempt=1, batch_id="msgbatch_1"),
]
EXAMPLES = {type(fact): (fact, None) for fact in OF_JOB} | {type(fact): (fact, 7) for fact in FACTS.values()}
"""Of each kind of fact one, with the shard that it is recorded at."""


def recorded(fact: Any, *, seq: int = 1, shard: int | None = None) -> Recorded:
    return Recorded(seq, 1, shard, 5.0, fact)


def finished(seq: int) -> Recorded:
    return recorded(facts.Finished(location="x"), seq=seq)


async def drained(stream: EventStream) -> list[Any]:
    return [event async for event in stream]


@pytest.mark.parametrize("kind", get_args(facts.Fact), ids=lambda kind: kind.__name__)
def test_every_fact_has_an_event(kind: type) -> None:
    fact, shard = EXAMPLES[kind]
    event = event_of(recorded(fact, shard=shard), "job", FOLDER)
    assert isinstance(event, get_args(events.Event))
    assert (event.seq, event.at, event.job) == (1, 5.0, "job")
    assert getattr(event, "shard", 7) == 7


def test_every_event_is_of_some_fact_and_has_a_kind_of_its_own() -> None:
    made = {type(event_of(recorded(fact, shard=shard), "job", FOLDER)) for fact, shard in EXAMPLES.values()}
    assert made == set(get_args(events.Event))
    assert len({kind.kind for kind in made}) == len(made)


def test_a_destination_is_a_url_to_connect_to() -> None:
    fact = facts.Moved(to="jsonl:///out.jsonl")
    assert event_of(recorded(fact), "job", FOLDER).destination == "jsonl:////here/out.jsonl"  # type: ignore[union-attr]


async def test_each_reader_gets_every_event_from_its_beginning_on_in_order() -> None:
    hub = Events(FOLDER)
    first = hub.stream()
    hub.announce(finished(1), "a")
    second = hub.stream()
    hub.announce(recorded(facts.Lost(why="gone"), seq=2, shard=3), "b")
    hub.end()
    one = JobFinished(seq=1, at=5.0, job="a", location="x")
    two = BatchLost(seq=2, at=5.0, job="b", shard=3, why="gone")
    assert await drained(first) == [one, two]
    assert await drained(second) == [two]
    assert await drained(hub.stream()) == []


async def test_a_slow_reader_is_told_how_many_it_missed_in_their_place() -> None:
    stream = EventStream(limit=3)
    event = [event_of(finished(seq), "a", FOLDER) for seq in range(9)]
    for each in event[:5]:
        stream.put(each)
    assert [await anext(stream) for _ in range(2)] == event[:2]
    stream.put(event[5])
    stream.put(event[6])
    stream.end()
    two = EventsMissed(seq=4, at=5.0, job="a", count=2, since=2)
    one = EventsMissed(seq=6, at=5.0, job="a", count=1, since=5)
    assert await drained(stream) == [event[2], two, event[5], one]
    assert two.kind == "events.missed"


async def test_a_reader_that_goes_away_costs_nothing() -> None:
    hub = Events(FOLDER)
    stream = hub.stream()
    for seq in range(3 * BUFFER):
        hub.announce(finished(seq), "a")
    assert len(stream._waiting) == BUFFER + 1
    del stream
    gc.collect()
    assert len(hub._streams) == 0


async def test_a_reader_that_waits_is_woken_by_an_event_and_by_the_end() -> None:
    stream = EventStream()
    got: list[Any] = []

    async def read() -> None:
        got.extend(await drained(stream))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        stream.put(event_of(finished(1), "a", FOLDER))
        await anyio.wait_all_tasks_blocked()
        stream.end()
    assert [event.seq for event in got] == [1]


async def test_a_callback_that_fails_is_logged_without_its_text_and_gets_the_next_event(caplog: Any) -> None:
    stream = EventStream()
    seen: list[int] = []

    async def call(event: Any) -> None:
        seen.append(event.seq)
        if event.seq == 1:
            raise ValueError("a prompt")

    stream.put(event_of(finished(1), "a", FOLDER))
    stream.put(event_of(finished(2), "a", FOLDER))
    stream.end()
    await call_with_events(stream, call)
    await call_with_events(stream, seen.append)  # a plain function is fine, too
    assert seen == [1, 2]
    assert "on_event_failed" in caplog.text
    assert "ValueError" in caplog.text
    assert "a prompt" not in caplog.text
