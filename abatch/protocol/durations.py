"""The durations of the protocol, in seconds: the bounds of docs/reliability.md, and when an absence is believed."""

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
"""Bound A2: a list shows a batch that was created so long before."""
GATE_WITHIN: Final = 60.0
"""Bound A3 allows ten minutes; the tail is sent within this time of the server's `Date`, or not at all."""
UNDELIVERED_FOR: Final = 120.0
"""Bound A4: bytes that were not delivered are dropped within this time, where the socket is abatch's own."""
CREATED_WITHIN: Final = GATE_WITHIN + UNDELIVERED_FOR + ANSWER_WITHIN
"""From the server's `Date` in the gate to the creation of the batch, where these bounds hold."""

# ---- doubts ---------------------------------------------------------------------------------------------------

CLOCK_SLACK: Final = 300.0
"""Two times of different clocks prove an order only if they differ by more."""
BETWEEN_LISTS: Final = 60.0
"""Between the two complete lists that establish an absence."""
HIDDEN_FOR: Final = 2 * DAY
"""After the commit point: a candidate that was shown and is not visible is awaited for so long, then the shard held."""
GONE_AFTER: Final = 2 * DAY
"""After a batch's creation: if its results cannot be read by then, no more looks are made at them."""

# ---- batches of ours ------------------------------------------------------------------------------------------

QUEUED_FOR: Final = 26 * HOUR
"""After its creation: a batch counts towards the queue limit for so long at most, a day and two hours for clocks."""
VANISHED_AFTER: Final = HOUR
"""A batch that the API has not shown for so long is reported as not visible."""
LOST_AFTER: Final = 2 * DAY
"""A batch that the API has not shown for so long is given up."""
KEPT_FOR: Final = 29 * DAY
"""After its creation: for so long the API keeps a batch's results."""
AUDITED_FOR: Final = 2 * DAY
"""After a commit point: for so long a batch of that size is looked at, because it may be a duplicate of ours."""
