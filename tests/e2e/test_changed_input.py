"""A refused request is named by its line, and a stopped job takes the corrected input without paying twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from msgspec.structs import replace

from abatch import BatchManager, ConfigError, JobConflict, JobStopped, LimitReached
from abatch.input.located import lines_of
from abatch.input.request import Rows
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished, ChangedSource, InputChanged, Stopped, Unplanned
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.e2e.jobs import (
    assert_each_answered,
    assert_paid_once,
    config,
    lines,
    manager,
    raw_params,
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
    if nth > 1:
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
    await refused(api, rows, nth=1)
    assert api.account.requests == 0
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
        with pytest.raises(JobConflict, match=r"20 of its requests are in flight\. Run the same command"):
            await changed(write(requests(21)))
        api.advance(20_000)
        with anyio.fail_after(60):
            _, summary = await run(write(rows))
        assert summary.succeeded == 20
        assert_paid_once(api, rows)
        assert api.account.requests == 20


async def test_once_what_was_in_flight_is_settled_a_changed_input_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = requests(60)
    with Sandbox(seed=7, latency=10_000.0) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        api.faults.next("create", times=2)  # these are as always
        api.faults.next("create", REFUSED)
        async with manager(uploads=1) as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            with anyio.fail_after(60):
                while running.job("job")._job.stopped is None:
                    await job._job.change()
        sent = api.account.requests
        paid = [row for row in rows if api.account.times(raw_params(row))]
        assert 0 < len(paid) == sent < 60
        new = [row if row in paid else other for row, other in zip(rows, requests(60, temperature=0.5), strict=True)]
        async with BatchManager(config=config(), resume="given") as running:
            path = write(new)
            job = running.job("job")
            with pytest.raises(JobConflict, match="are in flight"):
                await running.submit(path, to="results.jsonl", key="job", changed_input=True)
            api.advance(20_000)
            with anyio.fail_after(60):
                await job.settled()
                assert api.account.requests == sent  # nothing was sent of it meanwhile
                job = await running.submit(path, to="results.jsonl", key="job", changed_input=True)
                while not job.done:
                    api.advance(20_000)
                    with anyio.move_on_after(0.1):
                        await job._job.change()
                assert (await job.wait()).succeeded == 60
        assert_each_answered("results.jsonl", new)
        assert_paid_once(api, new)


async def test_the_old_content_is_known_after_a_changed_input_was_taken(api: Sandbox) -> None:
    rows = requests(60)
    await refused(api, rows, nth=2)
    await changed(write([*rows, *requests(61)[60:]]))
    async with manager() as running:
        assert [job.key for job in await running.same_requests(write(rows, "copy.jsonl"))] == ["job"]


async def test_a_cancelled_job_ends_though_its_input_is_another_now(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = requests(20)
    with Sandbox(seed=7, latency=10_000.0) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        async with manager() as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            with anyio.fail_after(60):
                while job.progress().submitted < 20 or job.progress().in_doubt:
                    await job._job.change()
            await job.cancel()
        api.advance(20_000)
        with anyio.fail_after(60):
            _, summary = await run(write(requests(3, temperature=0.5)))
        assert summary.requests == 20
        assert_paid_once(api, rows)


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
        record = running._context.ledger.job("job")
        assert record is not None
        await running._context.ledger.record(Entry(record.job, CancelWished()))
        with pytest.raises(JobConflict):
            await running.submit(write(requests(9)), to="results.jsonl", key="job", changed_input=True)
    assert api.account.requests == 0


async def test_the_halves_of_a_retry_that_was_too_large_are_sent_after_a_change(api: Sandbox) -> None:
    rows = requests(8)
    for row in rows:
        row["params"]["metadata"] = {"user_id": "sandbox:errored-once:overloaded_error"}
    path = write(rows)
    api.faults.next("create", times=1)  # as always: all of them fail, and go to a retry shard
    api.faults.next("create", Status(413, "request_too_large", "too large"))
    api.faults.next("create", REFUSED)
    async with manager(uploads=1) as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        with anyio.fail_after(60), pytest.raises(JobStopped):
            await job.wait()
    more = [*rows, *requests(9)[8:]]
    summary = await changed(write(more))
    assert (summary.requests, summary.succeeded, summary.missing) == (9, 9, 0)
    assert_each_answered("results.jsonl", more)
    assert api.account.violated == 0


async def test_a_job_whose_shards_do_not_add_up_takes_no_changed_input(api: Sandbox) -> None:
    rows = requests(25)
    await refused(api, rows, nth=2)
    async with manager() as running:
        record = running._context.ledger.job("job")
        assert record is not None
        planned = record.cut.rows
        record.cut = replace(record.cut, rows=planned + 1)
        with pytest.raises(JobConflict, match=f"hold {planned} requests where {planned + 1} were planned"):
            await running.submit(write(requests(27)), to="results.jsonl", key="job", changed_input=True)
    assert await recorded(InputChanged) == []
    assert api.account.violated == 0


@pytest.mark.parametrize("wrong", [{"to": "elsewhere.jsonl"}, {"skip_answered": "other"}, {"betas": ("some-beta",)}])
async def test_a_conflict_of_another_kind_takes_nothing_from_a_changed_input(
    api: Sandbox, wrong: dict[str, Any]
) -> None:
    await refused(api, requests(25), nth=2)
    path = write(requests(27))
    async with manager() as running:
        with pytest.raises(JobConflict):
            await running.submit(path, **{"to": "results.jsonl", "key": "job", "changed_input": True, **wrong})
    assert await recorded(InputChanged) == await recorded(Unplanned) == []
    assert api.account.violated == 0


class Shown:
    """A preview that notes custom_ids, and perhaps says no."""

    def __init__(self, why_not: str = "") -> None:
        self.ids: list[str] = []
        self.asked = 0
        self._why_not = why_not

    def add(self, rows: Rows) -> None:
        self.ids += [json.loads(custom_id) for custom_id in rows.custom_ids]

    async def agree(self) -> None:
        self.asked += 1
        if self._why_not:
            raise ConfigError(self._why_not)


async def test_a_changed_input_is_shown_without_what_was_sent_and_a_no_changes_nothing(api: Sandbox) -> None:
    rows = requests(25)
    await refused(api, rows, nth=2)
    sent = api.account.requests
    path = write(requests(40))
    no, yes = Shown("too much"), Shown()
    for preview, limit in ((no, None), (yes, sent + 20)):
        async with manager() as running:
            arguments: dict[str, Any] = {"to": "results.jsonl", "key": "job", "changed_input": True, "limit": limit}
            if preview is no:
                with pytest.raises(ConfigError, match="too much"):
                    await running.submit(path, preview=no, **arguments)
                assert await recorded(InputChanged) == []
                assert api.account.requests == sent
                continue
            job = await running.submit(path, preview=yes, **arguments)
            with anyio.fail_after(60), pytest.raises(LimitReached):
                await job.wait()
    assert (len(no.ids), no.asked) == (40 - sent, 1)
    assert (len(yes.ids), yes.asked) == (20, 1)
    assert api.account.requests == sent + 20
    rows = requests(40)
    assert [api.account.times(raw_params(row)) for row in rows if row["custom_id"] in yes.ids] == [1] * 20
    more = Shown()
    async with manager() as running:  # a higher limit shows what it allows, in the order in which it is sent
        job = await running.submit(path, to="results.jsonl", key="job", limit=sent + 25, preview=more)
        with anyio.fail_after(60), pytest.raises(LimitReached):
            await job.wait()
    assert more.ids == no.ids[20:25]
    assert (more.asked, api.account.violated, api.account.requests) == (1, 0, sent + 25)
    assert [api.account.times(raw_params(row)) for row in rows if row["custom_id"] in more.ids] == [1] * 5


async def test_the_parts_of_a_job_with_a_changed_input_are_read_again_after_it_is_done(api: Sandbox) -> None:
    rows = requests(25)
    path = write(rows)
    api.faults.next("create", times=1)
    api.faults.next("create", REFUSED)
    async with manager(uploads=1) as running:
        job = await running.submit(path, to="out/", key="job")
        with anyio.fail_after(60), pytest.raises(JobStopped):
            await job.wait()
    more = [*requests(30)[25:], *rows]
    path = write(more)
    assert (await changed(path, to="out/")).succeeded == 30
    part = max(Path("out").glob("part-*.jsonl"))
    for kept in sorted(Path(".abatch/ids").iterdir())[1:]:  # so that the input has to be read, but for what it lacks
        kept.unlink()
    part.unlink()
    async with manager() as running:
        record = running._context.ledger.job("job")
        assert record is not None
        assert isinstance(record.submitted.source, ChangedSource)
        assert record.submitted.source.mask == b""  # a finished job has it in the journal alone
        job = await running.submit(path, to="out/", key="job")
        assert len(await running.redrain("job")) == 1
        with anyio.fail_after(60):
            assert (await job.wait()).ok
    found = [line["custom_id"] for each in Path("out").glob("part-*.jsonl") for line in lines(each)]
    assert sorted(found) == sorted(row["custom_id"] for row in more)
    assert_paid_once(api, more)
