"""A job's progress in words: percent, counts, rate and the time left, on lines that fit the screen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from abatch.cli.sanitize import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from abatch import Forecast, Progress

__all__ = ["Pace", "awake", "counts", "flowed", "percent", "times"]

BETWEEN: Final = " · "
CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Only Linux has `CLOCK_BOOTTIME`, which also runs while the machine sleeps, as batches do."""
MINUTE: Final = 60
HOUR: Final = 3_600


def awake() -> float:
    """Return seconds that only grow, also while the machine sleeps."""
    return time.clock_gettime(CLOCK)


class Pace:
    """How fast results arrive, since this was made.

    Args:
        sealed: requests that had their result before.
        clock: seconds that only grow.

    """

    def __init__(self, sealed: int, clock: Callable[[], float] = awake) -> None:
        self._before = sealed
        self._clock = clock
        self._began = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since this was made."""
        return self._clock() - self._began

    def rate(self, sealed: int) -> str:
        """The results per second, minute or hour; empty while there are none."""
        new, elapsed = sealed - self._before, self.elapsed
        if new <= 0 or elapsed <= 0:
            return ""
        each = new / elapsed
        if each >= 1:
            return f"{each:,.0f}/s"
        if each * MINUTE >= 1:
            return f"{each * MINUTE:,.0f}/min"
        return f"{max(each * HOUR, 1):,.0f}/h"


def percent(progress: Progress) -> str:
    """Return the share of the wanted results that are sealed, rounded down; empty while their number is not known."""
    return f"{100 * progress.sealed // progress.wanted}%" if progress.wanted else ""


def counts(progress: Progress) -> list[str]:
    """Return a job's progress in numbers."""
    pieces = (
        f"planned {progress.planned:,}" + ("" if progress.total is None else f" of {progress.total:,}"),
        f"submitted {progress.submitted:,}",
        f"in flight {progress.in_flight:,} in {progress.batches_in_flight:,} batches",
        f"sealed {progress.sealed:,}",
        f"failed {progress.failed:,}",
        f"missing {progress.missing:,}" if progress.missing else "",
        f"in doubt {progress.in_doubt}" if progress.in_doubt else "",
        f"held {progress.held}" if progress.held else "",
    )
    return [piece for piece in pieces if piece]


def times(progress: Progress, pace: Pace, left: Forecast) -> list[str]:
    """Return the rate, the time so far and the time left."""
    return [
        *filter(None, [pace.rate(progress.sealed)]),
        f"running for {duration(pace.elapsed)}",
        _left_in_words(left),
    ]


def _left_in_words(left: Forecast) -> str:
    if left.seconds is None:
        return f"time left: {left.why}"
    return f"about {duration(left.seconds)} left" if left.seconds >= 1 else "about to end"


def flowed(pieces: Iterable[str], width: int) -> list[str]:
    """Put the pieces on as few lines as possible, without dividing a piece."""
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + len(BETWEEN) + len(piece) <= width:
            lines[-1] += BETWEEN + piece
        else:
            lines.append(piece)
    return lines
