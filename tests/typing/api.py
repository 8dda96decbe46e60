"""What type checkers see of the public API: `make lint` runs mypy and pyright on this file, and nothing imports it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, assert_type

from anthropic.types import Message

import abatch
from abatch.sandbox import Sandbox


async def job_from_file_to_summary() -> None:
    async with abatch.BatchManager(config=abatch.Config(poll_interval=timedelta(seconds=5))) as manager:
        assert_type(manager, abatch.BatchManager)
        job = await manager.submit("requests.jsonl", to="results.jsonl", key="job")
        assert_type(job, abatch.Job)
        assert_type(manager.job("job"), abatch.Job)
        assert_type(manager.jobs(), list[abatch.Job])
        assert_type(await job.wait(), abatch.Summary)
        assert_type(await job.wait(check=True), abatch.Summary)
        assert_type(job.summary(), abatch.Summary)
        assert_type(job.progress(), abatch.Progress)
        assert_type(job.forecast(), abatch.Forecast)
        assert_type(await job.failures(), tuple[abatch.Failure, ...])
        assert_type(job.results(), AsyncIterator[abatch.Result])
        async for result in job.results():
            assert_type(result.custom_id, str)
            assert_type(result.outcome, str)
            assert_type(result.error, abatch.ResultError | None)
            assert_type(result.usage, abatch.Usage | None)
            assert_type(result.message, Message | None)


async def every_form_of_request_is_taken(manager: abatch.BatchManager) -> None:
    params: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]}

    async def stream() -> AsyncIterator[abatch.Request]:
        yield abatch.Request(custom_id="a", params=params)

    await manager.submit([abatch.Request(custom_id="a", params=params)], to="memory:a")
    await manager.submit([{"custom_id": "a", "params": params}], to="memory:b")
    await manager.submit(stream(), to="memory:c")


def a_summary_is_plain_numbers(summary: abatch.Summary) -> None:
    assert_type(summary.succeeded, int)
    assert_type(summary.cost, float | None)
    assert_type(summary.stop_reasons, Mapping[str, int])
    assert_type(summary.ok, bool)


class Kept:
    """A sink as the documentation shows one: no base class, checked by its shape."""

    async def write(self, lines: Sequence[abatch.Line], /) -> None:
        for line in lines:
            assert_type(line.raw, bytes)
            assert_type(line.custom_id, str)

    async def seal(self) -> abatch.Sealed:
        return abatch.Sealed(part=0, lines=0)

    async def discard(self) -> None: ...


class Everywhere:
    """A backend, in the same way."""

    async def open(self, shard: abatch.ShardRef, /) -> abatch.Sink | abatch.Sealed:
        assert_type(shard.job, abatch.JobRef)
        return Kept()

    async def read(self, sealed: abatch.Sealed, /) -> AsyncIterator[bytes]:
        yield b""

    async def finish(self, job: abatch.JobRef, sealed: Sequence[abatch.Sealed], /) -> str:
        return "elsewhere"

    async def aclose(self) -> None: ...


async def open_(url: str, job: abatch.JobRef, /) -> abatch.Backend:
    return Everywhere()


factory: abatch.BackendFactory = open_


async def a_backend_of_ones_own_is_taken(manager: abatch.BatchManager) -> None:
    assert_type(await manager.submit("requests.jsonl", to=Everywhere()), abatch.Job)


async def the_sandbox_is_entered_with_and_without_await() -> None:
    async with Sandbox() as api:
        assert_type(api, Sandbox)
    with Sandbox(seed=7) as api:
        assert_type(api.url, str)
        assert_type(api.key, str)


def errors_carry_facts(error: abatch.AbatchError, show: Callable[[str], None]) -> None:
    match error:
        case abatch.JobStopped(key=key, reason=reason, remedy=remedy):
            assert_type((key, reason, remedy), tuple[str, str, str])
        case abatch.JobFailed(summary=summary):
            assert_type(summary, abatch.Summary)
        case abatch.JournalLocked(pid=pid):
            assert_type(pid, int)
        case _:
            show(str(error))
