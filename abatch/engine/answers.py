"""Read the API's answers: batches, pages of the list, error envelopes, dates.

Text from a server is written to the journal and to the screen, so API keys are removed from it here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal, TypeVar, cast

import httpx2
import msgspec

from abatch.errors import ApiError
from abatch.log import redacted
from abatch.protocol.durations import HOUR
from abatch.protocol.reconcile import BatchSeen, OddEntry, Replied

__all__ = ["LONGEST_WAIT", "Page", "api_error", "batch_of", "page_of", "replied", "retry_after"]

T = TypeVar("T")
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""The exceptions that decoding raises if an answer is not JSON of the expected kind."""
_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,199}")
"""The form of a batch id, which is used in paths, in the journal and on the screen."""
_OF_A_SERVER: Final = frozenset({"", "api_error", "overloaded_error", "timeout_error"})
"""Values of `error.type` that prove a 4xx answer is not a refusal by the API; the empty one is no type at all."""
LONGEST_WAIT: Final = HOUR
"""The maximum number of seconds for which a `retry-after` is believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the list, newest first."""

    date: float
    entries: tuple[BatchSeen | OddEntry, ...]
    has_more: bool
    last_id: str | None

    @property
    def batches(self) -> tuple[BatchSeen, ...]:
        """The entries that can be read."""
        return tuple(each for each in self.entries if isinstance(each, BatchSeen))

    @property
    def odd(self) -> tuple[OddEntry, ...]:
        """The entries that cannot be read."""
        return tuple(each for each in self.entries if isinstance(each, OddEntry))

    @property
    def ids(self) -> set[str]:
        """The id of every entry that has one."""
        return {each.batch_id for each in self.entries if each.batch_id is not None}

    @property
    def newest(self) -> float:
        """The `created_at` of the first entry; 0 if the page is empty, or the entry cannot be read."""
        return (self.entries[0].created_at or 0.0) if self.entries else 0.0

    @property
    def oldest(self) -> float | None:
        """The `created_at` of the last entry; None if the page is empty, or the entry cannot be read."""
        return self.entries[-1].created_at if self.entries else None


class _Counts(msgspec.Struct):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class _Batch(msgspec.Struct, kw_only=True):
    id: str
    processing_status: str
    request_counts: _Counts | None = None
    created_at: str
    archived_at: str | None = None


