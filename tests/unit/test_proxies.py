"""One reading of the proxy configuration: the table, and every call over each transport in each of its cases."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anthropic
import httpx2
import pytest

from abatch.engine.client import Client
from abatch.engine.proxies import proxy_for
from abatch.errors import ApiError, ConfigError
from abatch.protocol.facts import Headers
from abatch.protocol.reconcile import NoAnswer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
HOST = "api.corp.test"
"""A name that no DNS knows."""
TABLE = {
    # NO_PROXY: whether the API at https://api.corp.test is reached through the proxy
    "": True,
    "api.corp.test": False,
    "API.Corp.Test": False,
    "corp.test": False,
    ".corp.test": False,
    "*.corp.test": False,
    "*": False,
    "other.test, corp.test": False,
    "other.test corp.test": False,
    "corp.test:443": False,
    "corp.test:8443": True,
    "https://api.corp.test": False,
    "http://api.corp.test": True,
    "all://corp.test": False,
    "pi.corp.test": True,
    "orp.test": True,
    "10.0.0.0/8": True,
    "[::1]": True,
    "192.0.2.7, ,:": True,
}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[int, list[bytes]]]:
    """The port of a proxy that refuses everything, and the first lines of what it was asked."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0])
        writer.write(b"HTTP/1.1 503 Not today\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


async def call_everything(base_url: str) -> list[str]:
    """What each kind of call came to, where none is answered."""
    http = httpx2.AsyncClient(trust_env=False)  # a default one reads the environment itself, and fails at some of it
    sdk = anthropic.AsyncAnthropic(base_url=base_url, api_key="key", max_retries=0, http_client=http)
    calls = Client(sdk, own=True)

    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    told: list[str] = []
    try:
        for call in (calls.list(None), calls.retrieve(None, "b"), calls.cancel(None, "b")):
            with pytest.raises(ApiError) as failed:
                await call
            told.append(failed.value.message)
        with pytest.raises(ApiError) as failed:
            async with calls.results(None, "b"):
                pass
        told.append(failed.value.message)
        answer = await calls.create(Headers(), 2, body())
        assert isinstance(answer, NoAnswer)
        told.append(answer.cause)
    finally:
        await calls.aclose()
        await sdk.close()
    return told


@pytest.mark.parametrize(("no_proxy", "proxied"), TABLE.items())
async def test_every_transport_reads_the_proxy_configuration_in_the_same_way(no_proxy, proxied, monkeypatch):
    async with proxy() as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        assert (proxy_for("https", HOST, None) is not None) is proxied
        told = await call_everything(f"https://{HOST}")
        assert asked == [b"CONNECT api.corp.test:443 HTTP/1.1"] * (5 if proxied else 0)
    words = "the proxy refused the connection with status 503" if proxied else "the host name cannot be resolved"
    assert all(words in each for each in told), told


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["", "http://", "HTTP://"])
async def test_a_proxy_is_found_under_every_name_and_needs_no_scheme(variable, scheme, monkeypatch):
    async with proxy() as (port, asked):
        monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{port}")
        await call_everything(f"https://{HOST}")
        assert len(asked) == 5


@pytest.mark.parametrize(
    ("host", "no_proxy", "proxied"),
    [
        ("10.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", False),
        ("11.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.3:8443", True),
        ("fd00::1", "fd00::/8", False),
        ("fd00::1", "[fd00::1]", False),
        ("fd00::1", "[fd00::1]:8443", True),
        ("corp.test.", "corp.test", False),
        ("localhost", "", False),
        ("127.0.0.1", "", False),
        ("::1", "", False),
    ],
)
def test_addresses_and_networks_are_listed_too(host, no_proxy, proxied, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for("https", host, None) is not None) is proxied


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("http://", "is not the address of a proxy"),
        ("http://host:port", "is not the address of a proxy"),
        ("http://host:99999", "is not the address of a proxy"),
        ("http://ho st:1", "is not the address of a proxy"),
        ("ftp://user:canary@host:1", "one of http://"),
        ("socks5://user:canary@host:1", "pip install socksio"),
        ("socks5h://host:1", "pip install socksio"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_an_error_with_the_variable_and_a_remedy(value, remedy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(ConfigError, match="ALL_PROXY") as refused:
        proxy_for("https", HOST, None)
    assert remedy in str(refused.value)
    assert "canary" not in str(refused.value)
