"""The outbox of the log of facts in memory."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol, TypeVar

from abatch.journal.outbox import Counted, Delivery, Message, Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MemoryOutbox", "OutboxRows", "Units"]

T = TypeVar("T")


class OutboxRows:
    """What is stored: the receivers, and their messages by receiver and number of the fact."""

    def __init__(self) -> None:
        self.receivers: dict[str, Receiver] = {}
        self.deliveries: dict[tuple[str, int], Delivery] = {}


class Units(Protocol):
    """Units of work of the connection that has the outbox."""

    async def read(self, work: Callable[[OutboxRows], T], /) -> T:
        """Do work that only reads."""
        ...

    async def write(self, work: Callable[[OutboxRows], T], /) -> T:
        """Do work that is durable on return."""
        ...


class MemoryOutbox:
    """The outbox of one connection."""

    def __init__(self, units: Units) -> None:
        self._units = units

    async def receivers(self) -> Sequence[Receiver]:
        """Return every receiver, in the order of their names."""
        return await self._units.read(lambda rows: sorted(rows.receivers.values()))

    async def fill(self, receiver: str, messages: Sequence[Message], /, *, since: int, through: int) -> bool:
        """Put messages and move the receiver's cursor, all or none; False if the cursor is not at `since`."""

        def put(rows: OutboxRows) -> bool:
            known = rows.receivers.setdefault(receiver, Receiver(receiver, since, enabled=True))
            if known.cursor != since:
                return False
            rows.receivers[receiver] = known._replace(cursor=through)
            now = time.time()
            for message in messages:
                rows.deliveries[receiver, message.seq] = Delivery(receiver, message, now, "waiting", 0, now, "")
            return True

        return await self._units.write(put)

    async def due(self, receiver: str, /, *, now: float, most: int) -> Sequence[Delivery]:
        """Return messages that wait and are due, the earliest first; none of a receiver that is disabled."""

        def find(rows: OutboxRows) -> list[Delivery]:
            known = rows.receivers.get(receiver)
            if known is None or not known.enabled:
                return []
            found = [
                each
                for each in rows.deliveries.values()
                if each.receiver == receiver and each.state == "waiting" and each.due <= now
            ]
            return sorted(found, key=lambda each: (each.due, each.message.seq))[:most]

        return await self._units.read(find)

    async def newest(self, *, most: int) -> Sequence[Delivery]:
        """Return the messages that were put last, the newest first; undelivered ones before delivered ones."""

        def order(each: Delivery) -> tuple[bool, float, int, str]:
            return each.state == "delivered", -each.at, -each.message.seq, each.receiver

        return await self._units.read(lambda rows: sorted(rows.deliveries.values(), key=order)[:most])

    async def counts(self) -> dict[Counted, int]:
        """Return how many messages each receiver has in each state; without the zeros."""
        return await self._units.read(
            lambda rows: dict(Counter(Counted(each.receiver, each.state) for each in rows.deliveries.values()))
        )

    async def record(self, delivery: Delivery, /, *, disable: bool = False) -> None:
        """Replace state, attempts, due and answer of a message that waits; with `disable`, disable its receiver."""

        def update(rows: OutboxRows) -> None:
            place = delivery.receiver, delivery.message.seq
            if place in rows.deliveries and rows.deliveries[place].state == "waiting":
                rows.deliveries[place] = delivery
            if disable:
                rows.receivers[delivery.receiver] = rows.receivers[delivery.receiver]._replace(enabled=False)

        await self._units.write(update)

    async def send_again(self, message_id: str | None, /, *, now: float) -> int:
        """Let messages wait again, due at `now` and without attempts, and enable their receivers, or all for None."""

        def update(rows: OutboxRows) -> int:
            chosen = {
                place: each
                for place, each in rows.deliveries.items()
                if (each.state == "failed" if message_id is None else each.message.id == message_id)
            }
            for place, each in chosen.items():
                rows.deliveries[place] = each._replace(state="waiting", attempts=0, due=now)
            theirs = {receiver for receiver, _ in chosen}
            for name, known in rows.receivers.items():
                if message_id is None or name in theirs:
                    rows.receivers[name] = known._replace(enabled=True)
            return len(chosen)

        return await self._units.write(update)

    async def forget(self, *, before: float) -> None:
        """Drop the delivered and failed messages whose last attempt ended before this time."""

        def drop(rows: OutboxRows) -> None:
            for place, each in list(rows.deliveries.items()):
                if each.state != "waiting" and each.due < before:
                    del rows.deliveries[place]

        await self._units.write(drop)
