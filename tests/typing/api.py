"""What type checkers see of the public API: `make lint` runs mypy and pyright on this file, and nothing imports it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, TypedDict, assert_never, assert_type

from anthropic.types import Message

import abatch
from abatch import events
from abatch.sandbox import Sandbox

State: TypeAlias = Literal["planning", "running", "in doubt", "held", "stopped", "cancelling", "done"]
ShardState: TypeAlias = Literal[
    "ready",
    "in doubt",
    "held",
    "processing",
    "vanished",
    "draining",
    "lost",
    "rejected",
    "done",
    "split",
    "unplanned",
    "abandoned",
]


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


class City(TypedDict):
    name: str


def an_answer_is_parsed_as_the_type_that_is_given(result: abatch.Result) -> None:
    assert_type(result.text, str | None)
    assert_type(result.stop_reason, str | None)
    assert_type(result.parse(City), City)
    assert_type(result.parse(list[int]), list[int])


def a_job_has_a_state(job: abatch.Job) -> None:
    assert_type(job.state, State)
    assert_type(job.reason, str)
    assert_type(job.remedy, str)
    assert_type(job.eta, datetime | None)
    assert_type(job.destinations, tuple[str, ...])


async def events_are_a_closed_union(manager: abatch.BatchManager, show: Callable[[object], None]) -> None:
    async for event in manager.events():
        assert_type(event, events.Event | events.EventsMissed)
        match event:
            case events.EventsMissed():
                assert_type((event.count, event.since), tuple[int, int])
            case events.JobStopped() | events.ShardHeld():
                assert_type(event.reason, str)
            case events.BatchAccepted():
                assert_type(event.found_by, Literal["tag", "operator"] | None)
            case events.ShardEvent():
                assert_type(event.shard, int)
            case events.JobFinished():
                assert_type(event.location, str)
            case events.JobSubmitted() | events.JobMoved():
                assert_type(event.destination, str)
            case events.JobLimited() | events.RequestsPlanned() | events.InputChanged() | events.JobResumed():
                assert_type((event.job, event.seq), tuple[str, int])
            case (
                events.JobClosed()
                | events.CancelRequested()
                | events.ResolutionRequested()
                | events.ResolutionRefused()
            ):
                show(event.kind)
            case events.DuplicateSeen():
                show(event)
            case _:
                assert_never(event)


def on_event_takes_functions_and_coroutines(show: Callable[[object], None]) -> None:
    async def wait(event: events.Event | events.EventsMissed) -> None:
        show(event)

    async def name(event: events.Event | events.EventsMissed) -> None:
        match event.kind:
            case "job.finished" | "events.missed":
                show((event.seq, event.at, event.job))
            case _:
                pass

    functions: list[events.OnEvent] = [show, wait, name]
    for function in functions:
        abatch.BatchManager(on_event=function)


async def a_view_gives_frozen_values() -> None:
    async with abatch.JournalView() as view:
        assert_type(view.jobs(), list[abatch.JobStatus])
        assert_type(view.job("job"), abatch.JobStatus)
        assert_type(view.summary("job"), abatch.Summary)
        assert_type(view.forecast("job"), abatch.Forecast)
        assert_type(await view.failures("job"), tuple[abatch.Failure, ...])
        status = await view.status(shards=True)
        assert_type(status, abatch.JournalStatus)
        assert_type(status.driver, abatch.DriverStatus | None)
        assert_type(status.jobs[0].progress, abatch.Progress)
        assert_type(status.jobs[0].state, State)
        assert_type(status.jobs[0].resolutions, tuple[abatch.Resolution, ...])
        for shard in status.jobs[0].shards or ():
            assert_type(shard.state, ShardState)
        assert_type(view.follow(), AsyncGenerator[abatch.JournalStatus])
        assert_type(view.events(), AsyncGenerator[events.Event])
        assert_type(view.results("job"), AsyncGenerator[abatch.Result])
        assert_type(await view.identify("id"), abatch.RequestOrigin)
        assert_type(await view.cancel("job"), abatch.JobStatus)
        assert_type(await view.resolve(1, lost=True), abatch.Resolution)
        assert_type(await view.retry("job"), abatch.Retry)
        assert_type(await view.move("job", to="other.jsonl"), abatch.Relocation)


def calls_without_an_event_loop() -> None:
    assert_type(abatch.run("requests.jsonl", to="results.jsonl"), abatch.Summary)
    assert_type(abatch.status(), abatch.JournalStatus)
    assert_type(abatch.results("job"), Generator[abatch.Result])
    assert_type(abatch.cancel("job"), abatch.JobStatus)
    assert_type(abatch.resolve(1, not_created=True), abatch.Resolution)
    assert_type(abatch.identify("id"), abatch.RequestOrigin)
    assert_type(abatch.move("job", to="other.jsonl"), abatch.Relocation)
    assert_type(abatch.estimate("requests.jsonl"), abatch.Estimate)
    assert_type(abatch.__version__, str)


async def what_a_job_needs_before_it_begins(manager: abatch.BatchManager) -> None:
    assert_type(manager.key_of("requests.jsonl", to="results.jsonl"), str)
    assert_type(await abatch.Estimate.of("requests.jsonl"), abatch.Estimate)
