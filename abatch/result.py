"""Results: one `Line` for each request on its way to a sink, one `Result` for the reader, one `Summary` for each job.

A line is the API's own JSON line with the caller's custom_id in place. Its envelope is decoded when it is received,
and again if a sink accesses it; the message inside is parsed only on access.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, overload

import msgspec

from abatch.charges import charges_of, merged
from abatch.errors import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anthropic.types import Message

__all__ = [
    "OUTCOMES",
    "Block",
    "Failure",
    "LeftOut",
    "Line",
    "Result",
    "ResultError",
    "Summary",
    "Usage",
    "in_pieces",
    "joined",
    "json_of",
]

T = TypeVar("T")

OUTCOMES = ("succeeded", "errored", "canceled", "expired")
"""The outcomes of a request, as the API spells them. The API may add others: they are kept and count as failed."""


LONG: Final = 2**19
"""The size in bytes from which a text of lines, or a piece of one, is not copied again."""
MAX_TOKENS: Final = 2**40
"""No answer has more tokens; a larger number is not a token count."""
MIXED: Final = "mixed"
_CUSTOM_ID: Final = re.compile(rb'"custom_id"\s*:\s*("(?:[^"\\]|\\.)*")')
_OUTCOME: Final = re.compile(rb'"result"\s*:\s*\{\s*"type"\s*:\s*"([a-z_]{1,40})"')


class Usage(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Tokens of one answer. The prompt is `input_tokens` + `cache_read_tokens` + `cache_creation_tokens`."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    """Tokens written to the prompt cache, with either lifetime."""
    cache_creation_1h_tokens: int = 0
    """The part of `cache_creation_tokens` that was written for an hour; it costs more."""
    web_search_requests: int = 0
    """Searches of the web search tool; each is charged."""
    inference_geo: str = ""
    """The place of inference, if it has a separate price (`us`); `mixed` in a sum over several places."""
    unpriced: tuple[str, ...] = ()
    """Other charges of the answer, and why they have no price; with any of these the cost is not known."""

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
            web_search_requests=self.web_search_requests + other.web_search_requests,
            inference_geo=self._geo_with(other),
            unpriced=self.unpriced if self.unpriced == other.unpriced else merged(self.unpriced, other.unpriced),
        )

    def _geo_with(self, other: Usage) -> str:
        if self.inference_geo == other.inference_geo or other._is_nothing:
            return self.inference_geo
        return other.inference_geo if self._is_nothing else MIXED

    @property
    def _is_nothing(self) -> bool:
        return not (self.prompt_tokens or self.output_tokens or self.web_search_requests)


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
    stop_reason: str | None = None
    """Why the model stopped, for a result that succeeded: `end_turn`, `max_tokens`, `refusal`, …"""


class Block(Sequence[Line]):
    """Lines on their way into a sink. A `Line` is made on access, because many sinks need only the bytes."""

    __slots__ = ("_count", "_known", "_lines", "_read", "texts", "weight")

    def __init__(self, read: Callable[[bytes], Line]) -> None:
        self._read = read
        self._count = 0
        self._known: dict[int, Line] = {}
        self._lines: list[Line] = []
        self.texts: list[bytes | memoryview] = []
        """The raw lines, each with its newline, in order; a long line is in several texts, one of them a view."""
        self.weight = 0
        """Bytes of the texts."""

    def add(self, texts: Sequence[bytes | memoryview], count: int, known: Mapping[int, Line]) -> None:
        """Append `count` lines; a line that is not in `known`, by its position among them, is read when needed."""
        self._known.update((self._count + place, line) for place, line in known.items())
        self.texts += texts
        self.weight += sum(map(len, texts))
        self._count += count

    def join(self) -> bytes:
        """Join the raw lines into one piece, which replaces the many."""
        whole = b"".join(self.texts)
        self.texts = [whole]
        return whole

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Line]:
        known = self._known
        for place, raw in enumerate(self._raw_lines()):
            yield known.get(place) or self._read(raw)

    def _raw_lines(self) -> list[bytes]:
        if self._count != 1:
            return self.join().split(b"\n")[:-1]
        *most, last = self.texts  # a single line may be long, so it is not copied again
        raw = b"".join(filter(None, (*most, last[:-1])))
        self.texts = [raw, b"\n"]
        return [raw]

    @overload
    def __getitem__(self, index: int) -> Line: ...
    @overload
    def __getitem__(self, index: slice) -> list[Line]: ...
    def __getitem__(self, index: int | slice) -> Line | list[Line]:
        self._lines = self._lines or list(self)
        return self._lines[index]


def joined(lines: Sequence[Line]) -> bytes:
    """Join the raw lines, each with its newline."""
    if isinstance(lines, Block):
        return lines.join()
    return b"".join([piece for line in lines for piece in (line.raw, b"\n")])


def in_pieces(lines: Sequence[Line]) -> Sequence[bytes | memoryview]:
    """Return the raw lines in few pieces, without another copy of a long line."""
    if isinstance(lines, Block) and any(len(text) >= LONG for text in lines.texts):
        return lines.texts
    return [joined(lines)]


class ResultError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request errored, in the API's words."""

    type: str
    message: str
    request_id: str | None = None


