"""Every fault does what it says."""

import gzip
import json
import zlib
from collections import Counter
from email.utils import parsedate_to_datetime
from random import Random
from typing import get_args

import msgspec
import pytest

from abatch.errors import ConfigError
from abatch.sandbox import digest
from abatch.sandbox import faults as f
from abatch.sandbox.disturb import blank_lines_in_gzip
from abatch.sandbox.exchange import Cut, Lost, Request, Reset, Slow, Whole

BATCHES = "/v1/messages/batches"
TESTED: set[type] = set()


def about(*kinds):
    """Say which faults a test is about."""
    TESTED.update(kinds)
    return lambda test: test


@pytest.fixture
def body(new_body, new_params):
    return new_body(*map(new_params, range(3)))


@pytest.fixture
def post(desk, body):
    """Create one batch while these faults are on."""

    def post(*faults):
        desk.machine.faults.next("create", *faults)
        return desk.reply("POST", BATCHES, body)

    return post


@pytest.fixture
def ended(desk, new_params):
    """An ended batch of twenty requests."""
    return desk.create(*map(new_params, range(20)))["id"]


# create


@about(f.Refuse)
def test_refuse_answers_before_the_body(desk):
    desk.machine.faults.next("create", f.Refuse())
    visit = desk.machine.open(Request("POST", BATCHES, {}, desk.headers))
    assert visit.early is not None
    assert visit.early.transport == Lost()
    assert desk.machine.account.batches == 0


@about(f.ResetBeforeAccept)
def test_reset_before_accept_creates_nothing(desk, post):
    assert post(f.ResetBeforeAccept()).transport == Lost()
    assert desk.machine.account.batches == 0


@about(f.ResetAfterAccept)
def test_reset_after_accept_creates(desk, post):
    assert post(f.ResetAfterAccept()).transport == Lost()
    assert desk.machine.account.batches == 1


@about(f.Stall)
def test_stall_creates_and_holds_the_answer_back(desk, post):
    reply = post(f.Stall(30))
    assert (reply.status, reply.delay, desk.machine.account.batches) == (200, 30, 1)


@about(f.LateAccept)
@pytest.mark.parametrize("status", [None, 500])
def test_late_accept_creates_later(desk, post, status):
    reply = post(f.LateAccept(60, status=status))
    assert reply.transport == (Lost() if status is None else Whole())
    assert reply.status == (200 if status is None else 500)
    desk.wait(59)
    assert (desk.ids(), desk.machine.account.batches) == ([], 0)
    desk.wait(2)
    (batch_id,) = desk.ids()
    assert desk.batch(batch_id)["created_at"] == "2026-11-02T12:01:00.250000+00:00"
    assert desk.machine.account.batches == 1


TABLE_A = [200, 307, 400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 425, 429, 499, 500, 502, 503, 504, 529]


@about(f.Status)
@pytest.mark.parametrize("status", TABLE_A)
@pytest.mark.parametrize("envelope", [True, False])
@pytest.mark.parametrize("accepted", [True, False])
def test_every_status_with_and_without_envelope_created_or_not(desk, post, status, envelope, accepted):
    reply = post(f.Status(status, envelope=envelope, accepted=accepted))
    assert reply.status == status
    assert desk.machine.account.batches == accepted
    assert ("request-id" in reply.headers) == envelope
    if envelope:
        assert json.loads(reply.body)["error"]["type"].endswith("_error") or status == 413
    else:
        assert reply.body.startswith(b"<html>")


def test_a_status_may_carry_its_own_words(post):
    reply = post(f.Status(429, kind="x_error", message="slow down", retry_after=7))
    assert json.loads(reply.body)["error"] == {"type": "x_error", "message": "slow down"}
    assert reply.headers["retry-after"] == "7"


def test_an_early_status_answers_before_the_body(desk):
    desk.machine.faults.next("create", f.Status(401, early=True))
    visit = desk.machine.open(Request("POST", BATCHES, {}, desk.headers))
    assert visit.early is not None
    assert visit.early.status == 401


