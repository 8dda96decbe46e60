"""The sandbox's answers: the outcome of each request, and its result line.

Every answer is visibly synthetic. Its text starts with `[sandbox]` and carries the digest of the params that it
answers, so a test can check that a result belongs to its request.

A request may choose its outcome itself with `metadata.user_id` in its params:

    sandbox:errored:overloaded_error        errored with this type
    sandbox:errored-once:overloaded_error   errored when accepted for the first time, succeeded later
    sandbox:expired, sandbox:canceled
    sandbox:refused                         succeeded with a refusal: no content, `stop_details`
    sandbox:cut:1000                        succeeded, cut at `max_tokens` while that is below 1000
    sandbox:download-timeout                errored as a download that timed out: an invalid_request_error that passes
    sandbox:download-timeout-once           the same when accepted for the first time, succeeded later
"""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec

from abatch.input.params import read_json, table

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Canceled",
    "CutShort",
    "Errored",
    "Expired",
    "Outcome",
    "OutcomeOf",
    "Outcomes",
    "OwnAnswer",
    "Refused",
    "Requests",
    "Succeeded",
    "answer_text",
    "digest",
    "message",
    "scattered",
]

MARK = b"[sandbox]"
DOWNLOAD_TIMEOUT = "The request timed out while trying to download the file. Please try again later."
VISIBLE_ERRORS = frozenset({"invalid_request_error", "not_found_error"})
"""Errors about the request itself: their details are an object, and they have no request id."""


def digest(params: bytes, /) -> str:
    """Return the digest of params that their answer shows: the first 16 hex digits of their blake2b-128."""
    return blake2b(params, digest_size=16).hexdigest()[:16]


def answer_text(params: bytes, /, answer_bytes: int = 0) -> str:
    """Return the text that answers these params, padded to `answer_bytes`."""
    return f"[sandbox] {digest(params)}{_padding(answer_bytes)}"


