"""Nothing is paid for twice: every row of table A and B over HTTP, with the sandbox's own account as the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import structlog

from abatch import BatchManager, ConfigError, JobStopped, StillInDoubt
from abatch.engine import client, doubt, in_flight, proof
from abatch.engine.pending import PendingDoubts
from abatch.protocol.facts import Resumed
from abatch.protocol.reconcile import Refused, Replied
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import (
    CutBody,
    Foreign,
    ForeignLine,
    Garbage,
    Hang,
    LateAccept,
    NoDate,
    OtherWorkspace,
    Redirect,
    Refuse,
    ResetAfterAccept,
    ResetBeforeAccept,
    SpendLimit,
    StaleAnswer,
    Status,
)
from tests.e2e.jobs import (
    assert_each_answered,
    assert_paid_once,
    config,
    lines,
    manager,
    recorded,
    requests,
    run,
    write,
)
from tests.e2e.test_operator import until

pytestmark = pytest.mark.anyio


async def test_every_answer_lost_makes_no_second_batch(api: Sandbox) -> None:
    api.faults.always("create", ResetAfterAccept())
    rows = requests(57)
    _, summary = await run(write(rows))
    assert summary.succeeded == 57
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_every_answer_lost_beside_foreign_batches_of_equal_size(api: Sandbox) -> None:
    api.faults.always("create", ResetAfterAccept())
    api.faults.always("create", Foreign(count=2))
    rows = requests(57)
    _, summary = await run(write(rows))
    assert summary.succeeded == 57
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
    assert api.account.canceled == api.account.deleted == []


async def test_create_that_never_arrived_is_sent_again_after_the_grace(api: Sandbox) -> None:
    api.faults.next("create", ResetBeforeAccept())
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_late_batch_is_found(api: Sandbox) -> None:
    api.faults.next("create", LateAccept(seconds=1.0))
    rows = requests(8)
    _, summary = await run(write(rows), grace=timedelta(seconds=5))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


# ---- the bounds are watched -----------------------------------------------------------------------------------


def broken_bounds(events: Sequence[Mapping[str, Any]]) -> list[str]:
    return [event["event"] for event in events if event["event"].startswith("bound_")]


@pytest.mark.parametrize(("within", "told"), [(0.5, ["bound_A1_broken"]), (doubt.CREATED_WITHIN, [])])
async def test_batch_that_comes_to_be_late_is_found_and_the_bound_is_told(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, within: float, told: list[str]
) -> None:
    monkeypatch.setattr(doubt, "CREATED_WITHIN", within)
    api.faults.next("create", LateAccept(seconds=1.6))
    rows = requests(8)
    with structlog.testing.capture_logs() as events:
        await run(write(rows), grace=timedelta(seconds=6))
    assert broken_bounds(events) == told
    assert_paid_once(api, rows)


@pytest.mark.parametrize(("within", "told"), [(0.3, ["bound_A2_broken"]), (in_flight.VISIBLE_WITHIN, [])])
async def test_accepted_batch_that_the_list_does_not_show_is_told(
    monkeypatch: pytest.MonkeyPatch, within: float, told: list[str]
) -> None:
    monkeypatch.setattr(in_flight, "VISIBLE_WITHIN", within)
    rows = requests(8)
    with Sandbox(seed=7, latency=2.0) as api, structlog.testing.capture_logs() as events:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.always("list", OtherWorkspace())
        await run(write(rows))
        assert_paid_once(api, rows)
    assert broken_bounds(events) == told


async def test_accepted_batch_that_nothing_shows_at_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_flight, "VISIBLE_WITHIN", 0.2)
    rows = requests(8)
    with Sandbox(seed=7, latency=0.1) as api, structlog.testing.capture_logs() as events:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        for _ in range(21):  # the first is the gate's
            api.faults.next("list", OtherWorkspace())
            api.faults.next("retrieve", Status(404))
        await run(write(rows))
        assert_paid_once(api, rows)
    assert broken_bounds(events) == ["bound_A2_broken"]


async def test_candidate_on_record_that_the_ruling_did_not_know_is_not_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a list shows is durable before it counts, and a task may be cancelled in between."""

    async def cut_short(_doubts: PendingDoubts, pending: Any, change: Any) -> None:
        await pending.note(change)

    monkeypatch.setattr(PendingDoubts, "_note", cut_short)
    rows = requests(8)
    with Sandbox(seed=7, latency=3600) as api, structlog.testing.capture_logs() as events:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", ResetAfterAccept())
        async with manager() as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            await until(job, lambda: any(getattr(each.state, "candidates", ()) for each in job._job.shards.values()))
            api.faults.always("list", OtherWorkspace())
            api.faults.always("retrieve", Status(404))
            await until(job, lambda: any(event.get("rule") == "B8" for event in events))
            api.faults.clear()
            api.advance(7200)
            with anyio.fail_after(30):
                summary = await job.wait()
        assert summary.succeeded == 8
        assert_paid_once(api, rows)


