"""Detect parked batches: much older than this journal's usual batch, and without one processed request.

The API may leave a batch untouched for hours: its counters do not change after its creation. Nothing is wrong with such
a batch, and it may end at any time, but most of its requests would be answered sooner in another one. The usual
duration is the median of the journal's last batches. A floor keeps small jobs from raising an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

import anyio

from abatch.log import log
from abatch.protocol.durations import HOUR

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Collection

    from abatch.protocol.reconcile import BatchSeen

__all__ = ["REMEMBERED", "Parked", "Parking", "note", "parked", "patience", "usual"]

REMEMBERED: Final = 50
"""The number of last batches whose durations are kept."""
ENOUGH: Final = 5
"""The number of durations that must be known to compute the usual one."""
TIMES: Final = 10.0
"""A batch is parked when its age is this many times the usual duration."""
LEAST: Final = 3 * HOUR
"""A batch younger than this, in seconds, is never parked."""
UNKNOWN: Final = 12 * HOUR
"""The age in seconds from which a batch is parked while too few durations are known."""
LONGEST: Final = 25 * HOUR
"""The longest duration that is kept. A batch ends within a day, so a longer duration only shows when a process looked
again, not when the batch ended."""


def note(durations: deque[float], seconds: float) -> None:
    """Remember the time from a batch's creation to the first look that showed its end."""
    if 0 <= seconds <= LONGEST:
        durations.append(seconds)


def usual(durations: Collection[float]) -> float | None:
    """Return the seconds that a batch usually takes; None while too few durations are known."""
    return median(durations) if len(durations) >= ENOUGH else None


def patience(durations: Collection[float]) -> float:
    """Return the age in seconds from which a batch that has not moved is parked."""
    seconds = usual(durations)
    return UNKNOWN if seconds is None else max(LEAST, TIMES * seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A batch that has not moved."""

    batch_id: str
    age: float
    """Seconds since its creation, by the server's clock."""
    usual: float | None
    """Seconds that a batch of this journal usually takes; None if that is not known."""

    def __str__(self) -> str:
        compared = "" if self.usual is None else f"; usual {_in_words(self.usual)}"
        return f"has not moved for {_in_words(self.age)}{compared}"


def parked(batch: BatchSeen, now: float, durations: Collection[float]) -> Parked | None:
    """Judge a batch at `now` by the server's clock; None if it is not parked.

    A batch that is being cancelled is not parked, because it has been dealt with already. Neither is one whose counts
    the API does not report.
    """
    age = now - batch.created_at
    if age < LEAST or batch.status != "in_progress" or any(batch.counts) or not batch.total:
        return None
    return Parked(batch_id=batch.batch_id, age=age, usual=usual(durations)) if age >= patience(durations) else None


class Parking:
    """The parked batches of a scope.

    Args:
        durations: those of the journal's last batches; the code that records an end adds to them.

    """

    def __init__(self, durations: Collection[float] = ()) -> None:
        self._durations = durations
        self._parked: dict[str, Parked] = {}
        self._reported: set[str] = set()
        self._waiting: dict[str, anyio.Event] = {}

    def look(self, batch: BatchSeen, now: float) -> None:
        """Judge one of our batches as the API shows it now; a parked batch is reported once."""
        found = parked(batch, now, self._durations)
        if found is None:  # it moved, it is being cancelled, or it ended
            self._parked.pop(batch.batch_id, None)
            if batch.ended:
                self._reported.discard(batch.batch_id)
            return
        self._parked[batch.batch_id] = found
        if batch.batch_id not in self._reported:
            self._reported.add(batch.batch_id)
            log.warning(
                "batch_parked",
                batch_id=batch.batch_id,
                hours=round(found.age / HOUR, 1),
                usual_seconds=None if found.usual is None else round(found.usual),
            )
        if (waiting := self._waiting.get(batch.batch_id)) is not None:
            waiting.set()

    def forget(self, batch_id: str) -> None:
        """Forget a batch that is lost, so that it is not reported any more."""
        self._parked.pop(batch_id, None)
        self._reported.discard(batch_id)

    async def until_parked(self, batch_id: str) -> Parked:
        """Wait until this batch is parked; forever if it moves. At most one task may wait for each batch."""
        while (found := self._parked.get(batch_id)) is None:
            waiting = self._waiting[batch_id] = anyio.Event()
            try:
                await waiting.wait()
            finally:
                self._waiting.pop(batch_id, None)
        return found

    def in_words(self) -> dict[str, str]:
        """Return a description of each parked batch, for people."""
        return {batch_id: str(found) for batch_id, found in self._parked.items()}


def _in_words(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.0f} h"
