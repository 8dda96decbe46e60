"""Many open jobs share what a place needs: its cost does not grow with their number, and none harms another."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink, connect
from abatch.errors import BackendError, TooManyOpenFiles
from abatch.input.spool import guarded, open_spool
from abatch.testing import BackendContract
from abatch.testing.contract import make_lines, raw, read
from abatch_backends import s3, sqlite
from tests.unit.make import planned_for, rows_of, write_spool

pytestmark = pytest.mark.anyio

JOBS = 60


def job(number: int) -> JobRef:
    return replace(BackendContract.job, key=f"job-{number}")


def shard(number: int, part: int = 0) -> ShardRef:
    return ShardRef(job=job(number), shard=1 + 100 * number + part, part=part, rows=10_000, batch_id="msgbatch_1")


async def sink_of(backend: Backend, shard: ShardRef) -> Sink:
    sink = await backend.open(shard)
    assert not isinstance(sink, Sealed)
    return sink


def descriptors() -> list[str]:
    """What this process has open."""
    links = Path("/proc/self/fd").iterdir()
    return [str(link.readlink()) for link in list(links) if link.is_symlink()]


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_jobs_of_one_database_share_one_connection_and_no_thread_is_theirs(tmp_path: Path) -> None:
    backends = [await connect(f"sqlite:///{tmp_path}/results.db", job(number)) for number in range(JOBS)]
    sealed = {}
    for number, backend in enumerate(backends):
        sink = await sink_of(backend, shard(number))
        await sink.write(make_lines(2))
        sealed[number] = await sink.seal()
    assert len([name for name in descriptors() if "results.db" in name]) <= 3
    assert threading.active_count() < 20
    for number, backend in enumerate(backends):
        assert await read(backend, sealed[number]) == raw(make_lines(2))
        await backend.aclose()
    assert [name for name in descriptors() if "results.db" in name] == []
    assert [path.name for path in tmp_path.iterdir()] == ["results.db"]


async def test_many_databases_are_connected_a_few_at_a_time(tmp_path: Path) -> None:
    backends: dict[int, Backend] = {}
    most = 0

    async def use(number: int) -> None:
        nonlocal most
        backends[number] = await connect(f"sqlite:///{tmp_path}/{number}.db", job(number))
        sink = await sink_of(backends[number], shard(number))
        await sink.write(make_lines(1_500))
        most = max(most, len([name for name in descriptors() if ".db" in name]))
        assert (await sink.seal()).lines == 1_500

    async with anyio.create_task_group() as group:
        for number in range(JOBS // 2):
            group.start_soon(use, number)
    assert 0 < most <= 3 * (sqlite.connections.OPEN + 1)
    assert threading.active_count() < 20
    for number, backend in backends.items():
        await backend.aclose()
        with closing(sqlite3.connect(tmp_path / f"{number}.db")) as database:
            assert database.execute("SELECT count(*), count(DISTINCT custom_id) FROM results").fetchone() == (
                1500,
                1500,
            )
    assert [name for name in descriptors() if ".db" in name] == []


async def test_a_job_that_is_cancelled_or_closed_does_not_break_anothers_transaction(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.db"
    staying = await connect(url, job(0))
    sink = await sink_of(staying, shard(0))
    for round_ in range(1, 30):
        leaving = await connect(url, job(round_))
        other = await sink_of(leaving, shard(round_))
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as hurried:
                group.start_soon(sink.write, make_lines(1_000, start=1_000 * round_))
                hurried.deadline = anyio.current_time() + round_ / 1_000
                await other.write(make_lines(3_000))
            await leaving.aclose()
        with pytest.raises(BackendError, match="closed"):
            await other.seal()
    sealed = await sink.seal()
    expected = [line for round_ in range(1, 30) for line in raw(make_lines(1_000, start=1_000 * round_))]
    assert await read(staying, sealed) == expected
    await staying.aclose()
    with closing(sqlite3.connect(tmp_path / "results.db")) as database:
        others = database.execute("SELECT count(*) FROM results WHERE job <> 'job-0' GROUP BY job").fetchall()
        assert {count for (count,) in others} <= {3_000}  # whole or not at all


async def test_a_cancellation_of_asyncio_does_not_split_a_transaction_nor_leave_one_open(tmp_path: Path) -> None:
    """A shield of anyio alone does not hold `task.cancel()` back."""
    backend = await connect(f"sqlite:///{tmp_path}/results.db", job(1))
    sink = await sink_of(backend, shard(1))
    for round_ in range(20):
        writing = asyncio.create_task(sink.write(make_lines(1_000, start=1_000 * round_)))  # type: ignore[arg-type]
        await asyncio.sleep(round_ / 2_000)
        writing.cancel()
        await asyncio.wait([writing])
        with closing(sqlite3.connect(tmp_path / "results.db", timeout=0, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            (count,) = database.execute("SELECT count(*) FROM results").fetchone()
            assert count % 1_000 == 0
    assert (await sink.seal()).lines == 20_000
    await backend.aclose()
    assert threading.active_count() < 20


async def test_a_job_whose_row_is_refused_does_not_undo_anothers(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/results.db"
    one, two = await connect(url, job(1)), await connect(url, job(2))
    good, bad = await sink_of(one, shard(1)), await sink_of(two, shard(2))
    with closing(sqlite3.connect(tmp_path / "results.db")) as database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON results WHEN new.job = 'job-2' BEGIN SELECT RAISE(FAIL, 'full'); END"
        )
    failures: list[BackendError] = []

    async def fail() -> None:
        try:
            await bad.write(make_lines(1_000))
        except BackendError as failure:
            failures.append(failure)

    async with anyio.create_task_group() as group:
        for part in range(5):
            group.start_soon(good.write, make_lines(1_000, start=1_000 * part))
            group.start_soon(fail)
    assert [failure.why for failure in failures] == ["SQLite reports: full"] * 5
    assert await read(one, await good.seal()) == raw(make_lines(5_000))
    await one.aclose()
    await two.aclose()


async def test_a_database_that_another_program_holds_keeps_no_thread_waiting(tmp_path: Path) -> None:
    backend = await connect(f"sqlite:///{tmp_path}/results.db", job(1))
    sink = await sink_of(backend, shard(1))
    with closing(sqlite3.connect(tmp_path / "results.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        with anyio.move_on_after(0.2) as scope:
            await sink.write(make_lines(1_000))
        assert scope.cancelled_caught  # at once: nothing had begun
        database.execute("ROLLBACK")
    await sink.write(make_lines(1_000))
    assert (await sink.seal()).lines in (1_000, 2_000)
    await backend.aclose()


async def test_s3_jobs_of_one_endpoint_share_one_client_which_goes_with_the_last(s3_server, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    url = f"s3://shared/runs?endpoint_url={s3_server.url}&region=us-east-1"
    place = s3.address.parse(url)
    async with s3.client.new_client(place) as client:
        await client.create_bucket(Bucket="shared")
    before = len(descriptors())
    backends: list[Backend] = []

    async def use(number: int) -> None:
        backend = await connect(url, job(number))
        sink = await sink_of(backend, shard(number))
        await sink.write(make_lines(3))
        sealed = await sink.seal()
        assert await read(backend, sealed) == raw(make_lines(3))
        backends.append(backend)

    async with anyio.create_task_group() as group:
        for number in range(JOBS):
            group.start_soon(use, number)
    assert len({id(backend._client) for backend in backends}) == 1  # type: ignore[attr-defined]
    assert len(descriptors()) - before <= s3.client.CONNECTIONS + 2
    for backend in backends[1:]:
        await backend.aclose()
    sink = await sink_of(backends[0], replace(shard(0), part=7))  # the others' ends are not felt
    await sink.write(make_lines(3))
    assert (await sink.seal()).lines == 3
    await backends[0].aclose()
    assert s3.client.clients_of_this_loop() == {}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(BackendError, match="403"):  # never by credentials that were there before
        await connect(url, job(0))
    assert s3.client.clients_of_this_loop() == {}


def test_s3_jobs_share_no_client_that_treats_checksums_in_another_way() -> None:
    place = "s3://bucket/runs?endpoint_url=http://localhost:9000&region=us-east-1"
    assert s3.client.client_key(s3.address.parse(place)) == s3.client.client_key(s3.address.parse(place))
    assert s3.client.client_key(s3.address.parse(place)) != s3.client.client_key(
        s3.address.parse(f"{place}&checksums=when_required")
    )


@pytest.mark.parametrize("form", ["sqlite:///{}/a.db", "jsonl:///{}/a.jsonl", "jsonl:///{}/a/"])
async def test_a_want_of_descriptors_is_told_as_that_with_its_remedy(tmp_path: Path, form: str) -> None:
    await anyio.to_thread.run_sync(int)  # the threads are there
    url = form.format(tmp_path)
    backend = await connect(url, job(0))
    await backend.aclose()
    backend = await connect(url, job(0))
    if isinstance(backend, sqlite.backend.SqliteBackend):
        assert backend._database is not None
        await sqlite.connections._close(backend._database)  # as when others were in need of its place
    with no_descriptor_left(), pytest.raises(TooManyOpenFiles, match=r"raise the limit .`ulimit -n`") as told:
        await backend.open(shard(0))
    assert told.value.url == url
    assert told.value.passes  # so a job goes through it as through any outage
    sink = await sink_of(backend, shard(0))  # it passed
    await sink.write(make_lines(3))
    assert (await sink.seal()).lines == 3
    await backend.aclose()


async def test_a_want_of_descriptors_in_the_spool_is_not_a_full_disk(tmp_path: Path) -> None:
    fact = planned_for(write_spool(tmp_path, rows_of("one")))
    await anyio.to_thread.run_sync(int)
    with no_descriptor_left(), pytest.raises(TooManyOpenFiles, match="ulimit -n"):
        await open_spool(tmp_path, fact)
    with pytest.raises(TooManyOpenFiles), guarded(tmp_path):
        raise OSError(23, "Too many open files in system")
    (await open_spool(tmp_path, fact)).close()
