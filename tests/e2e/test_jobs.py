"""What a job promises its caller."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import anyio
import httpx2
import pytest

import abatch
from abatch import BackendError, BadRequest, BatchManager, ConfigError, JobConflict, JobFailed, JobStopped, Request
from abatch import backend as backends
from abatch.backend import JobRef
from abatch.engine import drain
from abatch.engine.sift import LineSifter
from abatch.engine.upload import Uploader
from abatch.input.planner import Planner
from abatch.input.spool import SpoolReader, SpoolWriter
from abatch.protocol.lifecycle import Draining
from abatch.protocol.pacing import LIMITS
from abatch.result import Block
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import NotYet
from abatch.testing import memory
from tests.e2e.jobs import (
    assert_each_answered,
    assert_paid_once,
    config,
    lines,
    manager,
    params,
    raw_params,
    requests,
    run,
    sdk,
    write,
)

pytestmark = pytest.mark.anyio


async def test_file_to_file(api: Sandbox) -> None:
    rows = requests(57)
    _, summary = await run(write(rows))
    assert (summary.requests, summary.succeeded, summary.ok) == (57, 57, True)
    assert summary.batches == api.account.batches > 5
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_same_job_again_does_nothing(api: Sandbox) -> None:
    path = write(requests(12))
    await run(path)
    before = api.account.batches
    _, summary = await run(path)
    assert (summary.succeeded, api.account.batches) == (12, before)


async def test_finished_job_is_replayed_after_a_restart(api: Sandbox) -> None:
    rows = requests(23)
    await run(write(rows))
    async with manager() as running:
        ids = [result.custom_id async for result in running.job("job").results()]
    assert Counter(ids) == Counter(row["custom_id"] for row in rows)


@pytest.mark.parametrize("to", ["results.jsonl", "results/", "results.db"])
async def test_reading_a_finished_job_connects_to_its_storage_once(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    await run(write(requests(57)), to=to)
    assert api.account.batches > 5
    async with manager() as running:
        job, connections, connect = running.job("job"), list[JobRef](), backends.connect

        async def counted(url: str, ref: JobRef) -> Any:
            connections.append(ref)
            return await connect(url, ref)

        monkeypatch.setattr(backends, "connect", counted)
        assert len([result async for result in job.results()]) == 57
    assert len(connections) == 1


async def test_results_follow_a_running_job(api: Sandbox) -> None:
    async with manager() as running:
        job = await running.submit(requests(31), to="memory:", key="job")
        results = [result async for result in job.results()]
    assert len(results) == 31
    first = results[0]
    assert first.outcome == "succeeded"
    assert isinstance(first.message, anthropic.types.Message)
    assert first.message.content[0].type == "text"
    assert first.usage is not None
    assert first.usage.output_tokens == first.message.usage.output_tokens
    assert first.error is None


@pytest.mark.parametrize("to", ["results.jsonl", "results/", "results.db"])
async def test_a_reader_that_is_slower_than_its_job_gets_every_result_once(api: Sandbox, to: str) -> None:
    """Its parts are moved and its backend is wanted by nobody else, while it looks at the first."""
    rows = requests(57)
    async with manager() as running:
        job = await running.submit(rows, to=to, key="job")
        ids: list[str] = []
        async for result in job.results():
            if not ids:
                await job.wait()
            ids.append(result.custom_id)
    assert Counter(ids) == Counter(row["custom_id"] for row in rows)


@pytest.mark.parametrize("packed", ["gz", "zst"])
async def test_compressed_input(api: Sandbox, packed: str) -> None:
    rows = requests(25)
    content = write(rows).read_bytes()
    path = Path(f"packed.jsonl.{packed}")
    if packed == "gz":
        path.write_bytes(gzip.compress(content))
    else:
        import zstandard

        path.write_bytes(zstandard.compress(content))
    await run(path)
    assert_each_answered("results.jsonl", rows)


async def test_async_iterable_of_requests(api: Sandbox) -> None:
    rows = requests(25)

    async def source() -> Any:
        for row in rows:
            yield Request(row["custom_id"], row["params"])

    await run(source())
    assert_each_answered("results.jsonl", rows)


async def test_params_pass_untouched(api: Sandbox) -> None:
    asked = '{"max_tokens": 16,  "model":"m", "messages":[{"role":"user","content":"x"}], "new": 1.50}'
    path = Path("one.jsonl")
    path.write_text('{ "custom_id" : "x", "params" : ' + asked + " }\n")
    await run(path)
    assert api.account.times(asked.encode()) == 1


async def test_requests_with_different_betas_do_not_share_a_batch(api: Sandbox) -> None:
    rows = [{**row, "betas": [f"beta-{number % 3}"]} for number, row in enumerate(requests(30))]
    _, summary = await run(rows)
    assert summary.succeeded == 30
    assert_each_answered("results.jsonl", rows)


async def test_other_content_under_a_key_is_a_conflict_and_changes_nothing(api: Sandbox) -> None:
    await run(write(requests(12)))
    before = Path("results.jsonl").read_bytes(), api.account.batches
    with pytest.raises(JobConflict, match="other content"):
        await run(write(requests(13)))
    with pytest.raises(JobConflict, match="destination"):
        await run(write(requests(12)), to="elsewhere.jsonl")
    assert (Path("results.jsonl").read_bytes(), api.account.batches) == before


@pytest.mark.parametrize(("count", "other"), [(11, "fewer|more"), (13, "fewer"), (12, "other")])
async def test_other_iterable_under_a_key_is_a_conflict(api: Sandbox, count: int, other: str) -> None:
    await run(requests(12))
    again = requests(count)
    if other == "other":
        again[3]["params"]["max_tokens"] = 99
    with pytest.raises(JobConflict, match=other):
        await run(again)
    assert api.account.requests == 12


async def test_same_iterable_again_resumes(api: Sandbox) -> None:
    rows = requests(40)
    taken = 0

    def broken() -> Any:
        nonlocal taken
        for row in rows[:25]:
            taken += 1
            yield row
        raise OSError("the database went away")

    with pytest.raises(OSError, match="went away"):
        await run(broken())
    assert 0 < api.account.requests < 25  # the shards that were full
    _, summary = await run(rows)
    assert summary.succeeded == 40
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_bad_row_in_an_iterable_finishes_what_is_sealed(api: Sandbox) -> None:
    rows: list[Any] = requests(30)
    rows[27] = {"custom_id": "bad", "params": {"max_tokens": 0}}
    async with manager() as running:
        job = await running.submit(rows, to="memory:bad-row", key="job")
        with pytest.raises(BadRequest, match=r"request 28 .*'bad'.*max_tokens"):
            await job.wait()
        assert not job.done
    assert 0 < api.account.requests <= 27
    assert len(memory.lines("bad-row")) == api.account.requests


async def test_duplicate_in_an_iterable_names_both_places(api: Sandbox) -> None:
    rows = requests(30)
    rows[25]["custom_id"] = rows[3]["custom_id"]
    with pytest.raises(BadRequest, match=r"request 26 .*request 4 already"):
        await run(rows)


async def test_bad_file_sends_nothing_and_leaves_no_job(api: Sandbox) -> None:
    rows = requests(30)
    rows[4]["params"]["stream"] = True
    rows[5]["custom_id"] = ""
    async with manager() as running:
        with pytest.raises(BadRequest) as caught:
            await running.submit(write(rows), to="results.jsonl")
        assert running.jobs() == []
    assert [problem.line for problem in caught.value.problems] == [5, 6]
    assert api.account.requests == 0
    assert not Path("results.jsonl").exists()


async def test_foreign_destination_is_refused_before_anything_is_sent(api: Sandbox) -> None:
    Path("results.jsonl").write_text("precious\n")
    with pytest.raises(BackendError, match="not this job"):
        await run(write(requests(3)))
    assert Path("results.jsonl").read_text() == "precious\n"
    assert api.account.requests == 0


async def test_many_jobs_at_once_each_into_its_own_backend(api: Sandbox) -> None:
    rows = {
        key: [{**row, "params": params(1000 * n + i)} for i, row in enumerate(requests(20))]
        for n, key in enumerate("abc")
    }
    async with manager() as running:
        jobs = [
            await running.submit(rows["a"], to="a.jsonl", key="a"),
            await running.submit(rows["b"], to="b/", key="b"),
            await running.submit(rows["c"], to="c.db", key="c"),
        ]
        summaries = [await job.wait() for job in jobs]
    assert [summary.succeeded for summary in summaries] == [20, 20, 20]
    assert_each_answered("a.jsonl", rows["a"])


async def test_failing_backend_stops_its_own_job_only(api: Sandbox) -> None:
    class Broken:
        async def open(self, shard: Any, /) -> Any:
            raise BackendError("broken:", "no space on the far side")

        def read(self, sealed: Any, /) -> Any:
            raise NotImplementedError

        async def finish(self, job: Any, sealed: Any, /) -> str:
            raise NotImplementedError

        async def aclose(self) -> None:
            return

    async with manager() as running:
        bad = await running.submit(requests(20), to=Broken(), key="bad")
        good = await running.submit(
            [{**r, "params": params(500 + i)} for i, r in enumerate(requests(20))], to="memory:", key="good"
        )
        with pytest.raises(BackendError, match="far side"):
            await bad.wait()
        assert (await good.wait()).succeeded == 20


async def test_batches_of_a_failed_job_leave_the_queue_when_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "start", (1_000, 25))
    with Sandbox(seed=1, latency=3600) as slow:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        failing = await memory.open_("memory:failing", abatch.JobRef(key="bad", lineage="0" * 16))
        async with manager() as running:
            bad = await running.submit(requests(20), to=failing, key="bad")
            await _all_accepted(bad, 20)
            monkeypatch.setattr(type(failing), "open", _no_space)
            slow.advance(3601)  # one batch fails to be drained; the others end without anybody who waits for them
            with pytest.raises(BackendError, match="far side"):
                await bad.wait()
            monkeypatch.undo()
            monkeypatch.setitem(LIMITS, "start", (1_000, 25))
            good = await running.submit(requests(40)[20:], to="memory:", key="good")
            await _all_accepted(good, 20)
            slow.advance(3601)
            assert (await good.wait()).succeeded == 20


async def _all_accepted(job: abatch.Job, rows: int) -> None:
    while job.progress().in_flight < rows or job.progress().in_doubt:
        await job._job.change()


async def _no_space(*_: Any) -> Any:
    raise BackendError("broken:", "no space on the far side")


async def test_drain_that_waits_lets_another_have_its_place(api: Sandbox) -> None:
    api.faults.next("results", NotYet(seconds=3600))
    async with manager(drains=1) as running:
        waiting = await running.submit(requests(3), to="memory:", key="waiting")
        while not any(isinstance(shard.state, Draining) for shard in waiting._job.shards.values()):
            await waiting._job.change()
        other = await running.submit(requests(23)[3:], to="memory:", key="other")
        assert (await other.wait()).succeeded == 20
        assert not waiting.done
        api.advance(3601)
        assert (await waiting.wait()).succeeded == 3


async def test_check_raises_when_a_request_failed(api: Sandbox) -> None:
    rows = requests(12)
    rows[5]["params"]["metadata"] = {"user_id": "sandbox:errored:invalid_request_error"}
    async with manager() as running:
        job = await running.submit(rows, to="memory:", key="job")
        with pytest.raises(JobFailed, match="1 of 12"):
            await job.wait(check=True)
        assert (await job.wait()).errored == 1


async def test_download_that_timed_out_is_tried_again(api: Sandbox) -> None:
    """It comes as an `invalid_request_error`; any other of that type is kept."""
    rows = requests(8)
    rows[3]["params"]["metadata"] = {"user_id": "sandbox:download-timeout-once"}
    rows[5]["params"]["metadata"] = {"user_id": "sandbox:errored-once:invalid_request_error"}
    _, summary = await run(write(rows))
    assert (summary.succeeded, summary.errored, summary.retried) == (7, 1, 1)
    assert api.account.violated == 0
    assert [api.account.times(raw_params(row)) for row in rows] == [1, 1, 1, 2, 1, 1, 1, 1]


async def test_passing_failures_are_retried_and_others_kept(api: Sandbox) -> None:
    rows = requests(30)
    marks = {3: "sandbox:errored-once:overloaded_error", 4: "sandbox:expired", 5: "sandbox:errored:not_found_error"}
    for number, mark in marks.items():
        rows[number]["params"]["metadata"] = {"user_id": mark}
    _, summary = await run(rows)
    assert (summary.succeeded, summary.expired, summary.errored) == (28, 1, 1)
    outcomes = {line["custom_id"]: line["result"]["type"] for line in lines("results.jsonl")}
    assert len(outcomes) == len(lines("results.jsonl")) == 30
    assert outcomes[rows[3]["custom_id"]] == "succeeded"
    assert outcomes[rows[4]["custom_id"]] == "expired"
    from tests.e2e.jobs import raw_params

    assert [api.account.times(raw_params(rows[n])) for n in (3, 4, 5, 6)] == [2, 3, 1, 1]
    assert api.account.violated == 0


async def test_cancel_gives_every_planned_request_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=1, latency=3600) as slow:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        rows = requests(200)
        async with manager(uploads=2) as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            while not job.progress().batches_in_flight:
                await job._job.change()
            await job.cancel()
            summary = await job.wait()
        assert summary.canceled == summary.requests == len(lines("results.jsonl"))
        assert slow.account.requests <= summary.requests
        assert {line["result"]["type"] for line in lines("results.jsonl")} == {"canceled"}


async def test_wish_to_cancel_survives_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=1, latency=3600) as slow:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        path = write(requests(30))
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            while job.progress().batches_in_flight < 2:
                await job._job.change()
            await job.cancel()
        async with manager() as running:
            summary = await running.job("job").wait()
        assert summary.canceled == summary.requests == len(lines("results.jsonl"))


async def test_own_client_and_own_backend(api: Sandbox) -> None:
    client = sdk(api)
    lineage_seen: list[str] = []

    async with BatchManager(client=client, config=config()) as running:
        ref = abatch.JobRef(key="job", lineage="0" * 16)
        own = await memory.open_("memory:own", ref)
        job = await running.submit(requests(12), to=own, key="job")
        assert (await job.wait()).succeeded == 12
    await client.close()
    assert len(memory.lines("own")) == 12
    del lineage_seen


async def test_iterable_without_a_key_is_refused(api: Sandbox) -> None:
    with pytest.raises(ConfigError, match="key"):
        async with manager() as running:
            await running.submit(requests(1), to="memory:")


async def test_files_are_private(api: Sandbox) -> None:
    await run(write(requests(12)))
    for path in [Path(".abatch"), *Path(".abatch").rglob("*"), Path("results.jsonl")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_neither_key_nor_prompt_stays_in_the_journal(api: Sandbox) -> None:
    rows = requests(12)
    rows[0]["params"]["messages"][0]["content"] = "canary-prompt"
    await run(write(rows))
    for path in Path(".abatch").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert api.key.encode() not in content, path
            assert b"canary-prompt" not in content, path
    assert list(Path(".abatch/spool").iterdir()) == []


async def test_journal_from_which_nothing_was_sent_takes_another_base_url(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the remedy for a wrong base URL would need another journal."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    async with manager() as running:
        await running.submit(requests(3), to="results.jsonl", key="job")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
    rows = requests(3)
    _, summary = await run(rows)
    assert summary.succeeded == 3
    assert_paid_once(api, rows)


async def test_journal_belongs_to_one_api(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    await run(write(requests(3)))
    with Sandbox() as other:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", other.url)
        with pytest.raises(ConfigError, match="belongs to"):
            await run(write(requests(3)))


async def test_cancelled_job_whose_iterable_was_not_read_to_its_end_can_be_handed_over_again(api: Sandbox) -> None:
    rows = requests(40)
    async with manager(sealed_unsent=1) as running:
        job = await running.submit(rows, to="memory:", key="job")
        while not job.progress().planned:
            await job._job.change()
        await job.cancel()
        first = await job.wait()
    assert first.requests < 40
    _, summary = await run(rows, to="memory:")
    assert summary.requests == first.requests


async def test_full_disk_while_results_are_withheld_stops_the_job_with_the_remedy(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = requests(12)
    rows[3]["params"]["metadata"] = {"user_id": "sandbox:errored-once:overloaded_error"}

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write(rows)
    async with manager() as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        while not job.progress().batches:
            await job._job.change()
        with monkeypatch.context() as disk:
            disk.setattr(SpoolWriter, "seal", full)
            with pytest.raises(JobStopped, match="Free the disk"):
                await job.wait()
    _, summary = await run(path)
    assert summary.succeeded == 12
    assert_each_answered("results.jsonl", rows)


@pytest.mark.parametrize("reading", ["to send it", "to drain it"])
async def test_a_want_of_descriptors_passes_and_stops_no_job(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    rows, real, refused = requests(12), SpoolReader.__init__, list[str]()
    job: Any = None

    def wants_descriptors(self: SpoolReader, *args: Any) -> None:
        sent = job is not None and job.progress().batches > 0
        if not refused and sent is (reading == "to drain it"):
            refused.append(reading)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        real(self, *args)

    monkeypatch.setattr(SpoolReader, "__init__", wants_descriptors)
    async with manager() as running:
        job = await running.submit(write(rows), to="results.jsonl", key="job")
        assert (await job.wait()).succeeded == 12
    assert refused == [reading]
    assert_paid_once(api, rows)
    assert_each_answered("results.jsonl", rows)


@pytest.mark.parametrize(("folder", "names"), [("out", "part-*"), (".abatch/spool", "*.spool")])
async def test_a_disk_that_failed_once_is_no_obstacle_to_the_same_manager(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, folder: str, names: str
) -> None:
    rows, fsync = requests(12), os.fsync
    path, failed = write(rows), list[str]()

    def fails_once(descriptor: int) -> None:
        given = any(Path(folder).glob(names)) and os.path.samestat(Path(folder).stat(), os.fstat(descriptor))
        if given and not failed:
            failed.append(folder)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_once)
    async with manager() as running:
        with pytest.raises((BackendError, JobStopped), match="Input/output error"):
            await (await running.submit(path, to="out/", key="job")).wait()
        assert failed == [folder]
        job = await running.submit(path, to="out/", key="job")
        assert (await job.wait()).succeeded == 12
    assert_paid_once(api, rows)


async def test_submit_that_is_timed_out_leaves_a_manager_that_works(api: Sandbox) -> None:
    """`asyncio.timeout` does not know anyio's shields."""
    path = write(requests(12))
    async with manager() as running:
        for after in (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05):
            try:
                async with asyncio.timeout(after):
                    await running.submit(path, to="results.jsonl", key="job")
            except TimeoutError:
                continue
        job = await running.submit(path, to="results.jsonl", key="job")
        assert (await job.wait()).succeeded == 12


