"""Answers have the shapes of recorded traffic."""

import gzip
import json

import httpx2
import pytest

from abatch.errors import ConfigError
from abatch.sandbox import Sandbox
from abatch.sandbox import faults as f
from abatch.sandbox.shapes import ERAS
from abatch.sandbox.transport import URL, MachineTransport

BATCHES = "/v1/messages/batches"
FIELDS = [
    "id", "type", "processing_status", "request_counts", "ended_at", "created_at", "expires_at", "archived_at",
    "cancel_initiated_at", "results_url",
]  # fmt: skip
# content type of results, whether the last line ends with a newline
RESULTS = {
    "2024-10": ("text/html", False),
    "2025-01": (None, False),
    "2026-06": (None, True),
    "2026-08": ("application/x-jsonl", True),
    "2026-09": ("application/x-jsonl", True),
}


@pytest.fixture(params=ERAS)
def era(request):
    return request.param


def test_a_batch_has_its_fields_in_the_recorded_order(new_desk, new_params, era):
    desk = new_desk(era=era)
    fields = FIELDS if era != "2024-10" else [name for name in FIELDS if name != "archived_at"]
    batch = desk.create(new_params(1))
    assert list(batch) == fields
    assert list(desk.call("GET", BATCHES)[1]["data"][0]) == fields


def test_times_have_six_digits_and_an_offset(new_desk, new_params):
    desk = new_desk(latency=1.5)
    desk.now = desk.now.replace(microsecond=0)
    batch_id = desk.create(new_params(1))["id"]
    desk.wait(1.5)
    batch = desk.batch(batch_id)
    assert batch["created_at"] == "2026-11-02T12:00:00.000000+00:00"
    assert batch["expires_at"] == "2026-11-03T12:00:00.000000+00:00"
    assert batch["ended_at"] == "2026-11-02T12:00:01.500000+00:00"


def test_results_end_and_are_called_as_in_their_era(new_desk, new_params, era):
    desk = new_desk(era=era)
    batch_id = desk.create(*map(new_params, range(3)))["id"]
    reply = desk.results(batch_id)
    body = b"".join(reply.body)
    assert (reply.headers.get("content-type"), body.endswith(b"\n")) == RESULTS[era]
    assert "content-length" not in reply.headers
    assert "content-encoding" not in reply.headers
    assert [json.loads(line)["result"]["type"] for line in body.splitlines()] == ["succeeded"] * 3


def test_json_is_compressed_and_chunked_when_asked_for(desk, new_body, new_params):
    plain = desk.create(new_params(1))
    desk.headers = desk.headers | {"accept-encoding": "gzip, deflate"}
    reply = desk.reply("GET", f"{BATCHES}/{plain['id']}")
    assert reply.headers["content-encoding"] == "gzip"
    assert "content-length" not in reply.headers
    assert json.loads(gzip.decompress(reply.body))["id"] == plain["id"]
    assert "content-encoding" not in desk.results(plain["id"]).headers


def test_compression_can_be_switched_off(new_desk):
    desk = new_desk(gzip=False)
    desk.headers = desk.headers | {"accept-encoding": "gzip"}
    assert desk.call("GET", BATCHES)[0] == 200


@pytest.mark.parametrize(("status", "coded"), [(400, True), (404, True), (500, True), (401, False), (529, False)])
def test_some_errors_come_uncompressed(desk, status, coded):
    desk.headers = desk.headers | {"accept-encoding": "gzip"}
    desk.machine.faults.next("list", f.Status(status))
    reply = desk.reply("GET", BATCHES)
    assert ("content-encoding" in reply.headers, "content-length" in reply.headers) == (coded, not coded)


@pytest.mark.anyio
async def test_clients_read_compressed_answers_over_a_socket_and_without(new_body, new_params):
    body = new_body(*map(new_params, range(3)))
    with Sandbox(seed=1) as api:
        transports = [(api.url, None), (URL, MachineTransport(api.machine))]
        for url, transport in transports:
            headers = {"x-api-key": "key"}
            async with httpx2.AsyncClient(base_url=url, headers=headers, transport=transport) as client:
                answer = await client.post(BATCHES, content=body)
                assert answer.headers["content-encoding"] == "gzip"
                assert answer.json()["request_counts"]["processing"] == 3
                assert (await client.get(BATCHES)).json()["data"][0]["id"] == answer.json()["id"]


def test_the_results_url_may_name_a_host_that_was_not_asked(new_desk, new_params):
    desk = new_desk(results_host="https://api.anthropic.com")
    batch_id = desk.create(new_params(1))["id"]
    assert desk.batch(batch_id)["results_url"] == f"https://api.anthropic.com{BATCHES}/{batch_id}/results"


def test_headers_are_those_of_the_era(new_desk, era):
    headers = new_desk(era=era).reply("GET", BATCHES).headers
    assert headers["cf-cache-status"] == "DYNAMIC"
    assert ("via" in headers) == (era < "2026")
    assert ("set-cookie" in headers) == (era == "2026-06")
    assert ("anthropic-organization-id" in headers) == (era > "2026")
    assert ("anthropic-workspace-id" in headers) == (era >= "2026-08")
    assert ("anthropic-ratelimit-requests-limit" in headers) == (era >= "2026-09")
    assert not {"etag", "age", "cache-control", "retry-after"} & headers.keys()


