"""The test suite that every backend must pass: subclass `BackendContract`, and define how to open and read.

    class TestMine(BackendContract):
        @pytest.fixture(autouse=True)
        def place(self, tmp_path):
            self.url = f"mine:///{tmp_path}/results"

        async def connect(self, job):
            return await abatch_mine.open_(self.url, job)

        async def stored(self):  # read as another program would, without abatch
            return my_own_reader(self.url)

The tests are plain `async def`, each with a separate loop; run them with any asyncio plugin. For readable failures,
call `pytest.register_assert_rewrite("abatch.testing.contract")` in your conftest.
`die` simulates a crash, and must leave behind what a killed process would leave. Only the claim is tested with real
deaths: processes forked from the test kill themselves in the middle of `connect`, line by line.
"""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import tracemalloc
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from inspect import CO_COROUTINE
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, ClassVar

import anyio

from abatch.backend import JobRef, Sealed, ShardRef, Sink
from abatch.errors import BackendError
from abatch.result import Line, Usage
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import FrameType

    from _typeshed import TraceFunction

    from abatch.backend import Backend

__all__ = ["STRANGE_IDS", "BackendContract", "OutageContract", "make_line", "make_lines"]

STRANGE_IDS = (
    "plain",
    "with space, 'quotes', \"double\" and \\ backslash",
    "../../etc/passwd",
    "%_;--{}$(x)",
    "-",
    "ü\u2028line\u2029separators\x85",
    "🦜" * 128,  # 512 bytes
    "x" * 512,
    "tab\tand\nnewline",
)
STRANGE_RESULTS = (
    rb'{"type":"succeeded","message":{"content":"a lone \ud83d surrogate, \u0000 and \u2028"}}',
    '{"type":"succeeded","message":{"content":"raw \u2028 separators \u2029 and \x85"}}'.encode(),
    rb'{"type":"succeeded",  "spaces" : [ 1.0e5 , 1E400, 12345678901234567890123, null ] }',
    rb'{"type":"errored","error":{"type":"error","error":{"type":"api_error","message":"}\",\"result\":{"}}}',
    rb'{"type":"a_type_of_tomorrow","message":' + b"[" * 3000 + b"]" * 3000 + b"}",
    rb'{"type":"canceled"}',
    rb'{"type":"expired"}',
)
ANSWER = rb'{"type":"succeeded","message":{"content":"hello"}}'


def make_line(custom_id: str, result: bytes = ANSWER) -> Line:
    """Make a line in the form in which abatch passes it to a sink."""
    raw = b'{"custom_id":' + json.dumps(custom_id, ensure_ascii=False).encode() + b',"result":' + result + b"}"
    outcome = result.split(b'"')[3].decode()
    error_type = "api_error" if outcome == "errored" else None
    if outcome != "succeeded":
        return Line(raw, custom_id, outcome, error_type)
    usage = Usage(input_tokens=3, output_tokens=5, cache_read_tokens=7)
    return Line(raw, custom_id, outcome, None, "claude-test-1", usage)


def make_lines(count: int, *, start: int = 0) -> list[Line]:
    """Make lines with different ids, all of them succeeded."""
    return [make_line(f"row-{row:06}") for row in range(start, start + count)]


