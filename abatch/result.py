"""What comes back: one `Line` per request on its way to a sink, one `Result` for the reader, one `Summary` a job.

A line is the API's own JSON line with the caller's custom_id in place. It is decoded once, when it comes off the
wire; the message inside is parsed only when somebody asks for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anthropic.types import Message

__all__ = ["OUTCOMES", "Line", "Result", "ResultError", "Summary", "Usage"]

OUTCOMES = ("succeeded", "errored", "canceled", "expired")
"""The outcomes of a request, as the API spells them. Others may come to be: they are kept and count as failed."""


class Usage(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Tokens of one answer. The prompt is `input_tokens` + `cache_read_tokens` + `cache_creation_tokens`."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    """Tokens written to the prompt cache, with either lifetime."""
    cache_creation_1h_tokens: int = 0
    """The part of `cache_creation_tokens` that was written for an hour; it costs more."""

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt, cached or not."""
        return self.input_tokens + self.cache_read_tokens + self.cache_creation_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_creation_tokens=self.cache_creation_tokens + other.cache_creation_tokens,
            cache_creation_1h_tokens=self.cache_creation_1h_tokens + other.cache_creation_1h_tokens,
        )


class Line(msgspec.Struct, frozen=True, gc=False):
    """One result on its way into a sink."""

    raw: bytes
    """The API's JSON line, `{"custom_id", "result"}` with the caller's custom_id, without a newline."""
    custom_id: str
    outcome: str
    error_type: str | None = None
    """`error.type` of an errored result, as the API spells it."""
    model: str | None = None
    usage: Usage | None = None


class ResultError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request errored, in the API's words."""

    type: str
    message: str
    request_id: str | None = None


class Result:
    """One request's answer. `raw` is the API's line; everything else is read from it when asked for."""

    __slots__ = ("_decoded", "raw")

    def __init__(self, raw: bytes, /) -> None:
        self.raw = raw
        self._decoded: Any = None  # Any: whatever JSON the API sent

    def __repr__(self) -> str:
        return f"Result(custom_id={self.custom_id!r}, outcome={self.outcome!r})"

    @property
    def _line(self) -> Any:  # noqa: ANN401 - as above
        if self._decoded is None:
            # json, not msgspec: it takes what the API may send and msgspec refuses (a lone surrogate)
            self._decoded = json.loads(self.raw)
        return self._decoded

    @property
    def custom_id(self) -> str:
        """The caller's own id."""
        return str(self._line["custom_id"])

    @property
    def outcome(self) -> str:
        """`succeeded`, `errored`, `canceled` or `expired`."""
        return str(self._line["result"]["type"])

    @property
    def message(self) -> Message | None:
        """The typed `anthropic.types.Message` of a succeeded request, else None. Imports the SDK (a second, once)."""
        body = self._line["result"].get("message")
        if body is None:
            return None
        from anthropic.types import Message  # noqa: PLC0415 - the SDK is imported only when a message is asked for

        return Message.construct(**body) if not isinstance(body, str) else None

    @property
    def error(self) -> ResultError | None:
        """Why the request errored, else None."""
        if self.outcome != "errored":
            return None
        envelope: Any = self._line["result"].get("error") or {}
        inner: Any = envelope.get("error") or {}
        return ResultError(
            type=str(inner.get("type", "unknown")),
            message=str(inner.get("message", "")),
            request_id=envelope.get("request_id"),
        )

    @property
    def usage(self) -> Usage | None:
        """The tokens of a succeeded request, else None."""
        message: Any = self._line["result"].get("message") or {}
        usage: Any = message.get("usage")
        return None if usage is None else usage_of(usage)


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """The `usage` object of a message, in our five numbers."""
    lifetimes: Any = usage.get("cache_creation") or {}
    return Usage(
        input_tokens=usage.get("input_tokens") or 0,
        output_tokens=usage.get("output_tokens") or 0,
        cache_read_tokens=usage.get("cache_read_input_tokens") or 0,
        cache_creation_tokens=usage.get("cache_creation_input_tokens") or 0,
        cache_creation_1h_tokens=lifetimes.get("ephemeral_1h_input_tokens") or 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a finished job came to."""

    key: str
    location: str
    """Where the results are, as the backend names it."""
    requests: int
    succeeded: int
    errored: int
    canceled: int
    expired: int
    other: int = 0
    """Results of a kind this version does not know."""
    missing: int = 0
    """Requests whose result the API has or had and that could not be got; listed beside the results."""
    batches: int = 0
    retried: int = 0
    """Requests that were sent again because a try of theirs expired or failed for a passing reason."""
    duplicates: int = 0
    """Acceptances that a broken bound of the protocol made twice; see docs/reliability.md."""
    seconds: float = 0.0
    """From the first fact of the job to its last."""
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    """US dollars at batch prices; None where a model's price is not known."""
    synchronous_cost: float | None = None
    """What the same tokens cost without batching."""

    @property
    def ok(self) -> bool:
        """Whether every request succeeded."""
        return self.succeeded == self.requests