def test_the_workspace_in_the_headers_is_that_of_the_key(desk):
    own = desk.reply("GET", BATCHES).headers["anthropic-workspace-id"]
    assert own.startswith("wrkspc_")
    desk.machine.faults.next("list", f.KeyPool(("other",)))
    assert desk.reply("GET", BATCHES).headers["anthropic-workspace-id"] != own
    assert desk.reply("GET", BATCHES).headers["anthropic-workspace-id"] == own


@pytest.mark.parametrize(
    ("status", "again"), [(400, "false"), (404, "false"), (429, "true"), (500, "true"), (529, "true")]
)
def test_an_error_says_whether_to_try_again(desk, status, again):
    desk.machine.faults.next("list", f.Status(status))
    assert desk.reply("GET", BATCHES).headers["x-should-retry"] == again
    assert "x-should-retry" not in desk.reply("GET", BATCHES).headers


def test_a_page_of_a_proxy_has_none_of_the_headers_of_the_api(desk):
    desk.machine.faults.next("list", f.Status(502, envelope=False))
    headers = desk.reply("GET", BATCHES).headers
    assert not [name for name in headers if name.startswith(("anthropic-", "cf-", "x-should-retry", "request-id"))]


def test_the_envelope_of_an_error_repeats_the_request_id_since_2026(new_desk, era):
    reply = new_desk(era=era).reply("GET", f"{BATCHES}/msgbatch_none")
    answer = json.loads(reply.body)
    assert answer["error"]["message"] == "Message Batch msgbatch_none not found."
    assert answer.get("request_id") == (reply.headers["request-id"] if era > "2026" else None)


def test_three_texts_of_a_404(new_desk, new_params):
    desk = new_desk(latency=60)
    batch_id = desk.create(new_params(1))["id"]
    texts = [
        desk.call("GET", path)[1]["error"]["message"]
        for path in (f"{BATCHES}/msgbatch_x", f"{BATCHES}/{batch_id}/results", "/v1/elsewhere")
    ]
    assert texts == [
        "Message Batch msgbatch_x not found.",
        f"Message Batch {batch_id} has no available results.",
        "Not Found",
    ]


# result lines


@pytest.fixture
def line(desk, new_params):
    """The result line of a request that chose its outcome."""

    def line(user_id):
        return json.loads(desk.lines(desk.create(new_params(1, metadata={"user_id": user_id}))["id"])[0])["result"]

    return line


@pytest.mark.parametrize("kind", ["invalid_request_error", "not_found_error"])
def test_an_error_about_the_request_has_details_and_no_request_id(line, kind):
    error = line(f"sandbox:errored:{kind}")["error"]
    assert list(error["error"]) == ["details", "type", "message"]
    assert (error["error"]["details"], error["request_id"]) == ({"error_visibility": "user_facing"}, None)


@pytest.mark.parametrize("kind", ["overloaded_error", "api_error"])
def test_an_error_of_the_worker_names_the_worker_and_has_null_details(line, kind):
    error = line(f"sandbox:errored:{kind}")["error"]
    assert (error["error"]["details"], error["error"]["type"]) == (None, kind)
    assert error["request_id"].startswith("workerreq_")


def test_a_refusal_succeeded_without_content_and_is_paid_for(desk, new_params):
    refused = new_params(1, metadata={"user_id": "sandbox:refused"})
    batch = desk.create(refused)
    message = json.loads(desk.lines(batch["id"])[0])["result"]["message"]
    assert (message["content"], message["stop_reason"], message["stop_details"]["type"]) == ([], "refusal", "refusal")
    assert desk.batch(batch["id"])["request_counts"]["succeeded"] == 1
    desk.create(refused)
    assert desk.machine.account.violated == 1


def test_an_answer_is_cut_while_max_tokens_is_too_small_and_is_paid_for(desk, new_params):
    for max_tokens, stop in ((99, "max_tokens"), (100, "end_turn")):
        asked = new_params(1, max_tokens=max_tokens, metadata={"user_id": "sandbox:cut:100"})
        batch = desk.create(asked)
        message = json.loads(desk.lines(batch["id"])[0])["result"]["message"]
        assert (message["stop_reason"], bool(message["content"])) == (stop, True)
        assert desk.batch(batch["id"])["request_counts"]["succeeded"] == 1
        desk.create(asked)
    assert desk.machine.account.violated == 2


def test_a_download_that_timed_out_is_an_invalid_request_that_passes(desk, line, new_params):
    error = line("sandbox:download-timeout")["error"]["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("The request timed out while trying to download the file")
    once = new_params(2, metadata={"user_id": "sandbox:download-timeout-once"})
    kinds = [json.loads(desk.lines(desk.create(once)["id"])[0])["result"]["type"] for _ in range(2)]
    assert (kinds, desk.machine.account.violated) == (["errored", "succeeded"], 0)


def test_an_era_that_was_not_recorded_is_refused(new_desk):
    with pytest.raises(ConfigError, match="2024-10, 2025-01"):
        new_desk(era="2031-01")