class BackendContract:
    """The promises of `abatch.backend`, each as a test. A subclass defines at least `connect` and `stored`."""

    job: ClassVar[JobRef] = JobRef(key="contract", lineage="0123456789abcdef")
    other: ClassVar[JobRef] = JobRef(key="contract", lineage="fedcba9876543210")
    """A job that must not get the destination while `job` has it."""
    megabytes: ClassVar[int] = 96
    """The number of megabytes that `test_memory_does_not_grow_with_the_shard` writes."""
    window: ClassVar[int] = 48
    """The number of megabytes that may be in memory at once."""

    # ---- defined by a subclass ----------------------------------------------------------------------------

    async def connect(self, job: JobRef, /) -> Backend:
        """Open the destination under test, which is the same for all calls within a test."""
        raise NotImplementedError

    async def stored(self) -> list[bytes]:
        """Return every line of the finished job in the order of the destination, read without abatch."""
        raise NotImplementedError

    async def stored_missing(self) -> list[tuple[str, str]]:
        """Return the custom_ids without a result, with the reasons, as another program finds them; in any order."""
        raise NotImplementedError

    async def die(self, backend: Backend, /) -> None:
        """Leave the backend as a killed process would; open sinks are neither sealed nor discarded."""
        await backend.aclose()

    # ---- the steps of the tests ---------------------------------------------------------------------------

    def shard(self, part: int = 0) -> ShardRef:
        """Return a shard of the job."""
        return ShardRef(job=self.job, shard=part + 40, part=part, rows=100_000, batch_id=f"msgbatch_{part}")

    async def sink(self, backend: Backend, part: int = 0) -> Sink:
        """Open a shard that no run has sealed."""
        sink = await backend.open(self.shard(part))
        assert not isinstance(sink, Sealed)
        return sink

    async def sealed(self, backend: Backend, part: int, lines: Sequence[Line]) -> Sealed:
        """Write and seal a shard; the result is converted to JSON and back, as in the journal."""
        sink = await self.sink(backend, part)
        for start in range(0, len(lines), 100):
            await sink.write(lines[start : start + 100])
        return journalled(await sink.seal())

    @asynccontextmanager
    async def opened(self, job: JobRef | None = None) -> AsyncGenerator[Backend]:
        """Open a backend for the duration of a block."""
        backend = await self.connect(job or self.job)
        try:
            yield backend
        finally:
            await backend.aclose()

    # ---- writing and reading ------------------------------------------------------------------------------

    async def test_lines_come_back_byte_for_byte(self) -> None:
        lines = [make_line(custom_id) for custom_id in STRANGE_IDS]
        lines += [make_line(f"result-{n}", result) for n, result in enumerate(STRANGE_RESULTS)]
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, lines)
            assert sealed.part == 0
            assert sealed.lines == len(lines)
            assert await read(backend, sealed) == raw(lines)
            await backend.finish(self.job, [sealed])
            assert await read(backend, sealed) == raw(lines)
        assert await self.stored() == raw(lines)

    async def test_lines_stand_in_the_order_written(self) -> None:
        lines = make_lines(2500)[::-1]
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, lines)
            assert await read(backend, sealed) == raw(lines)

    async def test_shards_stand_in_the_order_given_to_finish(self) -> None:
        first, second, third = (make_lines(10, start=10 * n) for n in range(3))
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, part, lines) for part, lines in ((7, third), (0, first), (2, second))]
            sealed.sort(key=lambda each: each.part)
            await backend.finish(self.job, sealed)
            assert [await read(backend, each) for each in sealed] == [raw(first), raw(second), raw(third)]
        assert await self.stored() == raw(first + second + third)

    async def test_a_write_may_be_empty(self) -> None:
        lines = make_lines(2)
        async with self.opened() as backend:
            sink = await self.sink(backend)
            for some in ([], lines[:1], [], lines[1:], []):
                await sink.write(some)
            assert await read(backend, await sink.seal()) == raw(lines)

    async def test_a_shard_may_be_empty(self) -> None:
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, []), await self.sealed(backend, 1, make_lines(1))]
            assert sealed[0].lines == 0
            assert await read(backend, sealed[0]) == []
            await backend.finish(self.job, sealed)
            assert await read(backend, sealed[0]) == []
        assert await self.stored() == raw(make_lines(1))

    async def test_a_job_may_be_empty(self) -> None:
        async with self.opened() as backend:
            await backend.finish(self.job, [])
        assert await self.stored() == []

    async def test_a_line_may_be_large(self) -> None:
        answer = b'{"type":"succeeded","message":{"content":"%b"}}'
        lines = [
            make_line("small"),
            make_line("large", answer % (b"x" * 20_000_000)),
            make_line("strange", answer % (b"y" * 2_000_000 + rb"\ud800")),
            make_line("last"),
        ]
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, lines)
            assert await read(backend, sealed) == raw(lines)
            await backend.finish(self.job, [sealed])
            assert await read(backend, sealed) == raw(lines)
        assert await self.stored() == raw(lines)

    async def test_many_sinks_write_at_once(self) -> None:
        shards = [make_lines(1200, start=10_000 * part) for part in range(8)]
        sealed: dict[int, Sealed] = {}
        async with self.opened() as backend:

            async def drain(part: int) -> None:
                sealed[part] = await self.sealed(backend, part, shards[part])

            async with anyio.create_task_group() as drains:
                for part in range(len(shards)):
                    drains.start_soon(drain, part)
            for part, lines in enumerate(shards):
                assert await read(backend, sealed[part]) == raw(lines)
            await backend.finish(self.job, [sealed[part] for part in range(len(shards))])
        assert sorted(await self.stored()) == sorted(raw(line for lines in shards for line in lines))

    async def test_a_reader_may_stop_early(self) -> None:
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, make_lines(2000))
            async for line in (reader := backend.read(sealed)):
                assert line == make_line("row-000000").raw
                break
            await reader.aclose()  # type: ignore[attr-defined]  # every reader here is an async generator
            assert len(await read(backend, sealed)) == 2000

    async def test_memory_does_not_grow_with_the_shard(self) -> None:
        padding = b"".join(b"%032x" % (n * n) for n in range(500))  # not all zeros, because some media compress
        result = b'{"type":"succeeded","message":{"content":"%b"}}' % padding
        held = 0
        async with self.opened() as backend:
            sink = await self.sink(backend)
            tracemalloc.start()
            try:
                rows = 0
                for _ in range(self.megabytes * 4):
                    await sink.write([make_line(f"row-{rows + n}", result) for n in range(16)])
                    rows += 16
                sealed = await sink.seal()
                read_lines = 0
                async for _ in backend.read(sealed):
                    read_lines += 1
                _, held = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert read_lines == rows
            assert held < self.window * 2**20

    # ---- crashes ------------------------------------------------------------------------------------------

    async def test_a_shard_left_open_is_written_again_and_each_line_stands_once(self) -> None:
        lines = make_lines(3000)
        backend = await self.connect(self.job)
        sink = await self.sink(backend)
        await sink.write(lines[:1700])
        await self.die(backend)
        async with self.opened() as backend:
            again = await self.sealed(backend, 0, lines[::-1])  # the API's order is not stable
            assert again.lines == len(lines)
            assert sorted(await read(backend, again)) == raw(lines)
            await backend.finish(self.job, [again])
        assert sorted(await self.stored()) == raw(lines)

    async def test_a_seal_is_found_by_the_run_after_a_crash(self) -> None:
        lines = make_lines(1500)
        backend = await self.connect(self.job)
        sealed = await self.sealed(backend, 3, lines)
        await self.die(backend)
        async with self.opened() as backend:
            found = await backend.open(self.shard(3))
            assert isinstance(found, Sealed)
            assert journalled(found) == sealed
            assert await read(backend, found) == raw(lines)

    async def test_a_crash_touches_no_other_shard(self) -> None:
        lines = [make_lines(300, start=1000 * part) for part in range(3)]
        backend = await self.connect(self.job)
        first = await self.sealed(backend, 0, lines[0])
        sink = await self.sink(backend, 1)
        await sink.write(lines[1][:200])
        await self.die(backend)
        async with self.opened() as backend:
            third = await self.sealed(backend, 2, lines[2])
            second = await self.sealed(backend, 1, lines[1])
            assert await read(backend, first) == raw(lines[0])
            await backend.finish(self.job, [first, second, third])
        assert sorted(await self.stored()) == sorted(raw(line for shard in lines for line in shard))

    async def test_a_discarded_shard_can_be_written_again(self) -> None:
        lines = make_lines(1500)
        async with self.opened() as backend:
            sink = await self.sink(backend)
            await sink.write(lines[:1200])
            await sink.discard()
            sealed = await self.sealed(backend, 0, lines)
            assert await read(backend, sealed) == raw(lines)
            await backend.finish(self.job, [sealed])
        assert await self.stored() == raw(lines)

    async def test_a_claim_that_was_cut_short_keeps_nobody_out(self) -> None:
        died_at: set[str] = set()
        while line := await threads.run(self._claim_and_die, died_at):
            died_at.add(line)
        async with self.opened() as backend:
            await self.sealed(backend, 0, make_lines(3))

    def _claim_and_die(self, died_at: set[str]) -> str:
        """Connect in a process that dies at the first line of the backend's code at which no process died before.

        Returns that line; an empty text if there was none, and then the place is claimed.
        """
        with TemporaryFile() as report, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks with idle threads: the child is short-lived
            child = multiprocessing.get_context("fork").Process(
                target=self._claim, args=(died_at, report.fileno()), daemon=True
            )
            child.start()
            child.join(60)
            report.seek(0)
            assert child.exitcode in (0, -signal.SIGKILL), "the remains of a run that died in its claim block the job"
            return report.read().decode()

    def _claim(self, died_at: set[str], report: int) -> None:
        async def claim() -> None:
            lines = _Lines(died_at, report, besides={type(self).__module__, "anyio"})
            threading.settrace(lines.enter)
            sys.settrace(lines.enter)
            await self.connect(self.job)
            os._exit(0)

        anyio.run(claim)

    async def test_a_second_opening_disturbs_nothing(self) -> None:
        first, second = make_lines(300), make_lines(300, start=1000)
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, first)]
            sink = await self.sink(backend, 1)
            await sink.write(second[:200])
            async with self.opened() as reader:  # as `abatch results` does while the job runs
                assert await read(reader, sealed[0]) == raw(first)
            await sink.write(second[200:])
            sealed.append(journalled(await sink.seal()))
            await backend.finish(self.job, sealed)
        assert await self.stored() == raw(first + second)

    # ---- the end of a job ---------------------------------------------------------------------------------

    async def test_finish_can_be_repeated(self) -> None:
        lines = make_lines(20)
        backend = await self.connect(self.job)
        sealed = [await self.sealed(backend, 0, lines[:12]), await self.sealed(backend, 1, lines[12:])]
        location = await backend.finish(self.job, sealed)
        assert await backend.finish(self.job, sealed) == location
        await self.die(backend)  # before the end of the job was recorded
        async with self.opened() as backend:
            assert await backend.finish(self.job, sealed) == location
            assert await read(backend, sealed[1]) == raw(lines[12:])
            finished = replace(self.job, finished=True)
            assert await backend.finish(finished, sealed) == location
            assert await read(backend, sealed[0]) == raw(lines[:12])
        assert await self.stored() == raw(lines)
        async with self.opened(finished) as backend:
            assert await backend.finish(finished, sealed) == location
            assert await read(backend, sealed[0]) == raw(lines[:12])
            assert await read(backend, sealed[1]) == raw(lines[12:])
        assert await self.stored() == raw(lines)

    async def test_requests_without_a_result_are_listed(self) -> None:
        pairs = [(custom_id, "the batch was archived") for custom_id in STRANGE_IDS]
        with TemporaryDirectory() as folder:
            lists = [Path(folder, "a"), Path(folder, "b")]
            for path, some in zip(lists, (pairs[:4], pairs[4:]), strict=True):
                text = "".join(json.dumps({"custom_id": i, "reason": why}) + "\n" for i, why in some)
                await threads.run(path.write_text, text)
            job = replace(self.job, missing=tuple(lists))
            backend = await self.connect(self.job)
            sealed = [await self.sealed(backend, 0, make_lines(3))]
            location = await backend.finish(job, sealed)
            await self.die(backend)
            async with self.opened() as backend:
                assert await backend.finish(job, sealed) == location
        assert sorted(await self.stored_missing()) == sorted(pairs)
        assert await self.stored() == raw(make_lines(3))

    async def test_another_job_is_refused_before_anything_is_written(self) -> None:
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, make_lines(3))
        refused = False
        try:
            await (await self.connect(self.other)).aclose()
        except BackendError:
            refused = True
        assert refused
        async with self.opened() as backend:
            await backend.finish(self.job, [sealed])
        assert await self.stored() == raw(make_lines(3))

    async def test_of_two_jobs_at_once_one_gets_the_destination(self) -> None:
        winners: list[Backend] = []

        async def claim(job: JobRef) -> None:
            with suppress(BackendError):
                winners.append(await self.connect(job))

        async with anyio.create_task_group() as jobs:
            for job in (self.job, self.other):
                jobs.start_soon(claim, job)
        for backend in winners:
            await backend.aclose()
        assert len(winners) == 1

    async def test_results_that_vanished_are_not_called_complete(self) -> None:
        async with self.opened() as backend:
            real = await self.sealed(backend, 0, make_lines(3))
            refused = False
            try:
                await backend.finish(self.job, [real, replace(real, part=1, detail=self.elsewhere(real))])
            except BackendError:
                refused = True
            assert refused

    def elsewhere(self, sealed: Sealed) -> dict[str, str | int]:
        """Return the `detail` of a shard like this one, but for part 1, which was never written."""
        return dict(sealed.detail)


