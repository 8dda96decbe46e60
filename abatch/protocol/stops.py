"""Count why the model stopped, over the answers of a shard or a job: few names, however many the API makes up. Pure."""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CUT", "MOST", "OTHER", "UNKNOWN", "add_stops"]

MOST: Final = 16
"""Names that are counted one by one; the API has seven."""
LONGEST: Final = 40
OTHER: Final = "other"
"""The name under which further ones are counted."""
UNKNOWN: Final = "unknown"
"""Of an answer that does not say."""
CUT: Final = "max_tokens"
"""Of an answer that was cut where `max_tokens` ended."""


def add_stops(sums: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts to others."""
    for reason, count in more.items():
        known = reason in sums or (len(sums) < MOST and len(reason) <= LONGEST)
        name = intern(reason) if known else OTHER  # jobs have few reasons between them
        sums[name] = sums.get(name, 0) + count
