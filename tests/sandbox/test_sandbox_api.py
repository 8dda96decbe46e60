"""The pure machine answers as the API does."""

import json
import re
from datetime import timedelta

import pytest

from abatch.sandbox import answer_text, digest
from abatch.sandbox.answers import Canceled, Errored, Expired, Outcomes, Succeeded, scattered
from abatch.sandbox.api import BODY_LIMIT
from abatch.sandbox.exchange import Request

BATCHES = "/v1/messages/batches"
GOOD = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}]}'


def item(custom_id=b"a", params=GOOD):
    return b'{"custom_id":"%b","params":%b}' % (custom_id, params)


BAD_BODIES = {
    "not JSON": b'{"requests":[',
    "another shape": b"[]",
    "no requests": b'{"requests":[]}',
    "an unknown field": b'{"requests":[%b],"name":"x"}' % item(),
    "an unknown field in a request": b'{"requests":[{"custom_id":"a","params":{},"x":1}]}',
    "no params": b'{"requests":[{"custom_id":"a"}]}',
    "no custom_id": b'{"requests":[{"params":{}}]}',
    "a space in a custom_id": b'{"requests":[%b]}' % item(b"a b"),
    "a newline at its end": rb'{"requests":[{"custom_id":"a\n","params":{}}]}',
    "an empty custom_id": b'{"requests":[%b]}' % item(b""),
    "a custom_id of 65 characters": b'{"requests":[%b]}' % item(b"a" * 65),
    "a custom_id twice": b'{"requests":[%b,%b]}' % (item(), item()),
    "100,001 requests": b'{"requests":[%b]}' % b",".join(item(b"%d" % n, b"{}") for n in range(100_001)),
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_create_is_refused_and_creates_nothing(desk, body):
    status, answer = desk.call("POST", BATCHES, body)
    assert (status, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert answer["request_id"].startswith("req_")
    assert desk.machine.account.batches == 0


def test_a_body_over_the_limit_is_refused_without_being_kept(desk):
    visit = desk.machine.open(Request("POST", BATCHES, {}, desk.headers))
    piece = bytes(64_000_000)
    for _ in range(4):
        visit.feed(piece)
    visit.feed(b"1")
    reply = visit.finish()
    assert visit.received == BODY_LIMIT + 1
    assert reply.status == 413
    assert json.loads(reply.body)["error"]["type"] == "request_too_large"
    assert len(visit.body) == 0


WRONG_CALLS = [
    ("GET", f"{BATCHES}/msgbatch_none", 404),
    ("GET", f"{BATCHES}/msgbatch_none/results", 404),
    ("POST", f"{BATCHES}/msgbatch_none/cancel", 404),
    ("DELETE", f"{BATCHES}/msgbatch_none", 404),
    ("GET", "/v1/elsewhere", 404),
    ("PUT", BATCHES, 404),
    ("POST", "/v1/messages", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), WRONG_CALLS)
def test_a_wrong_call_gets_an_error_in_the_envelope(desk, method, path, status):
    answered, answer = desk.call(method, path)
    assert answered == status
    assert set(answer) == {"type", "error", "request_id"}


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer "}, {"x-api-key": ""}])
def test_a_key_is_required(desk, headers):
    desk.headers = headers
    assert desk.call("GET", BATCHES)[1]["error"]["type"] == "authentication_error"


def test_each_key_sees_its_workspace_alone(new_desk, new_params):
    desk = new_desk(keys={"one": "a", "two": "b"})
    desk.headers = {"x-api-key": "one"}
    batch = desk.create(new_params(1))
    desk.headers = {"authorization": "Bearer two"}
    assert desk.ids() == []
    assert desk.call("GET", f"{BATCHES}/{batch['id']}")[0] == 404
    assert desk.call("GET", BATCHES, after_id=batch["id"])[0] == 404
    desk.headers = {"x-api-key": "three"}
    assert desk.call("GET", BATCHES)[0] == 401


def test_a_header_selects_the_workspace(desk, new_params):
    desk.create(new_params(1))
    desk.headers = {**desk.headers, "anthropic-workspace-id": "other"}
    assert desk.ids() == []


def test_every_answer_carries_date_request_id_and_type(desk):
    reply = desk.reply("GET", BATCHES)
    assert reply.headers["date"] == "Mon, 02 Nov 2026 12:00:00 GMT"
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["request-id"] != desk.reply("GET", BATCHES).headers["request-id"]


def test_a_batch_counts_everything_as_processing_until_it_ends(new_desk, new_params):
    desk = new_desk(latency=60)
    batch = desk.create(*map(new_params, range(3)))
    assert batch == {
        "id": batch["id"],
        "type": "message_batch",
        "processing_status": "in_progress",
        "request_counts": {"processing": 3, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
        "created_at": "2026-11-02T12:00:00.250000+00:00",
        "expires_at": "2026-11-03T12:00:00.250000+00:00",
        "ended_at": None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": None,
    }
    desk.wait(59)
    assert desk.batch(batch["id"]) == batch
    assert desk.results(batch["id"]).status == 404
    desk.wait(1)
    assert desk.batch(batch["id"]) == batch | {
        "processing_status": "ended",
        "request_counts": {"processing": 0, "succeeded": 3, "errored": 0, "canceled": 0, "expired": 0},
        "ended_at": "2026-11-02T12:01:00.250000+00:00",
        "results_url": f"http://localhost:8790{BATCHES}/{batch['id']}/results",
    }


def test_a_latency_range_is_drawn_for_each_batch(new_desk, new_params):
    desk = new_desk(latency=(10, 20))
    ids = [desk.create(new_params(n))["id"] for n in range(50)]
    desk.wait(10)
    early = [desk.batch(batch_id)["processing_status"] for batch_id in ids]
    desk.wait(5)
    middle = [desk.batch(batch_id)["processing_status"] for batch_id in ids]
    desk.wait(5)
    late = [desk.batch(batch_id)["processing_status"] for batch_id in ids]
    assert early.count("ended") < middle.count("ended") < late.count("ended") == 50


def test_each_result_belongs_to_its_request(new_desk, new_params):
    desk = new_desk(answer_bytes=100)
    requests = [new_params(n) for n in range(500)]
    batch = desk.create(*requests)
    lines = desk.lines(batch["id"])
    found = {line["custom_id"]: line["result"]["message"] for line in map(json.loads, lines)}
    for row, sent in enumerate(requests):
        message = found[f"row-{row}"]
        assert message["content"] == [{"type": "text", "text": answer_text(sent, 100)}]
        assert digest(sent) in message["content"][0]["text"]
        assert (message["model"], message["usage"]["service_tier"]) == ("claude-x", "batch")
        assert message["usage"]["input_tokens"] == len(sent) // 4
        assert len(message["content"][0]["text"]) == 100
    assert len(found) == len(lines) == 500
    assert list(found) != [f"row-{row}" for row in range(500)]
    assert desk.lines(batch["id"]) == lines


def test_params_are_known_by_their_bytes_as_sent(desk):
    spaced = GOOD.replace(b",", b" ,  ")
    batch = desk.create(spaced)
    assert desk.machine.account.times(spaced) == 1
    assert digest(spaced).encode() in desk.lines(batch["id"])[0]


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_a_scattered_order_has_every_number_once(n):
    for seed in range(20):
        assert sorted(scattered(n, seed)) == list(range(n))


CHOSEN = {
    "sandbox:errored:overloaded_error": {"errored": "overloaded_error"},
    "sandbox:errored:billing_error": {"errored": "billing_error"},
    "sandbox:expired": {"expired": None},
    "sandbox:canceled": {"canceled": None},
    "sandbox:else": {"succeeded": None},
    "somebody": {"succeeded": None},
}


@pytest.mark.parametrize(("user_id", "outcome"), CHOSEN.items())
def test_a_request_may_choose_its_outcome(desk, new_params, user_id, outcome):
    batch = desk.create(new_params(1, metadata={"user_id": user_id}))
    result = json.loads(desk.lines(batch["id"])[0])["result"]
    ((kind, error),) = outcome.items()
    assert result["type"] == kind
    assert desk.batch(batch["id"])["request_counts"][kind] == 1
    if error:
        assert result["error"]["error"]["type"] == error
        assert result["error"]["request_id"].startswith("workerreq_")


def test_errored_once_succeeds_the_second_time(desk, new_params):
    request = new_params(1, metadata={"user_id": "sandbox:errored-once:api_error"})
    kinds = [json.loads(desk.lines(desk.create(request)["id"])[0])["result"]["type"] for _ in range(2)]
    assert kinds == ["errored", "succeeded"]
    assert desk.machine.account.times(request) == 2
    assert desk.machine.account.violated == 0


BAD_PARAMS = [
    b"{}",
    b"[1]",
    b'{"model":1,"max_tokens":1,"messages":[]}',
    GOOD.replace(b"1", b"0"),
    GOOD.replace(b"1", b'1,"stream":true'),
    GOOD.replace(b"1", b'1,"speed":"fast"'),
    GOOD.replace(b"1", b'1,"fallbacks":[]'),
    GOOD.replace(b"1", b'1,"temperature":"hot"'),
    GOOD.replace(b"1", b'1,"temprature":0.5'),
    GOOD.replace(b"1", b'1,"betas":["x"]'),
    GOOD.replace(b'"x"', b'""'),
    GOOD.replace(b'"x"', b'[{"type":"text"}]'),
    b'{"model":"m","max_tokens":1,"messages":[]}',
    b'{"model":"m","max_tokens":1,"messages":"hello"}',
    b'{"model":"m","max_tokens":1}',
]


@pytest.mark.parametrize("bad", BAD_PARAMS)
def test_bad_params_come_back_as_an_errored_line(desk, bad):
    batch = desk.create(bad)
    result = json.loads(desk.lines(batch["id"])[0])["result"]
    assert result["error"]["error"]["type"] == "invalid_request_error"
    assert result["error"]["error"]["message"].startswith("[sandbox] ")


def test_a_line_of_bad_params_says_what_is_wrong_with_them_and_the_others_are_answered(desk, new_params):
    texts = [GOOD.replace(b'"x"', b'"x","n%d":1' % n) for n in range(300)]
    lines = [json.loads(line)["result"] for line in desk.lines(desk.create(*texts, new_params(1))["id"])]
    said = [line["error"]["error"]["message"] for line in lines if line["type"] == "errored"]
    assert len(said) == 300
    assert any("`n7` in messages[0] is not a name that anthropic" in text for text in said)
    assert [line["type"] for line in lines].count("succeeded") == 1


def test_rates_decide_the_rest(new_desk, new_params):
    desk = new_desk(outcome=Outcomes(errored=0.3, expired=0.2))
    counts = desk.batch(desk.create(*map(new_params, range(1000)))["id"])["request_counts"]
    assert 250 < counts["errored"] < 350
    assert 150 < counts["expired"] < 250
    assert sum(counts.values()) == 1000


def test_the_outcome_may_be_replaced(new_desk):
    seen = []

    def outcome(params, nth_acceptance, rng):
        seen.append((params, nth_acceptance))
        return [Succeeded(), Errored("x_error"), Expired(), Canceled()][json.loads(params)["n"]]

    desk = new_desk(outcome=outcome)
    batch = desk.create(*(b'{"n":%d}' % n for n in range(4)))
    counts = {"processing": 0, "succeeded": 1, "errored": 1, "canceled": 1, "expired": 1}
    assert desk.batch(batch["id"])["request_counts"] == counts
    assert seen == [(b'{"n":%d}' % n, 1) for n in range(4)]


def test_cancel_keeps_what_was_done(new_desk, new_params):
    desk = new_desk(latency=100, cancel_latency=10)
    batch = desk.create(*map(new_params, range(100)))
    desk.wait(25)
    status, canceling = desk.call("POST", f"{BATCHES}/{batch['id']}/cancel")
    assert (status, canceling["processing_status"]) == (200, "canceling")
    assert canceling["cancel_initiated_at"] == "2026-11-02T12:00:25.250000+00:00"
    assert canceling["request_counts"]["processing"] == 100
    desk.wait(5)
    assert desk.call("POST", f"{BATCHES}/{batch['id']}/cancel") == (200, canceling)
    desk.wait(5)
    ended = desk.batch(batch["id"])
    assert ended["request_counts"] == {
        "processing": 0, "succeeded": 25, "errored": 0, "canceled": 75, "expired": 0,
    }  # fmt: skip
    assert ended["cancel_initiated_at"] == canceling["cancel_initiated_at"]
    kinds = [json.loads(line)["result"]["type"] for line in desk.lines(batch["id"])]
    assert (kinds.count("succeeded"), kinds.count("canceled")) == (25, 75)
    assert desk.call("POST", f"{BATCHES}/{batch['id']}/cancel")[0] == 400
    desk.wait(100)
    assert desk.batch(batch["id"]) == ended


def test_a_batch_expires_after_a_day(new_desk, new_params):
    desk = new_desk(latency=48 * 3600)
    batch = desk.create(*map(new_params, range(10)))
    desk.wait(24 * 3600)
    ended = desk.batch(batch["id"])
    assert ended["ended_at"] == ended["expires_at"]
    assert (ended["request_counts"]["succeeded"], ended["request_counts"]["expired"]) == (5, 5)


def test_results_are_archived_after_29_days(desk, new_params):
    batch = desk.create(new_params(1))
    desk.wait(timedelta(days=29).total_seconds() - 1)
    assert desk.results(batch["id"]).status == 200
    desk.wait(1)
    assert desk.results(batch["id"]).status == 404
    archived = desk.batch(batch["id"])
    assert (archived["archived_at"], archived["results_url"]) == ("2026-12-01T12:00:00.250000+00:00", None)


def test_only_an_ended_batch_can_be_deleted(new_desk, new_params):
    desk = new_desk(latency=10)
    batch = desk.create(new_params(1))
    assert desk.call("DELETE", f"{BATCHES}/{batch['id']}")[0] == 400
    desk.wait(10)
    answer = {"id": batch["id"], "type": "message_batch_deleted"}
    assert desk.call("DELETE", f"{BATCHES}/{batch['id']}") == (200, answer)
    assert desk.call("GET", f"{BATCHES}/{batch['id']}")[0] == 404
    assert desk.ids() == []
    assert desk.machine.account.deleted == [batch["id"]]


def test_the_list_pages_both_ways(desk, new_params):
    newest_first = [desk.create(new_params(n))["id"] for n in range(7)][::-1]
    page = desk.call("GET", BATCHES, limit=3)[1]
    assert [batch["id"] for batch in page["data"]] == newest_first[:3]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, newest_first[0], newest_first[2])
    older = desk.call("GET", BATCHES, limit=3, after_id=page["last_id"])[1]
    assert [batch["id"] for batch in older["data"]] == newest_first[3:6]
    assert older["has_more"]
    oldest = desk.call("GET", BATCHES, limit=3, after_id=older["last_id"])[1]
    assert ([batch["id"] for batch in oldest["data"]], oldest["has_more"]) == (newest_first[6:], False)
    newer = desk.call("GET", BATCHES, limit=2, before_id=newest_first[4])[1]
    assert ([batch["id"] for batch in newer["data"]], newer["has_more"]) == (newest_first[2:4], True)
    newest = desk.call("GET", BATCHES, limit=3, before_id=newest_first[2])[1]
    assert ([batch["id"] for batch in newest["data"]], newest["has_more"]) == (newest_first[:2], False)
    empty = desk.call("GET", BATCHES, after_id=newest_first[6])[1]
    assert empty == {"data": [], "has_more": False, "first_id": None, "last_id": None}


def test_a_page_has_twenty_batches_unless_asked(desk):
    desk.machine.add_foreign(1, count=25)
    assert len(desk.ids()) == 20
    assert len(desk.ids(limit=1000)) == 25


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", ""])
def test_a_bad_limit_is_refused(desk, limit):
    assert desk.call("GET", BATCHES, limit=limit)[0] == 400


def test_both_cursors_are_refused(desk, new_params):
    batch = desk.create(new_params(1))
    assert desk.call("GET", BATCHES, after_id=batch["id"], before_id=batch["id"])[0] == 400


def test_retry_after_is_shown_until_the_end_if_configured(new_desk, new_params):
    desk = new_desk(latency=5, retry_after_seconds=10)
    path = f"{BATCHES}/{desk.create(new_params(1))['id']}"
    assert desk.reply("GET", path).headers["retry-after"] == "10"
    desk.wait(5)
    assert "retry-after" not in desk.reply("GET", path).headers


def test_the_queue_limit_counts_what_has_not_ended(new_desk, new_params, new_body):
    desk = new_desk(latency=60, queue_limit=5)
    desk.create(*map(new_params, range(3)))
    reply = desk.reply("POST", BATCHES, new_body(*map(new_params, range(3, 6))))
    assert (reply.status, "retry-after" in reply.headers) == (429, True)
    desk.create(*map(new_params, range(3, 5)))
    desk.wait(60)
    desk.create(*map(new_params, range(5, 10)))
    assert desk.machine.account.requests == 10


def test_calls_per_minute_are_limited(new_desk):
    desk = new_desk(requests_per_minute=3)
    assert [desk.call("GET", BATCHES)[0] for _ in range(4)] == [200, 200, 200, 429]
    assert desk.reply("GET", BATCHES).headers["retry-after"] == "20"
    desk.wait(20)
    assert [desk.call("GET", BATCHES)[0] for _ in range(2)] == [200, 429]


def test_the_account_counts_every_acceptance(desk, new_params):
    batch = desk.create(new_params(1), new_params(2))
    account = desk.machine.account
    assert (account.batches, account.requests, account.created) == (1, 2, [batch["id"]])
    assert [account.times(new_params(n)) for n in (1, 2, 3)] == [1, 1, 0]


def acceptances(desk, new_params):
    """Each way the first acceptance may be, and whether a second one is then allowed."""
    failing = new_params(2, metadata={"user_id": "sandbox:expired"})
    yield "pending", new_params(1), 0, False
    yield "succeeded", new_params(3), 1000, False
    yield "expired", failing, 1000, True


def test_the_account_reports_a_request_accepted_again_too_early(new_desk, new_params):
    for name, request, later, allowed in acceptances(new_desk, new_params):
        desk = new_desk(latency=100)
        desk.create(request)
        desk.wait(later)
        second = desk.create(request)
        account = desk.machine.account
        assert account.violated == (not allowed), name
        if not allowed:
            (violation,) = account.violations
            assert (violation.batch_id, violation.custom_id, violation.times) == (second["id"], "row-0", 2)


def test_a_canceled_request_may_be_accepted_again(new_desk, new_params):
    desk = new_desk(latency=100)
    batch = desk.create(new_params(1))
    desk.call("POST", f"{BATCHES}/{batch['id']}/cancel")
    desk.create(new_params(1))
    assert desk.machine.account.violated == 0
    assert desk.machine.account.canceled == [batch["id"]]


def test_foreign_batches_are_listed_but_not_in_the_account(desk):
    ids = desk.machine.add_foreign(3, count=2, created=desk.now - timedelta(hours=1), latency=60)
    assert desk.ids() == ids[::-1]
    batch = desk.batch(ids[0])
    assert (batch["request_counts"]["succeeded"], batch["created_at"]) == (3, "2026-11-02T11:00:00.250000+00:00")
    assert all(b"foreign-" in line for line in desk.lines(ids[0]))
    assert desk.machine.account.batches == 0


def test_messages_answers_at_once(desk, new_params):
    status, message = desk.call("POST", "/v1/messages", new_params(1))
    assert (status, message["content"][0]["text"]) == (200, answer_text(new_params(1)))
    assert (message["usage"]["service_tier"], desk.machine.account.messages) == ("standard", 1)
    overloaded = new_params(1, metadata={"user_id": "sandbox:errored:overloaded_error"})
    status, answer = desk.call("POST", "/v1/messages", overloaded)
    assert (status, answer["error"]["type"]) == (529, "overloaded_error")


def test_the_same_seed_gives_the_same_ids_and_order(new_desk, new_params):
    def run(seed):
        desk = new_desk(seed=seed)
        batch = desk.create(*map(new_params, range(20)))
        return batch["id"], desk.lines(batch["id"])

    assert run(1) == run(1) != run(2)
    assert re.fullmatch(r"msgbatch_[A-Za-z0-9]+", run(1)[0])


@pytest.mark.parametrize("latency", [-1, (2, 1), (-1, 1)])
def test_a_latency_that_cannot_be_is_refused(new_desk, latency):
    with pytest.raises(ValueError, match="latency"):
        new_desk(latency=latency)
