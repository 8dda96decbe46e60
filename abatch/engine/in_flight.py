"""Watch the batches of one scope in its lists until they end.

A 404, or the absence of an accepted batch, is never a reason to send it again: abatch asks for it again, shows it as
"not visible" after an hour, and gives it up as lost after two days (`absence.py`). Only for a doubt, and only by table
B of `reconcile.py`, does abatch conclude that nothing was created.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from abatch.log import log
from abatch.protocol.absence import Absence
from abatch.protocol.clocks import moment
from abatch.protocol.durations import VANISHED_AFTER, VISIBLE_WITHIN
from abatch.protocol.facts import Ended, Lost
from abatch.protocol.reconcile import BatchSeen, counts_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from abatch.engine.key_guard import KeyGuard
    from abatch.protocol.clocks import Moment
    from abatch.protocol.facts import Reappeared, Vanished
    from abatch.protocol.pacing import Pace
    from abatch.protocol.parked import Parking
    from abatch.protocol.reconcile import Listing

__all__ = ["BatchesInFlight"]


@dataclass(slots=True, kw_only=True)
class _Watch:
    """A batch whose driver waits for news."""

    shard: int
    created_at: float
    accepted: float
    """Loop time at which it was first watched."""
    done: anyio.Event = field(default_factory=anyio.Event)
    ended: BatchSeen | None = None
    seen: bool = False
    absent: float = 0.0
    """Seconds from `accepted` to the last list that had to show the batch and did not."""
    late: bool = False
    """Whether bound A2 was found broken."""
    fingerprint: str | None = None
    """The fingerprint of the key with which the batch was sent."""
    vanished: Moment | None = None
    """The recorded beginning of its absence; None if none is recorded."""
    absence: Absence = field(default_factory=Absence)
    news: Vanished | Reappeared | Lost | None = None
    """The fact that should be recorded after the last look."""

    def note_seen(self) -> None:
        """Note that the API shows the batch."""
        self.news = self.absence.seen(self.vanished)
        if self.news is not None:
            self.done.set()


class BatchesInFlight:
    """Every batch of ours in one scope that has not ended and is not lost.

    Args:
        pace: holds the place of each batch in the queue until the batch ends.
        parking: receives every batch, to find parked ones.
        key: decides whether a 404 proves anything.
        ask_for: requests a batch by its id; returns None if it is not visible.
        wake: called when a list is needed, in case no read is due.

    """

    def __init__(
        self,
        pace: Pace,
        parking: Parking,
        key: KeyGuard,
        *,
        ask_for: Callable[[str], Awaitable[BatchSeen | None]],
        wake: Callable[[], None],
    ) -> None:
        self._pace = pace
        self._parking = parking
        self._key = key
        self._ask_for = ask_for
        self._wake = wake
        self._watches: dict[str, _Watch] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no batch is watched."""
        return not self._watches

    def created(self) -> dict[str, float]:
        """Return the time of creation of each batch."""
        return {batch_id: watch.created_at for batch_id, watch in self._watches.items()}

    async def ended(
        self,
        shard: int,
        batch_id: str,
        created_at: float,
        *,
        fingerprint: str | None = None,
        vanished: Moment | None = None,
    ) -> Ended | Vanished | Reappeared | Lost | None:
        """Wait for a fact to record about a batch of ours, finally its end; return None if `interrupt` came first.

        The batch is watched until it ends, even if its driver stops waiting, because it keeps its place in the queue
        until then.

        Args:
            shard: the shard that the batch holds.
            batch_id: the batch.
            created_at: the time at which the batch was made.
            fingerprint: the fingerprint of the key with which the batch was sent.
            vanished: the recorded beginning of its absence; None if none is recorded.

        """
        self._wake()
        watch = _Watch(shard=shard, created_at=created_at, accepted=anyio.current_time())
        watch = self._watches.setdefault(batch_id, watch)
        watch.fingerprint = fingerprint
        watch.vanished = vanished
        watch.news = None  # The last news is recorded; the next look repeats it if it still holds.
        await watch.done.wait()
        if watch.ended is not None:
            return Ended(counts=counts_of(watch.ended))
        watch.done = anyio.Event()
        return watch.news

    def forget(self, batch_id: str) -> None:
        """Stop watching a lost batch; no list has to show it any more."""
        if (watch := self._watches.pop(batch_id, None)) is not None:
            self._pace.frees(watch.shard)
        self._parking.forget(batch_id)

    def interrupt(self, shard: int) -> None:
        """Wake the driver that waits for this shard's batch, so that it can act on something else first."""
        for watch in self._watches.values():
            if watch.shard == shard:
                watch.done.set()

    def not_visible(self, date: float) -> list[str]:
        """Return the accepted batches that the API has not shown for an hour; `date` is the server's time."""
        now, here = anyio.current_time(), moment(date)
        return [
            batch_id
            for batch_id, watch in self._watches.items()
            if (not watch.seen and now - watch.accepted > VANISHED_AFTER) or watch.absence.lasts(here)
        ]

    async def look(self, listing: Listing, *, began: float) -> bool:
        """Process a list, and request by id the batches that it does not show as batches; return whether one has ended.

        Args:
            listing: the list.
            began: the loop time at which the list was requested.

        Raises:
            ApiError: the API refuses the key.

        """
        has_ended = False
        for batch_id, watch in list(self._watches.items()):
            batch = listing.shown.get(batch_id)
            if batch is not None:
                watch.seen = True
            elif batch_id in listing.odd:
                watch.seen = True
                watch.note_seen()
            elif not watch.seen and listing.unnamed is None:
                watch.absent = began - watch.accepted
            if batch is None and (batch := await self._ask_for(batch_id)) is None:
                continue
            if self._watches.get(batch_id) is not watch:  # The batch was given up meanwhile.
                continue
            _check_bound_a2(batch_id, watch)
            watch.note_seen()
            self._parking.look(batch, listing.date)
            if batch.ended:
                watch.ended = batch
                watch.done.set()
                del self._watches[batch_id]
                self._pace.frees(watch.shard)
                has_ended = True
        return has_ended

    async def missed(self, batch_id: str, date: float) -> None:
        """Note a 404 for a batch that no complete list shows, which may have to be recorded.

        Args:
            batch_id: the batch; nothing is done if it is not watched.
            date: the server's time.

        Raises:
            ApiError: another batch of ours could not be requested.

        """
        watch = self._watches.get(batch_id)
        if watch is None:
            return
        news = watch.absence.missed(moment(date), watch.vanished)
        if news is None or (isinstance(news, Lost) and not await self._key.may_see(watch.fingerprint)):
            return
        watch.news = news
        watch.done.set()


def _check_bound_a2(batch_id: str, watch: _Watch) -> None:
    """Report bound A2 as broken if lists that began later than it allows did not show this existing batch."""
    if watch.absent > VISIBLE_WITHIN and not watch.late:
        watch.late = True
        log.warning("bound_A2_broken", batch_id=batch_id, seconds_not_visible=round(watch.absent))
