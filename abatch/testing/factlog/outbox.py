"""The outbox: each message once per receiver, due in order, and what becomes of a call that is cancelled or fails."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from abatch.errors import JournalError
from abatch.journal.log import Entry
from abatch.journal.outbox import Counted, Message, Receiver
from abatch.protocol.facts import CancelWished
from abatch.testing.factlog.hooks import Hooks
from abatch.testing.factlog.steps import STRANGE, raised, submitted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from abatch.journal.log import FactLog
    from abatch.journal.outbox import Delivery

__all__ = ["OutboxContract"]

LATER: Final = 1e12
"""A time at which everything is due, in seconds since the epoch."""


class OutboxContract(Hooks):
    """The promises of an outbox."""

    async def test_messages_and_the_cursor_survive_the_connection(self) -> None:
        messages = [Message(3 + n, f"evt_{n}", "job.finished", text, text.encode()) for n, text in enumerate(STRANGE)]
        async with self.opened() as (log,):
            assert list(await log.outbox.receivers()) == []
            assert list(await log.outbox.newest(most=9)) == []
            assert await log.outbox.counts() == {}
            assert await log.outbox.fill("a", messages, since=2, through=9)
        async with self.opened(2) as logs:
            for log in logs:
                assert list(await log.outbox.receivers()) == [Receiver("a", 9, enabled=True)]
                assert [each.message for each in await due(log, "a")] == messages
                assert await log.outbox.counts() == {Counted("a", "waiting"): len(messages)}

    async def test_only_one_of_two_fills_moves_the_cursor(self) -> None:
        async with self.opened(2) as (log, other):
            assert await log.outbox.fill("a", [], since=4, through=4)
            filled = await asyncio.gather(
                log.outbox.fill("a", [message(5)], since=4, through=6),
                other.outbox.fill("a", [message(5)], since=4, through=5),
            )
            assert sorted(filled) == [False, True]
            assert not await log.outbox.fill("a", [message(5)], since=4, through=6)
            assert [each.message.seq for each in await due(other, "a")] == [5]

    async def test_each_receiver_has_its_own_messages_and_cursor(self) -> None:
        async with self.opened() as (log,):
            await log.outbox.fill("b", [message(1), message(2)], since=0, through=2)
            await log.outbox.fill("a", [message(2)], since=1, through=3)
            assert [(each.name, each.cursor) for each in await log.outbox.receivers()] == [("a", 3), ("b", 2)]
            assert [each.message.seq for each in await due(log, "a")] == [2]
            assert [each.message.seq for each in await due(log, "b")] == [1, 2]
            assert list(await due(log, "c")) == []

    async def test_a_message_is_due_from_its_time_on_and_the_earliest_is_first(self) -> None:
        async with self.opened() as (log,):
            await log.outbox.fill("a", [message(1), message(2), message(3)], since=0, through=3)
            first, second, third = await due(log, "a")
            assert list(await log.outbox.due("a", now=first.due - 1, most=9)) == []
            await log.outbox.record(first._replace(attempts=1, due=2e9, answer="503"))
            await log.outbox.record(second._replace(attempts=2, due=1.9e9, answer="no answer"))
            await log.outbox.record(third._replace(state="delivered", attempts=1, answer="204"))
            assert [each.message.seq for each in await log.outbox.due("a", now=1.95e9, most=9)] == [2]
            assert [(each.message.seq, each.attempts, each.answer) for each in await due(log, "a")] == [
                (2, 2, "no answer"),
                (1, 1, "503"),
            ]
            assert [each.message.seq for each in await log.outbox.due("a", now=LATER, most=1)] == [2]
            assert [each.message.seq for each in await log.outbox.newest(most=9)] == [2, 1, 3]
            assert [each.message.seq for each in await log.outbox.newest(most=1)] == [2]

    async def test_a_message_that_does_not_wait_is_not_recorded_over(self) -> None:
        async with self.opened(2) as (log, other):
            await log.outbox.fill("a", [message(1)], since=0, through=1)
            (one,) = await due(log, "a")
            await other.outbox.record(one._replace(state="delivered", attempts=1, answer="200"))
            await log.outbox.record(one._replace(state="failed", attempts=9, answer="500"))
            (found,) = await log.outbox.newest(most=9)
            assert (found.state, found.attempts, found.answer) == ("delivered", 1, "200")

    async def test_a_disabled_receiver_keeps_its_messages_until_one_is_sent_again(self) -> None:
        async with self.opened(2) as (log, other):
            await log.outbox.fill("a", [message(1), message(2)], since=0, through=2)
            await log.outbox.fill("b", [message(1)], since=0, through=2)
            one, _ = await due(log, "a")
            await log.outbox.record(one._replace(state="failed", attempts=3, answer="410"), disable=True)
            assert [each.enabled for each in await other.outbox.receivers()] == [False, True]
            assert list(await due(other, "a")) == []
            assert len(await due(other, "b")) == 1
            assert await other.outbox.send_again(None, now=5.0) == 1
            assert [each.enabled for each in await log.outbox.receivers()] == [True, True]
            first, second = await due(log, "a")
            assert (first.message.seq, first.attempts, first.due) == (1, 0, 5.0)
            assert second.message.seq == 2

    async def test_a_receiver_is_enabled_though_its_failed_message_was_forgotten(self) -> None:
        async with self.opened() as (log,):
            for name in ("a", "b"):
                await log.outbox.fill(name, [message(1)], since=0, through=1)
                (one,) = await due(log, name)
                await log.outbox.record(one._replace(state="failed", due=1.0), disable=True)
            assert await log.outbox.send_again("evt_2", now=5.0) == 0
            assert [each.enabled for each in await log.outbox.receivers()] == [False, False]
            await log.outbox.forget(before=2.0)
            assert await log.outbox.send_again(None, now=5.0) == 0
            assert [each.enabled for each in await log.outbox.receivers()] == [True, True]

    async def test_a_message_is_sent_again_by_its_id_to_every_receiver(self) -> None:
        async with self.opened() as (log,):
            assert await log.outbox.send_again("evt_1", now=5.0) == 0
            for name in ("a", "b"):
                await log.outbox.fill(name, [message(1), message(2)], since=0, through=2)
                for each in await due(log, name):
                    await log.outbox.record(each._replace(state="delivered", attempts=1, answer="200"))
            assert await log.outbox.send_again(None, now=5.0) == 0
            assert await log.outbox.send_again("evt_1", now=5.0) == 2
            assert [each.message.id for each in [*await due(log, "a"), *await due(log, "b")]] == ["evt_1", "evt_1"]
            assert await log.outbox.send_again("evt_9", now=5.0) == 0

    async def test_messages_that_ended_are_forgotten_and_those_that_wait_are_not(self) -> None:
        async with self.opened() as (log,):
            await log.outbox.forget(before=LATER)
            await log.outbox.fill("a", [message(n) for n in range(1, 5)], since=0, through=4)
            one, two, three, _ = await due(log, "a")
            await log.outbox.record(one._replace(state="delivered", due=10.0))
            await log.outbox.record(two._replace(state="failed", due=10.0))
            await log.outbox.record(three._replace(state="failed", due=30.0))
            await log.outbox.forget(before=20.0)
            assert sorted(each.message.seq for each in await log.outbox.newest(most=9)) == [3, 4]

    async def test_a_fill_that_is_cancelled_is_whole_or_nothing(self) -> None:
        async with self.opened(2) as (log, reader):
            async with self.held(log) as arrived:
                filling = asyncio.ensure_future(log.outbox.fill("a", [message(1), message(2)], since=0, through=2))
                await self.arrival(arrived, filling)
                filling.cancel()
                await asyncio.sleep(0)
            with suppress(asyncio.CancelledError):
                await filling
            cursors = [each.cursor for each in await reader.outbox.receivers()]
            found = [each.message.seq for each in await due(reader, "a")]
            assert (cursors, found) in (([], []), ([2], [1, 2]))

    async def test_after_a_failed_sync_of_the_outbox_the_connection_takes_nothing_more(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            self.fail_next_sync(log)
            assert await raised(JournalError, log.outbox.fill("a", [message(1)], since=0, through=1))
            later: list[Awaitable[object]] = [
                log.outbox.fill("a", [message(1)], since=0, through=1),
                log.outbox.due("a", now=LATER, most=1),
                log.outbox.receivers(),
                log.outbox.send_again(None, now=LATER),
                log.append(Entry(job, CancelWished())),
            ]
            for call in later:
                assert await raised(JournalError, call)
            await log.aclose()
            stored = [each.message.seq for each in await due(reader, "a")]
            assert stored in ([], [1])
            assert await reader.outbox.fill("a", [message(1)], since=0, through=1) == (not stored)
            assert len(await due(reader, "a")) == 1


def message(seq: int) -> Message:
    """Make a message about the fact of this number."""
    return Message(seq, f"evt_{seq}", "job.finished", "nightly", b"{}")


async def due(log: FactLog, receiver: str) -> Sequence[Delivery]:
    """Return every message of a receiver that waits."""
    return await log.outbox.due(receiver, now=LATER, most=99)
