"""Decide when a batch of ours that the API no longer shows has vanished (one hour), and when it is lost (48 hours).

The API hides a batch that exists for moments, and for ever one that somebody deleted. So a batch is only missed where
it is in no complete list and a 404 by its id, one look in which it is seen ends that, and the hours are those of the
slower of two clocks (`clocks.py`). What a process that died before had found out is on record (`Vanished`); but a
batch is never given up before this process, too, has missed it for an hour without a long gap between its looks: two
blips with a suspended machine between them are no absence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from abatch.protocol.clocks import elapsed
from abatch.protocol.durations import HOUR, LOST_AFTER, VANISHED_AFTER
from abatch.protocol.facts import Lost, Reappeared, Vanished

if TYPE_CHECKING:
    from abatch.protocol.clocks import Moment

__all__ = ["Absence"]

GAP: Final = 4 * HOUR
"""Seconds between two looks after which the hour starts over: what the API showed in between is not known."""
WHY: Final = "the API has not known the batch for 48 hours: somebody deleted it"


class Absence:
    """How long this process has looked for one batch in vain."""

    def __init__(self, *, gap: float = GAP) -> None:
        self._gap = gap
        self._first: Moment | None = None
        self._last: Moment | None = None

    def missed(self, now: Moment, vanished: Moment | None) -> Vanished | Lost | None:
        """Note that it was looked for in vain, and return the fact that follows.

        Args:
            now: the moment of the look.
            vanished: what is on record of it; None if nothing is.

        Returns:
            None: nothing is to be recorded yet.
            Lost: for a key that may see the batch; ask the guard before it is recorded.

        """
        if self._first is None or self._last is None or elapsed(self._last, now) > self._gap:
            self._first = now
        self._last = now
        if elapsed(self._first, now) < VANISHED_AFTER:
            return None
        if vanished is None:
            return Vanished(since=self._first)
        return Lost(why=WHY) if elapsed(vanished, now) >= LOST_AFTER else None

    def seen(self, vanished: Moment | None) -> Reappeared | None:
        """Note that it was seen, and return the fact that follows; None if none does."""
        self._first = None
        self._last = None
        return None if vanished is None else Reappeared()

    def lasts(self, now: Moment) -> bool:
        """Whether it has been missed for an hour."""
        return self._first is not None and elapsed(self._first, now) >= VANISHED_AFTER
