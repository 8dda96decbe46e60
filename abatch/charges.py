"""Read the charges of an answer's `usage` other than its tokens, and find those without a price. Pure.

A tier, a speed, a server tool or tokens outside the totals that are not known to be free make a cost unknown rather
than too small. Texts of the API are shortened, and only a few of them are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MOST_REASONS", "PLAIN", "Charges", "charges_of", "is_plain", "merged"]

MOST_REASONS: Final = 4
"""The most reasons why a cost is not known that one sum keeps; further reasons are dropped."""
LONGEST: Final = 40
"""Characters of a name that the API sent."""
MOST: Final = 2**40
_GEO_AT_LIST_PRICE: Final = frozenset({None, "", "global", "not_available"})
_TIERS: Final = frozenset({None, "batch"})
"""A batch has no other tier: an answer with `standard` or `priority` was not charged as a batch."""
_SPEEDS: Final = frozenset({None, "standard"})
_SEARCHES: Final = "web_search_requests"
_FREE_TOOLS: Final = frozenset({"web_fetch_requests"})
"""The results of these tools are paid for as tokens."""


class Charges(NamedTuple):
    """The charges of one answer other than its tokens."""

    web_search_requests: int = 0
    inference_geo: str = ""
    """The place of inference, if it does not have the list's price."""
    unpriced: tuple[str, ...] = ()
    """Charges that a price list does not contain."""


PLAIN: Final = Charges()
"""The charges of nearly all answers."""


def charges_of(
    *,
    geo: str | None = None,
    tier: str | None = None,
    speed: str | None = None,
    server_tools: Mapping[str, object] | None = None,
    iterations: Iterable[str | None] | None = None,
) -> Charges:
    """Determine the charges of these members of `usage`.

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
    """Whether these three add nothing to the cost of the tokens."""
    return tier in _TIERS and geo in _GEO_AT_LIST_PRICE and speed in _SPEEDS


def merged(*reasons: Iterable[str]) -> tuple[str, ...]:
    """Merge these reasons, each once, up to `MOST_REASONS`."""
    return tuple(dict.fromkeys(each for some in reasons for each in some))[:MOST_REASONS]


def _is_count(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _named(value: object) -> str:
    return repr(str(value)[:LONGEST])
