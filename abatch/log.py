"""The log: past-tense event names with keys and ids. Never a prompt, an answer or a key.

abatch logs through structlog and configures nothing: an application that uses structlog sees these events in its
own format, any other one in the standard library's logger `abatch`, and the command line sets up its own in `cli`.
Every value that could carry a secret is redacted by `redact`, which `cli` places last in its chain and which an
application may place in its own.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

__all__ = ["log", "ranges", "redact", "redacted", "without_none"]


def without_none(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The event without what is not known of it; a processor."""
    return {name: value for name, value in event.items() if value is not None}


_plain: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
    logging.getLogger("abatch"),
    wrapper_class=structlog.stdlib.BoundLogger,
    processors=[
        structlog.stdlib.filter_by_level,
        without_none,
        structlog.processors.KeyValueRenderer(key_order=["event"]),
    ],
)


class _Log:
    """The application's structlog where it configured one, else the standard library's logger `abatch`.

    An event that cannot be written is dropped, as the standard library does: a full disk under a log file must not end
    the work that is logged. The first one that is dropped is reported on stderr.
    """

    def __init__(self) -> None:
        self._reported = False

    def __getattr__(self, level: str) -> Any:  # noqa: ANN401 - the methods of a bound logger that write
        def write(event: str, **keys: object) -> None:
            logger = structlog.get_logger("abatch") if structlog.is_configured() else _plain
            try:
                getattr(logger, level)(event, **keys)
            except Exception as failure:  # noqa: BLE001 - a processor or stream of the application may raise anything
                self._report(failure)

        return write

    def _report(self, failure: Exception) -> None:
        if self._reported:
            return
        self._reported = True
        told = redacted("".join(traceback.format_exception(failure)))
        with suppress(OSError, ValueError, AttributeError):  # stderr may be full, closed, or none at all
            sys.stderr.write(f"abatch cannot write its log; what it logs meanwhile is lost, the work goes on.\n{told}")


log: structlog.typing.FilteringBoundLogger = cast("structlog.typing.FilteringBoundLogger", _Log())

_SECRET_NAME = re.compile(r"api[-_]?key|authorization|secret|token$|password|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"sk-ant-[A-Za-z0-9_-]+"
    r"|bearer\s+(?:(?=\S*(?:[^A-Za-z\s]\w|\d))\S{6,}|\S{16,})",  # and not the words of "invalid bearer token"
    re.IGNORECASE,
)
_GONE = "[redacted]"
_SHORTEST_SECRET = 8
"""Shorter ones are parts of ordinary words, and no real API has them."""


def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: blank every value under a name that says secret, and every key that looks like one."""
    for name, value in event.items():
        event[name] = _GONE if _SECRET_NAME.search(name) else _redacted(value)
    return event


def redacted(text: str, *secrets: str) -> str:
    """A text without what looks like a key, and without these secrets."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, _GONE)
    return _SECRET_VALUE.sub(_GONE, text)


def _redacted(value: object) -> object:
    match value:
        case str():
            return _SECRET_VALUE.sub(_GONE, value)
        case bytes():
            return _SECRET_VALUE.sub(_GONE, value.decode("utf-8", "replace"))
        case dict():
            named = cast("dict[object, object]", value)
            return {k: _GONE if _SECRET_NAME.search(str(k)) else _redacted(v) for k, v in named.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted(each) for each in cast("Iterable[object]", value)]
        case _:
            return value


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in their order, neighbours put together: `1-3, 7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