class _List(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool
    last_id: str | None = None


class _Named(msgspec.Struct):
    """The fields that identify an entry of a list that cannot be read."""

    id: object = None
    created_at: object = None


_read_batch: Final = msgspec.json.Decoder(_Batch).decode
_read_named: Final = msgspec.json.Decoder(_Named).decode


class _Error(msgspec.Struct):
    type: str
    message: str = ""
    details: object = None
    """An object or null; lists and strings were observed, too."""

    @property
    def code(self) -> str | None:
        """The error code, which is more specific than the type; None if there is none."""
        match self.details:
            case {"error_code": str(code)}:
                return code
            case _:
                return None


class _Envelope(msgspec.Struct):
    """The API's error envelope; a proxy's error page is not one."""

    type: Literal["error"]
    """A field, because a msgspec tag would also accept a body without it."""
    error: _Error


def page_of(answer: httpx2.Response) -> Page:
    """Read one page of the list.

    Raises:
        ApiError: the answer is not a page of the list, or has no `Date`, without which it proves nothing about time.

    """
    page = _decode("list", answer, _List)
    entries = tuple(_entry(each) for each in page.data)
    return Page(
        date=_date("list", answer),
        entries=entries,
        has_more=page.has_more,
        last_id=page.last_id or (entries[-1].batch_id if entries else None),
    )


def batch_of(answer: httpx2.Response) -> BatchSeen:
    """Read one batch; its `total` is 0 if the answer has no `request_counts`, which a batch of ours can do without.

    Raises:
        ApiError: the answer is not a batch.

    """
    return _seen("retrieve", _decode("retrieve", answer, _Batch))


def api_error(what: str, answer: httpx2.Response) -> ApiError:
    """Make the error for a call that was answered with a failure."""
    _, envelope = _envelope(answer)
    return ApiError(
        what,
        status=answer.status_code,
        kind=None if envelope is None else envelope.type,
        error_code=None if envelope is None else envelope.code,
        message=_redirect_in_words(answer) if envelope is None else envelope.message,
        request_id=_request_id(answer),
        retry_after=retry_after(answer),
    )


def replied(answer: httpx2.Response) -> Replied:
    """Convert the answer to a create to the form that table A judges."""
    if answer.is_success:
        try:
            batch = _seen("create", msgspec.json.decode(answer.content, type=_Batch))
        except (*UNREADABLE, ApiError):
            batch = None
        return Replied(
            status=answer.status_code,
            batch=batch,
            date=_date_if_told(answer),
        )
    envelope, error = _envelope(answer)
    return Replied(
        status=answer.status_code,
        kind=None if error is None else error.type,
        error_code=None if error is None else error.code,
        message=_host_of_redirect(answer) if error is None else error.message,
        envelope=envelope,
        retry_after=retry_after(answer),
    )


def _host_of_redirect(answer: httpx2.Response) -> str:
    """Return the host to which an answer redirects; empty if it does not, or names the same host."""
    if not 300 <= answer.status_code < 400:
        return ""
    try:
        target = httpx2.URL(answer.headers.get("location", ""))
    except (httpx2.InvalidURL, ValueError):
        return ""
    return redacted(target.host)[:100]


def _redirect_in_words(answer: httpx2.Response) -> str:
    host = _host_of_redirect(answer)
    return f"redirected to {host}" if host else ""


def _envelope(answer: httpx2.Response) -> tuple[bytes, _Error | None]:
    """Return the API's error envelope without API keys, because it is written to the journal and to the screen."""
    try:
        error = msgspec.json.decode(answer.content, type=_Envelope).error
    except UNREADABLE:
        return b"", None
    if answer.status_code < 500 and error.type in _OF_A_SERVER:
        return b"", None
    keys = _sent_keys(answer)
    error.type, error.message = redacted(error.type, *keys), redacted(error.message, *keys)
    try:
        envelope = msgspec.json.encode(_without_keys(msgspec.json.decode(answer.content), keys))
    except (*UNREADABLE, ValueError, OverflowError):  # The envelope holds infinite numbers.
        envelope = b""
    return envelope, error


def _without_keys(value: object, keys: tuple[str, ...]) -> object:
    match value:
        case str():
            return redacted(value, *keys)
        case dict():
            named = cast("dict[str, object]", value)
            return {redacted(name, *keys): _without_keys(each, keys) for name, each in named.items()}
        case list():
            return [_without_keys(each, keys) for each in cast("list[object]", value)]
        case _:
            return value


def _sent_keys(answer: httpx2.Response) -> tuple[str, ...]:
    """Return the keys that the call was sent with, in case the answer repeats them."""
    try:
        sent = answer.request.headers
    except RuntimeError:  # The answer has no request.
        return ()
    return tuple(key for key in (sent.get("x-api-key"), sent.get("authorization", "").removeprefix("Bearer ")) if key)


def _request_id(answer: httpx2.Response) -> str | None:
    request_id = answer.headers.get("request-id")
    return None if request_id is None else redacted(request_id)


def retry_after(answer: httpx2.Response) -> float | None:
    """Return how many seconds an answer asks to wait; None if it does not ask."""
    try:
        asked = float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return min(max(asked, 0.0), LONGEST_WAIT) if math.isfinite(asked) else None


def _date(what: str, answer: httpx2.Response) -> float:
    try:
        return _moment(parsedate_to_datetime(answer.headers["date"]))
    except KeyError as missing:
        raise ApiError(what, status=answer.status_code, message="the answer has no Date header") from missing
    except (ValueError, OverflowError) as odd:
        told = redacted(answer.headers["date"])[:60]
        why = f"the Date header of the answer is {told!r}, which is no date of HTTP"
        raise ApiError(what, status=answer.status_code, message=why) from odd


def _date_if_told(answer: httpx2.Response) -> float | None:
    try:
        return _date("create", answer)
    except ApiError:
        return None


def _moment(at: datetime) -> float:
    if at.tzinfo is None:  # Python would treat it as local time.
        raise ValueError("no time zone")
    return at.timestamp()


def _decode(what: str, answer: httpx2.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except UNREADABLE as unreadable:
        where = f": {redacted(str(unreadable))}" if isinstance(unreadable, msgspec.ValidationError) else ""
        why = f"the answer is not what the API sends{where}"
        raise ApiError(what, status=answer.status_code, message=why) from unreadable


def _entry(raw: msgspec.Raw) -> BatchSeen | OddEntry:
    """Read one entry of a list; one odd entry must not hide the others."""
    try:
        batch = _seen("list", _read_batch(raw))
    except ApiError as odd:
        why = odd.message
    except UNREADABLE as odd:
        why = redacted(str(odd))
    else:
        if batch.total > 0:
            return batch
        why = "its request_counts come to 0"
    try:
        named = _read_named(raw)
    except UNREADABLE:
        named = _Named()
    return OddEntry(batch_id=_id_in(named), created_at=_created_in(named), why=why)


def _id_in(named: _Named) -> str | None:
    return named.id if isinstance(named.id, str) and _ID.fullmatch(named.id) else None


def _created_in(named: _Named) -> float | None:
    try:
        return _moment(datetime.fromisoformat(named.created_at)) if isinstance(named.created_at, str) else None
    except (ValueError, OverflowError):
        return None


def _seen(what: str, batch: _Batch) -> BatchSeen:
    if not _ID.fullmatch(batch.id):
        raise ApiError(what, status=200, message=f"the id of a batch is {redacted(batch.id)[:40]!r}")
    if batch.request_counts is None and what != "retrieve":
        raise ApiError(what, status=200, message="the batch has no request_counts")
    counts = batch.request_counts or _Counts()
    try:
        created_at = _moment(datetime.fromisoformat(batch.created_at))
    except (ValueError, OverflowError) as odd:
        told = redacted(batch.created_at)[:40]
        raise ApiError(what, status=200, message=f"the created_at of a batch is {told!r}") from odd
    outcomes = (counts.succeeded, counts.errored, counts.canceled, counts.expired)
    return BatchSeen(
        batch_id=batch.id,
        status=batch.processing_status,
        created_at=created_at,
        total=counts.processing + sum(outcomes),
        counts=outcomes,
        archived=batch.archived_at is not None,
        ended=batch.processing_status == "ended",
    )
