"""Group failures by type and message: few groups, each with a count and an example, however many lines failed. Pure.

Messages that differ only in numbers and ids form one group. A group shows the message of its first line.
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
"""Errors that pass. `expired` is retried, too, and a download that timed out, which is an `invalid_request_error`.
Requests with any other error, known or unknown, are not retried."""
MOST_OF_SHARD: Final = 5
"""The largest number of groups for one shard."""
MOST_OF_JOB: Final = 20
"""The largest number of groups for one job."""
OTHERS: Final = "other"
"""The type under which all further failures are counted."""
LONGEST_TYPE: Final = 60
LONGEST_MESSAGE: Final = 200
LOOKED_AT: Final = 2_000
"""Characters of a message that are searched for an API key before the message is cut."""
_VARIES: Final = re.compile(r"\b[a-z]+_[0-9A-Za-z]{12,}\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b|\d+")
_UNCHANGED_NEVER: Final = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})


def passes(line: Line) -> bool:
    """Return whether the request failed for a reason that may be gone at the next try."""
    if line.outcome == "errored":
        download = line.error_type == "invalid_request_error" and wire.is_download_timeout(line.raw)
        return download or line.error_type in RETRYABLE
    return line.outcome == "expired"


def failure_of(line: Line) -> Failure:
    """Return the failure that this line reports."""
    if line.outcome != "errored":
        return Failure(type=line.outcome, example=line.custom_id)
    _, message = wire.error_in(line.raw)
    final = is_final(line.error_type, message) and not passes(line)
    return Failure(type=line.error_type or "errored", message=message, example=line.custom_id, final=final)


def is_final(error_type: str | None, message: str) -> bool:
    """Return whether a request with this error cannot succeed unchanged, with any key and at any time.

    A refused key, a missing permission and the account's billing can be settled without a change of the request. So can
    a lack of credit, which the API calls a bad request.
    """
    return error_type in _UNCHANGED_NEVER and remedy_of(400, None, message) is None


class Failures:
    """Groups of failures, counted one by one."""

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
        """Count several groups of failures."""
        for failure in failures:
            self.add(failure)

    @property
    def groups(self) -> tuple[Failure, ...]:
        """The groups, the largest first."""
        return tuple(sorted(self._groups.values(), key=lambda group: (-group.count, group.type, group.message)))


def _storable(text: str) -> str:
    """Replace lone surrogates, which a journal cannot hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()
