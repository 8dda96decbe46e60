"""Count the stop reasons of the answers of a shard or a job: few names, however many the API introduces. Pure."""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CUT", "MOST", "OTHER", "UNKNOWN", "add_stops"]

MOST: Final = 16
"""The number of names that are counted separately; the API has seven."""
LONGEST: Final = 40
OTHER: Final = "other"
"""The name under which further stop reasons are counted."""
UNKNOWN: Final = "unknown"
"""The name for an answer without a stop reason."""
CUT: Final = "max_tokens"
"""The stop reason of an answer that was cut at `max_tokens`."""


def add_stops(sums: dict[str, int], more: Mapping[str, int]) -> None:
    """Add the counts of `more` to `sums`."""
    for reason, count in more.items():
        known = reason in sums or (len(sums) < MOST and len(reason) <= LONGEST)
        name = intern(reason) if known else OTHER  # all jobs share a few reasons
        sums[name] = sums.get(name, 0) + count
