"""Reads that are refused and lists that cannot be used: what stops a job, what does not, and what that costs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from abatch import ConfigError, JobStopped
from abatch.engine import client
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.sqlite import SqliteLog
from abatch.journal.status import read as read_status
from abatch.protocol.lifecycle import InDoubt
from abatch.protocol.reads import LOOKS
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Garbage, NoDate, Redirect, ResetBeforeAccept, Status
from tests.e2e.jobs import assert_paid_once, manager, requests, run, write
from tests.e2e.test_operator import until

pytestmark = pytest.mark.anyio

CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
USAGE = "You have reached your specified workspace API usage limits. You will regain access on 2026-12-01."
SECRET = "sk-ant-api03-CANARY_canary-0123456789"
NEVER: dict[str, Any] = {
    "404": Status(404),
    "405 of a proxy": Status(405, envelope=False),
    "a redirect": Redirect(),
    "a web page": Status(200, envelope=False),
    "no Date": NoDate(),
    "not JSON": Garbage(),
}
never = pytest.mark.parametrize("fault", NEVER.values(), ids=NEVER)


async def recorded(key: str = "job") -> Any:
    """The job, as its journal has it."""
    journal = await SqliteLog.open(JournalFolder(Path(".abatch").absolute()), drive=False)
    try:
        return (await Ledger.load(journal, journal.folder)).job(key)
    finally:
        await journal.aclose()


@never
async def test_list_that_can_never_work_stops_the_job_before_a_byte_is_uploaded(api: Sandbox, fault: Any) -> None:
    api.faults.always("list", fault)
    rows = requests(8)
    with anyio.fail_after(60), pytest.raises(JobStopped, match="answered") as caught:
        await run(write(rows))
    assert "base URL" in caught.value.remedy
    assert (api.account.aborted, api.account.batches) == (0, 0)
    assert (await recorded()).stopped.reason == caught.value.reason
    api.faults.clear()
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_unusable_list_at_the_gate_costs_no_second_upload(api: Sandbox) -> None:
    api.faults.next("list")  # the first call is good
    api.faults.next("list", Status(503), times=6)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert api.account.aborted == 1
    assert_paid_once(api, rows)


@pytest.mark.parametrize("fault", [Status(500), Status(529), Status(429, retry_after=0), Status(503, envelope=False)])
async def test_list_in_trouble_that_may_pass_is_waited_for_and_nothing_is_uploaded(api: Sandbox, fault: Any) -> None:
    api.faults.next("list", fault, times=6)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert api.account.aborted == 0
    assert_paid_once(api, rows)


async def test_wait_for_a_list_in_trouble_is_shown_in_the_driver_status(api: Sandbox) -> None:
    def shown() -> bool:
        status = read_status(JournalFolder(Path(".abatch")))
        return status is not None and "answered 503" in status.trouble

    api.faults.always("list", Status(503))
    rows = requests(8)
    async with manager() as running:
        job = await running.submit(write(rows), to="results.jsonl", key="job")
        with anyio.fail_after(60):
            await until(job, shown)
        api.faults.clear()
        assert (await job.wait()).succeeded == 8
    assert api.account.aborted == 0
    assert_paid_once(api, rows)


async def test_list_that_stops_working_for_good_ends_the_wait_for_a_batch_and_not_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Sandbox(seed=7, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        rows = requests(8)
        async with manager() as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            await until(job, lambda: job.progress().batches_in_flight == 1)
            api.faults.always("list", Status(404, envelope=False))
            with anyio.fail_after(60), pytest.raises(JobStopped, match="answered 404") as caught:
                await job.wait()
            assert "base URL" in caught.value.remedy
            api.faults.clear()
            api.advance(3601)
            again = await running.submit(write(rows), to="results.jsonl", key="job")
            assert (await again.wait()).succeeded == 8
        assert_paid_once(api, rows)


@pytest.mark.parametrize(
    "pages", [{"last_id": None, "data": []}, {"last_id": "x", "data": []}], ids=["no next page", "an empty page"]
)
async def test_list_that_says_that_more_follows_and_names_no_page_settles_nothing_and_stops_the_job(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, pages: dict[str, Any]
) -> None:
    get, good, looks = client.Client._get, anyio.Event(), list[str]()

    async def unfinished(self: client.Client, what: str, path: str, workspace_id: str | None) -> httpx2.Response:
        answer = await get(self, what, path, workspace_id)
        if f"limit={client.PAGE}" not in path or good.is_set():
            return answer
        looks.append(path)
        return httpx2.Response(200, headers={"date": answer.headers["date"]}, json={**pages, "has_more": True})

    monkeypatch.setattr(client.Client, "_get", unfinished)
    api.faults.next("create", ResetBeforeAccept())
    rows = requests(8)
    with anyio.fail_after(60), pytest.raises(JobStopped, match="names no next page") as caught:
        await run(write(rows))
    assert "base URL" in caught.value.remedy
    assert len(looks) >= LOOKS
    state = (await recorded()).shards[1].state
    assert (type(state), state.attempt) == (InDoubt, 1)
    good.set()
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


@pytest.mark.parametrize("path", ["/gateway", "/%12"])
@pytest.mark.parametrize("ends", ["/v1", "/v1/", "/v1/messages", "/v1/messages/batches"])
async def test_base_url_that_ends_in_v1_is_refused_at_the_start(
    api: Sandbox, path: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"{api.url}{path}{ends}")
    with (
        anyio.fail_after(60),
        pytest.raises(ConfigError, match=f"ends in {ends.rstrip('/')}.*set it to {api.url}{path}$"),
    ):
        await run(requests(3))
    assert not Path(".abatch").exists()


# ---- 401 and 403 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [0, 1], ids=["before the create", "in the gate"])
@pytest.mark.parametrize("status", [401, 403])
async def test_one_refused_read_before_a_create_stops_nothing(api: Sandbox, good: int, status: int) -> None:
    if good:
        api.faults.next("list")
    api.faults.next("list", Status(status), times=2)
    rows = requests(8)
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_one_403_among_the_polls_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=7, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        rows = requests(8)
        slow = timedelta(seconds=2)  # the pause after a refused look is long enough to be seen
        async with manager(poll_interval=slow, poll_interval_max=slow) as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            await until(job, lambda: job.progress().batches_in_flight == 1)
            api.faults.next("list", Status(403))
            with anyio.fail_after(60):
                await until(job, lambda: running._context.scopes.of(None).availability.trouble is not None)
                job._raise_if_refused()  # what `wait` and `results` do every second
                api.advance(3601)
                assert (await job.wait()).succeeded == 8
        assert_paid_once(api, rows)


async def test_key_that_is_refused_again_and_again_stops_the_wait_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {"key-number-one": "one"}
    with Sandbox(seed=7, keys=keys, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "key-number-one")
        rows = requests(8)
        async with manager() as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            await until(job, lambda: job.progress().batches_in_flight == 1)
            del keys["key-number-one"]
            with anyio.fail_after(60), pytest.raises(JobStopped, match="ANTHROPIC_API_KEY"):
                await job.wait()
            keys["key-number-one"] = "one"
            api.advance(3601)
            again = await running.submit(write(rows), to="results.jsonl", key="job")
            assert (await again.wait()).succeeded == 8
        assert_paid_once(api, rows)


# ---- limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("message", "remedy"), [(CREDIT, "Buy credits"), (USAGE, "Raise the usage limit")])
async def test_limit_on_create_stops_every_job_of_the_scope_after_one_create(
    api: Sandbox, message: str, remedy: str
) -> None:
    api.faults.always("list", Status(503))
    async with manager() as running:
        for number in range(3):
            job = await running.submit(
                write(requests(5), f"in-{number}.jsonl"), to=f"{number}.jsonl", key=f"job-{number}"
            )
            while job.progress().planned < 5:
                await job._job.change()
    api.faults.clear()
    api.faults.always("create", Status(400, message=message))
    async with manager(uploads=1) as running:
        jobs = running.jobs()
        for job in jobs:
            with anyio.fail_after(60), pytest.raises(JobStopped, match=f"{remedy} .*in the Console"):
                await job.wait()
        assert sum(shard.state.attempt for job in jobs for shard in job._job.shards.values()) == 1  # type: ignore[union-attr]
    assert (api.account.batches, api.account.aborted) == (0, 0)


@pytest.mark.parametrize("good", [0, 1], ids=["before the create", "in the gate"])
async def test_limit_on_the_list_stops_the_job_instead_of_asking_for_ever(api: Sandbox, good: int) -> None:
    if good:
        api.faults.next("list")
    for _ in range(10):
        api.faults.next("list", Status(400, message=USAGE))
    rows = requests(8)
    with anyio.fail_after(60), pytest.raises(JobStopped, match="Raise the usage limit in the Console"):
        await run(write(rows))
    assert api.account.aborted == good
    api.faults.clear()
    _, summary = await run(write(rows))
    assert summary.succeeded == 8
    assert_paid_once(api, rows)


async def test_cancel_that_is_refused_for_lack_of_credit_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=7, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("cancel", Status(400, message=CREDIT))
        async with manager() as running:
            job = await running.submit(write(requests(8)), to="results.jsonl", key="job")
            await until(job, lambda: job.progress().batches_in_flight == 1)
            await job.cancel()
            with anyio.fail_after(60):
                summary = await job.wait()
        assert summary.canceled == 8
        assert api.account.violated == 0


# ---- keys in messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["create", "list"])
async def test_key_that_an_error_repeats_reaches_neither_disk_nor_screen(
    api: Sandbox, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "no-usual-key-CANARY")
    said = f"{SECRET} is invalid, Authorization: Bearer CANARY.opaque, no-usual-key-CANARY"
    api.faults.always(site, Status(403, message=said))
    with anyio.fail_after(60), pytest.raises(JobStopped, match=r"\[redacted\] is invalid") as caught:
        await run(write(requests(8)))
    assert "CANARY" not in str(caught.value)
    assert not [path for path in Path().rglob("*") if path.is_file() and b"CANARY" in path.read_bytes()]


async def test_key_in_the_refusal_of_one_request_is_not_in_its_line(api: Sandbox) -> None:
    api.faults.always("create", Status(413, message=f"too large: {SECRET}"))
    _, summary = await run(write(requests(1)))
    assert summary.errored == 1
    assert b"too large: [redacted]" in Path("results.jsonl").read_bytes()
    assert not [path for path in Path().rglob("*") if path.is_file() and b"CANARY" in path.read_bytes()]
