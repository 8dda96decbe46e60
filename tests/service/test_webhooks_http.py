"""A message arrives signed, once per attempt, at the vetted address; whatever the receiver answers, an attempt ends."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Sequence
from pathlib import Path

import anthropic
import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from abatch.service import webhooks_http
from abatch.service.webhooks_answers import Answer, Delivered, Failed, Gone
from abatch.service.webhooks_http import HttpReceiver
from abatch.service.webhooks_settings import Endpoint
from tests.service.receivers import (
    MESSAGE,
    OTHER_SECRET,
    SECRET,
    Reply,
    as_request,
    endless_body,
    endless_headers,
    endpoint_at,
    listening,
    nothing,
    silence,
    status,
)

pytestmark = pytest.mark.anyio
TLS = Path(__file__).parents[1] / "unit" / "tls"


async def send(endpoint: Endpoint, resolve: webhooks_http.Resolve = webhooks_http.resolve) -> Answer:
    receiver = HttpReceiver(endpoint, certificates=ssl.create_default_context(cafile=TLS / "cert.pem"), resolve=resolve)
    try:
        return await receiver.deliver(MESSAGE)
    finally:
        await receiver.aclose()


class Names:
    """A resolver that gives another list of addresses each time."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        return self.answers[len(self.asked) - 1]


async def test_a_message_is_verified_by_standardwebhooks_and_by_the_sdk(tmp_path: Path) -> None:
    async with listening() as receiver:
        assert await send(endpoint_at(receiver.url, folder=tmp_path)) == Delivered(note="204")
        (got,) = receiver.received
    assert got.line == "POST /hook?token=t0 HTTP/1.1"
    assert got.body == MESSAGE.body
    assert got.headers["webhook-id"] == MESSAGE.id
    assert got.headers["content-type"] == "application/json"
    assert Webhook(SECRET).verify(got.body, got.headers) == json.loads(MESSAGE.body)
    client = anthropic.Anthropic(api_key="k", webhook_key=SECRET)
    event = client.beta.webhooks.unwrap(got.body.decode(), headers=as_request(got))
    assert (event.id, event.data.id) == (MESSAGE.id, "nightly")


async def test_a_forged_or_replayed_message_is_refused_by_its_verifiers(tmp_path: Path) -> None:
    async with listening() as receiver:
        await send(endpoint_at(receiver.url, folder=tmp_path))
        (got,) = receiver.received
    client = anthropic.Anthropic(api_key="k", webhook_key=SECRET)
    an_hour_ago = str(int(time.time()) - 3600)
    for changed in (
        {"webhook-signature": "v1,AAAA"},
        {"webhook-id": "evt_2"},
        {"webhook-timestamp": an_hour_ago},
        {"webhook-timestamp": str(int(got.headers["webhook-timestamp"]) + 1)},
    ):
        with pytest.raises(WebhookVerificationError):
            client.beta.webhooks.unwrap(got.body.decode(), headers={**got.headers, **changed})
    with pytest.raises(WebhookVerificationError):
        client.beta.webhooks.unwrap(got.body.decode() + " ", headers=got.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_SECRET).verify(got.body, got.headers)


async def test_during_a_rotation_either_secret_verifies(tmp_path: Path) -> None:
    async with listening() as receiver:
        await send(endpoint_at(receiver.url, secrets=(SECRET, OTHER_SECRET), folder=tmp_path))
        (got,) = receiver.received
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(got.body, got.headers)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (status(200), Delivered(note="200")),
        (status(410), Gone(note="410")),
        (status(400), Failed(note="400")),
        (status(500), Failed(note="500")),
        (status(503, "retry-after: 120"), Failed(note="503", not_before=120.0)),
        (status(429, "retry-after: soon"), Failed(note="429")),
        (status(429, "retry-after: " + "9" * 400), Failed(note="429")),
        (status(302, "location: /elsewhere"), Failed(note="302: redirects are not followed")),
        (status(307, "location: http://127.0.0.1/"), Failed(note="307: redirects are not followed")),
        (nothing, Failed(note="RemoteProtocolError")),
        (endless_body, Delivered(note="200")),
        (endless_headers, Failed(note="RemoteProtocolError")),
    ],
)
async def test_every_answer_ends_the_attempt_after_one_request(tmp_path: Path, reply: Reply, answer: Answer) -> None:
    async with listening(reply) as receiver:
        assert await send(endpoint_at(receiver.url, folder=tmp_path)) == answer
        assert (receiver.connections, len(receiver.received)) == (1, 1)


