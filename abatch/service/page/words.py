"""Numbers, times and amounts as people read them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

__all__ = ["duration", "moment", "money", "number", "percent"]

UNKNOWN: Final = "\N{EN DASH}"


def number(value: float | None) -> str:
    """Return a number with separators; a dash if it is not known."""
    return UNKNOWN if value is None else f"{value:,}"


def money(dollars: float | None) -> str:
    """Return US dollars; a dash if they are not known."""
    if dollars is None:
        return UNKNOWN
    return f"${dollars:,.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:.4f}"


def percent(part: int, whole: int | None) -> str:
    """Return a part as a percentage, rounded down, so that 100 % means all."""
    return "" if not whole else f"{100 * part // whole}\N{NO-BREAK SPACE}%"


def duration(seconds: float | None) -> str:
    """Return a length of time in its two largest units: `2d 1h`; a dash if it is not known."""
    if seconds is None:
        return UNKNOWN
    left, parts = max(round(seconds), 0), list[str]()
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if part[0] != "0") or "0s"


def moment(at: float | None) -> dict[str, str]:
    """Return a moment as the attributes and the text of `<time>`: the exact one in UTC, and how far away it is."""
    if at is None:
        return {"exact": "", "title": "", "text": UNKNOWN}
    exact = datetime.fromtimestamp(at, UTC)
    away = at - time.time()
    text = f"in {duration(away)}" if away > 0 else f"{duration(-away)} ago"
    return {
        "exact": exact.isoformat(timespec="seconds"),
        "title": exact.strftime("%Y-%m-%d %H:%M:%S UTC"),
        "text": text,
    }
