"""What the service refuses before any route sees it."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.abc
import httpx2
import pytest

from abatch.errors import ConfigError
from abatch.service import guard, http1
from abatch.service.settings import Listen, Serve
from abatch.service.tokens import OWNER, Tokens
from tests.service.conftest import Starts
from tests.service.test_http_api import READ, error_of

pytestmark = pytest.mark.anyio


def place(client: httpx2.AsyncClient) -> tuple[str, int]:
    parts = urlsplit(str(client.base_url))
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


async def test_everything_but_livez_needs_a_token(served: Starts) -> None:
    async with served() as client:
        client.headers.pop("authorization")
        assert (await client.get("/livez")).text == "ok\n"
        for path in (
            "/",
            "/readyz",
            "/metrics",
            "/api/v1/jobs",
            "/api/v1/openapi.json",
            "/nothing",
            "/livez/",
        ):
            assert error_of(await client.get(path))[:2] == (401, "authentication_error")
        for header in ("Bearer", "Bearer wrong", "Basic b3duZXI6", "Bearer \u00e9"):
            refused = await client.get("/api/v1/jobs", headers={b"authorization": header.encode("latin-1")})
            assert refused.status_code == 401


async def test_another_host_name_is_refused_as_dns_rebinding_needs_one(served: Starts) -> None:
    async with served(hosts=("abatch.internal",)) as client:
        for name in ("evil.example", "evil.example:8787", "", "127.0.0.1.evil.example", "localhost.evil.example:80"):
            assert error_of(await client.get("/api/v1/jobs", headers={"host": name}))[0] == 421
        for name in ("localhost", "LOCALHOST:99", "[::1]:8787", "abatch.internal", "abatch.internal:443"):
            assert (await client.get("/api/v1/jobs", headers={"host": name})).status_code == 200


async def test_every_answer_has_the_headers_of_security(served: Starts) -> None:
    async with served() as client:
        for path in ("/livez", "/api/v1/jobs", "/nothing"):
            headers = (await client.get(path)).headers
            assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert headers["request-id"].startswith("req_")
            assert "server" not in headers


async def test_a_damaged_token_file_is_told_and_removing_it_is_enough(served: Starts, journal: Path) -> None:
    async with served() as client:
        damaged = journal / "tokens" / "ci"
        damaged.write_bytes(b"{")
        status, _, message = error_of(await client.get("/api/v1/jobs"))
        assert (status, "log of the service" in message, "ci" in message) == (503, True, False)
        damaged.unlink()
        assert (await client.get("/api/v1/jobs")).status_code == 200


async def test_a_head_that_is_never_complete_ends_its_connection(
    served: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "HEAD_SECONDS", 0.2)
    async with served() as client:
        whole = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for calls, rest in ((0, b""), (0, whole[:9]), (1, whole[:-2]), (2, b"G")):
            async with await anyio.connect_tcp(*place(client)) as stream:
                for _ in range(calls):
                    await stream.send(whole)
                    assert b" 200 " in await stream.receive()
                if rest:
                    await stream.send(rest)
                with anyio.fail_after(20):
                    assert [part async for part in stream if b" 200 " in part] == []


async def test_a_head_that_is_too_large_is_refused(served: Starts) -> None:
    async with served() as client:
        refused = await client.get("/livez", headers={"x": "y" * 2 * http1.HEAD_BYTES})
        assert refused.status_code == 431
        assert (await client.get("/livez", headers=[("x", "y")] * 200)).status_code == 431


async def test_a_body_that_pauses_is_answered_and_nothing_is_submitted(
    served: Starts, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.2)
    async with served() as client:
        head = (
            f"POST /api/v1/jobs?key=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            f"Authorization: {client.headers['authorization']}\r\n\r\n"
        )
        async with await anyio.connect_tcp(*place(client)) as stream:
            await stream.send(head.encode() + b'{"custom_id"')
            with anyio.fail_after(30):
                answer = await stream.receive()
        assert b" 408 " in answer.split(b"\r\n")[0]
        assert (await client.get("/api/v1/jobs")).json()["jobs"] == []
        assert list((journal / "inputs").iterdir()) == []


async def test_tls_is_served_with_the_files_of_the_settings(served: Starts, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    await anyio.run_process(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)]
    )  # fmt: skip
    async with served(tls_certificate=certificate, tls_key=key) as client:
        assert str(client.base_url).startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with httpx2.AsyncClient(base_url=client.base_url, verify=trusting, trust_env=False) as trusted:
            assert (await trusted.get("/livez")).text == "ok\n"


def test_beyond_this_machine_it_listens_only_with_tls_or_behind_a_proxy() -> None:
    wide = Listen(host="0.0.0.0", port=0)
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0:0 is reachable from other machines"):
        Serve(listen=wide).check()
    Serve(listen=wide, behind_proxy=True).check()
    with pytest.raises(ConfigError, match="both tls_certificate and tls_key"):
        Serve(tls_key=Path("key.pem")).check()


def test_a_taken_port_is_an_error_that_names_it(served: Starts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        async def start() -> None:
            async with served(listen=Listen(host="127.0.0.1", port=port)):
                pass

        with pytest.raises(BaseExceptionGroup) as failed:
            anyio.run(start)
    assert failed.group_contains(ConfigError, match=f"cannot listen on 127.0.0.1:{port}")


def test_tokens_are_closed_files_that_keep_their_secret(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    secret = tokens.secret_of()
    assert tokens.secret_of() == secret
    assert len(secret) > 40
    path = tmp_path / "tokens" / OWNER
    assert (oct(path.stat().st_mode & 0o777), oct(path.parent.stat().st_mode & 0o777)) == ("0o600", "0o700")
    assert [each.name for each in path.parent.iterdir()] == [OWNER]
    found = tokens.find(secret)
    assert found is not None
    assert (found.name, found.rights) == (OWNER, {"read", "submit", "steer"})
    assert tokens.find(secret[:-1]) is None
    assert tokens.find("") is None


def test_a_token_is_not_given_other_rights_or_an_odd_name(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path)
    tokens.secret_of("ci", READ)
    with pytest.raises(ConfigError, match="the token 'ci' has the rights read; remove"):
        tokens.secret_of("ci")
    for name in ("../x", "", ".x", "a/b", "x" * 65):
        with pytest.raises(ConfigError, match="a token's name must match"):
            tokens.secret_of(name)
    (tmp_path / "tokens" / "broken").write_text("{")
    with pytest.raises(ConfigError, match="broken is not a token"):
        tokens.find("x")