def _padding(answer_bytes: int) -> str:
    missing = max(0, answer_bytes - len("[sandbox] 0123456789abcdef"))
    return (" a synthetic answer;" * (missing // 20 + 1))[:missing]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The request gets an answer."""


@dataclass(frozen=True, slots=True)
class Errored:
    """The request gets an error of this type."""

    kind: str
    text: str | None = None
    """The message, if not the usual one."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The model refuses to answer: the request succeeds without content, and is paid for."""


@dataclass(frozen=True, slots=True)
class CutShort:
    """The answer is cut at `max_tokens`: the request succeeds, and is paid for."""


@dataclass(frozen=True, slots=True)
class Expired:
    """The request was not reached within 24 hours."""


@dataclass(frozen=True, slots=True)
class Canceled:
    """The request was not reached before the batch was canceled."""


Outcome = Succeeded | Errored | Refused | CutShort | Expired | Canceled


class OutcomeOf(Protocol):
    """Decides the outcome of a request."""

    def __call__(self, params: bytes, nth_acceptance: int, rng: random.Random, /) -> Outcome:
        """Return the outcome of a request that is accepted for the nth time (from 1)."""
        ...


class _Metadata(msgspec.Struct, gc=False):
    user_id: str | None = None


class _Params(msgspec.Struct, gc=False):
    model: str
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    messages: msgspec.Raw
    metadata: _Metadata | None = None
    stream: bool = False
    speed: msgspec.Raw | None = None
    fallbacks: msgspec.Raw | None = None


class _Model(msgspec.Struct, gc=False):
    model: str


_read_params = msgspec.json.Decoder(_Params).decode
_read_model = msgspec.json.Decoder(_Model).decode


def why_invalid(params: bytes) -> str | None:
    """Return why an API that knows the params of the SDK would refuse these; None if it would accept them."""
    known = table()
    try:
        if not known.read(params).stream:  # type: ignore[attr-defined]  # made at run time
            return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        read = _read_params(params)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return str(error)
    if read.stream or read.speed is not None or read.fallbacks is not None:
        return "stream, speed and fallbacks are not supported here"
    found = known.look(read_json(params), betas=True)
    return next((each.why for each in found if each.refused), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """The usual outcomes: bad params are errors, a request may choose its outcome, the others fail at these rates."""

    errored: float = 0.0
    error_type: str = "overloaded_error"
    expired: float = 0.0

    def __call__(self, params: bytes, nth_acceptance: int, rng: random.Random, /) -> Outcome:
        """Return the outcome of a request that is accepted for the nth time (from 1)."""
        if (why := why_invalid(params)) is not None:
            return Errored("invalid_request_error", f"[sandbox] {why}")
        if b'"sandbox:' in params and (chosen := chosen_outcome(params, nth_acceptance)) is not None:
            return chosen
        if self.errored or self.expired:
            drawn = rng.random()
            if drawn < self.errored:
                return Errored(self.error_type)
            if drawn < self.errored + self.expired:
                return Expired()
        return _SUCCEEDED


_SUCCEEDED = Succeeded()


def chosen_outcome(params: bytes, nth_acceptance: int) -> Outcome | None:
    """Return the outcome that the params ask for in `metadata.user_id`, if any."""
    read = _read_params(params)
    metadata = read.metadata
    match (metadata.user_id or "").split(":") if metadata else ():
        case ["sandbox", "errored", kind]:
            return Errored(kind)
        case ["sandbox", "errored-once", kind]:
            return Errored(kind) if nth_acceptance == 1 else _SUCCEEDED
        case ["sandbox", "download-timeout"]:
            return Errored("invalid_request_error", DOWNLOAD_TIMEOUT)
        case ["sandbox", "download-timeout-once"]:
            return Errored("invalid_request_error", DOWNLOAD_TIMEOUT) if nth_acceptance == 1 else _SUCCEEDED
        case ["sandbox", "refused"]:
            return Refused()
        case ["sandbox", "cut", least] if least.isdecimal():
            return CutShort() if read.max_tokens < int(least) else _SUCCEEDED
        case ["sandbox", "expired"]:
            return Expired()
        case ["sandbox", "canceled"]:
            return Canceled()
        case _:
            return None


SUCCEEDED, CANCELED, EXPIRED, FIRST_ERROR = range(4)
CUT, REFUSED = 254, 255
MOST_ERRORS = 200
"""The number of different errors in one batch that keep their message; a byte can encode 251 of them."""


class OwnAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a request that does not get the usual one."""

    content: str
    """Its content blocks, as JSON."""
    stop_reason: str
    output_tokens: int


class Requests(msgspec.Struct, frozen=True):
    """The requests of one batch as columns, about 60 bytes each; their params are not kept."""

    custom_ids: bytes
    """Joined by newlines."""
    digests: bytes
    """16 bytes for each request."""
    models: tuple[str, ...]
    """Every model that occurs, as JSON."""
    model_of: bytes
    """Two bytes for each request: an index of `models`."""
    tokens: bytes
    """Four bytes for each request: the tokens of the prompt."""
    errors: tuple[str, ...]
    """Every type of error that occurs, with its message on a second line if that is not the usual one."""
    outcome_of: bytes
    """One byte each: succeeded, canceled, expired, then an index of `errors`; 254 for a cut, 255 for a refusal."""
    own: dict[int, OwnAnswer] = {}
    """The answers that are not the usual ones, by row."""

    def __len__(self) -> int:
        return len(self.outcome_of)

    def digest_of(self, row: int) -> bytes:
        """Return the whole digest of a request."""
        return self.digests[16 * row : 16 * row + 16]

    def lines(self, outcome_of: bytes, order: Iterator[int], answer_bytes: int) -> Iterator[bytes]:
        """Yield the result lines in this order, with these outcomes, without newlines."""
        custom_ids = self.custom_ids.decode().split("\n")
        digests = self.digests.hex()
        models, model_of = self.models, array("H", self.model_of)
        tokens = array("I", self.tokens)
        padding = _padding(answer_bytes)
        before_usage = {
            outcome: f'{padding}"}}],"stop_reason":"{stop}","stop_sequence":null,"usage":{{"input_tokens":'
            for outcome, stop in ((SUCCEEDED, "end_turn"), (CUT, "max_tokens"))
        }
        after_tokens = _usage_after_input(_output_tokens(answer_bytes), "batch") + "}}}"
        for row in order:
            outcome = outcome_of[row]
            if outcome == SUCCEEDED and (own := self.own.get(row)) is not None:
                mark = digests[32 * row : 32 * row + 16]
                yield (
                    f'{{"custom_id":"{custom_ids[row]}","result":{{"type":"succeeded","message":'
                    f'{{"id":"msg_01sandbox{mark}","type":"message","role":"assistant","model":{models[model_of[row]]},'
                    f'"content":{own.content},"stop_reason":"{own.stop_reason}","stop_sequence":null,'
                    f'"usage":{{"input_tokens":{tokens[row]}{_usage_after_input(own.output_tokens, "batch")}}}}}}}'
                ).encode()
            elif outcome in before_usage:
                mark = digests[32 * row : 32 * row + 16]
                yield (
                    f'{{"custom_id":"{custom_ids[row]}","result":{{"type":"succeeded","message":'
                    f'{{"id":"msg_01sandbox{mark}","type":"message","role":"assistant","model":{models[model_of[row]]},'
                    f'"content":[{{"type":"text","text":"[sandbox] {mark}{before_usage[outcome]}'
                    f"{tokens[row]}{after_tokens}"
                ).encode()
            elif outcome == REFUSED:
                mark = digests[32 * row : 32 * row + 16]
                yield (
                    f'{{"custom_id":"{custom_ids[row]}","result":{{"type":"succeeded","message":'
                    f'{{"id":"msg_01sandbox{mark}","type":"message","role":"assistant","model":{models[model_of[row]]},'
                    '"content":[],"stop_reason":"refusal","stop_sequence":null,"stop_details":'
                    '{"type":"refusal","category":null,"explanation":"[sandbox]"},"usage":{"input_tokens":'
                    f"{tokens[row]}{_usage_after_input(0, 'batch')}}}}}}}"
                ).encode()
            else:
                yield f'{{"custom_id":"{custom_ids[row]}","result":{self._failure(outcome, row)}}}'.encode()

    def _failure(self, outcome: int, row: int) -> str:
        if outcome == CANCELED:
            return '{"type":"canceled"}'
        if outcome == EXPIRED:
            return '{"type":"expired"}'
        kind, _, text = self.errors[outcome - FIRST_ERROR].partition("\n")
        mark = self.digest_of(row).hex()[:16]
        visible = kind in VISIBLE_ERRORS and text != DOWNLOAD_TIMEOUT
        error = {
            "details": {"error_visibility": "user_facing"} if visible else None,
            "type": kind,
            "message": text or f"[sandbox] {mark} errored on demand",
        }
        envelope = {"type": "error", "error": error, "request_id": None if visible else f"workerreq_01sandbox{mark}"}
        return msgspec.json.encode({"type": "errored", "error": envelope}).decode()


class Columns:
    """Collects the requests of one batch into columns."""

    def __init__(self) -> None:
        self._custom_ids: list[str] = []
        self._digests: list[bytes] = []
        self._models: dict[str, int] = {}
        self._model_of = array("H")
        self._tokens = array("I")
        self._errors: dict[str, int] = {}
        self._outcome_of = bytearray()
        self._own: dict[int, OwnAnswer] = {}

    def add(
        self, custom_id: str, params: bytes, params_digest: bytes, outcome: Outcome, own: OwnAnswer | None = None
    ) -> None:
        """Add one request, its outcome, and its answer if that is not the usual one."""
        if own is not None:
            self._own[len(self._custom_ids)] = own
        self._custom_ids.append(custom_id)
        self._digests.append(params_digest)
        try:
            model = _read_model(params).model
        except (msgspec.DecodeError, UnicodeDecodeError):
            model = ""
        # An index has two bytes, so beyond 65,536 models in one batch the last one stands for the rest.
        self._model_of.append(min(self._models.setdefault(model, len(self._models)), 0xFFFF))
        self._tokens.append(prompt_tokens(params))
        self._outcome_of.append(self._code(outcome))

    def _code(self, outcome: Outcome) -> int:
        match outcome:
            case Succeeded():
                return SUCCEEDED
            case Canceled():
                return CANCELED
            case Expired():
                return EXPIRED
            case Errored(kind, text):
                told = kind if text is None or len(self._errors) >= MOST_ERRORS else f"{kind}\n{text}"
                return FIRST_ERROR + self._errors.setdefault(told, len(self._errors))
            case Refused():
                return REFUSED
            case CutShort():
                return CUT

    def requests(self) -> Requests:
        """Return the complete columns."""
        return Requests(
            custom_ids="\n".join(self._custom_ids).encode(),
            digests=b"".join(self._digests),
            models=tuple(msgspec.json.encode(model).decode() for model in self._models),
            model_of=self._model_of.tobytes(),
            tokens=self._tokens.tobytes(),
            errors=tuple(self._errors),
            outcome_of=bytes(self._outcome_of),
            own=self._own,
        )


def prompt_tokens(params: bytes) -> int:
    """Return an invented number of tokens, which is always the same for the same params."""
    return max(1, len(params) // 4)


def _output_tokens(answer_bytes: int) -> int:
    return max(26, answer_bytes) // 4


def _usage_after_input(output_tokens: int, service_tier: str) -> str:
    return (
        ',"cache_creation_input_tokens":0,"cache_read_input_tokens":0,'
        '"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},'
        f'"output_tokens":{output_tokens},"service_tier":"{service_tier}"}}'
    )


def message(params: bytes, answer_bytes: int, own: OwnAnswer | None = None) -> dict[str, Any]:  # Any: a JSON object
    """Return the answer to one synchronous call of the Messages API."""
    usual = [{"type": "text", "text": answer_text(params, answer_bytes)}]
    return {
        "id": f"msg_01sandbox{digest(params)}",
        "type": "message",
        "role": "assistant",
        "model": _read_model(params).model,
        "content": usual if own is None else msgspec.Raw(own.content.encode()),
        "stop_reason": "end_turn" if own is None else own.stop_reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": prompt_tokens(params),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": _output_tokens(answer_bytes) if own is None else own.output_tokens,
            "service_tier": "standard",
        },
    }


def scattered(n: int, seed: int) -> Iterator[int]:
    """Return a lazy iterator of the numbers below n, in an order that depends on the seed."""
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    step = rng.randrange(n) if n > 2 else 1
    while math.gcd(step, n) != 1:
        step = rng.randrange(n)
    first = rng.randrange(n)
    return ((first + step * i) % n for i in range(n))