@pytest.mark.parametrize("fault", [Status(500), Status(529), Status(408), Status(409), Status(502, envelope=False)])
@pytest.mark.parametrize("accepted", [True, False])
async def test_doubtful_answer_is_settled_by_the_list(api: Sandbox, fault: Status, accepted: bool) -> None:
    api.faults.next("create", Status(fault.status, envelope=fault.envelope, accepted=accepted))
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_proxy_page_is_not_a_refusal(api: Sandbox, status: int) -> None:
    api.faults.next("create", Status(status, envelope=False, accepted=True))
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


@pytest.mark.parametrize("fault", [Garbage(), CutBody(at=20)])
async def test_unreadable_acceptance_is_found_and_never_resubmitted(api: Sandbox, fault: Any) -> None:
    api.faults.next("create", fault)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_answer_that_names_a_batch_of_another_shard_is_created_with_its_id_unknown(api: Sandbox) -> None:
    api.faults.next("create")
    api.faults.next("create", StaleAnswer())
    rows = requests(28)
    with structlog.testing.capture_logs() as events:
        _, summary = await run(write(rows), uploads=1)
    assert (summary.succeeded, summary.missing, summary.duplicates) == (28, 0, 0)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
    (warned,) = (event for event in events if event["event"] == "answer_names_another_batch")
    assert warned["shard"] in {event["shard"] for event in events if event["event"] == "answer_unreadable"}


async def test_answer_that_names_a_batch_whose_own_answer_was_lost_is_created_with_its_id_unknown(
    api: Sandbox,
) -> None:
    """Nothing is known of the named batch, but it was there before the commit point."""
    api.faults.next("create", ResetAfterAccept())
    api.faults.next("create", StaleAnswer())
    rows = requests(16)
    with structlog.testing.capture_logs() as events:
        _, summary = await run(write(rows), uploads=1, requests_per_batch=8)
    assert (summary.succeeded, summary.missing, summary.duplicates) == (16, 0, 0)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
    (warned,) = (event for event in events if event["event"] == "answer_names_another_batch")
    assert warned["batch_id"] == api.account.created[0]
    assert {event["batch_id"] for event in events if event["event"] == "shard_found"} == set(api.account.created[:2])


