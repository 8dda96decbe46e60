"""An index of commit points by the size of the attempt, because a list may show a thousand batches. Pure."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from abatch.protocol.durations import AUDITED_FOR

__all__ = ["CommitTimes"]


class CommitTimes:
    """The server's times of commit points, per number of rows.

    Args:
        keep: times that are more than so many seconds before the newest are dropped.

    """

    def __init__(self, *, keep: float = AUDITED_FOR) -> None:
        self._keep = keep
        self._times: dict[int, array[float]] = {}
        self._unsorted: set[int] = set()
        self._tidy_at: dict[int, int] = {}

    def add(self, rows: int, date: float) -> None:
        """Note that an attempt of this size passed its commit point at this time."""
        times = self._times.get(rows)
        if times is None:
            times = self._times[rows] = array("d")
        if times and date < times[-1]:
            self._unsorted.add(rows)
        times.append(date)
        if len(times) >= self._tidy_at.get(rows, 1_000):  # tidying at each doubling takes linear time in all
            self._tidy_at[rows] = max(1_000, 2 * len(self._tidied(rows)))

    def any_between(self, rows: int, since: float, until: float) -> bool:
        """Return whether an attempt of this size passed its commit point in this period, both ends included."""
        if rows not in self._times:
            return False
        times = self._tidied(rows) if rows in self._unsorted else self._times[rows]
        first = bisect_left(times, since)
        return first < len(times) and times[first] <= until

    def _tidied(self, rows: int) -> array[float]:
        times = self._times[rows]
        if rows in self._unsorted:
            self._unsorted.discard(rows)
            times = array("d", sorted(times))
        self._times[rows] = times = times[bisect_left(times, times[-1] - self._keep) :]
        return times
