"""Why a connection fails is named, over each transport; the certificate here is self-signed and for localhost."""

from __future__ import annotations

import asyncio
import pwd
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anthropic
import pytest

from abatch.engine.client import Client
from abatch.errors import ApiError, ConfigError
from tests.unit.test_proxies import call_everything, no_proxies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

__all__ = ["no_proxies"]

TLS = Path(__file__).parent / "tls"
CERTIFICATE = TLS / "cert.pem"


@asynccontextmanager
async def listening(*, tls: bool) -> AsyncIterator[int]:
    """The port of a server that answers 500 to everything."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE, TLS / "key.pem")
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context if tls else None)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_certificate_that_is_not_trusted_is_named_with_the_variables_that_mend_it(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    async with listening(tls=True) as port:
        for told in await call_everything(f"https://localhost:{port}"):
            assert "the certificate is not trusted (self" in told
            assert "SSL_CERT_FILE" in told
            assert "SSL_CERT_DIR" in told


async def test_the_remedy_for_a_certificate_works(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with listening(tls=True) as port:
        sdk = anthropic.AsyncAnthropic(base_url=f"https://localhost:{port}", api_key="key", max_retries=0)
        calls = Client(sdk, own=True)
        with pytest.raises(ApiError) as answered:
            await calls.list(None)
        assert answered.value.status == 500
        with pytest.raises(ApiError) as answered:
            async with calls.results(None, "b"):
                pass
        assert answered.value.status == 500
        await calls.aclose()
        await sdk.close()


async def test_a_certificate_for_another_host_is_named(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    async with listening(tls=True) as port:
        for told in await call_everything(f"https://127.0.0.1:{port}"):
            assert "the certificate is for another host name" in told


async def test_a_port_that_speaks_no_tls_is_named():
    async with listening(tls=False) as port:
        for told in await call_everything(f"https://127.0.0.1:{port}"):
            assert "TLS failed" in told


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://api.corp.test", "the host name cannot be resolved"),
        ("http://127.0.0.1:9", "the connection was refused: nothing listens"),
        ("http://localhost:9", "the connection was refused: nothing listens"),
    ],
)
async def test_an_unknown_name_and_a_refused_port_are_named(url, words):
    for told in await call_everything(url):
        assert words in told


async def test_a_header_that_http_does_not_allow_is_named_and_not_shown():
    sdk = anthropic.AsyncAnthropic(
        base_url="http://127.0.0.1:9", api_key="key", max_retries=0, default_headers={"x-own": "canary\r"}
    )
    calls = Client(sdk, own=True)
    async with listening(tls=False) as port:
        calls = Client(sdk.with_options(base_url=f"http://127.0.0.1:{port}"), own=True)
        with pytest.raises(ApiError) as failed:
            await calls.list(None)
    await calls.aclose()
    assert "ANTHROPIC_CUSTOM_HEADERS" in failed.value.message
    assert "canary" not in str(failed.value)


@pytest.mark.parametrize(
    "key", ["canary\r", "canary\n", "canary ", "ca nary", "canary\u2028", "schlüssel", "\ufeffcanary"]
)
async def test_a_key_with_a_character_that_no_key_has_is_refused_before_any_call(key, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY") as refused:
        Client.from_environment()
    assert "nary" not in str(refused.value)
    assert "carriage return" in str(refused.value)


async def test_what_building_a_client_raises_names_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    (tmp_path / "empty.pem").write_text("")
    for path in (tmp_path / "none.pem", tmp_path / "empty.pem", tmp_path):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(ConfigError, match="SSL_CERT_FILE=") as refused:
            Client.from_environment()
        assert "unset it" in str(refused.value)
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://host:port")
    with pytest.raises(ConfigError, match="ANTHROPIC_BASE_URL"):
        Client.from_environment()


async def test_plain_http_goes_to_a_host_that_was_named_and_to_no_other(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://gateway:8080")
    for others in ("", "other", "gateway:8080", "gate*", "1"):
        monkeypatch.setenv("ABATCH_ALLOW_HTTP", others)
        with pytest.raises(ConfigError, match="ABATCH_ALLOW_HTTP=gateway"):
            Client.from_environment()
    monkeypatch.setenv("ABATCH_ALLOW_HTTP", "other, Gateway")
    await Client.from_environment().aclose()


async def test_a_user_without_a_home_folder_is_told_which_variable_to_set(monkeypatch, tmp_path):
    def unnamed(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setenv("ANTHROPIC_API_KEY", "key")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unnamed)  # as for a user id that a container was given
    with pytest.raises(ConfigError, match="set HOME, or ANTHROPIC_CONFIG_DIR"):
        Client.from_environment()
    for remedy in ("HOME", "ANTHROPIC_CONFIG_DIR"):
        with monkeypatch.context() as there:
            there.setenv(remedy, str(tmp_path))
            await Client.from_environment().aclose()
