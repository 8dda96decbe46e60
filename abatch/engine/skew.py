"""Compare the server's two clocks: the `Date` of its answers and the `created_at` of its batches (bound A6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from abatch.log import log
from abatch.protocol.durations import CLOCK_SLACK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.protocol.reconcile import (
        BatchSeen,
    )

__all__ = ["ClockSkew"]

SKEW_REPORTED: Final = 60.0
"""Seconds by which `Date` and `created_at` may differ without a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Skew:
    """The minimum and maximum seconds by which `Date` was ahead of `created_at` at one create."""

    least: float
    most: float

    @classmethod
    def of(cls, created_at: float, *, gate: float, answer: float | None) -> _Skew:
        """Make the bounds from the `Date` of the list before the create, and that of the answer to the create."""
        return cls(least=gate - created_at, most=(gate if answer is None else answer) - created_at)


class ClockSkew:
    """The amount by which `Date` is ahead of `created_at`, as far as creates and lists have shown."""

    def __init__(self) -> None:
        self._last: _Skew | None = None
        self._reported = False
        self._lag = 0.0
        """Minimum seconds by which `Date` lags behind `created_at`, if lists showed batches from the future."""

    @property
    def offset(self) -> float:
        """Minimum seconds by which `Date` is ahead of `created_at`."""
        return min(0.0 if self._last is None else self._last.least, -self._lag)

    def note_list(self, date: float, batches: Iterable[BatchSeen]) -> None:
        """Note the `Date` of a list and the batches that it showed."""
        self._lag = max(self._lag, *(batch.created_at - date for batch in batches), 0.0)

    def note_create(self, created_at: float, *, gate: float, answer: float | None) -> float:
        """Note the times of a create and report a broken bound; return the maximum by which `Date` was ahead.

        Args:
            created_at: the `created_at` of the batch that was made.
            gate: the `Date` of the list just before the create.
            answer: the `Date` of the answer, if it has one.

        """
        skew, before = _Skew.of(created_at, gate=gate, answer=answer), self._last
        self._last = skew
        if not self._reported and (skew.least > SKEW_REPORTED or skew.most < -SKEW_REPORTED):
            self._reported = True
            log.warning("clocks_differ", date_ahead_of_created_at_by=round(skew.most, 1))
        if before is not None and (skew.least > before.most + CLOCK_SLACK or skew.most < before.least - CLOCK_SLACK):
            log.warning("bound_A6_broken", was=round(before.most, 1), now=round(skew.most, 1))
        return skew.most
