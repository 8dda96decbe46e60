"""The API as abatch uses it, over the official SDK: the only module of the core that imports it.

Auth, headers and error classes stay the SDK's. What differs from plain use, and why:

- A create is streamed and never repeated: the SDK's own retry of a lost answer makes a second batch.
- No call follows a redirect: the key would go with it.
- Results come from the path under the base URL, in one round trip, as raw bytes; `results_url` is ignored.
- They are read through the SDK's aiohttp transport, which takes a third of the time of its other one. They are asked
  for without compression; gzip is decoded here if it comes all the same, because the SDK's decoder ends with the first
  of several members.
- Credentials that renew (OAuth) renew after a 401 of a read. A create is preceded by such a read, and never repeated.
- Creates go over fresh connections of a transport of our own, whose kernel gives up undelivered bytes after a
  minute (`TCP_USER_TIMEOUT`): bound A4 of docs/reliability.md. With a caller's own client that bound is wider.

Errors are translated here, once: `create` returns what table A of `reconcile.py` judges, everything else raises
ApiError.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import sys
import zlib
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast
from urllib.parse import quote

import anthropic
import httpx2
import msgspec
from anthropic import AsyncStream

from abatch.engine.causes import in_words
from abatch.engine.proxies import is_loopback, proxy_for
from abatch.errors import ApiError, ConfigError
from abatch.log import log, redacted
from abatch.protocol.durations import ANSWER_WITHIN, HOUR
from abatch.protocol.reconcile import BatchSeen, NoAnswer, Replied

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from anthropic._types import RequestOptions

    from abatch.protocol.facts import Headers

__all__ = ["Client", "Page"]

T = TypeVar("T")
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What an answer that is not JSON of the expected kind raises."""

_NOTHING: Final = (
    anthropic.AnthropicError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    OSError,
    ValueError,
    LookupError,
    AssertionError,
)
"""All that the SDK may raise when a call fails, with LookupError for an unknown charset; not TypeError, a misuse."""

PATH: Final = "/v1/messages/batches"
_API_PATH: Final = re.compile(r"/v1(/messages(/batches)?)?/*$")
IDLE: Final = 120.0
"""Seconds without a byte after which a read is given up."""
_PATIENCE: Final = httpx2.Timeout(IDLE, connect=15.0, pool=60.0)
PAGE: Final = 1000
_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,199}")
"""Of a batch: it stands in paths, in the journal and on the screen."""
_OF_A_SERVER: Final = frozenset({"", "api_error", "overloaded_error", "timeout_error"})
"""`error.type` of an envelope that is none, or that no refusal (4xx) of the API's own carries."""
LONGEST_WAIT: Final = HOUR
"""Seconds of a `retry-after` that are believed, at most."""
USER_TIMEOUT_MS: Final = 60_000
CONNECTIONS: Final = 1000
"""Of one transport, at most, as the SDK has it."""
KEPT_CONNECTIONS: Final = 100
_SENDABLE: Final = re.compile(r"[!-~]+")
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
AS_IT_IS: Final[Mapping[str, str]] = MappingProxyType({"Accept": "application/binary", "Accept-Encoding": "identity"})
GZIP: Final = zlib.MAX_WBITS | 16
MAGIC: Final = b"\x1f\x8b"
ZIPPED_STEP: Final = 2**14
UNZIPPED: Final = 2**18
"""Bytes that are decoded at once, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of the list, newest first."""

    date: float
    batches: tuple[BatchSeen, ...]
    has_more: bool
    last_id: str | None


class _Counts(msgspec.Struct):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class _Batch(msgspec.Struct):
    id: str
    processing_status: str
    request_counts: _Counts
    created_at: str
    archived_at: str | None = None


class _List(msgspec.Struct):
    data: list[_Batch]
    has_more: bool
    last_id: str | None = None


class _Error(msgspec.Struct):
    type: str
    message: str = ""
    details: object = None
    """An object or null, and seen as a list and as a text, too."""

    @property
    def code(self) -> str | None:
        """What names the error more closely than its type."""
        match self.details:
            case {"error_code": str(code)}:
                return code
            case _:
                return None


class _Envelope(msgspec.Struct):
    """The API's error envelope; a proxy's page is not one."""

    type: Literal["error"]
    """A tag of msgspec's would also take a body without it."""
    error: _Error