async def _until(true: Any) -> None:
    with anyio.fail_after(60):
        while not true():
            await anyio.sleep(0.01)


async def test_other_iterable_under_a_key_is_told_its_own_caller_and_spoils_nothing(api: Sandbox) -> None:
    rows, others = requests(12), requests(40)[20:]
    async with manager() as running:
        first = await running.submit(rows, to="results.jsonl", key="job")
        second = await running.submit(iter(others), to="results.jsonl", key="job")
        with pytest.raises(JobConflict):
            await second.wait()
        assert (await first.wait()).succeeded == 12
    assert_each_answered("results.jsonl", rows)


async def test_cancel_is_heard_while_the_caller_s_iterable_has_nothing_yet(api: Sandbox) -> None:
    rows = requests(15)

    async def slow() -> Any:
        for row in rows:
            yield row
        await anyio.sleep_forever()

    async with manager() as running:
        job = await running.submit(slow(), to="memory:", key="job")
        await _until(lambda: job.progress().sealed)  # a full shard does not wait for a megabyte
        await job.cancel()
        with anyio.fail_after(30):
            summary = await job.wait()
    assert summary.succeeded == summary.requests > 0


async def test_cancel_does_not_wait_for_room_in_the_queue_of_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "start", (1_000, 12))
    with Sandbox(seed=1, latency=3600) as slow:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        async with manager() as running:
            first = await running.submit(requests(40), to="memory:", key="first")
            await _until(lambda: first.progress().batches_in_flight)
            second = await running.submit(write(requests(60)[40:]), to="memory:", key="second")
            await second.cancel()
            with anyio.fail_after(30):
                assert (await second.wait()).canceled == second.progress().planned


