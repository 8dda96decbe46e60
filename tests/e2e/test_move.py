"""A job whose destination failed goes on at another one: nothing is paid again, and no line is lost or doubled."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anthropic import AsyncAnthropic

from abatch import BackendError, BatchManager, ConfigError, Job, JobConflict, JobNotFound, JobStopped, Summary
from abatch.protocol.wire import delivered
from abatch.sandbox import Sandbox, answer_text
from abatch.sandbox.answers import Outcomes
from abatch.sandbox.faults import Status
from abatch.sandbox.transport import URL, MachineTransport
from abatch.testing import memory
from abatch.testing.crash import CrashPoints, died
from abatch_backends import jsonl
from tests.e2e.jobs import assert_paid_once, config, lines, manager, raw_params, requests, write
from tests.e2e.test_crash_enumeration import Noted, bury
from tests.harness.here import Server, quick_folder
from tests.harness.secrets import KEY

pytestmark = pytest.mark.anyio

PLACES = ["results.jsonl", "results/", "results.db", "memory:old"]


@pytest.fixture(autouse=True)
def places() -> Iterator[None]:
    memory.clear()
    yield
    memory.clear()


@contextmanager
def slow_api(**settings: Any) -> Iterator[Sandbox]:
    """Batches end only when its clock is put forward."""
    with Sandbox(seed=3, latency=3600, **settings) as slow, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_BASE_URL", slow.url)
        yield slow


async def sent(job: Job, rows: int) -> None:
    while job.progress().in_flight < rows or job.progress().in_doubt:
        await job._job.change()


async def sealed(job: Job, rows: int) -> None:
    while job.progress().sealed < rows:
        await job._job.change()


def answers_in(to: str) -> Counter[tuple[str, str]]:
    """What the destination of a finished job holds, read without abatch's own reader where that can be."""
    match to:
        case "results.db" | "other.db":
            with closing(sqlite3.connect(to)) as database:
                rows = database.execute("SELECT custom_id, result FROM results").fetchall()
            found = [{"custom_id": each, "result": json.loads(result)} for each, result in rows]
        case str() if to.startswith("memory:"):
            found = [json.loads(line) for line in memory.lines(to.removeprefix("memory:"))]
        case str() if to.endswith("/"):
            found = [each for part in sorted(Path(to).glob("part-*.jsonl")) for each in lines(part)]
        case _:
            found = lines(to)
    return Counter((each["custom_id"], each["result"]["message"]["content"][0]["text"]) for each in found)


