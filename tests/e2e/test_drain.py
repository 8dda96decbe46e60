"""What breaks while results are drained: nothing that was given to a sink is taken for written unless it was."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from abatch import BackendError, JobStopped, JournalView, StillInDoubt, Summary
from abatch.engine import client, drain, fallbacks, shard_drain
from abatch.engine.drain import Drainer
from abatch.engine.slots import Postponed
from abatch.errors import ApiError
from abatch.journal.folder import JournalFolder
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.protocol import pacing
from abatch.protocol.facts import ResolveWished
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Archived, CutAtLine, CutInLine, ResetBeforeAccept, ShownArchived, Status
from abatch_backends import jsonl
from tests.e2e.jobs import assert_each_answered, assert_paid_once, manager, requests, run
from tests.harness.presence import Alone

pytestmark = pytest.mark.anyio


async def test_disk_that_fails_while_the_stream_breaks_ends_the_job_and_nothing_is_lost(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a block that was not written count as read: a second read would take them for duplicates."""
    real, write = client.chunks_of, jsonl._write_all
    failing = anyio.Event()
    broken: list[Any] = []

    async def chunks(answer: httpx2.Response) -> AsyncIterator[bytes]:
        whole = b"".join([chunk async for chunk in real(answer)])
        if broken:
            yield whole
            return
        broken.append(answer)
        yield whole[: len(whole) // 2]
        await failing.wait()
        raise ApiError("results: the stream broke")

    def full(descriptor: int, block: bytes) -> None:
        if broken and not failing.is_set():
            anyio.from_thread.run_sync(failing.set)
            anyio.from_thread.run(anyio.sleep, 0.05)  # the reader hears of the break first
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        write(descriptor, block)

    monkeypatch.setattr(drain, "READ_BYTES", 2000)
    monkeypatch.setattr(drain, "WRITE_BYTES", 2000)
    monkeypatch.setattr(fallbacks, "WRITE_BYTES", 2000)
    monkeypatch.setattr(client, "chunks_of", chunks)
    monkeypatch.setattr(jsonl, "_write_all", full)
    rows = requests(60)
    with pytest.raises(BackendError, match="Disk quota exceeded"):
        await run(rows, requests_per_batch=100)
    _, summary = await run(rows, requests_per_batch=100)
    assert (summary.succeeded, summary.missing) == (60, 0)
    assert_each_answered("results.jsonl", rows)


async def test_part_that_was_sealed_with_fewer_lines_than_were_given_is_refused_until_it_is_removed(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would take the lines that a sink lost for results that the API does not have."""
    write, rows = jsonl._Sink._write, requests(12)

    def shorter(pieces: list[bytes]) -> list[bytes]:
        (block,) = pieces
        return [block[: block.rindex(b"\n", 0, -1) + 1]]

    with monkeypatch.context() as forgetful:
        forgetful.setattr(jsonl._Sink, "_write", lambda self, pieces, lines: write(self, shorter(pieces), lines - 1))
        with pytest.raises(BackendError, match=r"sealed with \d+ lines of 12"):
            await run(rows, to="results/", requests_per_batch=12)
    with pytest.raises(BackendError, match="remove the part from the destination"):
        await run(rows, to="results/", requests_per_batch=12)
    (part,) = Path("results").glob("part-*.jsonl")
    part.unlink()
    _, summary = await run(rows, to="results/", requests_per_batch=12)
    assert (summary.succeeded, summary.missing) == (12, 0)


@pytest.mark.parametrize("to", ["results.jsonl", "results/", "results.db", "memory:"])
async def test_results_can_be_read_as_soon_as_the_job_is_done(api: Sandbox, to: str) -> None:
    """A finished job closes its backend: who reads at that moment gets one of their own."""
    async with manager() as running:
        for number in range(5):
            job = await running.submit(requests(12), to=to.replace("results", f"r{number}"), key=f"job-{number}")
            await job.wait()
            assert len([result async for result in job.results()]) == 12


async def test_old_retry_file_that_cannot_be_removed_stops_the_job_and_leaves_no_draft(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def refuse(self: Path, *args: Any, **more: Any) -> None:
        if self.name.startswith("retry-"):
            raise OSError(errno.EIO, "Input/output error")
        unlink(self, *args, **more)

    rows = requests(12)
    with monkeypatch.context() as disk:
        disk.setattr(Path, "unlink", refuse)
        with pytest.raises(JobStopped, match="Input/output error"):
            await run(rows, to="results/")
        assert [path.name for path in Path("results").iterdir()] == [".abatch-claim.json"]
    _, summary = await run(rows, to="results/")
    assert summary.succeeded == 12


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the drains would sleep between their reads; they go on at once."""
    drain, noted = Drainer.drain, list[float]()

    class Restless(Alone):
        async def rest(self, seconds: float, /) -> None:
            noted.append(seconds)
            await anyio.lowlevel.checkpoint()

    async def restless(self: Drainer, shard: Any, state: Any, _: Any, again: Any) -> Any:
        return await drain(self, shard, state, Restless(), again)

    monkeypatch.setattr(Drainer, "drain", restless)
    return noted


async def test_two_short_reads_in_a_row_cost_less_than_half_a_minute(api: Sandbox, rests: list[float]) -> None:
    api.faults.next("results", CutAtLine(lines=1, clean=True), times=2)
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert rests == [5.0, 20.0]
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert_paid_once(api, rows)


@pytest.mark.parametrize("clean", [True, False])
async def test_line_that_was_cut_and_ended_by_a_newline_gives_way_to_the_whole_one(
    api: Sandbox, rests: list[float], caplog: pytest.LogCaptureFixture, clean: bool
) -> None:
    api.faults.next("results", CutInLine(lines=3, clean=clean, newline=True))
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert len(rests) == 1
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
    assert "conflicting_line_seen" not in caplog.text


def _first_answers(
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[bytes], bytes],
    then: Callable[[bytes], bytes] = lambda whole: whole,
) -> None:
    """Let the first results that come be changed so, and all others as `then` says."""
    real, changed = client.chunks_of, list[bytes]()

    async def chunks(answer: httpx2.Response) -> AsyncIterator[bytes]:
        whole = b"".join([chunk async for chunk in real(answer)])
        yield then(whole) if changed else change(whole)
        changed.append(whole)

    monkeypatch.setattr(client, "chunks_of", chunks)


def _half(whole: bytes) -> bytes:
    """Three lines, and most of one."""
    *most, part = whole.splitlines(keepends=True)[:4]
    return b"".join(most) + part[: len(part) * 3 // 4]


def _quoted(whole: bytes) -> bytes:
    """An error that repeats what it was asked."""
    request = {"custom_id": json.loads(whole.splitlines()[3])["custom_id"]}
    return json.dumps({"type": "error", "error": {"type": "api_error", "message": "x", "request": request}}).encode()


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a newline": lambda whole: _half(whole) + b"\n",
    "two newlines": lambda whole: _half(whole) + b"\r\n\r\n",
    "a page": lambda whole: _half(whole) + b"\nupstream error",
    "text": lambda whole: _half(whole) + b"upstream error\n",
    "an error object": lambda whole: _half(whole) + b'\n{"type":"error","error":{"type":"api_error"}}\n',
    "the beginning again": lambda whole: _half(whole) + b"\n" + _half(whole)[:-20],
    "an array": lambda whole: b"[" + b",".join(whole.splitlines()) + b"]",
    "an array on several lines": lambda whole: b"[\n" + b",\n".join(whole.splitlines()) + b"\n]\n",
    "an array that is cut": lambda whole: b"[" + b",".join(whole.splitlines())[:-30] + b"\n",
    "an error that quotes an id": lambda whole: _quoted(whole) + b"\n",
    "an error that quotes an id, cut": lambda whole: _quoted(whole)[:-2] + b"\n",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_a_proxy_makes_of_results_takes_no_row_from_its_line(
    api: Sandbox,
    rests: list[float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[bytes], bytes],
) -> None:
    _first_answers(monkeypatch, change)
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert rests == [5.0]
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
    assert "conflicting_line_seen" not in caplog.text


async def test_row_whose_line_is_torn_in_every_read_gets_it_in_the_last(api: Sandbox, rests: list[float]) -> None:
    """It is read as often as a row that does not come, and then once more."""
    api.faults.always("results", CutInLine(lines=7, clean=True, newline=True))
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert rests == list(pacing.READ_AGAIN)
    assert api.account.violated == 0
    assert (summary.requests, summary.missing) == (8, 0)
    *whole, torn = Path("results.jsonl").read_bytes().splitlines()
    assert len([json.loads(line) for line in whole]) == 7
    (left,) = {row["custom_id"] for row in rows} - {json.loads(line)["custom_id"] for line in whole}
    assert torn.startswith(b'{"custom_id":' + json.dumps(left, ensure_ascii=False).encode() + b',"result":')
    assert_paid_once(api, rows)


async def test_rows_that_are_torn_once_and_never_come_again_are_missing(
    api: Sandbox, rests: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last read brings no line of them, torn or whole: none is made up, and the job ends."""

    def three(whole: bytes) -> bytes:
        return b"".join(whole.splitlines(keepends=True)[:3])

    def three_and_a_part(whole: bytes) -> bytes:
        return whole[: len(three(whole)) + 90] + b"\n"

    _first_answers(monkeypatch, three_and_a_part, then=three)
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert rests == list(pacing.READ_AGAIN)
    assert (summary.succeeded, summary.missing) == (3, 5)
    assert_paid_once(api, rows)


async def test_ended_batch_with_empty_results_is_read_again_for_a_day_and_then_its_rows_are_missing(
    api: Sandbox, rests: list[float]
) -> None:
    api.faults.always("results", CutAtLine(lines=0, clean=True))
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert rests == [5, 20, 60, 300, 900, 3_600, 7_200, 14_400, 21_600, 36_000]
    assert 22 < sum(rests) / 3_600 < 24
    assert (summary.succeeded, summary.missing) == (0, 8)
    assert_paid_once(api, rows)


async def test_job_whose_results_cannot_be_read_says_why_here_and_to_other_processes(api: Sandbox) -> None:
    api.faults.always("results", Status(403))
    async with manager() as running:
        job = await running.submit(requests(8), to="results.jsonl", key="job")
        with anyio.fail_after(30):
            while "could not be read since" not in job.reason:
                await anyio.sleep(0.02)
            assert (job.state, "403" in job.reason) == ("running", True)
            async with JournalView() as view:
                while "could not be read since" not in (await view.status("job")).jobs[0].reason:
                    await anyio.sleep(0.05)
        api.faults.clear()
        await job.wait()
        assert not job.reason


async def test_young_batch_that_is_shown_as_archived_once_is_read_again(api: Sandbox, rests: list[float]) -> None:
    api.faults.next("results", Archived())
    api.faults.next("retrieve", ShownArchived())
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert rests == [5.0]
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert_each_answered("results.jsonl", rows)


async def test_young_batch_that_is_shown_as_archived_for_a_day_is_given_up_and_can_be_read_if_it_is_back(
    api: Sandbox, rests: list[float]
) -> None:
    api.faults.always("results", Archived())
    api.faults.always("retrieve", ShownArchived())
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert rests == list(pacing.READ_AGAIN)
    assert (summary.succeeded, summary.missing) == (0, 8)
    assert "shows the batch as archived" in Path("results.jsonl.missing.jsonl").read_text()
    api.faults.clear()
    Path("results.jsonl").unlink()
    async with manager() as running:
        assert len(await running.redrain("job")) == 1
        summary = await running.job("job").wait()
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
    assert not Path("results.jsonl.missing.jsonl").exists()


async def test_ended_batch_that_an_operator_named_and_that_stays_empty_is_held(
    api: Sandbox, rests: list[float]
) -> None:
    """Nothing proves that it is ours: its rows are neither missing nor sent again."""
    api.faults.next("create", ResetBeforeAccept())
    rows = requests(8)
    with pytest.raises(StillInDoubt):
        await run(rows, requests_per_batch=100, unresolved="hold")
    (foreign,) = api.add_foreign(8)
    api.faults.always("results", CutAtLine(lines=0, clean=True))
    journal = await SqliteLog.open(JournalFolder(Path(".abatch").absolute()), drive=False)
    await journal.append(Entry(1, ResolveWished(shard=1, attempt=1, batch_id=foreign)))
    await journal.aclose()
    with pytest.raises(StillInDoubt, match="no line that proves it ours"):
        await run(rows, requests_per_batch=100, unresolved="hold")
    assert len(rests) == len(pacing.READ_AGAIN)
    assert api.account.batches == 0


async def test_reads_that_were_given_up_in_a_rest_are_counted(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a batch with a missing row is read for ever, while all others rest."""
    drain, rests = Drainer.drain, list[float]()

    class NeverAtEase(Alone):
        async def rest(self, seconds: float, /) -> None:
            rests.append(seconds)
            raise Postponed(0.0)

    async def never_at_ease(self: Drainer, shard: Any, state: Any, _: Any, again: Any) -> Any:
        return await drain(self, shard, state, NeverAtEase(), again)

    async def all_but_the_first(answer: httpx2.Response) -> AsyncIterator[bytes]:
        whole = b"".join([chunk async for chunk in real(answer)])
        yield whole[whole.index(b"\n") + 1 :]

    real = client.chunks_of
    monkeypatch.setattr(shard_drain, "SHORT_REST", 0.0)
    monkeypatch.setattr(client, "chunks_of", all_but_the_first)
    monkeypatch.setattr(Drainer, "drain", never_at_ease)
    summary: Summary
    _, summary = await run(requests(5), requests_per_batch=100)
    assert rests == list(pacing.READ_AGAIN)
    assert (summary.succeeded, summary.missing) == (4, 1)


@pytest.mark.parametrize("newline", [True, False])
async def test_stream_that_always_breaks_behind_its_last_line_is_drained_in_one_read(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, rests: list[float], newline: bool
) -> None:
    """As behind a proxy whose `Content-Length` is wrong: every row has its line, and the rows decide."""
    real = client.chunks_of

    async def chunks(answer: httpx2.Response) -> AsyncIterator[bytes]:
        whole = b"".join([chunk async for chunk in real(answer)])
        yield whole.rstrip(b"\n") + b"\n" * newline
        raise ApiError("results: the stream broke")

    monkeypatch.setattr(client, "chunks_of", chunks)
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert rests == []
    assert (summary.succeeded, summary.missing) == (8, 0)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_last_line_that_a_break_cut_is_not_taken_for_whole(api: Sandbox, rests: list[float]) -> None:
    api.faults.next("results", CutInLine(lines=7))
    rows = requests(8)
    _, summary = await run(rows, requests_per_batch=100)
    assert len(rests) == 1
    assert_each_answered("results.jsonl", rows)
    assert summary.succeeded == 8