@about(f.SpendLimit)
def test_a_spend_limit_says_so_and_names_no_time(desk, post):
    reply = post(f.SpendLimit())
    assert (reply.status, "retry-after" in reply.headers, desk.machine.account.batches) == (429, False, 0)
    assert json.loads(reply.body)["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}


@about(f.Redirect)
def test_redirect_creates_nothing(desk, post):
    reply = post(f.Redirect("http://127.0.0.1:1/"))
    assert (reply.status, reply.headers["location"]) == (307, "http://127.0.0.1:1/")
    assert desk.machine.account.batches == 0


@about(f.Garbage, f.CutBody)
def test_an_unreadable_success_has_created(desk, post):
    garbage = post(f.Garbage())
    assert garbage.status == 200
    with pytest.raises(ValueError, match=r"control character|Invalid"):
        json.loads(garbage.body)
    cut = post(f.CutBody(20))
    assert (len(cut.body), cut.transport) == (20, Cut())
    assert int(cut.headers["content-length"]) > 20
    assert desk.machine.account.batches == 2


def test_an_unreadable_answer_is_no_success_where_there_is_none(desk):
    desk.machine.faults.next("create", f.Garbage())
    assert desk.reply("POST", BATCHES, b"{}").status == 400


@about(f.Replay)
def test_replay_creates_twice_and_the_account_sees_it(desk, post):
    batch = json.loads(post(f.Replay()).body)
    assert len(desk.ids()) == 2
    assert desk.ids()[0] == batch["id"]
    assert desk.machine.account.violated == 3


@about(f.SameInstant)
def test_batches_of_the_same_instant(desk, post):
    post()
    desk.wait(5)
    post(f.SameInstant())
    assert len({desk.batch(batch_id)["created_at"] for batch_id in desk.ids()}) == 1
    newest, oldest = desk.ids()
    assert desk.ids(limit=1, after_id=newest) == [oldest]
    assert desk.ids(limit=1, before_id=oldest) == [newest]


@about(f.StaleAnswer)
def test_stale_answer_names_the_batch_that_was_created_before(desk, post):
    first, second = (json.loads(post(f.StaleAnswer()).body)["id"] for _ in range(2))
    assert first == second
    assert len(desk.ids()) == desk.machine.account.batches == 2


@about(f.Foreign)
def test_a_crowd_of_foreign_batches_of_the_same_size(desk, post):
    batch = json.loads(post(f.Foreign(1_001)).body)
    page = desk.call("GET", BATCHES, limit=1000)[1]
    assert page["has_more"]
    assert page["first_id"] == batch["id"]
    rest = desk.ids(limit=1000, after_id=page["last_id"])
    assert len(rest) == 2
    assert {sum(each["request_counts"].values()) for each in page["data"]} == {3}
    assert desk.machine.account.batches == 1


# list and retrieve


@about(f.Lag)
def test_lag_hides_young_batches_from_the_list_alone(desk, post):
    ids = {json.loads(post().body)["id"] for _ in range(30)}
    desk.machine.faults.always("list", f.Lag(300))
    shown = [set(desk.ids(limit=100))]
    for _ in range(3):
        desk.wait(100)
        shown.append(set(desk.ids(limit=100)))
    assert shown[0] < shown[1] < shown[2] < shown[3] == ids
    assert desk.batch(min(ids))


@about(f.PageError)
def test_a_page_error_waits_for_a_later_page(desk):
    desk.machine.add_foreign(1, count=3)
    desk.machine.faults.next("list", f.PageError(503))
    first = desk.ids(limit=1)
    assert desk.call("GET", BATCHES, after_id=first[0])[0] == 503
    assert desk.call("GET", BATCHES, after_id=first[0])[0] == 200


@about(f.OtherWorkspace, f.NoDate)
def test_the_list_of_another_workspace_and_without_date(desk, ended):
    desk.machine.faults.next("list", f.OtherWorkspace(), f.NoDate())
    reply = desk.reply("GET", BATCHES)
    assert (json.loads(reply.body)["data"], "date" in reply.headers) == ([], False)
    assert desk.ids() == [ended]


def test_retrieve_blips(desk, ended):
    desk.machine.faults.next("retrieve", f.Status(404), times=2)
    statuses = [desk.call("GET", f"{BATCHES}/{ended}")[0] for _ in range(3)]
    assert statuses == [404, 404, 200]


@about(f.Flap, f.CountsLag)
def test_an_ended_batch_shows_as_in_progress_or_uncounted(desk, ended):
    desk.machine.faults.next("retrieve", f.Flap())
    desk.machine.faults.next("retrieve", f.CountsLag())
    flap, uncounted, truth = (desk.batch(ended) for _ in range(3))
    assert (flap["processing_status"], flap["ended_at"], flap["results_url"]) == ("in_progress", None, None)
    assert (uncounted["processing_status"], uncounted["request_counts"]["processing"]) == ("ended", 20)
    assert (truth["processing_status"], truth["request_counts"]["succeeded"]) == ("ended", 20)


def test_a_flap_waits_for_the_end(new_desk, new_params):
    desk = new_desk(latency=10)
    batch_id = desk.create(new_params(1))["id"]
    desk.machine.faults.next("retrieve", f.Flap())
    seen = [desk.batch(batch_id)["processing_status"]]
    desk.wait(10)
    seen += [desk.batch(batch_id)["processing_status"] for _ in range(2)]
    assert seen == ["in_progress", "in_progress", "ended"]


# a list that takes back what it showed, or shows a part


def shown(desk, batch_id):
    """Whether the list has the batch, and what a call by its id is answered."""
    return batch_id in desk.ids(limit=1000), desk.call("GET", f"{BATCHES}/{batch_id}")[0]


@about(f.Hide)
def test_a_batch_is_listed_for_six_seconds_and_hidden_for_a_day(desk, post):
    desk.machine.faults.always("list", f.Hide(86_400, after=6))
    batch_id = json.loads(post().body)["id"]
    desk.wait(5.9)
    seen = [shown(desk, batch_id)]
    for seconds in (0.2, 86_399, 1):
        desk.wait(seconds)
        seen.append(shown(desk, batch_id))
    assert seen == [(True, 200), (False, 200), (False, 200), (True, 200)]
    assert desk.machine.account.batches == 1


def test_a_hidden_batch_is_a_404_wherever_it_is_asked_for(desk, post):
    batch_id = json.loads(post().body)["id"]
    desk.machine.faults.always("every", f.Hide(60, after=10))
    desk.wait(9)
    assert shown(desk, batch_id) == (True, 200)
    desk.wait(2)
    assert shown(desk, batch_id) == (False, 404)
    assert desk.results(batch_id).status == 404
    assert desk.call("POST", f"{BATCHES}/{batch_id}/cancel")[0] == 404
    assert desk.call("DELETE", f"{BATCHES}/{batch_id}")[0] == 404
    desk.wait(60)
    assert shown(desk, batch_id) == (True, 200)


def test_a_batch_flaps_again_and_again(desk, post):
    batch_id = json.loads(post().body)["id"]
    desk.machine.faults.always("list", f.Hide(10, after=50, every=60))
    seen = []
    for _ in range(180):
        seen.append(batch_id in desk.ids())
        desk.wait(1)
    assert seen == ([True] * 50 + [False] * 10) * 3


def test_which_batches_hide_and_when_is_drawn_for_each_of_them(desk, post):
    ids = {json.loads(post().body)["id"] for _ in range(60)}
    desk.machine.faults.always("list", f.Hide(600, spread=300, share=0.5))
    hidden = []
    for _ in range(4):
        hidden.append(ids - set(desk.ids(limit=100)))
        assert hidden[-1] == ids - set(desk.ids(limit=100))
        desk.wait(100)
    assert len(hidden[0]) < len(hidden[1]) < len(hidden[2]) < len(hidden[3])
    assert 15 < len(hidden[3]) < 45


@about(f.KeyPool)
def test_a_pool_of_keys_answers_from_a_workspace_drawn_for_each_call(desk, new_body, new_params):
    desk.machine.faults.always("every", f.KeyPool(("default", "other")))
    ids = []
    for n in range(20):
        status, batch = desk.call("POST", BATCHES, new_body(new_params(n)))
        assert status == 200
        ids.append(batch["id"])
    lists = {tuple(sorted(desk.ids(limit=100))) for _ in range(30)}
    first, second = map(set, lists)
    assert (first | second, first & second) == (set(ids), set())
    statuses = Counter(desk.call("GET", f"{BATCHES}/{ids[0]}")[0] for _ in range(40))
    assert statuses[200] > 5 < statuses[404]
    assert {desk.results(ids[0]).status for _ in range(40)} == {200, 404}


def test_a_name_that_stands_twice_is_drawn_more_often(desk, post):
    post()
    desk.machine.faults.always("list", f.KeyPool(("other", "other", "other", "default")))
    assert 5 < sum(bool(desk.ids()) for _ in range(100)) < 45


@about(f.Stale)
def test_a_stale_replica_lacks_what_is_young(desk, post):
    desk.machine.faults.always("list", f.Stale(30), rate=0.5)
    batch_id = json.loads(post().body)["id"]
    answers = Counter(batch_id in desk.ids() for _ in range(100))
    assert min(answers[True], answers[False]) > 30
    desk.wait(31)
    assert all(batch_id in desk.ids() for _ in range(50))


# a clock of the gateway's own


def ahead(desk):
    """Seconds by which the `Date` of a list is ahead of the server's clock, which `created_at` shows."""
    date = parsedate_to_datetime(desk.reply("GET", BATCHES).headers["date"])
    return (date - desk.now.replace(microsecond=0)).total_seconds()


@about(f.Skew)
def test_a_skewed_date_is_off_and_nothing_else_is(desk, body):
    desk.machine.faults.next("create", f.Skew(400))
    created = desk.reply("POST", BATCHES, body)
    assert created.headers["date"] == "Mon, 02 Nov 2026 12:06:40 GMT"
    assert json.loads(created.body)["created_at"].startswith("2026-11-02T12:00:00.250000")
    desk.machine.faults.always("list", f.Skew(-90))
    assert ahead(desk) == -90
    desk.machine.faults.clear()
    assert ahead(desk) == 0


@about(f.Drift)
def test_a_drifting_date_goes_away_with_time(desk):
    desk.machine.faults.always("list", f.Drift(per_hour=120))
    seen = []
    for _ in range(4):
        seen.append(ahead(desk))
        desk.wait(1800)
    assert seen == [0, 60, 120, 180]


@about(f.Jump)
def test_a_date_jumps_at_a_moment_and_stays_ahead(desk):
    desk.machine.faults.always("every", f.Jump(at=100, seconds=600))
    seen = []
    for _ in range(4):
        seen.append(ahead(desk))
        desk.wait(50)
    assert seen == [0, 0, 600, 600]


def test_an_early_answer_shows_the_skewed_date_too(desk):
    desk.machine.faults.next("create", f.Status(401, early=True), f.Skew(400))
    visit = desk.machine.open(Request("POST", BATCHES, {}, desk.headers))
    assert visit.early.headers["date"] == "Mon, 02 Nov 2026 12:06:40 GMT"


# batches that somebody deletes


@about(f.Deleted)
@pytest.mark.parametrize(("age", "status"), [(0, "in_progress"), (50, "in_progress"), (130, "ended")])
def test_a_batch_vanishes_at_its_age_whatever_its_state(new_desk, body, new_params, age, status):
    desk = new_desk(latency=100, queue_limit=3)
    desk.machine.faults.next("create", f.Deleted(age + 1))
    batch_id = json.loads(desk.reply("POST", BATCHES, body).body)["id"]
    desk.wait(age)
    assert desk.batch(batch_id)["processing_status"] == status
    desk.wait(1)
    assert shown(desk, batch_id) == (False, 404)
    assert desk.results(batch_id).status == 404
    assert desk.machine.account.deleted == [batch_id]
    desk.wait(200)
    desk.create(*map(new_params, range(10, 13)))
    assert desk.machine.account.violated == 0


def test_a_batch_vanishes_while_it_is_canceled(new_desk, body):
    desk = new_desk(latency=100, cancel_latency=60)
    desk.machine.faults.next("create", f.Deleted(30))
    batch_id = json.loads(desk.reply("POST", BATCHES, body).body)["id"]
    desk.wait(10)
    assert desk.call("POST", f"{BATCHES}/{batch_id}/cancel")[1]["processing_status"] == "canceling"
    desk.wait(20)
    assert shown(desk, batch_id) == (False, 404)


def test_what_somebody_deleted_is_still_paid_for(new_desk, new_params):
    desk = new_desk(latency=100)
    batch = desk.create(new_params(1))
    desk.machine.delete(batch["id"])
    assert shown(desk, batch["id"]) == (False, 404)
    desk.create(new_params(1))
    assert desk.machine.account.violated == 1
    with pytest.raises(LookupError, match=batch["id"]):
        desk.machine.delete(batch["id"])


# other people's batches


@about(f.ForeignStream)
def test_somebody_creates_a_batch_of_equal_size_every_few_seconds(desk, post, new_params):
    own = json.loads(post(f.ForeignStream(20, latency=60)).body)["id"]
    desk.wait(59)
    page = desk.call("GET", BATCHES)[1]["data"]
    assert [batch["created_at"][11:19] for batch in page] == ["12:00:40", "12:00:20", "12:00:00"]
    assert {sum(batch["request_counts"].values()) for batch in page} == {3}
    assert page[-1]["id"] == own
    desk.wait(3600)
    page = desk.ids(limit=1000)
    assert 100 <= len(page) <= 103, "a call makes a hundred at most"
    desk.machine.faults.clear()
    desk.wait(3600)
    assert desk.ids(limit=1000) == page
    assert desk.machine.account.batches == 1


def test_a_foreign_stream_ends_by_itself(desk, post):
    post(f.ForeignStream(10, size=7, seconds=35))
    desk.wait(1000)
    counts = [sum(batch["request_counts"].values()) for batch in desk.call("GET", BATCHES)[1]["data"]]
    assert counts == [7, 7, 7, 3]


def test_a_foreign_stream_begins_although_the_create_is_lost(desk, post):
    post(f.ForeignStream(10), f.ResetBeforeAccept())
    desk.wait(35)
    counts = [sum(batch["request_counts"].values()) for batch in desk.call("GET", BATCHES)[1]["data"]]
    assert (counts, desk.machine.account.batches) == ([3, 3, 3], 0)


def test_a_create_that_is_refused_begins_no_foreign_stream(desk):
    desk.machine.faults.next("create", f.ForeignStream(10))
    assert desk.reply("POST", BATCHES, b"{}").status == 400
    desk.wait(35)
    assert desk.ids() == []


@about(f.Hang, f.EmptyResults)
def test_results_of_somebody_else_hang_or_are_empty_and_ours_are_not(desk, ended):
    (foreign,) = desk.machine.add_foreign(20)
    desk.machine.faults.always("results", f.Hang(240, only_foreign=True))
    desk.machine.faults.always("results", f.EmptyResults(only_foreign=True))
    ours, theirs = desk.results(ended), desk.results(foreign)
    assert (ours.delay, b"".join(ours.body).count(b"\n")) == (0, 20)
    assert (theirs.status, theirs.delay, b"".join(theirs.body)) == (200, 240, b"")
    desk.machine.faults.clear()
    desk.machine.faults.next("results", f.Hang(30), f.EmptyResults())
    reply = desk.results(ended)
    assert (reply.delay, b"".join(reply.body)) == (30, b"")


@about(f.Parked)
def test_a_parked_batch_shows_nothing_for_hours_and_a_cancel_finds_its_rows_done(new_desk, new_params, new_body):
    desk = new_desk(latency=300, cancel_latency=2)
    desk.machine.faults.always("create", f.Parked(15.5 * 3600))
    ids = [
        desk.call("POST", BATCHES, new_body(*map(new_params, range(first, first + 187))))[1]["id"] for first in (0, 200)
    ]
    desk.wait(15 * 3600)
    for batch_id in ids:
        batch = desk.batch(batch_id)
        assert (batch["processing_status"], batch["request_counts"]["processing"]) == ("in_progress", 187)
    desk.call("POST", f"{BATCHES}/{ids[0]}/cancel")
    desk.wait(3600)
    canceled, patient = (desk.batch(batch_id)["request_counts"] for batch_id in ids)
    assert (canceled["succeeded"], canceled["canceled"]) == (184, 3)
    assert patient["succeeded"] == 187


# refusals


def test_a_redirect_may_have_been_carried_out(desk, post):
    for status in (301, 302, 303, 307, 308):
        before = desk.machine.account.batches
        reply = post(f.Redirect(status=status, accepted=True))
        assert (reply.status, reply.headers["location"]) == (status, "/v1/elsewhere")
        assert desk.machine.account.batches == before + 1
        assert post(f.Redirect(status=status)).status == status
        assert desk.machine.account.batches == before + 1


@about(f.OutOfCredit, f.UsageLimit)
@pytest.mark.parametrize("details", [msgspec.UNSET, None, "credit", {"error_visibility": "user_facing"}, ["odd"]])
def test_low_credit_and_limits_are_a_400_on_create_and_on_list(desk, body, details):
    limits = [
        (f.OutOfCredit(details=details), "Your credit balance is too low"),
        (f.UsageLimit(details=details), "You have reached your specified workspace API usage limits"),
        (f.UsageLimit(workspace=False, details=details), "You have reached your specified API usage limits"),
    ]
    for fault, text in limits:
        desk.machine.faults.next("create", fault)
        desk.machine.faults.next("list", fault)
        for status, answer in (desk.call("POST", BATCHES, body), desk.call("GET", BATCHES)):
            error = answer["error"]
            assert (status, error["type"]) == (400, "invalid_request_error")
            assert error["message"].startswith(text)
            assert error.get("details", msgspec.UNSET) == details
    assert desk.machine.account.batches == 0


@pytest.mark.parametrize("details", [None, "text", {"a": "b"}, ["odd"]])
def test_a_status_may_have_details_that_are_no_object(post, details):
    assert json.loads(post(f.Status(400, details=details)).body)["error"]["details"] == details


@pytest.mark.parametrize("site", ["list", "retrieve", "results"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_read_is_refused_once_in_a_while(desk, ended, site, status):
    call = {"list": BATCHES, "retrieve": f"{BATCHES}/{ended}", "results": f"{BATCHES}/{ended}/results"}[site]
    desk.machine.faults.always(site, f.Status(status), rate=0.3)
    statuses = Counter(desk.reply("GET", call).status for _ in range(100))
    assert set(statuses) == {200, status}
    assert 10 < statuses[status] < 50


@about(f.Revoked)
def test_a_revoked_token_is_refused_everywhere_until_another_comes(desk, body):
    desk.machine.faults.next("list", f.Revoked())
    assert desk.call("GET", BATCHES)[0] == 401
    desk.wait(86_400)
    assert [desk.call("GET", BATCHES)[0], desk.call("POST", BATCHES, body)[0]] == [401, 401]
    desk.headers = desk.headers | {"authorization": "Bearer renewed"}
    assert [desk.call("GET", BATCHES)[0], desk.call("POST", BATCHES, body)[0]] == [200, 200]


def test_a_token_may_be_refused_for_a_time(desk):
    desk.machine.faults.next("list", f.Revoked(60))
    statuses = []
    for _ in range(3):
        statuses.append(desk.call("GET", BATCHES)[0])
        desk.wait(30)
    assert statuses == [401, 401, 200]


@about(f.NullCounts)
def test_counts_may_be_null(desk, ended):
    desk.machine.faults.always("every", f.NullCounts())
    assert desk.batch(ended)["request_counts"] is None
    assert desk.call("GET", BATCHES)[1]["data"][0]["request_counts"] is None
    desk.machine.faults.clear()
    assert desk.batch(ended)["request_counts"]["succeeded"] == 20


@about(f.OddEntry)
@pytest.mark.parametrize("field", ["id", "processing_status", "request_counts", "created_at"])
def test_entries_of_a_list_may_be_odd_while_each_batch_is_whole_by_its_id(desk, ended, field):
    desk.machine.faults.always("list", f.OddEntry(field))
    (entry,) = desk.call("GET", BATCHES)[1]["data"]
    assert entry == desk.batch(ended) | {field: None}
    assert desk.batch(ended)[field] is not None


@about(f.OddEntry)
def test_a_share_of_the_entries_of_a_list_may_be_odd_and_always_the_same(desk, body):
    for _ in range(20):
        desk.call("POST", BATCHES, body)
    desk.machine.faults.always("list", f.OddEntry(share=0.5))
    pages = [desk.call("GET", BATCHES)[1]["data"] for _ in range(2)]
    assert pages[0] == pages[1]
    assert 2 < sum(entry["request_counts"] is None for entry in pages[0]) < 18


@about(f.ShownArchived)
def test_young_batch_may_be_shown_as_archived(desk, ended):
    desk.machine.faults.next("retrieve", f.ShownArchived())
    shown = desk.batch(ended)
    assert (shown["archived_at"] is None, shown["results_url"]) == (False, None)
    assert desk.batch(ended)["archived_at"] is None
    assert desk.results(ended).status == 200


PERMANENT = [f.Status(404), f.Status(405), f.Redirect(), f.Status(200, envelope=False), f.NoDate()]


@pytest.mark.parametrize("fault", PERMANENT, ids=repr)
def test_a_list_may_never_work(desk, ended, fault):
    desk.machine.faults.always("list", fault)
    for _ in range(3):
        reply = desk.reply("GET", BATCHES)
        page = reply.headers.get("content-type") == "text/html"
        assert reply.status >= 300 or page or "date" not in reply.headers
    assert desk.batch(ended)


@pytest.mark.parametrize("bad", [
    lambda: f.ForeignStream(0),
    lambda: f.Hide(1, every=0),
    lambda: f.KeyPool(()),
])  # fmt: skip
def test_a_fault_that_cannot_be_is_refused_where_it_is_made(bad):
    with pytest.raises(ConfigError):
        bad()


# results


@pytest.fixture
def read(desk, ended):
    """Read the results while these faults are on: the transport and the lines."""

    def read(*faults):
        desk.machine.faults.next("results", *faults)
        reply = desk.results(ended)
        return reply.transport, b"".join(reply.body).removesuffix(b"\n").split(b"\n")

    return read


def rows(lines):
    return Counter(json.loads(line)["custom_id"] for line in lines)


@about(f.NotYet, f.Archived)
def test_results_are_not_there_yet_or_no_more(desk, ended):
    desk.machine.faults.always("results", f.NotYet(5))
    assert desk.results(ended).status == 404
    desk.wait(5)
    assert desk.results(ended).status == 200
    desk.machine.faults.next("results", f.Archived())
    assert desk.results(ended).status == 404


@about(f.CutAtLine)
def test_cut_at_a_line_looks_complete(read):
    transport, lines = read(f.CutAtLine(7))
    assert (transport, rows(lines).total()) == (Whole(), 7)
    transport, lines = read(f.CutAtLine(clean=False))
    assert transport == Cut()
    assert len(lines) < 20


@about(f.CutInLine)
def test_cut_in_a_line_leaves_half_of_it(read):
    transport, lines = read(f.CutInLine(7))
    assert (transport, rows(lines[:-1]).total()) == (Cut(), 7)
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[-1])


@about(f.ResetAt)
def test_reset_at_a_byte(read):
    transport, lines = read(f.ResetAt(1000))
    assert (transport, len(b"\n".join(lines))) == (Reset(), 1000)


@about(f.Slow)
def test_slow_names_its_speed(read):
    transport, lines = read(f.Slow(1e6))
    assert (transport, len(lines)) == (Slow(1e6), 20)


@about(f.Reshuffle)
def test_reshuffled_lines_are_the_same_lines(read):
    plain, again = read()[1], read(f.Reshuffle())[1]
    assert plain != again
    assert sorted(plain) == sorted(again)


@about(f.DuplicateLine)
def test_duplicates_are_equal(read):
    lines = read(f.DuplicateLine(3))[1]
    assert (len(lines), len(set(lines)), len(rows(lines))) == (23, 20, 20)


@about(f.ConflictingLine)
def test_conflicting_duplicates_are_not(read):
    lines = read(f.ConflictingLine(3))[1]
    assert (len(lines), len(set(lines)), len(rows(lines))) == (23, 23, 20)


def test_an_expired_line_conflicts_too(desk, new_params):
    batch = desk.create(new_params(1, metadata={"user_id": "sandbox:expired"}))
    desk.machine.faults.next("results", f.ConflictingLine())
    assert len(set(desk.lines(batch["id"]))) == 2


@about(f.MissingLine)
def test_missing_lines(read):
    assert rows(read(f.MissingLine(3))[1]).total() == 17


@about(f.ForeignLine)
def test_foreign_lines_have_ids_never_sent(read):
    foreign = [row for row in rows(read(f.ForeignLine(3))[1]).elements() if not row.startswith("row-")]
    assert len(foreign) == 3


@about(f.UnparsableLine)
def test_unparsable_lines_hold_no_result(read):
    lines = read(f.UnparsableLine(3))[1]
    assert (len(lines), sum(line.startswith(b'{"custom_id":"row-') for line in lines)) == (23, 20)


@about(f.BlankLine)
def test_blank_lines(read):
    assert Counter(map(bool, read(f.BlankLine(3))[1])) == {True: 20, False: 3}


@about(f.Crlf)
def test_crlf(read):
    lines = read(f.Crlf())[1]
    assert all(line.endswith(b"}\r") for line in lines)


@about(f.LineSeparator)
def test_a_line_separator_inside_a_text_is_raw(read):
    lines = read(f.LineSeparator(2))[1]
    assert sum("\u2028" in line.decode() for line in lines) == 2
    assert len(b"\n".join(lines).decode().splitlines()) > len(lines) == 20


@about(f.LoneSurrogate)
def test_a_lone_surrogate_is_json_that_strict_decoders_refuse(read):
    (line,) = [line for line in read(f.LoneSurrogate())[1] if rb"\ud800" in line]
    assert json.loads(line)["result"]["type"] == "succeeded"
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(line)


@about(f.HugeLine)
def test_a_huge_line(read):
    lines = read(f.HugeLine(5_000_000))[1]
    assert sorted(map(len, lines))[-2] < 5_000_000 < max(map(len, lines))
    assert rows(lines).total() == 20


@about(f.DeepJson)
def test_a_deeply_nested_line(read):
    (line,) = [line for line in read(f.DeepJson())[1] if b"[" * 100_000 in line]
    with pytest.raises(RecursionError):
        json.loads(line)


@about(f.GzipBomb)
def test_a_gzip_bomb_is_small_until_it_is_read(desk, ended):
    desk.machine.faults.next("results", f.GzipBomb(50_000_001))
    reply = desk.results(ended)
    assert reply.headers["content-encoding"] == "gzip"
    squeezed = b"".join(reply.body)
    assert len(squeezed) < 100_000
    assert zlib.decompress(squeezed, zlib.MAX_WBITS | 16) == b"\n" * 50_000_001
    assert gzip.decompress(b"".join(blank_lines_in_gzip(5))) == b"\n" * 5


def test_line_faults_work_together(read, new_params):
    lines = read(f.MissingLine(2), f.DuplicateLine(1), f.BlankLine(1), f.Crlf())[1]
    full = [line for line in lines if line.strip()]
    assert len(lines) - len(full) == 1
    assert 17 <= len(rows(full)) <= 18
    assert any(digest(new_params(n)).encode() in line for line in full for n in range(20))


# when


def test_faults_queue_up(desk):
    desk.machine.faults.next("list", f.Status(500))
    desk.machine.faults.next("list", f.Status(503), times=2)
    assert [desk.call("GET", BATCHES)[0] for _ in range(4)] == [500, 503, 503, 200]


def test_always_lasts_until_cleared(desk):
    desk.machine.faults.always("list", f.Status(500))
    desk.machine.faults.always("create", f.Status(500))
    assert [desk.call("GET", BATCHES)[0] for _ in range(3)] == [500] * 3
    desk.machine.faults.clear("list")
    assert (desk.call("GET", BATCHES)[0], desk.call("POST", BATCHES)[0]) == (200, 500)
    desk.machine.faults.clear()
    assert desk.call("POST", BATCHES)[0] == 400


def test_a_rate_is_drawn_from_the_seed(new_desk):
    def run(seed):
        desk = new_desk(seed=seed)
        desk.machine.faults.always("list", f.Status(500), rate=0.3)
        return [desk.call("GET", BATCHES)[0] for _ in range(200)]

    assert run(1) == run(1) != run(2)
    assert 40 < run(1).count(500) < 80


ORDERS = [
    (
        b'{"do":"next","on":"create","faults":[{"type":"Stall","seconds":1},{"type":"NoDate"}],"times":2}',
        [[f.Stall(1), f.NoDate()], [f.Stall(1), f.NoDate()], []],
    ),
    (b'{"do":"always","on":"create","fault":{"type":"Status","status":503}}', [[f.Status(503)]] * 3),
    (b'{"do":"always","on":"every","fault":{"type":"Skew","seconds":9}}', [[f.Skew(9)]] * 3),
    (b'{"do":"clear","on":"create"}', [[]]),
    (b'{"do":"clear"}', [[]]),
]


@pytest.mark.parametrize(("order", "drawn"), ORDERS)
def test_orders_in_json(order, drawn):
    faults = f.Faults()
    faults.obey(msgspec.json.decode(order, type=f.Order))
    assert [list(faults.draw("create", lambda _: True, Random(0))) for _ in drawn] == drawn


def test_every_fault_goes_through_json():
    for kind in get_args(f.AnyFault):
        needed = {field.name: 1 for field in msgspec.structs.fields(kind) if field.required}
        fault = kind(**needed)
        assert msgspec.json.decode(msgspec.json.encode(fault), type=f.AnyFault) == fault


def test_every_fault_is_tested():
    assert set(get_args(f.AnyFault)) == TESTED
