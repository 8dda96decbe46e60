"""Read from an answer's `usage` what is charged besides its tokens, and what of it no price list can know. Pure.

What is read here makes a cost unknown rather than too small: a tier, a speed, a server tool or tokens outside the
totals that are not known to be free. Texts that come from the API are cut, and few of them are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MOST_REASONS", "PLAIN", "Charges", "charges_of", "is_plain", "merged"]

MOST_REASONS: Final = 4
"""Reasons why a cost is not known that are kept of one sum; further ones are not told."""
LONGEST: Final = 40
"""Characters of a name that the API sent."""
MOST: Final = 2**40
_GEO_AT_LIST_PRICE: Final = frozenset({None, "", "global", "not_available"})
_TIERS: Final = frozenset({None, "batch"})
"""A batch has no other tier: one that says `standard` or `priority` was not charged as a batch."""
_SPEEDS: Final = frozenset({None, "standard"})
_SEARCHES: Final = "web_search_requests"
_FREE_TOOLS: Final = frozenset({"web_fetch_requests"})
"""What these tools fetch is paid for as tokens."""


class Charges(NamedTuple):
    """What one answer is charged for besides its tokens."""

    web_search_requests: int = 0
    inference_geo: str = ""
    """Where it was inferred, if that is not at the list's price."""
    unpriced: tuple[str, ...] = ()
    """What it was charged for that has no place in a price list."""


PLAIN: Final = Charges()
"""Of nearly all answers."""


def charges_of(
    *,
    geo: str | None = None,
    tier: str | None = None,
    speed: str | None = None,
    server_tools: Mapping[str, object] | None = None,
    iterations: Iterable[str | None] | None = None,
) -> Charges:
    """What these members of `usage` come to.

    Args:
        geo: `inference_geo`.
        tier: `service_tier`.
        speed: `speed`.
        server_tools: `server_tool_use`.
        iterations: the `type` of each of the `iterations`.

    """
    searches, unpriced = 0, list[str]()
    if tier not in _TIERS:
        unpriced.append(f"service tier {_named(tier)} is not the batch tier")
    if speed not in _SPEEDS:
        unpriced.append(f"speed {_named(speed)} has no price")
    for tool, count in (server_tools or {}).items():
        if tool == _SEARCHES and (count is None or _is_count(count)):
            searches = int(count or 0)  # type: ignore[call-overload]  # it is a number
        elif tool not in _FREE_TOOLS and count not in (0, None):
            unpriced.append(f"server tool {_named(tool)} has no price")
    # the tokens of `message` iterations are in the totals; those of others are not, or are another model's
    others = {_named(kind) for kind in iterations or () if kind != "message"}
    unpriced += [f"tokens of iteration {kind} are not in the totals" for kind in sorted(others)]
    place = "" if geo in _GEO_AT_LIST_PRICE else str(geo)[:LONGEST]
    return Charges(searches, place, merged(unpriced))


def is_plain(geo: str | None, tier: str | None, speed: str | None) -> bool:
    """Whether these three add nothing to what the tokens cost."""
    return tier in _TIERS and geo in _GEO_AT_LIST_PRICE and speed in _SPEEDS


def merged(*reasons: Iterable[str]) -> tuple[str, ...]:
    """All of these reasons, each once, and not more than `MOST_REASONS`."""
    return tuple(dict.fromkeys(each for some in reasons for each in some))[:MOST_REASONS]


def _is_count(value: Any) -> bool:  # noqa: ANN401 - whatever JSON stands there
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _named(value: object) -> str:
    return repr(str(value)[:LONGEST])
