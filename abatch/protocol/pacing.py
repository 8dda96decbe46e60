"""Decide when the next create may be sent: by the tier's queue limit and request rate, and by 429 answers. Pure.

The queue limit counts every request in a batch that has not ended, and every request of an attempt in doubt.
The caller passes all times, in seconds of one clock of its choice, except where the server's time is named.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from abatch.config import Tier

__all__ = ["LIMITS", "READ_AGAIN", "Backoff", "Pace"]

READ_AGAIN: Final = (5.0, 20.0, 60.0, 300.0, 900.0, 3_600.0, 7_200.0, 14_400.0, 21_600.0, 36_000.0)
"""Seconds between two reads when rows are missing: first short, for a stream that ended early; most of a day in all."""
LIMITS: Final[dict[Tier, tuple[int, int]]] = {
    "start": (1_000, 200_000),
    "build": (2_000, 300_000),
    "scale": (4_000, 500_000),
}
"""Per tier: the requests per minute on the batch endpoints, and the requests that may wait in the processing queue."""


class Pace:
    """The pace of one scope: whether it may send now, and how much."""

    def __init__(self, tier: Tier) -> None:
        self._per_minute, self._queue_limit = LIMITS[tier]
        self._queued: dict[int, tuple[int, float]] = {}
        self._calls: deque[float] = deque()
        self._not_before = 0.0
        self._refused = Backoff(first=5.0, most=600.0)

    def holds(self, shard: int, rows: int, until: float = inf) -> None:
        """Note that this shard's rows are, or may be, in the queue until the server's time `until` at the latest."""
        self._queued[shard] = rows, until

    def frees(self, shard: int) -> None:
        """Note that this shard's rows are not in the queue."""
        self._queued.pop(shard, None)

    def expire(self, server_now: float) -> None:
        """Forget shards whose time is over and that were not freed: held shards, and those of a failed job."""
        for shard in [shard for shard, (_, until) in self._queued.items() if until < server_now]:
            del self._queued[shard]

    @property
    def queued(self) -> int:
        """The number of requests that are, or may be, in the queue."""
        return sum(rows for rows, _ in self._queued.values())

    def has_room(self, rows: int) -> bool:
        """Return whether a shard of this size fits under the queue limit; an empty queue takes any size."""
        return not self._queued or self.queued + rows <= self._queue_limit

    def wait(self, now: float) -> float:
        """Return the seconds until one more call may be made; 0 if it may be made now."""
        self._forget_before(now - 60.0)
        turn = self._calls[0] + 60.0 if len(self._calls) >= self._per_minute else now
        return max(turn, self._not_before) - now if max(turn, self._not_before) > now else 0.0

    def called(self, now: float) -> None:
        """Note that a call was made."""
        self._forget_before(now - 60.0)
        self._calls.append(now)

    def _forget_before(self, then: float) -> None:
        while self._calls and self._calls[0] <= then:
            self._calls.popleft()

    def refused(self, now: float, retry_after: float | None, jitter: float) -> float:
        """Note that a create was answered 429, and return the seconds for which no create may be sent.

        While refusals repeat, the wait that the API asks for is raised to a minimum that grows from 1 to 120 seconds,
        so that a full queue does not use up a shard's attempts in a day. `jitter` is a random number in 0..1; it adds
        up to a tenth.
        """
        own = self._refused.next()
        wait = (own if retry_after is None else max(retry_after, own / 5)) * (1.0 + jitter / 10)
        self._not_before = max(self._not_before, now + wait)
        return wait

    def accepted(self) -> None:
        """Note that a create was accepted, so that the wait after the next refusal is short again."""
        self._refused.reset()


class Backoff:
    """Waits that double from `first` to `most` seconds."""

    def __init__(self, *, first: float, most: float) -> None:
        self._first = first
        self._most = most
        self._wait = first

    def next(self) -> float:
        """Return the next wait; the one after it is twice as long, up to `most`."""
        wait = self._wait
        self._wait = min(wait * 2, self._most)
        return wait

    def reset(self) -> None:
        """Start over with the first wait."""
        self._wait = self._first
