"""Decide when a batch of ours that the API no longer shows has vanished (one hour), and when it is lost (48 hours).

The API may hide an existing batch for moments, and it hides a deleted batch forever. So a batch counts as missed only
if no complete list shows it and its id returns 404. One look that shows the batch ends the absence. The slower of two
clocks counts the hours (`clocks.py`). The journal records what an earlier process found (`Vanished`). But a batch is
never given up before this process has also missed it for an hour without a long gap between its looks, because two
short outages before and after the machine was suspended are not one absence.
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
"""Seconds between two looks after which the hour starts over, because nothing is known about the time in between."""
WHY: Final = "the API has not known the batch for 48 hours: it was deleted"


class Absence:
    """The time for which this process has looked for one batch in vain."""

    def __init__(self, *, gap: float = GAP) -> None:
        self._gap = gap
        self._first: Moment | None = None
        self._last: Moment | None = None

    def missed(self, now: Moment, vanished: Moment | None) -> Vanished | Lost | None:
        """Note that a look did not find the batch, and return the fact that follows.

        Args:
            now: the moment of the look.
            vanished: when it vanished, as recorded in the journal; None if it has not.

        Returns:
            None: nothing needs to be recorded yet.
            Lost: valid only for a key that may see the batch; ask the guard before you record it.

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
        """Note that a look found the batch, and return the fact that follows; None if none does."""
        self._first = None
        self._last = None
        return None if vanished is None else Reappeared()

    def lasts(self, now: Moment) -> bool:
        """Return whether the batch has been missed for an hour."""
        return self._first is not None and elapsed(self._first, now) >= VANISHED_AFTER
