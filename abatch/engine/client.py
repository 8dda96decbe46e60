"""The API as abatch uses it, through the official SDK. This is the only module of the core that imports the SDK.

Authentication, headers and error classes are those of the SDK. These points differ from plain use:

- A create is streamed and never repeated, because a retry by the SDK after a lost answer would make a second batch.
- No call follows a redirect, because the key would be sent along.
- Results are read from the path under the base URL, in one round trip, as raw bytes; `results_url` is ignored.
- Results are read through the SDK's aiohttp transport, which takes a third of the time of the SDK's other transport.
  They are requested without compression. If they arrive as gzip nevertheless, they are decoded here, because the SDK's
  decoder stops after the first of several members.
- Renewable credentials (OAuth) are renewed after a 401 of a read. A create is preceded by such a read, because a create
  is never repeated.
- Creates use fresh connections of abatch's own transport, for which the kernel drops undelivered bytes after a minute
  (`TCP_USER_TIMEOUT`): bound A4 of docs/reliability.md. With a caller's own client that bound is wider.
- The connections for creates read while they send, so that an early answer is not lost (`read_ahead.py`).

Errors are translated only here: `create` returns the values that table A of `reconcile.py` judges, and every other call
raises ApiError.
"""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import anthropic
import httpx2
from anthropic import AsyncStream

from abatch.engine.answers import Page, api_error, batch_of, page_of, replied
from abatch.engine.causes import in_words
from abatch.engine.proxies import is_loopback, proxy_for
from abatch.engine.stream import IDLE, chunks_of
from abatch.engine.transport import KEPT_CONNECTIONS, Nowhere, check_plain, http_client, trusted
from abatch.errors import ApiError, ConfigError
from abatch.log import redacted
from abatch.protocol.durations import ANSWER_WITHIN
from abatch.protocol.reconcile import BatchSeen, NoAnswer, Replied

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

    from anthropic._types import RequestOptions

    from abatch.protocol.facts import Headers

__all__ = ["Client"]

T = TypeVar("T")
_NOTHING: Final = (
    anthropic.AnthropicError,
    httpx2.HTTPError,
    httpx2.InvalidURL,
    OSError,
    ValueError,
    LookupError,
    AssertionError,
)
"""Everything that the SDK may raise when a call fails, including LookupError for an unknown charset.

TypeError is not included, because it means misuse.
"""

PATH: Final = "/v1/messages/batches"
_API_PATH: Final = re.compile(r"/v1(/messages(/batches)?)?/*$")
_PATIENCE: Final = httpx2.Timeout(IDLE, connect=15.0, pool=60.0)
PAGE: Final = 1000
_SENDABLE: Final = re.compile(r"[!-~]+")
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
AS_IT_IS: Final[Mapping[str, str]] = MappingProxyType({"Accept": "application/binary", "Accept-Encoding": "identity"})