class OutageContract(BackendContract):
    """The suite for a backend that reports which of its failures pass (`BackendError.passes`).

    A subclass also defines `outage`. A running job survives such a failure: its shard is drained again.
    """

    def outage(self, backend: Backend, /) -> AbstractAsyncContextManager[None]:
        """Make this backend fail in a way that passes, for the duration of the block.

        Inside the block at least sealing a shard and finishing the job must fail.
        """
        raise NotImplementedError

    async def test_a_failure_that_passes_says_so(self) -> None:
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, make_lines(3))
            async with self.outage(backend):
                assert await passes(self.sealed(backend, 1, make_lines(3)))
                assert await passes(backend.finish(self.job, [sealed]))
            assert await read(backend, sealed) == raw(make_lines(3))

    async def test_after_an_outage_a_shard_is_drained_again_and_each_line_stands_once(self) -> None:
        lines = make_lines(1500)
        async with self.opened() as backend:
            sink = await self.sink(backend)
            await sink.write(lines[:1200])
            async with self.outage(backend):
                assert await passes(self._end(sink, lines[1200:]))
            opened = await backend.open(self.shard())  # the same backend, because a job does not reconnect
            if isinstance(opened, Sealed):  # the seal was carried out, and only its answer was lost
                sealed = opened
            else:
                for start in range(0, len(lines), 100):
                    await opened.write(lines[start : start + 100])
                sealed = journalled(await opened.seal())
            assert sealed.lines == len(lines)
            await backend.finish(self.job, [sealed])
        assert sorted(await self.stored()) == raw(lines)

    async def _end(self, sink: Sink, lines: Sequence[Line]) -> None:
        try:
            await sink.write(lines)
            await sink.seal()
        except BackendError:
            with suppress(BackendError):  # the storage may be away for this, too
                await sink.discard()
            raise


