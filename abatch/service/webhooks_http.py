"""Send one message to an endpoint: resolve its name, judge every address, sign, post, read a bounded answer."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
import httpx2

from abatch.engine.causes import in_words
from abatch.engine.transport import trusted
from abatch.service.webhooks_addresses import refusal
from abatch.service.webhooks_answers import WAITS, Delivered, Failed, Gone

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from abatch.events import Event
    from abatch.outbox import Message
    from abatch.service.webhooks_answers import Answer
    from abatch.service.webhooks_settings import Endpoint

__all__ = ["HttpReceiver", "Resolve", "resolve"]

PATIENCE: Final = 20.0
"""Seconds for an attempt, from the name to the end of the answer."""
READ_BYTES: Final = 16_384
"""Bytes of an answer that are read, and dropped; the connection is closed after them."""

Resolve: TypeAlias = "Callable[[str, int], Awaitable[Sequence[str]]]"
"""A function that returns the addresses of a host and port."""


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system's resolver finds them."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class HttpReceiver:
    """One endpoint. Connections are not kept: each attempt judges the addresses that the name has then.

    No proxy is used, because a proxy would resolve the name itself, and no redirect is followed.
    """

    waits: tuple[float, ...] = WAITS

    def __init__(
        self, endpoint: Endpoint, *, certificates: ssl.SSLContext | None = None, resolve: Resolve = resolve
    ) -> None:
        self._endpoint = endpoint
        self._resolve = resolve
        self._transport = httpx2.AsyncHTTPTransport(
            verify=trusted() if certificates is None else certificates,
            trust_env=False,
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
        self._client = httpx2.AsyncClient(
            transport=self._transport, follow_redirects=False, trust_env=False, timeout=PATIENCE
        )

    @property
    def name(self) -> str:
        """The name of the endpoint in the outbox."""
        return self._endpoint.name

    def wants(self, event: Event) -> bool:
        """Return whether the endpoint gets a message about this event."""
        return self._endpoint.wants(event)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def deliver(self, message: Message) -> Answer:
        """Make one attempt; every failure is an answer, too."""
        try:
            with anyio.fail_after(PATIENCE):
                return await self._attempt(message)
        except (TimeoutError, httpx2.TimeoutException):
            return Failed(note=f"no answer within {PATIENCE:g} s")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as failure:
            return Failed(note=_shorter(in_words(failure) or type(failure).__name__))

    async def _attempt(self, message: Message) -> Answer:
        url = self._endpoint.url
        host = url.raw_host.decode("ascii")
        addresses = await self._resolve(host, url.port or (443 if url.scheme == "https" else 80))
        for address in addresses:
            if (why := refusal(address, allow_private=self._endpoint.allow_private)) is not None:
                return Failed(note=f"not sent: {address} {why}")
        unreachable: httpx2.HTTPError | None = None
        for address in addresses:
            try:
                return await self._post(message, url.copy_with(host=address), host)
            except httpx2.ConnectError as failure:  # Nothing was sent.
                unreachable = failure
        if unreachable is not None:
            raise unreachable
        return Failed(note="the host has no address")

    async def _post(self, message: Message, url: httpx2.URL, host: str) -> Answer:
        now = int(time.time())
        headers = {
            "host": self._endpoint.url.netloc.decode("ascii"),
            "content-type": "application/json",
            "user-agent": "abatch",
            "accept-encoding": "identity",
            "webhook-id": message.id,
            "webhook-timestamp": str(now),
            "webhook-signature": self._endpoint.secrets.sign(message.id, now, message.body),
        }
        call = self._client.stream(
            "POST", url, content=message.body, headers=headers, extensions={"sni_hostname": host}
        )
        async with call as response:
            read = 0
            async for piece in response.aiter_raw():
                read += len(piece)
                if read >= READ_BYTES:
                    break
        return _answer(response.status_code, response.headers)


def _answer(status: int, headers: Mapping[str, str]) -> Answer:
    note = str(status)
    if 200 <= status < 300:
        return Delivered(note=note)
    if status == 410:
        return Gone(note=note)
    if 300 <= status < 400:
        return Failed(note=f"{status}: redirects are not followed")
    seconds = headers.get("retry-after", "")
    return Failed(note=note, not_before=float(seconds) if seconds.isdecimal() and len(seconds) < 9 else 0.0)


def _shorter(words: str) -> str:
    """Return what happened without advice about the API, which is another host."""
    return words.partition(";")[0].partition(". ")[0]