class Failure(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Requests of a job that did not succeed for one reason."""

    type: str
    """`error.type` as the API spells it; else the outcome (`expired`, `canceled`), or `missing`."""
    message: str = ""
    """The API's message of one of them, shortened; those of the others may differ in numbers and ids."""
    count: int = 1
    example: str = ""
    """The custom_id of one of them; empty if none is available."""
    final: bool = False
    """Whether they cannot succeed unchanged."""


class Result:
    """One request's answer. `raw` is the API's line; everything else is read from it on access."""

    __slots__ = ("_decoded", "raw")

    def __init__(self, raw: bytes, /) -> None:
        self.raw = raw
        self._decoded: Any = None  # Any: whatever JSON the API sent

    def __repr__(self) -> str:
        """Show the id and the outcome; never the answer, because a repr may be logged."""
        details = f"custom_id={self.custom_id!r}, outcome={self.outcome!r}"
        if (error := self.error) is not None:
            details += f", error={error.type!r}"
        if (reason := self.stop_reason) is not None:
            details += f", stop_reason={reason!r}"
        return f"Result({details})"

    @property
    def _line(self) -> Any:  # noqa: ANN401 - as above
        if self._decoded is None:
            self._decoded = _decoded(self.raw)
        return self._decoded

    @property
    def custom_id(self) -> str:
        """The caller's own id."""
        return cast("str", self._line["custom_id"])

    @property
    def outcome(self) -> str:
        """`succeeded`, `errored`, `canceled` or `expired`; `unreadable` for a line without one."""
        return str(_member(self._line["result"], "type") or "unreadable")

    @property
    def message(self) -> Message | None:
        """The typed `anthropic.types.Message` of a succeeded request, else None. Imports the SDK (a second, once)."""
        body = _member(self._line["result"], "message")
        if not isinstance(body, dict):
            return None
        from anthropic.types import Message  # noqa: PLC0415 - the SDK is imported only on access

        return Message.construct(**cast("dict[str, Any]", body))

    @property
    def text(self) -> str | None:
        """The text of the answer: its text blocks, joined; None if it has none. It does not import the SDK."""
        content = _member(_member(self._line["result"], "message"), "content")
        blocks = cast("list[object]", content) if isinstance(content, list) else []
        texts = [_member(block, "text") for block in blocks if _member(block, "type") == "text"]
        found = [text for text in texts if isinstance(text, str)]
        return "".join(found) if found else None

    @property
    def stop_reason(self) -> str | None:
        """Why the model stopped (`end_turn`, `max_tokens`, …), for a request that succeeded, else None."""
        return _word(_member(self._line["result"], "message"), "stop_reason")

    def parse(self, model: type[T], /) -> T:
        """Parse the text of the answer, which must be JSON, as this type.

        Args:
            model: a pydantic model, or any type that msgspec decodes: a `Struct`, a dataclass, a TypedDict, `dict`,
                `list[int]` and the like.

        Raises:
            BadAnswer: the request has no answer with text, or its text is not JSON of this type.
            TypeError: msgspec cannot decode such a type.

        """
        text = self.text
        if text is None:
            raise BadAnswer(self.custom_id, self._why_no_text())
        validate: Callable[[str], T] | None = getattr(model, "model_validate_json", None)
        try:
            return msgspec.json.decode(text, type=model) if validate is None else validate(text)
        except (ValueError, msgspec.DecodeError, RecursionError) as failure:
            cut = "it was cut at max_tokens; " if self.stop_reason == "max_tokens" else ""
            raise BadAnswer(self.custom_id, cut + _why_invalid(failure)) from failure

    @property
    def error(self) -> ResultError | None:
        """Why the request errored, else None."""
        if self.outcome != "errored":
            return None
        envelope = _member(self._line["result"], "error")
        inner = _member(envelope, "error")
        request_id = _member(envelope, "request_id")
        return ResultError(
            type=str(_member(inner, "type") or "unknown"),
            message=str(_member(inner, "message") or ""),
            request_id=None if request_id is None else str(request_id),
        )

    def _why_no_text(self) -> str:
        if (error := self.error) is not None:
            return f"it errored ({error.type}: {error.message}); look at `outcome` first"
        if self.outcome != "succeeded":
            return f"its outcome is {self.outcome!r}; look at `outcome` first"
        return f"it holds no text (stop_reason {self.stop_reason!r}); look at `message`"

    @property
    def usage(self) -> Usage | None:
        """The tokens of a succeeded request, else None."""
        usage = _member(_member(self._line["result"], "message"), "usage")
        return None if usage is None else usage_of(usage)


def usage_of(usage: object) -> Usage:
    """Read the `usage` object of a message; a value that is no token count counts as 0 and is named in `unpriced`."""
    unread: list[str] = []

    def tokens(of: object, name: str) -> int:
        count = _member(of, name)
        if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= MAX_TOKENS:
            return count
        if count is not None:
            unread.append(f"{name} is no number of tokens")
        return 0

    tools, iterations = _member(usage, "server_tool_use"), _member(usage, "iterations")
    charges = charges_of(
        geo=_word(usage, "inference_geo"),
        tier=_word(usage, "service_tier"),
        speed=_word(usage, "speed"),
        server_tools=cast("dict[str, object]", tools) if isinstance(tools, dict) else None,
        iterations=[_word(each, "type") for each in cast("list[object]", iterations)]
        if isinstance(iterations, list)
        else None,
    )
    return Usage(
        input_tokens=tokens(usage, "input_tokens"),
        output_tokens=tokens(usage, "output_tokens"),
        cache_read_tokens=tokens(usage, "cache_read_input_tokens"),
        cache_creation_tokens=tokens(usage, "cache_creation_input_tokens"),
        cache_creation_1h_tokens=tokens(_member(usage, "cache_creation"), "ephemeral_1h_input_tokens"),
        web_search_requests=charges.web_search_requests,
        inference_geo=charges.inference_geo,
        unpriced=merged(charges.unpriced, unread),
    )


def _word(of: object, name: str) -> str | None:
    value = _member(of, name)
    return None if value is None else str(value)


def _member(of: object, name: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return a member of a JSON object, None for any other value: no shape that the API may send is an error."""
    return cast("dict[str, Any]", of).get(name) if isinstance(of, dict) else None


def _decoded(raw: bytes) -> dict[str, Any]:
    """Decode a line as far as possible: an object with a custom_id and an object `result`, whatever the bytes are."""
    with suppress(ValueError, RecursionError):
        line = json_of(raw)
        if isinstance(_member(line, "custom_id"), str) and isinstance(_member(line, "result"), dict):
            return cast("dict[str, Any]", line)
    named = _CUSTOM_ID.search(raw)
    try:
        custom_id = json.loads(named[1].decode("utf-8", "replace")) if named else ""
    except ValueError:
        custom_id = ""
    return {"custom_id": custom_id, "result": {"type": outcome_in(raw)}}


def json_of(raw: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Decode a line of JSON, also if strict decoders refuse its content, because the line is still complete.

    They refuse a lone surrogate, bytes that are not UTF-8, a control character in a string, a number of any length.

    Raises:
        ValueError: the line is not JSON.
        RecursionError: it is nested too deeply for Python's decoder.

    """
    try:
        return json.loads(raw, strict=False, parse_int=_number)
    except UnicodeDecodeError:
        return json.loads(raw.decode("utf-8", "replace"), strict=False, parse_int=_number)


def outcome_in(raw: bytes) -> str:
    """Find the outcome of a line that no JSON decoder accepts, as far as possible."""
    outcome = _OUTCOME.search(raw)
    return "unreadable" if outcome is None else outcome[1].decode()


def _why_invalid(failure: Exception) -> str:
    """Return the reasons of a failed validation, without the answer, which pydantic's own text quotes."""
    errors = getattr(failure, "errors", None)
    if not callable(errors):
        return str(failure)
    found: Any = errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the answer'}: {each['msg']}" for each in found)


def _number(digits: str) -> int | float:
    """Convert a number without a point; Python converts no thousands of digits to an integer."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Requests of an input that are not sent, because another job had answered them."""

    answered_by: str
    """The key of the other job."""
    skipped: int
    """Requests that are not sent."""
    changed: int
    """Requests that the other job answered with other params: they are sent."""
    uncompared: int
    """Requests that are not sent, although the params that were answered are not known."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Summary:
    """The counts, costs and location of a finished job."""

    key: str
    location: str
    """Where the results are, as the backend names it."""
    requests: int
    succeeded: int
    errored: int
    canceled: int
    expired: int
    other: int = 0
    """Results of a kind that this version does not know."""
    missing: int = 0
    """Requests whose result the API has or had, but that abatch could not get; listed next to the results."""
    not_sent: int | None = 0
    """Requests that a cancelled job never planned: they have no line. None if their number is not known."""
    batches: int = 0
    retried: int = 0
    """Requests that were sent again because a try expired or failed for a temporary reason."""
    duplicates: int = 0
    """Batches that were paid for twice because a bound of the protocol was broken; see docs/reliability.md."""
    seconds: float = 0.0
    """The time from the first fact of the job to its last."""
    usage: Usage = field(default_factory=Usage)
    stop_reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    """The requests that succeeded, counted by stop reason, the most frequent first. `max_tokens` means cut.

    Results that were collected by an abatch without this count are not in it."""
    cost: float | None = None
    """US dollars at batch prices; None if the price of a charge is not known."""
    synchronous_cost: float | None = None
    """The cost of the same requests without batching."""
    unpriced: tuple[str, ...] = ()
    """Why the costs are None."""
    prices_of: str = ""
    """The date of the price list."""

    def __repr__(self) -> str:
        """Show the key, the place, the counts that are not zero, and the cost."""
        counts = ("errored", "canceled", "expired", "other", "missing", "not_sent", "duplicates")
        names = (
            "key",
            "location",
            "requests",
            "succeeded",
            *(each for each in counts if getattr(self, each) != 0),
            "cost",
        )
        return f"Summary({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @property
    def ok(self) -> bool:
        """Whether every request of the input succeeded."""
        return self.succeeded == self.requests and self.not_sent == 0
