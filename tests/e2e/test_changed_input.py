"""A refused request is named by its line, and a stopped job takes the corrected input without paying twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from abatch import BatchManager, JobConflict, JobStopped, LimitReached
from abatch.facts import CancelWished, Stopped
from abatch.journal import Entry
from abatch.located import lines_of
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
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

pytestmark = pytest.mark.anyio
MESSAGE = "requests.3.params.messages.0.role: unexpected value 'sistem'"
REFUSED = Status(400, "invalid_request_error", MESSAGE)


async def refused(api: Sandbox, rows: list[dict[str, Any]], *, nth: int) -> None:
    """Run until the n-th create is refused, and all that was sent is done."""
    path = write(rows)
    api.faults.next("create", times=nth - 1)  # these are as always
    api.faults.next("create", REFUSED)
    async with manager(uploads=1) as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        with anyio.fail_after(60), pytest.raises(JobStopped):
            await job.wait()


async def changed(path: Path, to: str = "results.jsonl", key: str = "job", **more: Any) -> Any:
    async with manager(**more) as running:
        job = await running.submit(path, to=to, key=key, changed_input=True)
        with anyio.fail_after(60):
            return await job.wait()


async def test_a_refused_request_is_named_by_its_line_and_custom_id(api: Sandbox) -> None:
    rows = requests(8)
    path = write(rows)
    path.write_text("\n\n" + path.read_text())
    api.faults.next("create", REFUSED)
    with pytest.raises(JobStopped) as stopped:
        await run(path)
    assert f"requests.3 of this batch is line 6 of {path.absolute()}, custom_id 'row 3/é'" in str(stopped.value)
    assert "run the same command again with --changed-input" in stopped.value.remedy
    assert api.account.requests == 0


async def test_a_refusal_stops_the_job_before_its_lines_are_looked_up(api: Sandbox) -> None:
    await refused(api, requests(60), nth=2)
    at_once, later = await recorded(Stopped)
    assert at_once.reason.endswith("requests.3 of this batch is custom_id " + later.reason.rpartition("custom_id ")[2])
    assert "requests.3 of this batch is line " in later.reason
    assert at_once.remedy == later.remedy
    async with BatchManager(config=config(), resume="all") as running:
        with pytest.raises(JobStopped, match=r"of this batch is line \d+ of .*, custom_id 'row "):
            await running.job("job").wait()
    assert api.account.violated == 0


async def test_lines_are_looked_up_no_further_than_requests_are_planned(api: Sandbox) -> None:
    rows = requests(30_000)  # several megabytes, which are read one after another
    path = write(rows)
    async with manager() as running:
        job = await running.submit(path, to="results.jsonl", key="job", limit=10)
        with pytest.raises(LimitReached):
            await job.wait()
        near, far = (msgspec.json.encode(rows[at]["custom_id"]) for at in (9, -1))
        assert await lines_of(job._job, {near, far}) == {near: f"line 10 of {path.absolute()}"}


async def test_a_refused_request_of_an_iterable_is_named_by_its_custom_id(api: Sandbox) -> None:
    api.faults.next("create", REFUSED)
    with pytest.raises(JobStopped) as stopped:
        await run(requests(8))
    assert "requests.3 of this batch is custom_id 'row 3/é'" in str(stopped.value)
    assert "Cancel the job" in stopped.value.remedy


async def test_a_job_of_which_nothing_was_sent_takes_the_corrected_input(api: Sandbox) -> None:
    rows = requests(25)
    api.faults.next("create", REFUSED)
    with pytest.raises(JobStopped):
        await run(write(rows))
    corrected = [*rows[:3], *requests(4, temperature=0.5)[3:], *rows[4:], *requests(27)[25:]]
    summary = await changed(write(corrected))
    assert summary.succeeded == summary.requests == 27
    assert_each_answered("results.jsonl", corrected)
    assert_paid_once(api, corrected)


@pytest.mark.parametrize("nth", [2, 3, 4])
async def test_what_was_sent_stays_sent_and_only_the_rest_is_planned_once_more(api: Sandbox, nth: int) -> None:
    rows = requests(60)
    await refused(api, rows, nth=nth)
    sent = api.account.requests
    answered = {line["custom_id"] for path in Path().glob(".results.jsonl*/part-*") for line in lines(path)}
    assert len(answered) == sent > 0
    # everything that was not sent has other params, and stands in another order
    corrected = [row if row["custom_id"] in answered else other for row, other in
                 zip(rows, requests(60, temperature=0.5), strict=True)][::-1]  # fmt: skip
    summary = await changed(write(corrected), requests_per_batch=7)
    assert summary.succeeded == summary.requests == 60
    assert_each_answered("results.jsonl", corrected)
    assert_paid_once(api, corrected)
    assert api.account.requests == 60


async def test_a_change_of_what_was_sent_is_refused_and_changes_nothing(api: Sandbox) -> None:
    rows = requests(60)
    await refused(api, rows, nth=3)
    sent = api.account.requests
    other = requests(60, temperature=0.5)
    for wrong, why in ((other, "have other params now"), (rows[-5:], "are not in the input any more")):
        with pytest.raises(JobConflict, match=f"requests that were sent {why}, such as custom_id 'row"):
            await changed(write(wrong))
        assert api.account.requests == sent
    summary = await changed(write(rows))  # the old content is as good as ever
    assert summary.succeeded == 60
    assert_paid_once(api, rows)


async def test_requests_in_flight_stand_in_the_way_of_a_changed_input(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = requests(20)
    path = write(rows)
    with Sandbox(seed=7, latency=10_000.0) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            with anyio.fail_after(60):
                while job.progress().submitted < 20 or job.progress().in_doubt:
                    await job._job.change()
        with pytest.raises(JobConflict, match=r"requests are in flight.*without --changed-input"):
            await changed(write(requests(21)))
        api.advance(20_000)
        with anyio.fail_after(60):
            _, summary = await run(write(rows))
        assert summary.succeeded == 20
        assert_paid_once(api, rows)
        assert api.account.requests == 20


async def test_a_changed_input_survives_a_death_and_a_second_change(api: Sandbox) -> None:
    rows = requests(60)
    await refused(api, rows, nth=2)
    sent = api.account.requests
    path = write([*rows, *requests(61)[60:]])
    async with manager() as running:
        job = await running.submit(path, to="results.jsonl", key="job", changed_input=True)
        while job.progress().submitted <= sent:
            await job._job.change()
    async with manager() as running:  # the same command again, and without the option
        job = await running.submit(path, to="results.jsonl", key="job", changed_input=True)
        assert (await job.wait()).succeeded == 61
    async with manager() as running:
        assert (await (await running.submit(path, to="results.jsonl", key="job")).wait()).succeeded == 61
    assert_each_answered("results.jsonl", [*rows, *requests(61)[60:]])
    assert_paid_once(api, [*rows, *requests(61)[60:]])


async def test_a_cancelled_job_takes_no_other_input(api: Sandbox) -> None:
    rows = requests(8)
    api.faults.next("create", REFUSED)
    with pytest.raises(JobStopped):
        await run(write(rows))
    async with manager() as running:
        record = running._ledger.job("job")
        assert record is not None
        await running._ledger.record(Entry(record.job, CancelWished()))
        with pytest.raises(JobConflict):
            await running.submit(write(requests(9)), to="results.jsonl", key="job", changed_input=True)
    assert api.account.requests == 0
