"""Text for people: nothing hostile reaches the terminal, numbers are readable."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final, cast

import msgspec

from abatch.prices import OLD_AFTER, days_old

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

__all__ = ["clean", "duration", "escaped", "json_line", "moment", "money", "price_age", "span", "words"]

_HOSTILE: Final = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]"  # a whole escape sequence, so that no rest of it stays
    "|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?"
    "|[\x00-\x09\x0b-\x1f\x7f-\x9f]"  # C0 but the newline, DEL, C1
    "|[\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"  # characters that change the direction, or end a line
)
_HOSTILE_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_NOT_ASCII: Final = re.compile("[^\x00-\x7f]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def clean(text: object, /, *, lines: bool = False) -> str:
    """Remove control and direction characters from a text; newlines stay only if `lines`."""
    if (told := str(text)).isprintable():  # none of these characters is printable; most texts are
        return told
    safe = _SURROGATE.sub("\ufffd", _HOSTILE.sub("", told.replace("\t", " ")))
    return safe if lines else safe.replace("\n", " ")


def escaped(json: str, /) -> str:
    """Write such characters in JSON as escapes."""
    return _HOSTILE_IN_JSON.sub(lambda each: f"\\u{ord(each[0]):04x}", json)


def json_line(value: object, /, *, ascii_only: bool) -> str:
    """Write a value as JSON on one line, without such characters, also if it has names that are not UTF-8."""
    try:
        raw = msgspec.json.encode(value)
    except UnicodeEncodeError:  # a file's name or an argument has bytes that are not UTF-8
        raw = msgspec.json.encode(_without_surrogates(msgspec.to_builtins(value)))
    line = escaped(raw.decode())
    return _NOT_ASCII.sub(_as_escapes, line) if ascii_only else line


def _without_surrogates(value: object) -> object:
    match value:
        case str():
            return _SURROGATE.sub("\ufffd", value)
        case dict():
            named = cast("dict[object, object]", value)
            return {_without_surrogates(name): _without_surrogates(each) for name, each in named.items()}
        case list():
            return [_without_surrogates(each) for each in cast("list[object]", value)]
        case _:
            return value


def _as_escapes(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def words(parts: Iterable[str]) -> str:
    """Join the parts that are not empty to one line."""
    return " · ".join(part for part in parts if part)


def money(dollars: float | None, unpriced: Sequence[str] = ()) -> str:
    """Format an amount of US dollars, or the reason why it is not known."""
    if dollars is None:
        return "unknown: " + "; ".join(unpriced) if unpriced else "unknown (no price for a model)"
    return f"${dollars:,.4f}" if dollars < 1 else f"${dollars:,.2f}"


def span(low: float | None, high: float | None) -> str:
    """Format a range of US dollars."""
    return money(None) if low is None or high is None else f"{money(low)} to {money(high)}"


def price_age(prices_of: str, today: date) -> str:
    """Return a note about an old price list; empty for a recent one."""
    days = days_old(prices_of, today)
    if days is None or days <= OLD_AFTER:
        return ""
    return f"the price list is of {prices_of}, {days} days old: newer prices can be given with --prices"


def duration(seconds: float) -> str:
    """Format a duration: `45s`, `3m 20s`, `6h`, `2d 1h`."""
    left = max(round(seconds), 0)
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def moment(at: float) -> str:
    """Format a date and time in the local time zone."""
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")  # noqa: DTZ006 - as the clock on the wall here
