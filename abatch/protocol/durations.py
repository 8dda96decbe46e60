"""The durations of the protocol, in seconds: the bounds of docs/reliability.md, and the waits that prove an absence."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ANSWER_WITHIN",
    "AUDITED_FOR",
    "BETWEEN_LISTS",
    "CLOCK_SLACK",
    "CREATED_WITHIN",
    "DAY",
    "GATE_WITHIN",
    "GONE_AFTER",
    "HIDDEN_FOR",
    "HOUR",
    "KEPT_FOR",
    "LOST_AFTER",
    "QUEUED_FOR",
    "UNDELIVERED_FOR",
    "VANISHED_AFTER",
    "VISIBLE_WITHIN",
]

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR

# ---- one create -----------------------------------------------------------------------------------------------

ANSWER_WITHIN: Final = 600.0
"""Bound A1: a create is decided, and answered, within this time of its last byte."""
VISIBLE_WITHIN: Final = 300.0
"""Bound A2: a list shows every batch that was created at least this long before."""
GATE_WITHIN: Final = 60.0
"""Bound A3 allows ten minutes; the tail is sent within this time of the server's `Date`, or not at all."""
UNDELIVERED_FOR: Final = 120.0
"""Bound A4: undelivered bytes are dropped within this time if abatch owns the socket."""
CREATED_WITHIN: Final = GATE_WITHIN + UNDELIVERED_FOR + ANSWER_WITHIN
"""The longest time from the server's `Date` in the gate to the creation of the batch, while these bounds hold."""

# ---- doubts ---------------------------------------------------------------------------------------------------

CLOCK_SLACK: Final = 300.0
"""Two times of different clocks prove an order only if they differ by more than this."""
BETWEEN_LISTS: Final = 60.0
"""The shortest time between the two complete lists that establish an absence."""
HIDDEN_FOR: Final = 2 * DAY
"""How long after the commit point a shard waits for a candidate that was shown and is not visible; then it is held."""
GONE_AFTER: Final = 2 * DAY
"""How long after its creation a batch's results may stay unreadable before abatch stops looking at them."""

# ---- batches of ours ------------------------------------------------------------------------------------------

QUEUED_FOR: Final = 26 * HOUR
"""How long after its creation a batch counts towards the queue limit at most: a day, and two hours for the clocks."""
VANISHED_AFTER: Final = HOUR
"""A batch that the API has not shown for this long is reported as not visible."""
LOST_AFTER: Final = 2 * DAY
"""A batch that the API has not shown for this long is given up."""
KEPT_FOR: Final = 29 * DAY
"""How long after a batch's creation the API keeps its results."""
AUDITED_FOR: Final = 2 * DAY
"""How long after a commit point abatch looks at batches of that size, because they may be duplicates of ours."""