async def test_finished_job_keeps_nothing_open(api: Sandbox) -> None:
    def open_files() -> list[str]:
        files = [each.resolve() for each in Path("/proc/self/fd").iterdir()]
        return sorted(each.name for each in files if each.is_relative_to(Path.cwd()))  # the sandbox has sockets

    async with manager() as running:
        before = open_files()
        for number in range(5):
            job = await running.submit(requests(3), to=f"job-{number}.db", key=f"{number}")
            await _until(lambda number=number: f"job-{number}.db" in open_files())
            await job.wait()
        await _until(lambda: open_files() == before)
        assert [result.outcome async for result in running.job("1").results()] == ["succeeded"] * 3


@pytest.mark.parametrize("who", ["driver", "planner"])
async def test_job_that_is_handed_over_as_what_waits_for_that_leaves_is_done(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    path, options = write(requests(11)), config(requests_per_batch=5, sealed_unsent=9 if who == "driver" else 1)
    with monkeypatch.context() as early:
        early.setattr(Uploader, "_has_turn", lambda _: anyio.sleep_forever())
        async with BatchManager(config=options) as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await _until(lambda: job.progress().planned == (11 if who == "driver" else 5))
    leaving, handed_over = anyio.Event(), anyio.Event()
    admitted, run_file = Uploader._admitted, Planner.run_file

    async def leave(*, unwanted: bool) -> None:
        if unwanted and not handed_over.is_set():
            leaving.set()
            await handed_over.wait()

    async def slow_driver(self: Uploader) -> bool:
        wanted = await admitted(self)
        await leave(unwanted=who == "driver" and not wanted)
        return wanted

    async def slow_planner(self: Planner, source: Any, path: Path) -> None:
        await run_file(self, source, path)
        await leave(unwanted=who == "planner" and not self._job.cut.last)

    monkeypatch.setattr(Uploader, "_admitted", slow_driver)
    monkeypatch.setattr(Planner, "run_file", slow_planner)
    async with BatchManager(config=options, resume="given") as running:
        await leaving.wait()
        job = await running.submit(path, to="results.jsonl", key="job")
        handed_over.set()
        assert (await job.wait()).succeeded == 11


async def test_wait_that_the_api_asks_for_is_believed_within_reason(api: Sandbox) -> None:
    from abatch.engine.answers import retry_after

    for text, wait in (("inf", None), ("nan", None), ("1e300", 3600.0), ("-5", 0.0), ("7", 7.0), ("soon", None)):
        assert retry_after(httpx2.Response(429, headers={"retry-after": text})) == wait


async def test_finished_is_no_error_when_the_tidying_after_it_fails(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = await memory.open_("memory:untidy", abatch.JobRef(key="job", lineage="0" * 16))
    real = type(backend).finish

    async def finish(self: Any, job: Any, sealed: Any, /) -> str:
        if job.finished:
            raise BackendError("memory:untidy", "no")
        return await real(self, job, sealed)

    monkeypatch.setattr(type(backend), "finish", finish)
    async with manager() as running:
        job = await running.submit(requests(3), to=backend, key="job")
        assert (await job.wait()).succeeded == 3


async def test_iterable_that_came_to_nothing_is_not_read_by_a_later_run(api: Sandbox) -> None:
    rows, to = requests(12), "sqlite:///results.db"

    def broken() -> Iterator[dict[str, Any]]:
        yield from rows[:5]
        raise LookupError

    def stale() -> Iterator[dict[str, Any]]:
        raise AssertionError("read in a run it was not handed to")
        yield

    with pytest.raises(LookupError):
        await run(broken(), to=to)
    database, aside = Path("results.db"), Path("aside.db")
    database.rename(aside)
    database.mkdir()
    async with manager() as running:
        with pytest.raises(BackendError, match="not a regular file"):
            await (await running.submit(stale(), to=to, key="job")).wait()
        database.rmdir()
        aside.rename(database)
        job = await running.submit(rows, to=to, key="job")
        assert (await job.wait()).succeeded == 12


async def test_event_loop_goes_round_between_any_two_blocks_of_all_drains(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedded service's own tasks wait for one block, however many drains run."""
    blocks, take, loop = drain._blocks, LineSifter.take, asyncio.get_running_loop()
    rows, all_there, at = requests(8), anyio.Event(), list[int]()
    here = rounds = 0

    async def together(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        nonlocal here
        async for block in blocks(chunks):
            here += 1
            if here == len(rows):
                all_there.set()
            await all_there.wait()
            yield block

    def watched(self: LineSifter, text: bytes, block: Block) -> None:
        at.append(rounds)
        take(self, text, block)

    def go_round() -> None:
        nonlocal rounds
        rounds += 1
        if len(at) < len(rows):
            loop.call_soon(go_round)

    monkeypatch.setattr(drain, "_blocks", together)
    monkeypatch.setattr(LineSifter, "take", watched)
    async with manager(requests_per_batch=1) as running:
        job = await running.submit(rows, to="results.jsonl", key="job")
        await all_there.wait()
        loop.call_soon(go_round)
        await job.wait()
    assert_each_answered("results.jsonl", rows)
    assert sorted(at) == sorted(set(at))
    assert len(at) == len(rows)


async def test_job_is_finished_by_who_hands_it_over_while_a_broken_hand_over_still_runs(api: Sandbox) -> None:
    rows = requests(30)

    async def broken() -> AsyncIterator[dict[str, Any]]:
        for row in rows[:25]:
            yield row
        raise LookupError("the caller's database went away")

    async with manager() as running:
        first = await running.submit(broken(), to="results.jsonl", key="job")
        while first._run.error is None:
            await first._job.change()
        second = await running.submit(rows, to="results.jsonl", key="job")
        assert (await second.wait()).succeeded == 30
        with pytest.raises(LookupError, match="database went away"):
            await first.wait()
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_cancel_of_a_job_that_stands_still_is_heard_at_once(api: Sandbox) -> None:
    rows = requests(30)

    def broken() -> Iterator[dict[str, Any]]:
        yield from rows[:25]
        raise LookupError

    async with manager() as running:
        job = await running.submit(broken(), to="results.jsonl", key="job")
        with pytest.raises(LookupError):
            await job.wait()
        await job.cancel()
        assert (await running.job("job").wait()).requests == job.progress().planned
        assert job.done