async def test_answer_that_names_a_batch_of_another_shard_is_never_sent_again(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row A5: absence is held for the operator, though the policy is `resubmit`."""
    rows = requests(16)
    await run(rows[:8], to="memory:", key="first")
    earlier = list(api.account.created)
    api.faults.always("create", ResetBeforeAccept())
    real = client.Client.create

    async def create(self: client.Client, *about: Any) -> Any:
        await real(self, *about)
        return Replied(status=200, batch=await self.retrieve(None, earlier[0]))

    monkeypatch.setattr(client.Client, "create", create)
    with pytest.raises(StillInDoubt, match="the API reported that it made a batch"):
        await run(rows[8:], to="memory:", key="second")
    assert api.account.created == earlier


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
async def test_refusal_stops_the_job_and_handing_over_again_goes_on(api: Sandbox, status: int) -> None:
    api.faults.next("create", Status(status, "some_error", "no, because"))
    rows = requests(8)
    with pytest.raises(JobStopped, match="no, because"):
        await run(write(rows))
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_foreign_line_that_stands_first_does_not_make_our_batch_foreign(api: Sandbox) -> None:
    api.faults.always("create", ResetAfterAccept())
    api.faults.always("results", ForeignLine())
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_foreign_batch_of_one_request_is_read_twice_and_keeps_no_doubt_open(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line alone may be a stray one; a second reading settles it, so that a short-lived process gets on, too."""
    monkeypatch.setattr(proof, "READ_AGAIN", (0.05,))
    api.faults.next("create", ResetBeforeAccept())
    rows = requests(1)
    with structlog.testing.capture_logs() as events:
        async with manager(grace=timedelta(seconds=2)) as running:
            job = await running.submit(rows, to="results.jsonl", key="job")
            await until(job, lambda: job.progress().in_doubt == 1)
            api.add_foreign(1)
            summary = await job.wait()
    looks = [event["event"] for event in events if event["event"] in ("candidate_not_readable", "candidate_foreign")]
    assert looks == ["candidate_not_readable", "candidate_foreign"]
    assert summary.succeeded == 1
    assert_paid_once(api, rows)


async def test_spend_limit_stops_and_is_not_retried(api: Sandbox) -> None:
    api.faults.next("create", SpendLimit())
    with pytest.raises(JobStopped, match="aise the spend limit"):
        await run(write(requests(8)))
    assert api.account.batches == 0


async def test_spend_limit_stops_every_job_of_the_scope_until_one_is_handed_over_again(api: Sandbox) -> None:
    api.faults.always("create", SpendLimit())
    path, other = write(requests(8)), write(requests(16)[8:], "other.jsonl")
    async with manager() as running:
        jobs = [
            await running.submit(path, to="results.jsonl", key="job"),
            await running.submit(other, to="other.jsonl.db", key="other"),
        ]
        for job in jobs:
            with pytest.raises(JobStopped, match="aise the spend limit"):
                await job.wait()
        third = await running.submit(path, to="memory:", key="third")
        with pytest.raises(JobStopped, match="aise the spend limit"):
            await third.wait()
        api.faults.clear("create")
        again = await running.submit(path, to="results.jsonl", key="job")
        assert (await again.wait()).succeeded == 8


async def test_job_that_stops_after_it_was_handed_over_does_not_take_itself_up_again(
    monkeypatch: pytest.MonkeyPatch, api: Sandbox
) -> None:
    """A hand-over that comes while the run begins lets it go round once more, but takes up no later stop."""
    with Sandbox(seed=7, latency=3600) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        rows = requests(8)
        rows[3]["params"]["metadata"] = {"user_id": "sandbox:errored-once:overloaded_error"}
        path = write(rows)
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job", tries=2)
            await until(job, lambda: server.account.batches == 1 and not job.progress().in_doubt)
        server.faults.always("create", SpendLimit())
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job", tries=2)
            server.advance(7200)
            with pytest.raises(JobStopped, match="aise the spend limit"):
                await job.wait()
        assert await recorded(Resumed) == []


async def test_redirect_is_not_followed(api: Sandbox) -> None:
    with Sandbox() as elsewhere:
        api.faults.next("create", Redirect(location=f"{elsewhere.url}/v1/messages/batches"))
        with pytest.raises(JobStopped, match="redirected"):
            await run(write(requests(8)))
        assert elsewhere.account.batches == 0


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_redirect_to_the_result_of_a_create_that_was_carried_out_is_not_paid_again(
    api: Sandbox, status: int
) -> None:
    api.faults.next("create", Status(status, envelope=False, accepted=True))
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_redirect_stops_every_job_of_the_scope(api: Sandbox) -> None:
    api.faults.next("create", Redirect())
    async with manager() as running:
        first = await running.submit(requests(3), to="memory:", key="first")
        with pytest.raises(JobStopped, match="redirected"):
            await first.wait()
        other = await running.submit(requests(3), to="memory:", key="other")
        assert (await other.wait()).succeeded == 3  # handing a job over asks the API again


# ---- refusals that are not believed ---------------------------------------------------------------------------


@pytest.mark.parametrize("unresolved", ["hold", "resubmit"])
async def test_rate_limit_that_accepts_anyway_is_not_paid_again_where_refusals_are_doubted(
    api: Sandbox, unresolved: str
) -> None:
    api.faults.next("create", Status(429, "rate_limit_error", "slow down", retry_after=0, accepted=True), times=2)
    rows = requests(28)
    _, summary = await run(write(rows), unresolved=unresolved, refusals="doubt", grace=timedelta(seconds=5))
    assert (summary.succeeded, summary.duplicates) == (28, 0)
    assert_paid_once(api, rows)


async def test_rate_limit_that_accepts_anyway_is_paid_twice_and_reported_where_refusals_are_believed(
    api: Sandbox,
) -> None:
    api.faults.next("create", Status(429, "rate_limit_error", "slow down", retry_after=0, accepted=True))
    rows = requests(8)
    _, summary = await run(write(rows))
    assert (summary.succeeded, summary.duplicates) == (8, 1)
    assert api.account.violated == 8


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
async def test_refusal_that_accepts_anyway_stops_the_job_and_is_not_paid_again_where_refusals_are_doubted(
    api: Sandbox, status: int
) -> None:
    api.faults.next("create", Status(status, "some_error", "no, because", accepted=True))
    rows = requests(28)
    doubting = {"unresolved": "hold", "refusals": "doubt", "grace": timedelta(seconds=5), "uploads": 1}
    with structlog.testing.capture_logs() as events, pytest.raises(JobStopped, match="no, because"):
        await run(write(rows), **doubting)
    assert api.account.batches == 1  # nothing more was sent
    (told,) = (event for event in events if event["event"] == "shard_in_doubt")
    assert (told["rule"], "no, because" in told["why"]) == ("A9", True)
    _, summary = await run(write(rows), **doubting)
    assert summary.succeeded == 28
    assert_paid_once(api, rows)


async def test_spend_limit_that_is_doubted_stops_every_job_of_the_scope(api: Sandbox) -> None:
    api.faults.next("create", SpendLimit())
    async with manager(refusals="doubt", unresolved="hold") as running:
        first = await running.submit(requests(3), to="memory:", key="first")
        with pytest.raises(JobStopped, match="aise the spend limit"):
            await first.wait()
        assert running._context.scopes.of(None).availability.refused is not None
        assert first.progress().held == 1
    assert api.account.batches == 0
    with pytest.raises(StillInDoubt, match="abatch resolve"):  # the shard is looked for, and never sent again
        await run(requests(3), to="memory:", key="first", refusals="doubt", unresolved="hold")
    assert api.account.batches == 0


@pytest.mark.parametrize("fault", [Redirect(), Status(413, "request_too_large", "too large")])
async def test_answers_that_nobody_gives_after_acceptance_are_definite_where_refusals_are_doubted(
    api: Sandbox, fault: Any
) -> None:
    api.faults.next("create", fault)
    rows = requests(8)
    path = write(rows)
    with structlog.testing.capture_logs() as events:
        if isinstance(fault, Redirect):
            with pytest.raises(JobStopped, match="redirected"):
                await run(path, unresolved="hold", refusals="doubt")
        _, summary = await run(path, unresolved="hold", refusals="doubt")
    assert summary.succeeded == 8
    assert [event for event in events if event["event"] == "shard_in_doubt"] == []
    assert_paid_once(api, rows)


async def test_rate_limit_waits_as_asked(api: Sandbox) -> None:
    api.faults.next("create", Status(429, "rate_limit_error", "slow down", retry_after=1), times=2)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_too_large_is_split(api: Sandbox) -> None:
    api.faults.next("create", Status(413, "request_too_large", "too large"), times=3)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_one_request_too_large_gets_the_error_as_its_line(api: Sandbox) -> None:
    api.faults.always("create", Status(413, "request_too_large", "too large"))
    _, summary = await run(write(requests(3)))
    assert summary.errored == 3
    assert {line["result"]["error"]["error"]["type"] for line in lines("results.jsonl")} == {"request_too_large"}


async def test_early_failures_are_tried_again(api: Sandbox) -> None:
    api.faults.next("create", Refuse(), times=2)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_reply_without_date_is_a_failed_list(api: Sandbox) -> None:
    api.faults.next("list", NoDate(), times=2)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_hold_waits_for_an_operator(api: Sandbox) -> None:
    api.faults.next("create", ResetBeforeAccept())
    rows = requests(8)
    with pytest.raises(StillInDoubt, match="abatch resolve"):
        await run(write(rows), unresolved="hold")
    assert api.account.batches == 0


async def test_other_key_cannot_conclude_from_an_empty_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=3, keys={"old": "one", "new": "two"}) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "old")
        api.faults.next("create", ResetAfterAccept())
        rows = requests(8)
        path = write(rows)
        async with BatchManager(
            config=config(
                grace=timedelta(hours=1), poll_interval=timedelta(hours=1), poll_interval_max=timedelta(hours=1)
            )
        ) as running:
            await running.submit(path, to="results.jsonl", key="job")
            while not api.account.batches:
                await anyio.sleep(0.01)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "new")
        with pytest.raises(StillInDoubt, match="key or workspace"):
            await run(path)
        assert_paid_once(api, rows)


