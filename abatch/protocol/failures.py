"""Group failures by type and message: few groups, each with a count and an example, however many lines failed. Pure.

Messages that differ in numbers and ids alone are one group. What a group shows is the message of its first line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from abatch.log import redacted
from abatch.protocol import wire
from abatch.protocol.refusals import remedy_of
from abatch.result import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.result import Line

__all__ = ["MOST_OF_JOB", "MOST_OF_SHARD", "OTHERS", "RETRYABLE", "Failures", "failure_of", "is_final", "passes"]

RETRYABLE: Final = frozenset({"rate_limit_error", "timeout_error", "api_error", "overloaded_error"})
"""Errors that pass; `expired` is retried, too, and a download that timed out, which is an `invalid_request_error`.
Anything else, also what is not known yet, is kept as it is."""
MOST_OF_SHARD: Final = 5
MOST_OF_JOB: Final = 20
"""Groups that are kept apart."""
OTHERS: Final = "other"
"""The type under which further ones are counted."""
LONGEST_TYPE: Final = 60
LONGEST_MESSAGE: Final = 200
LOOKED_AT: Final = 2_000
"""Characters of a message in which a key is looked for before it is cut."""
_VARIES: Final = re.compile(r"\b[a-z]+_[0-9A-Za-z]{12,}\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b|\d+")
_UNCHANGED_NEVER: Final = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})


def passes(line: Line) -> bool:
    """Whether the request failed for a reason that may be gone at the next try."""
    if line.outcome == "errored":
        download = line.error_type == "invalid_request_error" and wire.is_download_timeout(line.raw)
        return download or line.error_type in RETRYABLE
    return line.outcome == "expired"


def failure_of(line: Line) -> Failure:
    """Why the request of a line did not succeed."""
    if line.outcome != "errored":
        return Failure(type=line.outcome, example=line.custom_id)
    _, message = wire.error_in(line.raw)
    final = is_final(line.error_type, message) and not passes(line)
    return Failure(type=line.error_type or "errored", message=message, example=line.custom_id, final=final)


def is_final(error_type: str | None, message: str) -> bool:
    """Whether a request that errored so cannot succeed as it is, whoever sends it again and whenever.

    A refused key, a permission or the account's billing may pass without a change of the request. So may a lack of
    credit, which the API calls a bad request.
    """
    return error_type in _UNCHANGED_NEVER and remedy_of(400, None, message) is None


class Failures:
    """Groups of failures, as they come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._groups: dict[tuple[str, str, bool], Failure] = {}

    def add(self, failure: Failure) -> None:
        """Count a failure, or a group of them."""
        kind = _storable(failure.type[:LONGEST_TYPE])
        message = _storable(redacted(failure.message[:LOOKED_AT])[:LONGEST_MESSAGE])
        key = kind, _VARIES.sub("#", message), failure.final
        known = self._groups.get(key)
        if known is None and len(self._groups) >= self._most:
            key, message = (OTHERS, "", failure.final), ""
            known = self._groups.get(key)
        if known is None:
            example = _storable(failure.example)
            self._groups[key] = msgspec.structs.replace(failure, type=key[0], message=message, example=example)
            return
        self._groups[key] = msgspec.structs.replace(known, count=known.count + failure.count)

    def update(self, failures: Iterable[Failure]) -> None:
        """Count groups."""
        for failure in failures:
            self.add(failure)

    @property
    def groups(self) -> tuple[Failure, ...]:
        """The groups, the largest first."""
        return tuple(sorted(self._groups.values(), key=lambda group: (-group.count, group.type, group.message)))


def _storable(text: str) -> str:
    """Without lone surrogates, which no journal holds."""
    return text if text.isascii() else text.encode(errors="replace").decode()
