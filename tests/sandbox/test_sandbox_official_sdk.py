"""The official SDK works against the sandbox, and shows there why abatch exists."""

import json

import anthropic
import pytest
from anthropic.lib.credentials import AccessToken

from abatch.sandbox import Sandbox, digest

pytestmark = pytest.mark.anyio


def request(n):
    params = {
        "model": "claude-x",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": f"question {n}"}],
    }
    return {"custom_id": f"row-{n}", "params": params}


@pytest.fixture
async def api():
    async with Sandbox(seed=1, latency=60) as api:
        yield api


@pytest.fixture
async def client(api):
    async with anthropic.AsyncAnthropic(base_url=api.url, api_key=api.key) as client:
        yield client


async def test_official_sdk_creates_retrieves_lists_reads_and_deletes(api, client):
    batches = client.messages.batches
    created = await batches.create(requests=[request(n) for n in range(50)])
    assert (created.processing_status, created.request_counts.processing) == ("in_progress", 50)
    with pytest.raises(anthropic.AnthropicError, match="results"):
        await batches.results(created.id)
    api.advance(60)
    ended = await batches.retrieve(created.id)
    assert (ended.processing_status, ended.request_counts.succeeded) == ("ended", 50)
    results = {entry.custom_id: entry.result async for entry in await batches.results(created.id)}
    assert len(results) == 50
    for n in range(50):
        assert results[f"row-{n}"].type == "succeeded"
        sent = json.dumps(request(n)["params"], separators=(",", ":"), ensure_ascii=False).encode()
        assert digest(sent) in results[f"row-{n}"].message.content[0].text
        assert api.account.times(sent) == 1
    assert (await batches.delete(created.id)).id == created.id
    with pytest.raises(anthropic.NotFoundError) as caught:
        await batches.retrieve(created.id)
    assert caught.value.request_id.startswith("req_")


async def test_official_sdk_pages_through_the_list(api, client):
    ids = [(await client.messages.batches.create(requests=[request(n)])).id for n in range(7)]
    assert [batch.id async for batch in client.messages.batches.list(limit=3)] == ids[::-1]
    page = await client.messages.batches.list(limit=3, before_id=ids[0])
    assert [batch.id for batch in page.data] == ids[3:0:-1]
    assert page.has_more


async def test_official_sdk_cancels(api, client):
    created = await client.messages.batches.create(requests=[request(n) for n in range(10)])
    api.advance(30)
    assert (await client.messages.batches.cancel(created.id)).processing_status == "canceling"
    ended = await client.messages.batches.retrieve(created.id)
    assert ended.processing_status == "ended"
    assert 4 <= ended.request_counts.canceled <= 5
    assert api.account.canceled == [created.id]
    with pytest.raises(anthropic.BadRequestError, match="has ended"):
        await client.messages.batches.cancel(created.id)


async def test_official_sdk_sends_a_message(api, client):
    message = await client.messages.create(**request(1)["params"])
    assert message.content[0].text.startswith("[sandbox] ")
    assert api.account.messages == 1


async def test_official_sdk_understands_the_errors(api, client):
    with pytest.raises(anthropic.BadRequestError, match="custom_id"):
        await client.messages.batches.create(requests=[request(1), request(1)])
    api.faults.next("create", anthropic_fault())
    with pytest.raises(anthropic.RateLimitError) as caught:
        await client.with_options(max_retries=0).messages.batches.create(requests=[request(1)])
    assert caught.value.body["error"]["details"]["error_code"] == "enforced_spend_limit_reached"


async def test_official_sdk_renews_a_revoked_token(api):
    from abatch.sandbox.faults import Revoked

    tokens = iter(["first", "second"])
    credentials = lambda *, force_refresh=False: AccessToken(next(tokens))  # noqa: E731
    async with anthropic.AsyncAnthropic(base_url=api.url, credentials=credentials) as client:
        await client.messages.batches.list()
        api.faults.next("list", Revoked())
        assert (await client.messages.batches.list()).data == []
    assert next(tokens, None) is None


def anthropic_fault():
    from abatch.sandbox.faults import SpendLimit

    return SpendLimit()


async def test_official_sdk_pays_twice_when_an_answer_is_lost(api, client):
    from abatch.sandbox.faults import ResetAfterAccept

    api.faults.next("create", ResetAfterAccept())
    created = await client.messages.batches.create(requests=[request(1)])
    first, second = api.account.created
    assert second == created.id
    (violation,) = api.account.violations
    assert (violation.batch_id, violation.custom_id, violation.times) == (second, "row-1", 2)
    assert [batch.id async for batch in client.messages.batches.list()] == [second, first]