async def passes(step: Awaitable[object]) -> bool:
    """Return whether a step fails with an error that passes."""
    try:
        await step
    except BackendError as failure:
        return failure.passes
    return False


class _Lines:
    """Die at the first new line of the backend's package.

    That package is the one of the first `async def` that runs outside the packages `besides`.
    """

    def __init__(self, died_at: set[str], report: int, *, besides: set[str]) -> None:
        self._died_at = died_at
        self._report = report
        self._package = ""
        self._besides = {"abatch", *sys.stdlib_module_names, *map(_package, besides)}

    def enter(self, frame: FrameType, _event: str, _: object) -> TraceFunction | None:
        package = _package(str(frame.f_globals.get("__name__")))
        if not self._package and frame.f_code.co_flags & CO_COROUTINE and package not in self._besides:
            self._package = package
        return self._step if package == self._package else None

    def _step(self, frame: FrameType, event: str, _: object) -> TraceFunction:
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if event == "line" and line not in self._died_at:
            os.write(self._report, line.encode())
            os.kill(os.getpid(), signal.SIGKILL)
        return self._step


def _package(module: str) -> str:
    return module.partition(".")[0]


def journalled(sealed: Sealed) -> Sealed:
    """Return the value as the journal would return it."""
    return Sealed(part=sealed.part, lines=sealed.lines, detail=json.loads(json.dumps(dict(sealed.detail))))


def raw(lines: Iterable[Line]) -> list[bytes]:
    """Return the bytes of lines."""
    return [line.raw for line in lines]


async def read(backend: Backend, sealed: Sealed) -> list[bytes]:
    """Return every line of a sealed shard."""
    return [line async for line in backend.read(sealed)]