def wanted(rows: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((row["custom_id"], answer_text(raw_params(row))) for row in rows)


@pytest.mark.parametrize("old", PLACES)
@pytest.mark.parametrize("new", ["moved.jsonl", "moved/", "other.db", "memory:new"])
async def test_a_job_whose_destination_failed_is_moved_and_nothing_is_paid_again(
    api: Sandbox, old: str, new: str
) -> None:
    rows = requests(40)
    path = write(rows)
    async with manager(drains=1) as running:
        job = await running.submit(path, to=old, key="job")
        await sealed(job, 10)
        moved = await running.move("job", to=new)
        assert (await moved.wait()).succeeded == 40
        assert [result.custom_id async for result in job.results()] == [
            result.custom_id async for result in moved.results()
        ]
    assert answers_in(new) == wanted(rows)
    assert_paid_once(api, rows)


@pytest.mark.parametrize("given", ["results/", "moved.jsonl"])
@pytest.mark.parametrize("key", [None, "nightly"])
async def test_the_command_that_was_run_before_finds_the_job_by_its_old_and_by_its_new_destination(
    api: Sandbox, key: str | None, given: str
) -> None:
    rows = requests(30)
    path = write(rows)
    with Sandbox(seed=3, latency=3600) as slow, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_BASE_URL", slow.url)
        async with manager() as running:
            job = await running.submit(path, to="results/", key=key)
            while job.progress().in_flight < 30:
                await job._job.change()
            await running.move(job.key, to="moved.jsonl")
        slow.advance(3601)
        for _ in range(2):  # the second finds it finished
            async with manager() as running:
                assert {url.rpartition("/")[2] for url in running.job(job.key).destinations} >= {"moved.jsonl"}
                assert key is not None or running.key_of(path, to=given) == job.key
                again = await running.submit(path, to=given, key=key)
                assert again.key == job.key
                assert (await again.wait()).succeeded == 30
                assert len(running.jobs()) == 1
        assert_paid_once(slow, rows)
    assert answers_in("moved.jsonl") == wanted(rows)


async def test_another_destination_is_still_a_conflict_after_a_move() -> None:
    rows = requests(5)
    with slow_api() as api:
        async with manager() as running:
            job = await running.submit(rows, to="memory:old", key="job")
            await sent(job, 5)
            api.advance(3601)
            await job.wait()
            with pytest.raises(ConfigError, match="is done; copy its results from memory:old"):
                await running.move("job", to="memory:new")
        async with manager() as running:
            await running.submit(rows, to="memory:first", key="second")
            await running.move("second", to="memory:new")
            with pytest.raises(JobConflict, match="destination memory:new"):
                await running.submit(rows, to="memory:else", key="second")


async def test_a_move_during_an_outage_lets_the_job_go_on_at_once(api: Sandbox) -> None:
    rows = requests(30)
    async with manager() as running:
        job = await running.submit(write(rows), to="memory:old", key="job")
        memory.outage("old")
        waited: list[Summary] = []

        async def wait() -> None:
            waited.append(await job.wait())

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            while job._run.outage.down is None:
                await anyio.sleep(0.01)
            await running.move("job", to="memory:new")  # nothing is sealed, so the old destination is not needed
        assert waited[0].succeeded == 30
    assert waited[0].location == "memory:new"
    assert answers_in("memory:new") == wanted(rows)
    assert_paid_once(api, rows)


def lose(old: str) -> None:
    """Take the old destination away, with all that is sealed there."""
    match old:
        case str() if old.startswith("memory:"):
            memory.outage(old.removeprefix("memory:"))
        case "results.db":
            for path in Path().glob("results.db*"):
                path.unlink()
        case "results/":
            shutil.rmtree("results")
        case _:
            shutil.rmtree(".results.jsonl.abatch")


@pytest.mark.parametrize("old", PLACES)
@pytest.mark.parametrize("new", ["moved.jsonl", "other.db", "memory:new"])
async def test_what_the_old_destination_lost_is_read_again_from_the_api_and_nothing_is_paid_again(
    api: Sandbox, old: str, new: str
) -> None:
    rows = requests(40)
    path = write(rows)
    async with manager(drains=1) as running:
        await sealed(await running.submit(path, to=old, key="job"), 10)
    lose(old)
    async with manager(drains=1) as running:
        moved = await running.move("job", to=new)
        assert (await moved.wait()).succeeded == 40
    assert answers_in(new) == wanted(rows)
    assert_paid_once(api, rows)


async def test_rows_that_went_to_a_retry_shard_stand_once_after_their_first_shard_is_read_again() -> None:
    rows = requests(20)
    with slow_api(outcome=Outcomes(expired=0.5)) as api:
        async with manager(requests_per_batch=100) as running:
            job = await running.submit(write(rows), to="results/", key="job", tries=2)
            await sent(job, 20)
            api.advance(3601)
            while job.progress().batches < 2:  # one shard, and its retry
                await job._job.change()
            await sent(job, 1)
        shutil.rmtree("results")
        async with manager(requests_per_batch=100) as running:
            await running.move("job", to="moved.jsonl")
            api.advance(3601)
            summary = await running.job("job").wait()
        assert (summary.missing, api.account.violated) == (0, 0)
    assert Counter(line["custom_id"] for line in lines("moved.jsonl")) == Counter(row["custom_id"] for row in rows)


async def test_what_the_api_does_not_keep_any_more_is_said_and_the_job_stays_where_it_was(api: Sandbox) -> None:
    rows = requests(40)
    async with manager(drains=1) as running:
        job = await running.submit(write(rows), to="results/", key="job")
        await sealed(job, 10)
    part = next(Path("results").glob("part-*.jsonl"))
    part.rename("kept")
    api.advance(30 * 24 * 3600.0)
    async with BatchManager(config=config(), resume="given") as running:
        job = running.job("job")
        with pytest.raises(JobStopped, match="keeps results for 29 days"):
            await running.move("job", to="moved.jsonl")
        assert job.destination.endswith("/results/")
        Path("kept").rename(part)
        await running.move("job", to="moved.jsonl")
        assert job.destination.endswith("/moved.jsonl")
    assert api.account.violated == 0


async def test_lines_that_were_made_here_are_said_and_the_job_stays_where_it_was() -> None:
    """The API has none of them, so nobody could read them again."""
    rows = requests(3)
    with slow_api() as api:
        api.faults.next("create", Status(413, "request_too_large", "too large"))
        async with manager(requests_per_batch=1, uploads=1) as running:
            job = await running.submit(write(rows), to="results/", key="job")
            await sealed(job, 1)
            await sent(job, 2)
            part = next(Path("results").glob("part-*.jsonl"))
            part.rename("kept")
            with pytest.raises(BackendError, match=r"shard \d+ cannot .* they were made here .* Nothing was moved"):
                await running.move("job", to="moved.jsonl")
            assert job.destination.endswith("/results/")
            Path("kept").rename(part)
            await running.move("job", to="moved.jsonl")
            await sent(job, 2)
            api.advance(3601)
            summary = await job.wait()
        assert (summary.succeeded, summary.errored) == (2, 1)
        assert api.account.violated == 0


async def test_an_iterable_that_is_being_read_is_handed_over_again_after_a_move(api: Sandbox) -> None:
    rows, held = requests(30), anyio.Event()

    async def slowly() -> AsyncIterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            if number == 25:
                await held.wait()
            yield row

    async with manager() as running:
        job = await running.submit(slowly(), to="memory:old", key="job")
        await sealed(job, 10)
        await running.move("job", to="memory:new")
        with pytest.raises(JobStopped, match="not all of its requests were submitted"):
            await job.wait()
        held.set()
        again = await running.submit(slowly(), to="memory:old", key="job")
        assert (await again.wait()).succeeded == 30
    assert answers_in("memory:new") == wanted(rows)
    assert_paid_once(api, rows)


async def test_another_jobs_destination_is_refused_and_nothing_is_moved() -> None:
    mine, theirs = requests(3), [{**row, "params": {**row["params"], "system": "x"}} for row in requests(3)]
    with slow_api() as api:
        async with manager() as running:
            other = await running.submit(theirs, to="memory:theirs", key="theirs")
            await sent(other, 3)
            api.advance(3601)
            await other.wait()
            job = await running.submit(mine, to="memory:old", key="mine")
            with pytest.raises(BackendError, match="destination of job 'theirs'"):
                await running.move("mine", to="memory:theirs")
            assert job.destination == "memory:old"
            with pytest.raises(JobNotFound, match="has no job 'nobody'; it has: theirs, mine"):
                await running.move("nobody", to="memory:new")


async def test_a_job_that_was_assembled_and_not_recorded_is_moved(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts of a single file are gone by then; its lines are found in the file."""
    rows = requests(25)

    async def fails(self: Any, job: Any, sealed_: Any) -> str:
        await real(self, job, sealed_)
        raise BackendError(self.url, "died before it could tell")

    real = jsonl._File.finish
    with monkeypatch.context() as patch:
        patch.setattr(jsonl._File, "finish", fails)
        async with manager() as running:
            job = await running.submit(rows, to="results.jsonl", key="job")
            with pytest.raises(BackendError, match="before it could tell"):
                await job.wait()
    assert Path("results.jsonl").exists()
    async with BatchManager(config=config(), resume="given") as running:
        job = running.job("job")
        with pytest.MonkeyPatch.context() as patch:  # the run that recovers the job does not finish it here
            patch.setattr(jsonl._File, "finish", fails)
            with pytest.raises(BackendError):
                await job.wait()
        await running.move("job", to="memory:new")
        assert (await job.wait()).succeeded == 25
    assert answers_in("memory:new") == wanted(rows)
    assert_paid_once(api, rows)


def test_a_strange_line_is_copied_byte_for_byte_under_its_own_custom_id() -> None:
    """A line that no JSON reader takes, one in another order, one of deep nesting."""
    odd = (
        b'{"custom_id":"a\\u00e9","result":{"type":"succeeded", "message": not JSON a1-00000001-01-000000000000-0000}}',
        b'{"result":{"type":"canceled"},"custom_id":"other order"}',
        b'{"custom_id":"deep","result":{"type":"x","y":%b}}' % (b"[" * 5000 + b"]" * 5000),
    )
    seen = [delivered(line) for line in odd]
    assert [line.custom_id for line in seen] == ["a\u00e9", "other order", "deep"]
    assert [line.raw for line in seen] == list(odd)
    assert seen[1].outcome == "canceled"


class Runs:
    """Runs of one job in this process against one machine, of which each may die at a crash point."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def enter(self, work: Any, crash: CrashPoints | None = None) -> Any:
        transport: httpx2.AsyncBaseTransport = MachineTransport(self.server.machine)
        if crash is not None:
            transport = crash.wrap(transport)
        async with httpx2.AsyncClient(transport=transport) as http:
            client = AsyncAnthropic(api_key=KEY, base_url=URL, http_client=http)
            quick: dict[str, Any] = {
                "poll_interval": timedelta(milliseconds=10),
                "poll_interval_max": timedelta(milliseconds=10),
            }
            settings = config(requests_per_batch=4, drains=1, **quick)
            async with BatchManager(client=client, config=settings) as running:
                return await work(running)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("old", "new"), [("results/", "moved.jsonl"), ("results.jsonl", "other.db")])
@pytest.mark.parametrize("again", ["move", "old", "new", "lost"])
async def test_death_anywhere_in_a_move_loses_nothing_doubles_nothing_and_pays_once(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, again: str
) -> None:
    """Afterwards the same move, or the same command with the old or the new destination, finishes the job.

    `lost`: the old destination is gone when the move begins, so its shards are read again from the API.
    """
    rows = requests(14)
    every, tried = {"move": 3, "lost": 7}.get(again, 13), 0
    again = "move" if (is_lost := again == "lost") else again

    async def begin(running: BatchManager) -> None:
        job = await running.submit(Path("input.jsonl"), to=old, key="job")
        await sealed(job, 4)

    async def go_on(running: BatchManager) -> None:
        moved = await running.move("job", to=new)
        if is_lost:  # on to the end: its shards are drained once more
            await running.submit(Path("input.jsonl"), to=new, key="job")
            await moved.wait()

    async def finish(running: BatchManager) -> str:
        if again == "move" and not running.job("job").done:
            await running.move("job", to=new)
        known = running.job("job")._job.destinations
        to = old if again == "old" or len(known) == 1 else new
        job = await running.submit(Path("input.jsonl"), to=to, key="job")
        summary = await job.wait()
        assert summary.succeeded == 14
        return summary.location

    with quick_folder() as folder:
        for point in count(1, every):
            home = folder / f"{point}"
            home.mkdir()
            monkeypatch.chdir(home)
            server = Server()
            write(rows)
            runs = Runs(server)
            await runs.enter(begin)
            if is_lost:
                lose(old)
            crash = Noted(point)
            with crash:
                try:
                    await runs.enter(go_on, crash)
                except BaseException as error:
                    if not died(error):
                        raise
            location = await runs.enter(finish)
            account = server.machine.account
            told = f"after death at point {point}, {crash.where}"
            assert account.violated == 0, told
            assert [account.times(raw_params(row)) for row in rows] == [1] * 14, told
            at = next(place for place in (old, new) if location.rstrip("/").endswith(place.rstrip("/")))
            assert answers_in(at) == wanted(rows), told
            shutil.rmtree(home)
            if not crash.happened:
                break
            tried += 1
    await bury()
    passed = {place.removeprefix("before ") for place in crash.places}
    assert {"claim", "read", "open", "write", "seal", "SqliteLog._append"} <= passed
    assert tried > 40 / every - 1
