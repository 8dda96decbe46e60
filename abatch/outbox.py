"""The outbox of a journal: messages about its events, durable until each receiver has them.

Every event that a receiver wants becomes exactly one message, whatever dies in between: the message and the position up
to which events were read are stored in one transaction. How a message is sent is left to the caller, which records the
end of each attempt.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from abatch.journal.outbox import Counted, Delivery, DeliveryState, Message, Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from abatch.events import Event
    from abatch.journal.log import FactLog

__all__ = ["Counted", "Delivery", "DeliveryState", "Message", "Outbox", "Receiver"]

AT_ONCE: Final = 500
"""Messages that are put in one transaction."""
UNRECORDED: Final = 5_000
"""Unwanted events after which the position is stored; until then they would only be read once more."""


class Outbox:
    """Messages about the events of a journal; made by `JournalView.outbox`, and valid as long as the view.

    One process collects and sends for a receiver: the one that drives the journal. Any process may read the outbox, or
    have messages sent again.
    """

    def __init__(
        self,
        facts: FactLog,
        events: Callable[[int], AsyncGenerator[Event]],
        refresh: Callable[[], Awaitable[object]],
    ) -> None:
        self._facts = facts
        self._events = events
        self._refresh = refresh
        self._read: dict[str, int] = {}
        """The number of the last event that was read for a receiver."""

    async def collect(
        self, receiver: str, *, wants: Callable[[Event], bool], body_of: Callable[[Event, str], bytes]
    ) -> int:
        """Put a message about each event since the last call for this receiver, also of an earlier process.

        The first call for a receiver puts nothing: its messages begin with the next event. While a receiver is
        disabled, nothing is put either; the first call after that puts the messages about all events since.

        Args:
            receiver: a name.
            wants: whether the receiver gets a message about an event.
            body_of: the body of the message about an event, which has this id. It is called once the view shows the
                event.

        Returns:
            The number of messages that were put.

        Raises:
            JournalCorrupt: a fact cannot be read.
            JournalError: the journal cannot be written.

        """
        cursor = await self._cursor(receiver)
        if cursor is None:
            return 0
        last = max(cursor, self._read.get(receiver, 0))
        wanted: list[Event] = []
        count = 0
        async with aclosing(self._events(last)) as events:
            async for event in events:
                last = event.seq
                if wants(event):
                    wanted.append(event)
                if len(wanted) >= AT_ONCE:
                    count += await self._put(receiver, wanted, body_of, since=cursor, through=last)
                    cursor = last
                    wanted = []
        if wanted or last - cursor >= UNRECORDED:
            count += await self._put(receiver, wanted, body_of, since=cursor, through=last)
        self._read[receiver] = last
        return count

    async def _cursor(self, receiver: str) -> int | None:
        """Return the position of a receiver, which begins now if it is not known; None while it is disabled."""
        for known in await self._facts.outbox.receivers():
            if known.name == receiver:
                return known.cursor if known.enabled else None
        last = await self._facts.replay(lambda _: None)
        await self._facts.outbox.fill(receiver, (), since=last, through=last)
        return last

    async def _put(
        self,
        receiver: str,
        events: Sequence[Event],
        body_of: Callable[[Event, str], bytes],
        *,
        since: int,
        through: int,
    ) -> int:
        if events:
            await self._refresh()
        messages: list[Message] = []
        for event in events:
            id_ = f"evt_{self._facts.lineage.name}_{event.seq}"
            messages.append(Message(event.seq, id_, event.kind, event.job, body_of(event, id_)))
        filled = await self._facts.outbox.fill(receiver, messages, since=since, through=through)
        return len(messages) if filled else 0  # another process was first, and has put the same messages

    async def due(self, receiver: str, *, most: int) -> Sequence[Delivery]:
        """Return messages whose next attempt may begin now, the earliest first; none of a disabled receiver."""
        return await self._facts.outbox.due(receiver, now=time.time(), most=most)

    async def delivered(self, delivery: Delivery, answer: str) -> None:
        """Record that the receiver has the message."""
        await self._end(delivery, "delivered", answer)

    async def failed(self, delivery: Delivery, answer: str, *, disable: bool = False) -> None:
        """Record that an attempt failed and no other follows; with `disable`, nothing more is sent to the receiver."""
        await self._end(delivery, "failed", answer, disable=disable)

    async def postponed(self, delivery: Delivery, answer: str, *, seconds: float) -> None:
        """Record that an attempt failed and the next one follows after these seconds."""
        due = time.time() + seconds
        await self._facts.outbox.record(delivery._replace(attempts=delivery.attempts + 1, due=due, answer=answer))

    async def _end(self, delivery: Delivery, state: DeliveryState, answer: str, *, disable: bool = False) -> None:
        ended = delivery._replace(state=state, attempts=delivery.attempts + 1, due=time.time(), answer=answer)
        await self._facts.outbox.record(ended, disable=disable)

    async def send_again(self, message_id: str | None = None) -> int:
        """Let messages be sent again, by the process that sends, and enable receivers; return their number.

        Args:
            message_id: the message with this id, to every receiver that had it; None for every message that failed,
                and then every receiver is enabled.

        """
        return await self._facts.outbox.send_again(message_id, now=time.time())

    async def forget(self, *, older: float) -> None:
        """Drop the messages that were delivered, or failed, more than this number of seconds ago."""
        await self._facts.outbox.forget(before=time.time() - older)

    async def receivers(self) -> Sequence[Receiver]:
        """Return every receiver, in the order of their names."""
        return await self._facts.outbox.receivers()

    async def counts(self) -> Mapping[Counted, int]:
        """Return how many messages each receiver has in each state; without the zeros."""
        return await self._facts.outbox.counts()

    async def newest(self, *, most: int) -> Sequence[Delivery]:
        """Return the messages that were put last, the newest first; undelivered ones before delivered ones."""
        return await self._facts.outbox.newest(most=most)
