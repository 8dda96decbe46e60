"""The log: events named in the past tense, with job keys and ids; never a prompt, an answer or an API key.

abatch logs through structlog and does not configure it. An application that configured structlog gets the events in
its own format. Any other application gets them in the standard library's logger `abatch`. The command line configures
its own output in `cli`. The processor `redact` removes secrets from every value: `cli` runs it last, and an application
can add it to its own processors.
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
    """Drop the keys whose value is None; a structlog processor."""
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
    """Write to structlog if the application configured it, else to the standard library's logger `abatch`.

    An event that cannot be written is dropped, as in the standard library, because a full disk under a log file must
    not stop the jobs. The first dropped event is reported on stderr.
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
        report = redacted("".join(traceback.format_exception(failure)))
        with suppress(OSError, ValueError, AttributeError):  # stderr may be full, closed, or none at all
            sys.stderr.write(f"abatch cannot write its log. The jobs go on; these log events are lost.\n{report}")


log: structlog.typing.FilteringBoundLogger = cast("structlog.typing.FilteringBoundLogger", _Log())

_SECRET_NAME = re.compile(r"api[-_]?key|authorization|secret|token$|password|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"sk-ant-[A-Za-z0-9_-]+"
    r"|bearer\s+(?:(?=\S*(?:[^A-Za-z\s]\w|\d))\S{6,}|\S{16,})",  # does not match the words "invalid bearer token"
    re.IGNORECASE,
)
_GONE = "[redacted]"
_SHORTEST_SECRET = 8
"""Characters. A shorter secret could be part of an ordinary word; no API issues one so short."""


def redact(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace values whose name denotes a secret, and text that looks like a key; a structlog processor."""
    for name, value in event.items():
        event[name] = _GONE if _SECRET_NAME.search(name) else _redacted(value)
    return event


def redacted(text: str, *secrets: str) -> str:
    """Replace everything in a text that looks like a key, and these secrets."""
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
    """Format numbers in ascending order, with consecutive ones as a range: `1-3, 7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
