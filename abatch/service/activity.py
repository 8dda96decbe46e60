"""What happened in the last 24 hours, in parts of 15 minutes: requests submitted, sealed and failed, and their cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from abatch import events
from abatch.prices import load as load_prices

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from abatch.events import Event, EventsMissed
    from abatch.view import JournalView

__all__ = ["PARTS", "Activity", "Part"]

PART: Final = 900
"""Seconds of a part."""
PARTS: Final = 96
BACK: Final = 50_000
"""Events before the start of the service that are read for its first picture at most."""


@dataclass(slots=True)
class Part:
    """Fifteen minutes."""

    submitted: int = 0
    """Requests that were sent."""
    sealed: int = 0
    """Requests whose result is in its destination."""
    failed: int = 0
    """Those of them that did not succeed."""
    cost: float = 0.0
    """US dollars of those that have a price."""


class Activity:
    """Counts events by the time at which they were recorded."""

    def __init__(self) -> None:
        self._prices = load_prices()
        self._parts: dict[int, Part] = {}
        self._rows: dict[int, int] = {}
        """The requests of each shard that is planned and not sent."""

    async def follow(self, view: JournalView, stream: AsyncIterable[Event | EventsMissed]) -> None:
        """Count what the journal holds, then the events of a manager until it is left.

        Args:
            view: the journal, up to the first event of the stream.
            stream: the events.

        """
        last = view.seq
        async for event in view.events(max(0, last - BACK)):
            if event.seq > last:
                break
            self.count(event)
        async for missed_or_event in stream:
            self.count(missed_or_event)

    def count(self, event: Event | EventsMissed) -> None:
        """Count one event."""
        match event:
            case events.ShardPlanned():
                self._rows[event.shard] = event.requests
            case events.BatchAccepted():
                self._at(event.at).submitted += self._rows.pop(event.shard, 0)
            case events.ShardSealed():
                part = self._at(event.at)
                part.sealed += event.counts.total + event.missing
                part.failed += event.counts.total - event.counts.succeeded + event.missing
                part.cost += self._prices.bill(event.spend).batch or 0.0
            case events.ShardSplit() | events.ShardUnplanned() | events.ShardAbandoned():
                self._rows.pop(event.shard, None)
            case _:
                pass

    def _at(self, at: float) -> Part:
        number = int(at // PART)
        if number not in self._parts:
            self._parts[number] = Part()
            for old in [each for each in self._parts if each <= number - PARTS]:
                del self._parts[old]
        return self._parts[number]

    def last_day(self, now: float) -> list[Part]:
        """Return the parts of the last 24 hours, the present one last."""
        present = int(now // PART)
        return [self._parts.get(number, Part()) for number in range(present - PARTS + 1, present + 1)]