@pytest.mark.parametrize("unresolved", ["resubmit", "hold"])
async def test_create_that_is_refused_at_its_head_by_a_server_that_closes_leaves_no_doubt(
    api: Sandbox, unresolved: Any
) -> None:
    """The answer comes before the gate's list, so nothing behind the gate is sent: a 413 splits, a 401 stops."""
    api.faults.always("list", Hang(0.2))
    api.faults.next("create", Status(413, early=True, closes=True), times=1)
    rows = requests(8)
    with structlog.testing.capture_logs() as events, anyio.fail_after(60):
        _, summary = await run(write(rows), unresolved=unresolved, requests_per_batch=8)
    told = [event["event"] for event in events]
    assert "shard_split" in told
    assert "shard_in_doubt" not in told
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert_paid_once(api, rows)
    api.faults.always("create", Status(401, early=True, closes=True))
    with structlog.testing.capture_logs() as events, pytest.raises(JobStopped, match="401"):
        await run(write(requests(9)), to="other.jsonl", key="other", unresolved=unresolved)
    assert "shard_in_doubt" not in [event["event"] for event in events]


async def test_results_cut_and_reset_lose_nothing(api: Sandbox) -> None:
    from abatch.sandbox.faults import (
        BlankLine,
        ConflictingLine,
        Crlf,
        CutAtLine,
        CutInLine,
        DeepJson,
        DuplicateLine,
        LineSeparator,
        LoneSurrogate,
        NotYet,
        ResetAt,
        UnparsableLine,
    )

    for fault in (
        NotYet(seconds=0.2), CutInLine(lines=2), ResetAt(byte=900), ResetAt(byte=5), DuplicateLine(), ConflictingLine(),
        ForeignLine(),
        UnparsableLine(), BlankLine(), LineSeparator(), LoneSurrogate(), Crlf(), DeepJson(depth=5000),
    ):  # fmt: skip
        api.faults.next("results", fault)
    del CutAtLine
    rows = requests(130)
    _, summary = await run(write(rows))
    assert summary.requests == sum((summary.succeeded, summary.errored)) == 130
    found = Path("results.jsonl").read_bytes().split(b"\n")
    assert len(found) == 131
    assert_paid_once(api, rows)