class Client:
    """A client for one API and one key. Every call names its workspace; None is the key's own workspace."""

    def __init__(self, sdk: anthropic.AsyncAnthropic, *, own: bool) -> None:
        self._sdk = sdk
        self._own = own
        self._creating = sdk
        self._reading = sdk
        self.owns_socket = False
        """Whether undelivered bytes of a create are dropped within a minute."""
        url = sdk.base_url
        if url.userinfo:
            raise ConfigError("the base URL carries a user or password, and would stand in the journal; take them out")
        # The raw path is used, because the decoded one may hold characters that a URL must not contain.
        path = url.raw_path.partition(b"?")[0].decode("ascii")
        if (found := _API_PATH.search(path)) is not None:
            without = url.copy_with(raw_path=(path[: found.start()] or "/").encode())
            raise ConfigError(
                f"base URL {url} ends in {found[0].rstrip('/')}, which is added to it for each call; "
                f"set it to {str(without).rstrip('/')}"
            )
        if url.scheme != "https" and not is_loopback(url.host):
            check_plain(url)
        if self.fixed_key is not None and not _SENDABLE.fullmatch(self.fixed_key):
            raise ConfigError(
                "the API key holds a character that no key has (a blank, a line end, or one beyond ASCII); set "
                "ANTHROPIC_API_KEY, or the key of your own client, to the key alone. A file with the line ends of "
                "Windows leaves a carriage return behind it"
            )
        if own:
            proxy = proxy_for(url.scheme, url.host, url.port)
            certificates = trusted()  # All transports share it, because loading it takes a hundredth of a second.
            self._sdk = sdk.with_options(http_client=http_client(certificates, proxy, kept=KEPT_CONNECTIONS))
            self._creating = sdk.with_options(http_client=http_client(certificates, proxy, kept=0, for_creates=True))
            self._reading = self._sdk
            if proxy is None or proxy.startswith("http://"):  # aiohttp does not support SOCKS.
                self._reading = sdk.with_options(
                    http_client=anthropic.DefaultAioHttpClient(
                        verify=certificates, follow_redirects=False, trust_env=False, proxy=proxy
                    )
                )
            self.owns_socket = proxy is None and sys.platform == "linux"

    @classmethod
    def from_environment(cls) -> Client:
        """Make a client with the credentials that the SDK finds in the environment.

        Raises:
            ConfigError: there are no credentials, or the settings in the environment cannot be used.

        """
        try:
            # The SDK's default transport would read the environment again, in another way, so it is not used.
            sdk = anthropic.AsyncAnthropic(max_retries=0, http_client=httpx2.AsyncClient(transport=Nowhere()))
        except anthropic.AnthropicError as unusable:
            raise ConfigError(f"no usable API credentials: {redacted(str(unusable))}") from unusable
        except httpx2.InvalidURL as unusable:
            raise ConfigError(f"ANTHROPIC_BASE_URL is not an address: {unusable}") from unusable
        except Exception as unusable:
            raise ConfigError(_why_unusable(unusable)) from unusable
        if sdk.api_key is None and sdk.auth_token is None and sdk.credentials is None:
            raise ConfigError("no API key: set ANTHROPIC_API_KEY, or try it without one in abatch.sandbox")
        return cls(sdk, own=True)

    @property
    def base_url(self) -> str:
        """The API's address, without a trailing slash."""
        return str(self._sdk.base_url).rstrip("/")

    @property
    def fixed_key(self) -> str | None:
        """The key itself, for its fingerprint; None for credentials that change."""
        return self._sdk.api_key or self._sdk.auth_token

    @property
    def renews(self) -> bool:
        """Whether the credentials are tokens that the SDK can replace."""
        return self.fixed_key is None and self._sdk.credentials is not None

    async def renew(self, workspace_id: str | None) -> None:
        """Make sure that renewable credentials are valid, because a create is not repeated after a 401.

        Raises:
            ApiError: the credentials are refused, or the API could not be reached.

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
        """Send one create of exactly `size` bytes; it is never repeated and never redirected."""
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
            return replied(error.response)
        except _NOTHING as error:
            return NoAnswer(cause=_cause(error))
        return replied(answer)

    async def list(self, workspace_id: str | None, *, limit: int = PAGE, after_id: str | None = None) -> Page:
        """Read one page of the list.

        Raises:
            ApiError: the call failed, or the answer has no `Date`, without which it proves nothing about time.

        """
        query = f"{PATH}?limit={limit}" + ("" if after_id is None else f"&after_id={quote(after_id, safe='')}")
        answer = await self._get("list", query, workspace_id)
        return page_of(answer)

    async def retrieve(self, workspace_id: str | None, batch_id: str) -> BatchSeen:
        """Read one batch.

        Raises:
            ApiError: the call failed. A `status` of 404 may also mean a batch that exists and is not visible now.

        """
        answer = await self._get("retrieve", _path(batch_id), workspace_id)
        return batch_of(answer)

    async def cancel(self, workspace_id: str | None, batch_id: str) -> None:
        """Ask to cancel a batch that is proven ours.

        Raises:
            ApiError: the call was refused or not answered; repeating it is harmless.

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
        """Open the results of an ended batch, as chunks of raw bytes as they arrive.

        Raises:
            ApiError: the call failed, or the stream broke while the chunks were read.

        """

        def ask(options: RequestOptions) -> Awaitable[Any]:
            # With cast_to=Response and stream=True the SDK returns the open response itself.
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
            async with aclosing(chunks_of(answer)) as chunks:
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
        """Make a call that may be repeated, and repeat it once after a 401 if the credentials can be renewed.

        The SDK itself replaces a token after a 401, but only in a call that it may retry.
        """
        options = _once({**_workspace(workspace_id), **headers})
        try:
            return await call(options)
        except anthropic.AuthenticationError:
            if not self.renews:
                raise
        async with asyncio.timeout(2 * IDLE):  # The SDK waits as long as the 401 asks, so this limits the wait.
            return await call({**options, "max_retries": 1})


def _path(batch_id: str, behind: str = "") -> str:
    """Return the path of a batch; the id is quoted, because it is text from a server."""
    return f"{PATH}/{quote(batch_id, safe='')}{behind}"


def _once(headers: Mapping[str, str]) -> RequestOptions:
    return {
        "headers": headers,
        "max_retries": 0,
        "follow_redirects": False,
        "timeout": _PATIENCE,
    }


def _workspace(workspace_id: str | None) -> Mapping[str, str]:
    return {} if workspace_id is None else {"anthropic-workspace-id": workspace_id}


def _api_error(what: str, error: Exception) -> ApiError:
    if not isinstance(error, anthropic.APIStatusError):
        return ApiError(what, message=_cause(error))
    return api_error(what, error.response)


def _cause(error: Exception) -> str:
    cause = error if error.__cause__ is None or isinstance(error, TimeoutError) else error.__cause__
    if isinstance(cause, httpx2.PoolTimeout):
        return "PoolTimeout: the client's pool has too few connections; each create takes two"
    name, words = type(cause).__name__, in_words(error)
    return name if words is None else f"{name}: {words}"


def _why_unusable(failure: Exception) -> str:
    """Describe why no client can be built, and which variables to check."""
    if isinstance(failure, RuntimeError) and "home directory" in str(failure):
        return (
            "there is no home folder in which the SDK could look for credentials; "
            "set HOME, or ANTHROPIC_CONFIG_DIR, to a folder"
        )
    told = type(failure).__name__  # The rest of the failure's text may hold a header.
    if isinstance(failure, OSError) and failure.filename is not None:
        told = f"{failure.filename}: {failure.strerror}"
    return (
        f"no API client can be built from the environment ({told}); check ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN, "
        "ANTHROPIC_BASE_URL, ANTHROPIC_CUSTOM_HEADERS and ANTHROPIC_PROFILE"
    )
