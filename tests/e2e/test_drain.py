"""What breaks while results are drained: nothing that was given to a sink is taken for written unless it was."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from abatch import BackendError, JobStopped, Summary, client, collector, driver
from abatch.collector import Alone, Collector
from abatch.driver import Postponed
from abatch.errors import ApiError
from abatch.sandbox import Sandbox
from abatch_backends import jsonl
from tests.e2e.jobs import assert_each_answered, manager, requests, run

pytestmark = pytest.mark.anyio


async def test_disk_that_fails_while_the_stream_breaks_ends_the_job_and_nothing_is_lost(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a block that was not written count as read: a second read would take them for duplicates."""
    real, write = client._chunks, jsonl._write_all
    failing, broken = anyio.Event(), []

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

    monkeypatch.setattr(collector, "READ_BYTES", 2000)
    monkeypatch.setattr(collector, "WRITE_BYTES", 2000)
    monkeypatch.setattr(client, "_chunks", chunks)
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


async def test_reads_that_were_given_up_in_a_rest_are_counted(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a batch with a missing row is read for ever, while all others rest."""
    drain, rests = Collector.drain, list[float]()

    class Restless(Alone):
        async def rest(self, seconds: float, /) -> None:
            rests.append(seconds)
            raise Postponed(0.0)

    async def never_at_ease(self: Collector, shard: Any, state: Any, _: Any, again: Any) -> Any:
        return await drain(self, shard, state, Restless(), again)

    async def all_but_the_first(answer: httpx2.Response) -> AsyncIterator[bytes]:
        whole = b"".join([chunk async for chunk in real(answer)])
        yield whole[whole.index(b"\n") + 1 :]

    real = client._chunks
    monkeypatch.setattr(driver, "SHORT_REST", 0.0)
    monkeypatch.setattr(client, "_chunks", all_but_the_first)
    monkeypatch.setattr(Collector, "drain", never_at_ease)
    summary: Summary
    _, summary = await run(requests(5), requests_per_batch=100)
    assert rests == list(collector.READ_AGAIN)
    assert (summary.succeeded, summary.missing) == (4, 1)
