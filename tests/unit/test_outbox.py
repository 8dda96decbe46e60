"""Every event that a receiver wants becomes one message, whatever dies; the outbox records how its delivery ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from abatch import JournalView
from abatch.events import Event
from abatch.journal.folder import JournalFolder
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.outbox import Outbox
from abatch.protocol import facts
from abatch.testing.crash import Crash, CrashPoints
from tests.unit.make import submitted

pytestmark = pytest.mark.anyio


def wants(event: Event) -> bool:
    return event.kind == "job.stopped"


def body_of(event: Event, id_: str) -> bytes:
    return f"{id_} {event.seq}".encode()


async def collect(outbox: Outbox, receiver: str = "a") -> int:
    return await outbox.collect(receiver, wants=wants, body_of=body_of)


@asynccontextmanager
async def journal(folder: Path) -> AsyncIterator[SqliteLog]:
    log = await SqliteLog.open(JournalFolder(folder), drive=True)
    yield log
    await log.aclose()


async def stop(log: SqliteLog, job: int, times: int = 1) -> list[int]:
    """Stop and resume a job; return the numbers of the facts that stopped it."""
    seqs = []
    for _ in range(times):
        stopped, _ = await log.append(Entry(job, facts.Stopped(reason="r", remedy="m")), Entry(job, facts.Resumed()))
        seqs.append(stopped.seq)
    return seqs


async def test_each_wanted_event_since_the_first_call_becomes_one_message(tmp_path: Path) -> None:
    async with journal(tmp_path) as log:
        job = (await log.add_job(submitted(key="k"))).job
        await stop(log, job)
        async with JournalView(tmp_path) as view:
            outbox = view.outbox
            assert await collect(outbox) == 0
            expected = await stop(log, job, 3)
            assert await collect(outbox) == 3
            assert await collect(outbox) == 0
            assert await collect(view.outbox) == 0
            messages = [each.message for each in await outbox.due("a", most=9)]
            assert [each.seq for each in messages] == expected
            assert all(each.id == f"evt_{log.lineage.name}_{each.seq}" for each in messages)
            assert all(each.body == f"{each.id} {each.seq}".encode() for each in messages)
            assert {(each.kind, each.job) for each in messages} == {("job.stopped", "k")}


async def test_a_message_about_a_new_job_is_made_when_the_view_knows_the_job(tmp_path: Path) -> None:
    async with journal(tmp_path) as log, JournalView(tmp_path) as view:
        await collect(view.outbox)
        job = (await log.add_job(submitted(key="later"))).job
        await stop(log, job)
        states: list[str] = []

        def body(event: Event, _: str) -> bytes:
            states.append(view.job(event.job).state)
            return b""

        assert await view.outbox.collect("a", wants=wants, body_of=body) == 1
        assert states == ["planning"]


async def test_many_messages_are_put_in_several_transactions_and_none_twice(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("abatch.outbox.AT_ONCE", 3)
    async with journal(tmp_path) as log, JournalView(tmp_path) as view:
        job = (await log.add_job(submitted(key="k"))).job
        await collect(view.outbox)
        expected = await stop(log, job, 10)
        assert await collect(view.outbox) == 10
        assert [each.message.seq for each in await view.outbox.due("a", most=99)] == expected


async def test_unwanted_events_move_the_stored_position_rarely(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("abatch.outbox.UNRECORDED", 4)
    async with journal(tmp_path) as log, JournalView(tmp_path) as view:
        job = (await log.add_job(submitted(key="k"))).job
        outbox = view.outbox
        await collect(outbox)
        (begun,) = await outbox.receivers()
        await log.append(*[Entry(job, facts.CancelWished())] * 3)
        await collect(outbox)
        assert list(await outbox.receivers()) == [begun]
        await log.append(Entry(job, facts.CancelWished()))
        await collect(outbox)
        assert [each.cursor for each in await outbox.receivers()] == [begun.cursor + 4]


async def test_no_event_is_lost_or_put_twice_at_whatever_point_the_collector_dies(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("abatch.outbox.AT_ONCE", 2)
    async with journal(tmp_path) as log:
        job = (await log.add_job(submitted(key="k"))).job
        async with JournalView(tmp_path) as view:
            await collect(view.outbox)
        for point in count(1):
            expected = await stop(log, job, 5)
            with CrashPoints(point) as crash:
                try:
                    async with JournalView(tmp_path) as view:
                        await collect(view.outbox)
                except (Crash, BaseExceptionGroup):
                    assert crash.happened
            async with JournalView(tmp_path) as view:
                await collect(view.outbox)
                found = await view.outbox.due("a", most=99)
                assert [each.message.seq for each in found] == expected
                for each in found:
                    await view.outbox.delivered(each, "200")
            if not crash.happened:
                break
        assert point > 10


async def test_the_end_of_an_attempt_is_recorded(tmp_path: Path) -> None:
    async with journal(tmp_path) as log, JournalView(tmp_path) as view:
        outbox = view.outbox
        job = (await log.add_job(submitted(key="k"))).job
        await collect(outbox)
        await stop(log, job, 3)
        await collect(outbox)
        one, two, three = await outbox.due("a", most=9)
        await outbox.postponed(one, "503", seconds=60)
        await outbox.delivered(two, "204")
        await outbox.failed(three, "410", disable=True)
        found = {each.message.seq: each for each in await outbox.newest(most=9)}
        assert [(each.state, each.attempts, each.answer) for _, each in sorted(found.items())] == [
            ("waiting", 1, "503"),
            ("delivered", 1, "204"),
            ("failed", 1, "410"),
        ]
        assert 50 < found[one.message.seq].due - time.time() <= 60
        assert not (await outbox.receivers())[0].enabled
        assert await outbox.send_again() == 1
        assert [each.message.seq for each in await outbox.due("a", most=9)] == [three.message.seq]
        await outbox.forget(older=-60)
        assert [each.message.seq for each in await outbox.newest(most=9)] == [three.message.seq, one.message.seq]


async def test_a_disabled_receiver_gets_messages_about_everything_since_once_it_is_enabled(tmp_path: Path) -> None:
    async with journal(tmp_path) as log, JournalView(tmp_path) as view:
        outbox = view.outbox
        job = (await log.add_job(submitted(key="k"))).job
        await collect(outbox)
        await stop(log, job)
        await collect(outbox)
        (one,) = await outbox.due("a", most=9)
        await outbox.failed(one, "410", disable=True)
        expected = await stop(log, job, 3)
        assert await collect(outbox) == 0
        assert [each.message.seq for each in await outbox.newest(most=9)] == [one.message.seq]
        assert await outbox.send_again() == 1
        assert await collect(outbox) == 3
        assert [each.message.seq for each in await outbox.due("a", most=9)] == [one.message.seq, *expected]