async def test_a_receiver_that_does_not_answer_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks_http, "PATIENCE", 0.2)
    async with listening(silence) as receiver:
        assert await send(endpoint_at(receiver.url, folder=tmp_path)) == Failed(note="no answer within 0.2 s")


async def test_a_port_at_which_nothing_listens_is_a_failure(tmp_path: Path) -> None:
    async with listening() as receiver:
        url = receiver.url
    assert await send(endpoint_at(url, folder=tmp_path)) == Failed(
        note="the connection was refused: nothing listens at this host and port"
    )


async def test_a_name_without_an_address_is_a_failure(tmp_path: Path) -> None:
    endpoint = endpoint_at("https://hooks.example.com/", folder=tmp_path)
    assert await send(endpoint, Names([])) == Failed(note="the host has no address")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::ffff:127.0.0.1", "fd00::1"])
async def test_nothing_is_sent_to_a_name_of_the_inner_network(tmp_path: Path, address: str) -> None:
    endpoint = endpoint_at("https://hooks.example.com/", folder=tmp_path, allow_private=False)
    answer = await send(endpoint, Names(["93.184.216.34", address]))
    assert isinstance(answer, Failed)
    assert answer.note.startswith(f"not sent: {address} ")


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "localhost", "[::1]"])
async def test_other_spellings_of_this_machine_are_found_out(tmp_path: Path, host: str) -> None:
    async with listening() as receiver:
        assert isinstance(await send(endpoint_at(f"https://{host}/", folder=tmp_path, allow_private=False)), Failed)
        assert receiver.connections == 0


async def test_a_name_that_changes_its_address_after_the_check_changes_nothing(tmp_path: Path) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    async with listening() as receiver:
        endpoint = endpoint_at(f"http://rebound.example:{receiver.port}/", folder=tmp_path)
        assert await send(endpoint, names) == Delivered(note="204")
        assert names.asked == [("rebound.example", receiver.port)]
        assert receiver.received[0].headers["host"] == f"rebound.example:{receiver.port}"


async def test_a_rebound_name_is_judged_again_by_the_next_attempt(tmp_path: Path) -> None:
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    async with listening() as receiver:
        endpoint = endpoint_at(f"http://rebound.example:{receiver.port}/", folder=tmp_path)
        one = HttpReceiver(endpoint, resolve=names)
        assert await one.deliver(MESSAGE) == Delivered(note="204")
        answer = await one.deliver(MESSAGE)
        await one.aclose()
        assert answer == Failed(note="not sent: 169.254.169.254 is an address of a metadata service")
        assert receiver.connections == 1


async def test_the_next_address_is_tried_if_the_first_refuses_the_connection(tmp_path: Path) -> None:
    async with listening() as receiver:
        endpoint = endpoint_at(f"http://two.example:{receiver.port}/", folder=tmp_path)
        assert await send(endpoint, Names(["127.0.0.9", "127.0.0.1"])) == Delivered(note="204")
        assert len(receiver.received) == 1


async def test_the_certificate_is_that_of_the_name_though_the_connection_goes_to_an_address(tmp_path: Path) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    async with listening(tls=server) as receiver:
        right = endpoint_at(f"https://localhost:{receiver.port}/", folder=tmp_path)
        assert await send(right, Names(["127.0.0.1"])) == Delivered(note="204")
        assert receiver.names == ["localhost"]
        wrong = endpoint_at(f"https://other.example:{receiver.port}/", folder=tmp_path)
        answer = await send(wrong, Names(["127.0.0.1"]))
        assert isinstance(answer, Failed)
        assert "certificate is for another host name" in answer.note
        assert len(receiver.received) == 1


async def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as receiver, listening() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert await send(endpoint_at(receiver.url, folder=tmp_path)) == Delivered(note="204")
        assert (receiver.connections, proxy.connections) == (1, 0)