class Client:
    """One API, one key. Every call names the workspace it is about, None for the key's own."""

    def __init__(self, sdk: anthropic.AsyncAnthropic, *, own: bool) -> None:
        self._sdk = sdk
        self._own = own
        self._creating = sdk
        self._reading = sdk
        self.owns_socket = False
        """Whether undelivered bytes of a create die within a minute."""
        url = sdk.base_url
        if url.userinfo:
            raise ConfigError("the base URL carries a user or password, and would stand in the journal; take them out")
        path = url.raw_path.partition(b"?")[0].decode("ascii")  # as it is sent: decoded it may hold what no URL may
        if (found := _API_PATH.search(path)) is not None:
            without = url.copy_with(raw_path=(path[: found.start()] or "/").encode())
            raise ConfigError(
                f"base URL {url} ends in {found[0].rstrip('/')}, which is added to it for each call; "
                f"set it to {str(without).rstrip('/')}"
            )
        if url.scheme != "https" and not is_loopback(url.host):
            _check_plain(url)
        if self.fixed_key is not None and not _SENDABLE.fullmatch(self.fixed_key):
            raise ConfigError(
                "the API key holds a character that no key has (a blank, a line end, or one beyond ASCII); set "
                "ANTHROPIC_API_KEY, or the key of your own client, to the key alone. A file with the line ends of "
                "Windows leaves a carriage return behind it"
            )
        if own:
            proxy = proxy_for(url.scheme, url.host, url.port)
            trusted = _trusted()  # one for all transports: each takes a hundredth of a second
            self._sdk = sdk.with_options(http_client=_http(trusted, proxy, kept=KEPT_CONNECTIONS))
            self._creating = sdk.with_options(http_client=_http(trusted, proxy, kept=0))
            self._reading = self._sdk
            if proxy is None or proxy.startswith("http://"):  # aiohttp speaks no SOCKS
                self._reading = sdk.with_options(
                    http_client=anthropic.DefaultAioHttpClient(
                        verify=trusted, follow_redirects=False, trust_env=False, proxy=proxy
                    )
                )
            self.owns_socket = proxy is None and sys.platform == "linux"

    @classmethod
    def from_environment(cls) -> Client:
        """A client with the credentials of the environment, as the SDK finds them.

        Raises:
            ConfigError: there are none, or what the environment names cannot be used.

        """
        try:
            # its own connections would read the environment once more, and in another way
            sdk = anthropic.AsyncAnthropic(max_retries=0, http_client=httpx2.AsyncClient(transport=_Nowhere()))
        except anthropic.AnthropicError as unusable:
            raise ConfigError(f"no usable API credentials: {redacted(str(unusable))}") from unusable
        except httpx2.InvalidURL as unusable:
            raise ConfigError(f"ANTHROPIC_BASE_URL is not an address: {unusable}") from unusable
        except Exception as unusable:
            raise ConfigError(_why_unusable(unusable)) from unusable
        if sdk.api_key is None and sdk.auth_token is None and sdk.credentials is None:
            raise ConfigError("no API key: set ANTHROPIC_API_KEY, or try it without one by --sandbox")
        return cls(sdk, own=True)

    @property
    def base_url(self) -> str:
        """The API's address, without a trailing slash."""
        return str(self._sdk.base_url).rstrip("/")

    @property
    def fixed_key(self) -> str | None:
        """The key itself, to fingerprint; None for credentials that change."""
        return self._sdk.api_key or self._sdk.auth_token

    @property
    def renews(self) -> bool:
        """Whether the credentials are tokens that the SDK can replace."""
        return self.fixed_key is None and self._sdk.credentials is not None

    async def renew(self, workspace_id: str | None) -> None:
        """Make sure that credentials that renew are good: a create is not repeated, whatever it is answered.

        Raises:
            ApiError: they are refused, or the API could not be asked.

        """
        if self.renews:
            await self.list(workspace_id, limit=1)

    async def aclose(self) -> None:
        """Close the connections that were opened here."""
        if self._own:
            await self._creating.close()
            if self._reading is not self._sdk:
                await self._reading.close()
            await self._sdk.close()

    async def create(self, headers: Headers, size: int, body: AsyncIterator[bytes]) -> Replied | NoAnswer:
        """Send one create of exactly `size` bytes. Never repeated, never redirected."""
        options: RequestOptions = {
            "headers": {
                "Content-Length": str(size),
                "Content-Type": "application/json",
                **_workspace(headers.workspace_id),
                **({"anthropic-beta": ",".join(headers.betas)} if headers.betas else {}),
                **({"anthropic-user-profile-id": headers.user_profile_id} if headers.user_profile_id else {}),
            },
            "max_retries": 0,
            "follow_redirects": False,
            "timeout": httpx2.Timeout(ANSWER_WITHIN, connect=15.0, pool=60.0),
        }
        try:
            answer = await self._creating.post(PATH, cast_to=httpx2.Response, content=body, options=options)
        except anthropic.APIStatusError as error:
            return _replied(error.response)
        except _NOTHING as error:
            return NoAnswer(cause=_cause(error))
        return _replied(answer)

    async def list(self, workspace_id: str | None, *, limit: int = PAGE, after_id: str | None = None) -> Page:
        """One page of the list.

        Raises:
            ApiError: also for a reply without `Date`, which proves nothing about time.

        """
        query = f"{PATH}?limit={limit}" + ("" if after_id is None else f"&after_id={quote(after_id, safe='')}")
        answer = await self._get("list", query, workspace_id)
        page = _decode("list", answer, _List)
        return Page(
            date=_date("list", answer),
            batches=tuple(_seen("list", batch) for batch in page.data),
            has_more=page.has_more,
            last_id=page.last_id or (page.data[-1].id if page.data else None),
        )

    async def retrieve(self, workspace_id: str | None, batch_id: str) -> BatchSeen:
        """One batch.

        Raises:
            ApiError: with `status` 404 also for a batch that exists and does not show at the moment.

        """
        answer = await self._get("retrieve", _path(batch_id), workspace_id)
        return _seen("retrieve", _decode("retrieve", answer, _Batch))

    async def cancel(self, workspace_id: str | None, batch_id: str) -> None:
        """Ask to cancel a batch that is proven ours.

        Raises:
            ApiError: it was refused or not answered; asking again is harmless.

        """
        path = _path(batch_id, "/cancel")
        try:
            await self._ask(
                lambda options: self._sdk.post(path, cast_to=httpx2.Response, options=options), workspace_id
            )
        except _NOTHING as error:
            raise _api_error("cancel", error) from error

    @asynccontextmanager
    async def results(self, workspace_id: str | None, batch_id: str) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """The raw bytes of an ended batch's results, in chunks as they come.

        Raises:
            ApiError: on entering, and while the chunks are read when the stream breaks.

        """

        def ask(options: RequestOptions) -> Awaitable[Any]:
            # with cast_to=Response and stream=True the SDK gives the open response itself
            return self._reading.get(
                _path(batch_id, "/results"),
                cast_to=httpx2.Response,
                stream=True,
                stream_cls=AsyncStream[object],
                options=options,
            )

        try:
            async with asyncio.timeout(2 * IDLE):
                answer = await self._ask(ask, workspace_id, AS_IT_IS)
        except _NOTHING as error:
            raise _api_error("results", error) from error
        try:
            async with aclosing(_chunks(answer)) as chunks:
                yield chunks
        finally:
            await answer.aclose()

    async def _get(self, what: str, path: str, workspace_id: str | None) -> httpx2.Response:
        try:
            return await self._ask(
                lambda options: self._sdk.get(path, cast_to=httpx2.Response, options=options), workspace_id
            )
        except _NOTHING as error:
            raise _api_error(what, error) from error

    async def _ask(
        self,
        call: Callable[[RequestOptions], Awaitable[T]],
        workspace_id: str | None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> T:
        """Make a call that may be repeated; once more after a 401, if there may be a better token.

        The SDK itself replaces a token that was answered 401, but only in a call that it may retry.
        """
        options = _once({**_workspace(workspace_id), **headers})
        try:
            return await call(options)
        except anthropic.AuthenticationError:
            if not self.renews:
                raise
        async with asyncio.timeout(2 * IDLE):  # it waits as long as the 401 asks
            return await call({**options, "max_retries": 1})


def _path(batch_id: str, behind: str = "") -> str:
    """Of a batch; its id is whatever some server said."""
    return f"{PATH}/{quote(batch_id, safe='')}{behind}"


async def _chunks(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    since = loop.time()
    timer: asyncio.TimerHandle

    def look() -> None:  # by a timer of its own: a timeout per chunk costs a twentieth of a drain
        nonlocal timer
        timer = loop.call_later(IDLE / 8, look)
        if loop.time() - since >= IDLE and not idle.expired():
            idle.reschedule(since)

    timer = loop.call_later(IDLE / 8, look)
    try:
        async with asyncio.timeout(None) as idle:  # some transports wait for ever behind bytes that are not HTTP
            async with aclosing(_decoded(answer)) as pieces:
                async for chunk in pieces:
                    since = math.inf
                    if idle.when() is not None:  # it came in the last moment
                        idle.reschedule(None)
                    yield chunk
                    since = loop.time()
    except Exception as broken:
        raise ApiError(f"results: the stream broke ({type(broken).__name__})") from broken
    finally:
        timer.cancel()


def _decoded(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The body without its compression."""
    if answer.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip"):
        return _unzipped(answer)
    return answer.aiter_bytes()


async def _unzipped(answer: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Every member of a body in gzip: a proxy may send each piece of what it passes on as one.

    Raises:
        ConnectionError: the body ends inside a member.

    """
    members = Members()
    async with aclosing(answer.aiter_raw()) as chunks:
        async for chunk in chunks:
            for piece in members.feed(chunk):
                yield piece
    if not members.whole:
        raise ConnectionError("it ends inside compressed data")


class Members:
    """A stream of gzip members, decoded piece by piece; no piece is larger than 256 KiB."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(GZIP)
        self._began = False
        """The member has got a byte."""
        self._begin: bytes = b""
        """What may be the beginning of another member, and is too short to tell."""
        self._over = False

    @property
    def whole(self) -> bool:
        """Whether it may end here."""
        return self._over or not self._began or self._member.eof

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Decode the next bytes of the stream.

        Raises:
            zlib.error: they are not what gzip makes.

        """
        for start in range(0, len(chunk), ZIPPED_STEP):  # short: each member that ends in one copies the rest of it
            yield from self._feed(chunk[start : start + ZIPPED_STEP])

    def _feed(self, data: bytes) -> Iterator[bytes]:
        data = self._begin + data
        self._begin = b""
        while data and not self._over:
            if self._member.eof:
                if len(data) < len(MAGIC):
                    self._begin = data
                    return
                if not data.startswith(MAGIC):  # padding, or other bytes that do not belong to it
                    self._over = True
                    return
                self._member = zlib.decompressobj(GZIP)
            self._began = True
            while piece := self._member.decompress(data, UNZIPPED):
                yield piece
                if self._member.eof:
                    break
                data = self._member.unconsumed_tail
            data = self._member.unused_data


def _once(headers: Mapping[str, str]) -> RequestOptions:
    return {
        "headers": headers,
        "max_retries": 0,
        "follow_redirects": False,
        "timeout": _PATIENCE,
    }


def _workspace(workspace_id: str | None) -> Mapping[str, str]:
    return {} if workspace_id is None else {"anthropic-workspace-id": workspace_id}


# ---- reading answers ------------------------------------------------------------------------------------------


def _replied(answer: httpx2.Response) -> Replied:
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
        message="" if error is None else error.message,
        envelope=envelope,
        retry_after=_retry_after(answer),
    )


def _envelope(answer: httpx2.Response) -> tuple[bytes, _Error | None]:
    """The API's error envelope without keys: what it says goes into the journal, and to the screen."""
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
    except (*UNREADABLE, ValueError, OverflowError):  # numbers without end
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
    """The key that the call was made with, in case the answer repeats it."""
    try:
        sent = answer.request.headers
    except RuntimeError:  # an answer that no request led to
        return ()
    return tuple(key for key in (sent.get("x-api-key"), sent.get("authorization", "").removeprefix("Bearer ")) if key)


def _api_error(what: str, error: Exception) -> ApiError:
    if not isinstance(error, anthropic.APIStatusError):
        return ApiError(what, message=_cause(error))
    answer = error.response
    _, envelope = _envelope(answer)
    return ApiError(
        what,
        status=answer.status_code,
        kind=None if envelope is None else envelope.type,
        error_code=None if envelope is None else envelope.code,
        message="" if envelope is None else envelope.message,
        request_id=_request_id(answer),
        retry_after=_retry_after(answer),
    )


def _request_id(answer: httpx2.Response) -> str | None:
    told = answer.headers.get("request-id")
    return None if told is None else redacted(told)


def _cause(error: Exception) -> str:
    cause = error if error.__cause__ is None or isinstance(error, TimeoutError) else error.__cause__
    if isinstance(cause, httpx2.PoolTimeout):
        return "PoolTimeout: the client's pool has too few connections; each create takes two"
    name, words = type(cause).__name__, in_words(error)
    return name if words is None else f"{name}: {words}"


def _retry_after(answer: httpx2.Response) -> float | None:
    try:
        asked = float(answer.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return min(max(asked, 0.0), LONGEST_WAIT) if math.isfinite(asked) else None


def _date(what: str, answer: httpx2.Response) -> float:
    try:
        return _moment(parsedate_to_datetime(answer.headers["date"]))
    except (KeyError, ValueError, OverflowError) as missing:
        raise ApiError(what, status=answer.status_code, message="the answer has no Date header") from missing


def _date_if_told(answer: httpx2.Response) -> float | None:
    try:
        return _date("create", answer)
    except ApiError:
        return None


def _moment(told: datetime) -> float:
    if told.tzinfo is None:  # Python would take it for local time
        raise ValueError("no time zone")
    return told.timestamp()


def _decode(what: str, answer: httpx2.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except UNREADABLE as unreadable:
        raise ApiError(what, status=answer.status_code, message="the answer is not what the API sends") from unreadable


def _seen(what: str, batch: _Batch) -> BatchSeen:
    counts = batch.request_counts
    if not _ID.fullmatch(batch.id):
        raise ApiError(what, status=200, message=f"the id of a batch is {redacted(batch.id)[:40]!r}")
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


# ---- the socket -----------------------------------------------------------------------------------------------


def _socket_options() -> list[tuple[int, int, int]]:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if sys.platform == "linux":
        options += [
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        ]
    return options


def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted: those of SSL_CERT_FILE or SSL_CERT_DIR, else the system's.

    Raises:
        ConfigError: the variable names none.

    """
    try:
        return httpx2.create_ssl_context()
    except OSError as failure:  # also ssl.SSLError
        for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if named := os.environ.get(variable):
                why = failure.strerror or type(failure).__name__
                raise ConfigError(
                    f"{variable}={named} cannot be used ({why}); set it to certificates in the form PEM, or unset it"
                ) from failure
        raise ConfigError(f"the system's certificates cannot be read ({failure}); set SSL_CERT_FILE") from failure


def _http(trusted: ssl.SSLContext, proxy: str | None, *, kept: int) -> httpx2.AsyncClient:
    """Connections of our own; `kept` of them stay open between calls."""
    transport = httpx2.AsyncHTTPTransport(
        verify=trusted,
        limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=kept),
        proxy=None if proxy is None else httpx2.Proxy(proxy, ssl_context=trusted if proxy[:6] == "https:" else None),
        socket_options=_socket_options(),
    )
    return httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)


class _Nowhere(httpx2.AsyncBaseTransport):
    """Takes the place of connections in a client that is never called."""


def _why_unusable(failure: Exception) -> str:
    """Why no client can be built, and which variable to look at."""
    if isinstance(failure, RuntimeError) and "home directory" in str(failure):
        return (
            "there is no home folder in which the SDK could look for credentials; "
            "set HOME, or ANTHROPIC_CONFIG_DIR, to a folder"
        )
    told = type(failure).__name__  # what else it says may hold a header
    if isinstance(failure, OSError) and failure.filename is not None:
        told = f"{failure.filename}: {failure.strerror}"
    return (
        f"no API client can be built from the environment ({told}); check ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, "
        "ANTHROPIC_BASE_URL, ANTHROPIC_CUSTOM_HEADERS and ANTHROPIC_PROFILE"
    )


def _check_plain(url: httpx2.URL) -> None:
    """Refuse to send the key in the clear, unless the operator has named this host.

    Raises:
        ConfigError: ABATCH_ALLOW_HTTP does not.

    """
    if url.scheme == "http" and url.host in os.environ.get("ABATCH_ALLOW_HTTP", "").replace(",", " ").lower().split():
        log.warning("key_sent_in_the_clear", host=url.host)
        return
    raise ConfigError(
        f"base URL {url} would send the API key in the clear; use https. If the network between here and "
        f"{url.host} is your own, for instance of one Docker host: ABATCH_ALLOW_HTTP={url.host}"
    )