@pytest.mark.parametrize("batch_id", ["", "../x", "a\n\x1b[31m", "m" * 100_000, 7, None])
async def test_acceptance_with_an_id_that_no_path_can_hold_is_found_and_ends_nothing(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, batch_id: object
) -> None:
    replied = client.replied

    def odd(answer: httpx2.Response) -> Any:
        return replied(httpx2.Response(answer.status_code, json={**answer.json(), "id": batch_id}))

    monkeypatch.setattr(client, "replied", odd)
    rows = requests(8)
    with structlog.testing.capture_logs() as events, anyio.fail_after(60):
        _, summary = await run(write(rows))
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert [event["rule"] for event in events if event["event"] == "create_answered"] == ["A5"]
    assert_paid_once(api, rows)


@pytest.mark.parametrize(
    "oddity",
    [{"date": "Mon, 01 Jan 2024 00:00:00 +99999999999999"}, {"body": b"[" * 100_000 + b"]" * 100_000}],
    ids=["a date that overflows", "deep nesting"],
)
async def test_odd_answer_is_a_failed_call_and_ends_nothing(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, oddity: dict[str, Any]
) -> None:
    get, odd = client.Client._get, []

    async def once(self: client.Client, what: str, path: str, workspace_id: str | None) -> httpx2.Response:
        answer = await get(self, what, path, workspace_id)
        if f"limit={client.PAGE}" in path and not odd:
            odd.append(path)
            headers = {**answer.headers, "date": oddity.get("date", answer.headers["date"])}
            headers.pop("content-encoding", None)  # its content is decoded already
            return httpx2.Response(200, headers=headers, content=oddity.get("body", answer.content))
        return answer

    monkeypatch.setattr(client.Client, "_get", once)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert odd
    assert_paid_once(api, rows)


async def test_created_batch_is_found_though_its_answer_is_nested_too_deeply(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    replied = client.replied

    def deep(answer: httpx2.Response) -> Any:
        return replied(httpx2.Response(answer.status_code, content=b"[" * 100_000 + b"]" * 100_000))

    monkeypatch.setattr(client, "replied", deep)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_credentials_in_the_base_url_are_refused_and_stand_nowhere(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url.replace("://", "://me:canary-word@"))
    with pytest.raises(ConfigError, match="user or password") as refused:
        await run(requests(3))
    assert "canary-word" not in str(refused.value)
    assert not any(b"canary-word" in path.read_bytes() for path in Path().rglob("*") if path.is_file())


async def test_shard_whose_scope_is_refused_while_it_is_admitted_takes_no_room(api: Sandbox) -> None:
    async with manager() as running:
        scope = running._context.scopes.of(None)
        holds = scope.pace.holds

        def refused(shard: int, rows: int, *until: float) -> None:
            holds(shard, rows, *until)
            scope.availability.refuse(Refused(rule="A8", reason="no money", remedy="pay", whole_scope=True))

        scope.pace.holds = refused  # type: ignore[method-assign]
        with pytest.raises(JobStopped, match="no money"):
            await (await running.submit(requests(3), to="results.jsonl", key="job")).wait()
        assert scope.pace.queued == 0
