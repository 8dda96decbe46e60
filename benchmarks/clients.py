"""The programs that benchmarks measure: `python clients.py NAME ARGUMENTS`; each prints what it measured as JSON.

One process each, so that time and memory are its own. Imports and the making of clients are left out of the time;
what is said to be durable was fsynced within it.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import resource
import socket
import sqlite3
import sys
import time
from contextlib import asynccontextmanager, closing, redirect_stdout, suppress
from datetime import timedelta
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

Measured = dict[str, float]
LIMIT = 100_000
"""Requests in a batch; a shard may be cut up to 256 below it."""


def cpu() -> float:
    """Seconds of processor time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """The most memory this process had, in millions of bytes.

    On Linux not from `getrusage`, which counts its parent's before the exec.
    """
    with suppress(FileNotFoundError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


class Clock:
    """Wall and processor time from its making on."""

    def __init__(self) -> None:
        self.began, self.used = time.perf_counter(), cpu()

    def stop(self) -> Measured:
        return {"seconds": time.perf_counter() - self.began, "cpu": cpu() - self.used, "peak_mb": peak_mb()}


@asynccontextmanager
async def heartbeat():
    """How late a timer of a millisecond is on this event loop, in milliseconds, while the block runs."""
    late: list[float] = []

    async def beat() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append((time.perf_counter() - began - 0.001) * 1000)

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        yield late
        group.cancel_scope.cancel()


def percentile(late: list[float], part: float) -> float:
    """How late a timer is that is set at any time, in all but so large a part of the time: long blocks meet more."""
    rest = sum(1 + each for each in late) * (1 - part)
    # a timer set within a block is late by what is left of it
    blocks = sorted(late, reverse=True)
    longer = 0.0
    for blocking, (each, shorter) in enumerate(zip(blocks, [*blocks[1:], 0.0], strict=True), 1):
        longer += each
        if longer - blocking * shorter >= rest:
            return (longer - rest) / blocking
    return 0.0


def manager(
    requests_per_batch: int = LIMIT,
    drains: int = 8,
    look_every: timedelta = timedelta(milliseconds=50),
    journal: str = "journal",
    client=None,
):
    """A manager that looks at the list often and sends what the API takes; the SDK is imported."""
    import abatch.engine.client  # noqa: F401 - so that its import is not measured
    from abatch import BatchManager, Config

    config = Config(
        requests_per_batch=requests_per_batch,
        bytes_per_batch=256_000_000,
        drains=drains,
        poll_interval=look_every,
        poll_interval_max=look_every,
        tier="scale",
    )
    return BatchManager(journal=journal, config=config, client=client)


def sdk():
    """The official client, with everything that a call needs imported."""
    from anthropic import AsyncAnthropic

    client = AsyncAnthropic()
    _ = client.messages.batches
    return client


# ---- draining -------------------------------------------------------------------------------------------------


async def abatch_drain(requests: str, to: str) -> Measured:
    """Submit one batch; measure from asking for its results to the finished job."""
    drains = Drains()
    async with manager() as running:
        job = await running.submit(Path(requests), to=to, key="drain")
        await _all_succeeded(job)
        assert drains.clock is not None
        measured = drains.clock.stop()
    assert drains.count == 1, "more than one batch"
    return measured


async def _all_succeeded(job) -> None:
    """Wait for a job; results that were not stored would be taken for speed."""
    summary = await job.wait()
    assert summary.succeeded == summary.requests > 0, summary


class Drains:
    """Of all drains of this process: how many there were, most at once, a clock since the first, and their end."""

    def __init__(self, at_begin: Callable[[], None] = lambda: None, at_end: Callable[[], None] = lambda: None) -> None:
        from abatch.engine.drain import Drainer

        self.count = self.now = self.most = 0
        self.clock: Clock | None = None
        self.measured: Measured = {}
        """From the first drain's beginning to the last one's end."""
        drain = Drainer.drain

        async def timed(drainer: Drainer, *args, **kwargs):
            if self.clock is None:
                gc.collect()  # the garbage of what came before is not the drains'
                at_begin()
                self.clock = Clock()
            self.count += 1
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                return await drain(drainer, *args, **kwargs)
            finally:
                self.now -= 1
                self.measured = self.clock.stop()
                at_end()

        Drainer.drain = timed  # type: ignore[method-assign]


async def sdk_drain(batch: str, rows: str) -> Measured:
    """The official SDK: `async for … results()` writing JSON lines."""
    client = sdk()
    await client.messages.batches.retrieve(batch)
    clock = Clock()
    with Path("sdk.jsonl").open("w") as file:
        async for result in await client.messages.batches.results(batch):
            file.write(result.to_json(indent=None) + "\n")
        file.flush()
        os.fsync(file.fileno())
    measured = clock.stop()
    with Path("sdk.jsonl").open() as file:
        assert sum(1 for _ in file) == int(rows)
    return measured


def raw_drain(*batches: str) -> Measured:
    """Read batches' results from a socket and drop them: what the server can give."""
    clock = Clock()
    with _socket() as connection:
        for batch in batches:
            connection.sendall(f"GET /v1/messages/batches/{batch}/results HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            _read(connection, b"\r\n0\r\n\r\n")
    return clock.stop()


def _socket() -> socket.socket:
    address = urlsplit(os.environ["ANTHROPIC_BASE_URL"])
    return socket.create_connection((address.hostname, address.port))


def _read(connection: socket.socket, until: bytes) -> bytes:
    """Read up to bytes that stand at the end of an answer; the last that came."""
    buffer = bytearray(2**20)
    last = b""
    while not last.endswith(until):
        got = connection.recv_into(buffer)
        assert got, "the server hung up"
        last = (last + buffer[max(0, got - 4096) : got])[-4096:]
    return last


def _create(connection: socket.socket, lines: list[bytes]) -> str:
    """Send one batch of requests as they stand in the file; its id."""
    connection.sendall(_body(lines))
    return json.loads(_read(connection, b"}").rpartition(b"\r\n")[2])["id"]


def _body(lines: list[bytes]) -> bytes:
    body = b'{"requests":[' + b",".join(lines) + b"]}"
    return b"POST /v1/messages/batches HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def sqlite_rows(database: str) -> Measured:
    """Write rows that are in memory already into a database of the same schema, by `executemany`."""
    with closing(sqlite3.connect(database)) as source:
        schema = [sql for (sql,) in source.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        rows = source.execute("SELECT * FROM results ORDER BY rowid").fetchall()
    with closing(sqlite3.connect("plain.db", isolation_level=None)) as target:
        target.execute("PRAGMA journal_mode = WAL")
        target.execute("PRAGMA synchronous = FULL")
        for statement in schema:
            target.execute(statement)
        marks = ", ".join("?" * len(rows[0]))
        clock = Clock()
        for begin in range(0, len(rows), 10_000):
            target.execute("BEGIN IMMEDIATE")
            target.executemany(f"INSERT INTO results VALUES ({marks}) ON CONFLICT DO NOTHING", rows[begin:][:10_000])
            target.execute("COMMIT")
        return clock.stop()


def put_request(number: int) -> dict:
    """A request of half a kilobyte."""
    messages = [{"role": "user", "content": f"{number} " + "x" * 400}]
    return {
        "custom_id": f"r{number}",
        "params": {"model": "claude-haiku-4-5", "max_tokens": 1024, "messages": messages},
    }


async def abatch_put(rows: str, tasks: str) -> Measured:
    """Put requests one by one from many tasks into an open job, each durable when its call returns."""
    wanted, at_once = int(rows), int(tasks)
    requests = [put_request(number) for number in range(wanted + 1)]
    async with manager() as running:
        job = await running.open_job("puts", to="memory:puts", linger=timedelta(days=1))
        await job.put(requests.pop())  # it reads the SDK's types, which is not measured

        async def put(first: int) -> None:
            for request in requests[first::at_once]:
                await job.put(request)

        async with heartbeat() as late:
            clock = Clock()
            async with anyio.create_task_group() as putting:
                for first in range(at_once):
                    putting.start_soon(put, first)
            measured = clock.stop()
        await job.cancel()
    return measured | {"p99_ms": percentile(late, 0.99)}


def inbox_rows(rows: str) -> Measured:
    """Write the rows that `abatch-put` makes durable, ready in memory, by one `executemany`."""
    from abatch.journal import sqlite_inbox

    wanted = int(rows)
    ready = [
        (
            1,
            n,
            0.0,
            b'"r%d"' % n,
            bytes(16),
            b"[]",
            json.dumps(put_request(n)["params"], separators=(",", ":")).encode(),
        )
        for n in range(1, wanted + 1)
    ]
    Path("plain.db").unlink(missing_ok=True)
    with closing(sqlite3.connect("plain.db", isolation_level=None)) as target:
        target.execute("PRAGMA journal_mode = WAL")
        target.execute("PRAGMA synchronous = FULL")
        target.execute("CREATE TABLE jobs (job INTEGER PRIMARY KEY)")
        sqlite_inbox.make(target)
        clock = Clock()
        target.execute("BEGIN IMMEDIATE")
        target.executemany("INSERT INTO inbox VALUES (?, ?, ?, ?, ?, ?, ?)", ready)
        target.execute("COMMIT")
        return clock.stop()


async def s3_upload(file: str, endpoint: str, bucket: str) -> Measured:
    """Upload a file in parts, as aioboto3 does it by itself."""
    import aioboto3

    async with aioboto3.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1") as client:
        await client.head_bucket(Bucket=bucket)
        clock = Clock()
        await client.upload_file(file, bucket, f"plain-{time.time_ns()}.jsonl")
        return clock.stop()


async def abatch_many(requests: str, to: str, per_batch: str, at_once: str) -> Measured:
    """Batches that end together, drained side by side, to the last one's end; how late the event loop is, over idle."""
    from abatch.protocol.pacing import LIMITS

    LIMITS["scale"] = (LIMITS["scale"][0], 10**9)  # no tier has room for all: they are to end before one is drained
    look_every = timedelta(milliseconds=500)
    busy: list[float] = []
    async with manager(int(per_batch), int(at_once), look_every) as running, heartbeat() as late:

        def so_far() -> None:
            busy.extend(late)
            late.clear()

        drains = Drains(at_begin=late.clear, at_end=so_far)
        await asyncio.sleep(1.0)
        idle = percentile(late, 0.99)
        job = await running.submit(Path(requests), to=to, key="many")
        await _all_succeeded(job)
    del busy[0]  # it began before the first drain
    later = {"idle_p99_ms": idle, "p99_ms": percentile(busy, 0.99), "later_ms": percentile(busy, 0.99) - idle}
    return drains.measured | later | {"longest_ms": max(busy), "batches": drains.count, "at_once": drains.most}


async def abatch_looks(requests: str, per_batch: str, interval: str) -> Measured:
    """The same, a look at the list every so many seconds; how many intervals it took from the first batch on."""
    every = timedelta(seconds=float(interval))
    async with manager(int(per_batch), 16, every) as running:
        job = await running.submit(Path(requests), to="out.jsonl", key="looks")
        while not job.progress().batches:
            await asyncio.sleep(0.002)
        clock = Clock()
        await _all_succeeded(job)
        measured = clock.stop()
    return measured | {"intervals": measured["seconds"] / every.total_seconds()}


# ---- submitting -----------------------------------------------------------------------------------------------


async def abatch_submit(file: str, of: str = "file") -> Measured:
    """From a file of requests to the accepted batch; `of` a list, it is read first as for the SDK."""
    async with manager() as running, heartbeat() as late:
        await asyncio.sleep(0.1)
        clock = Clock()
        requests = Path(file) if of == "file" else _requests(file)
        await asyncio.sleep(0.002)
        late.clear()  # of reading a list, which is not abatch's
        job = await running.submit(requests, to="out.jsonl", key="submit")
        while not job.progress().batches:
            await asyncio.sleep(0.002)
        measured = clock.stop() | {"blocked_ms": max(late)}
        assert len(job._job.shards) == 1, "more than one batch"
        await job.cancel()
    return measured


def _requests(file: str) -> list[dict]:
    with Path(file).open("rb") as lines:
        return [json.loads(line) for line in lines]


async def sdk_submit(requests: str) -> Measured:
    """The same with the official SDK: read, `create(list)`."""
    client = sdk()
    async with heartbeat() as late:
        await asyncio.sleep(0.1)
        clock = Clock()
        batch = _requests(requests)
        await asyncio.sleep(0.002)
        late.clear()
        await client.messages.batches.create(requests=batch)
        await asyncio.sleep(0.002)
        return clock.stop() | {"blocked_ms": max(late)}


def raw_submit(requests: str) -> Measured:
    """The same from memory into a socket: what the server can take."""
    with Path(requests).open("rb") as file:
        lines = [line.rstrip() for line in file]
    body = _body(lines)
    with _socket() as connection:
        clock = Clock()
        connection.sendall(body)
        _read(connection, b"}")
        measured = clock.stop()
    del measured["peak_mb"]
    return measured


# ---- whole jobs -----------------------------------------------------------------------------------------------


def abatch_run(requests: str, *options: str) -> Measured:
    """A whole job through the command line; no import is measured."""
    import anthropic.types.messages  # noqa: F401

    import abatch.cli.app
    import abatch.engine.client  # noqa: F401
    from abatch.__main__ import main

    sys.argv = ["abatch", "run", requests, "--to", "out.jsonl", "--poll-interval", "0.2", "--quiet", *options]
    clock = Clock()
    try:
        with redirect_stdout(io.StringIO()):
            main()
    except SystemExit as ended:
        if ended.code:
            raise
    return clock.stop()


async def sdk_run(requests: str) -> Measured:
    """A whole job as one would write it on the SDK: batches of 10,000, eight being sent and eight read at once."""
    client = sdk()
    clock = Clock()
    sending, draining = asyncio.Semaphore(8), asyncio.Semaphore(8)

    async def run(batch: list[dict], out: Path) -> None:
        made = await client.messages.batches.create(requests=batch)
        batch.clear()
        sending.release()
        while made.processing_status != "ended":
            await asyncio.sleep(0.2)
            made = await client.messages.batches.retrieve(made.id)
        async with draining:
            with out.open("w") as file:
                async for result in await client.messages.batches.results(made.id):
                    file.write(result.to_json(indent=None) + "\n")
                file.flush()
                os.fsync(file.fileno())

    async with asyncio.TaskGroup() as group:
        with Path(requests).open("rb") as file:
            for number in count():
                await sending.acquire()
                batch = [json.loads(line) for line in islice(file, 10_000)]
                if not batch:
                    break
                group.create_task(run(batch, Path(f"out-{number}.jsonl")))
                await asyncio.sleep(0)
    return clock.stop()


def raw_run(requests: str) -> Measured:
    """The same, requests sent as they are and results dropped: what the server can give and take."""
    clock = Clock()
    with _socket() as connection, Path(requests).open("rb") as file:
        made: list[str] = []
        while lines := [line.rstrip() for line in islice(file, 10_000)]:
            made.append(_create(connection, lines))
        for batch in made:
            ended = False
            while not ended:
                connection.sendall(f"GET /v1/messages/batches/{batch} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                ended = b'"results_url": "' in _read(connection, b"}")
                time.sleep(0 if ended else 0.01)
            connection.sendall(f"GET /v1/messages/batches/{batch}/results HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            _read(connection, b"\r\n0\r\n\r\n")
    return clock.stop()


# ---- many jobs ------------------------------------------------------------------------------------------------


async def abatch_jobs(to: str, count: str) -> Measured:
    """So many jobs in flight at once, from their submission to their ends; the most that was open meanwhile.

    `{}` in the destination becomes the job's number.
    """
    most = {"descriptors": 0, "threads": 0}

    async def watch() -> None:
        while True:
            for name, folder in (("descriptors", "fd"), ("threads", "task")):
                most[name] = max(most[name], len(os.listdir(f"/proc/self/{folder}")))  # noqa: PTH208
            await asyncio.sleep(0.05)

    params = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}
    look_every = timedelta(milliseconds=500)
    async with manager(look_every=look_every) as running, anyio.create_task_group() as group:
        group.start_soon(watch)
        clock = Clock()
        rows = [{"custom_id": f"row-{row}", "params": params} for row in range(2)]
        jobs = [await running.submit(rows, to=to.format(each), key=f"job-{each}") for each in range(int(count))]
        in_flight = 0
        while in_flight < len(jobs) and not any(job.done for job in jobs):
            await asyncio.sleep(0.1)
            in_flight = max(in_flight, sum(job.progress().batches_in_flight for job in jobs))
        for job in jobs:
            await _all_succeeded(job)
        measured = clock.stop()
        group.cancel_scope.cancel()
    return {**measured, **most, "at_once": in_flight}


async def write_jobs(folder: str, count: str) -> Measured:
    """A journal of so many finished jobs of one batch each, over the last two days."""
    from abatch import Usage
    from abatch.journal.folder import JournalFolder
    from abatch.journal.sqlite import SqliteLog
    from abatch.protocol import facts

    clock = Clock()
    journal = await SqliteLog.open(JournalFolder(Path(folder)), drive=True)
    await journal.bind(os.environ["ANTHROPIC_BASE_URL"])
    await journal.aclose()
    now, days = time.time(), 2 * 86_400
    counts = facts.Counts(succeeded=1_000)
    spend = (facts.Spend(model="claude-haiku-4-5", usage=Usage(input_tokens=10**6, output_tokens=10**6)),)
    with closing(sqlite3.connect(Path(folder, "journal.db"))) as database:
        for job in range(1, int(count) + 1):
            key, digest, sent = f"nightly-{job:06}", f"{job:032x}", now - days * (1 - job / int(count))
            source = facts.FileSource(path=f"{key}.jsonl", size=10**6, mtime_ns=1, sha256=2 * digest, rows=1_000)
            planned = facts.Planned(
                part=0,
                rows=1_000,
                body_bytes=900_000,
                spool=f"{job:08d}.spool",
                params_digest=digest,
                ids_digest=digest,
            )
            sealed = facts.SealedRecord(part=0, lines=1_000, detail={"bytes": 1_300_000, "crc32": job})
            life: list[tuple[int | None, int | None, facts.Fact]] = [
                (None, None, facts.Submitted(key=key, to=f"jsonl:///out/{key}.jsonl", source=source)),
                (job, 0, planned),
                (None, 0, facts.Cut(rows=1_000, offset=10**6, last=True)),
                (job, 1, facts.Committing(attempt=1, date=sent, fingerprint="0" * 16)),
                (job, 2, facts.Accepted(batch_id=f"msgbatch_{job:022d}", created_at=sent)),
                (job, 3, facts.Ended(counts=counts)),
                (job, 4, facts.Drained(counts=counts, sealed=sealed, spend=spend)),
                (None, 1, facts.Finished(location=f"out/{key}.jsonl")),
            ]
            database.execute("INSERT INTO jobs (key) VALUES (?)", (key,))
            database.executemany(
                "INSERT INTO facts (job, shard, n, at, writer, fact) VALUES (?, ?, ?, ?, 1, ?)",
                [(job, shard, n, sent, facts.encode(fact)) for shard, n, fact in life],
            )
        database.commit()
    return clock.stop()


async def abatch_idle(folder: str, seconds: str) -> Measured:
    """What a manager takes that has nothing to do."""
    async with manager(journal=folder, client=sdk()):
        return await _at_rest(float(seconds))


async def abatch_waiting(count: str, seconds: str) -> Measured:
    """What a manager takes while so many jobs wait for room in the queue, and somebody waits for each."""
    from abatch.protocol.pacing import LIMITS

    LIMITS["scale"] = (10**6, 10)
    params = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}
    rows = [{"custom_id": f"row-{row}", "params": params} for row in range(2)]
    async with manager(look_every=timedelta(seconds=15)) as running, anyio.create_task_group() as group:
        for number in range(int(count)):
            job = await running.submit(rows, to=f"{number}.jsonl", key=f"job-{number}")
            group.start_soon(job.wait)
        measured = await _at_rest(float(seconds))
        in_flight = sum(job.progress().batches_in_flight for job in running.jobs())
        assert 0 < in_flight <= 5, in_flight
        group.cancel_scope.cancel()
    return measured


async def _at_rest(seconds: float) -> Measured:
    await asyncio.sleep(min(seconds, 3.0))
    clock = Clock()
    await asyncio.sleep(seconds)
    measured = clock.stop()
    return measured | {"% of a core": 100 * measured["cpu"] / measured["seconds"]}


async def finished_jobs(folder: str) -> Measured:
    """What a finished job takes in the memory of a manager, the ids of its batches included."""
    import tracemalloc

    from abatch.journal.folder import JournalFolder
    from abatch.journal.ledger import Ledger
    from abatch.journal.sqlite import SqliteLog
    from abatch.journal.survey import Surveys

    journal = await SqliteLog.open(JournalFolder(Path(folder)), drive=False)
    surveys = Surveys()
    await Ledger.load(journal, journal.folder)  # whatever is made once is there
    gc.collect()
    clock = Clock()
    tracemalloc.start()
    ledger = await Ledger.load(journal, journal.folder, finished=surveys.add)
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    await journal.aclose()
    return clock.stop() | {"bytes each": taken / len(ledger.jobs)}


# ---- recovery -------------------------------------------------------------------------------------------------


async def write_journal(folder: str, shards: str, recent: str = "") -> Measured:
    """A journal of one finished job with so many shards, each with the facts of a plain life.

    With `recent`: of one that is not finished, whose shards were sent over the last two days.
    """
    from abatch import Usage
    from abatch.journal.folder import JournalFolder
    from abatch.journal.ledger import Ledger
    from abatch.journal.log import Entry
    from abatch.journal.sqlite import SqliteLog
    from abatch.protocol import facts

    clock = Clock()
    journal = await SqliteLog.open(JournalFolder(Path(folder)), drive=True)
    try:
        ledger = await Ledger.load(journal, journal.folder)
        await journal.bind(os.environ["ANTHROPIC_BASE_URL"])
        job = await ledger.start_job(facts.Submitted(key="job", to="memory:x", source=facts.IterableSource()))
        count = int(shards)
        made: list[Entry] = []
        now, days = time.time(), 2 * 86_400
        counts = facts.Counts(succeeded=10_000)
        spend = (facts.Spend(model="claude-haiku-4-5", usage=Usage(input_tokens=10**6, output_tokens=10**6)),)
        for number in range(count):
            shard = ledger.number_shard()
            digest = f"{number:032x}"
            batch_id = f"msgbatch_{number:022d}"
            detail = {"bytes": 13_000_000, "crc32": number}
            sent = now - days * (1 - number / count) if recent else 1.0
            life = (
                facts.Planned(
                    part=number,
                    rows=10_000,
                    body_bytes=9_000_000,
                    spool=f"{shard:08d}.spool",
                    params_digest=digest,
                    ids_digest=digest,
                ),
                facts.Committing(attempt=1, date=sent, fingerprint="0" * 16),
                facts.Accepted(batch_id=batch_id, created_at=sent),
                facts.Ended(counts=counts),
                facts.Drained(
                    counts=counts,
                    sealed=facts.SealedRecord(part=number, lines=10_000, detail=detail),
                    spend=spend,
                ),
            )
            made += [Entry(job.job, fact, shard, n) for n, fact in enumerate(life)]
        if not recent:
            made.append(Entry(job.job, facts.Finished(location="x")))
        await journal.append(*made)
    finally:
        await journal.aclose()
    return clock.stop()


async def abatch_recover(folder: str) -> Measured:
    """Open a journal and make of its facts what every job and shard is: what a manager does before anything else."""
    from abatch.journal.folder import JournalFolder
    from abatch.journal.ledger import Ledger
    from abatch.journal.sqlite import SqliteLog

    clock = Clock()
    journal = await SqliteLog.open(JournalFolder(Path(folder)), drive=True)
    try:
        await Ledger.load(journal, journal.folder)
        return clock.stop()
    finally:
        await journal.aclose()


async def abatch_open(folder: str) -> Measured:
    """Open a journal as a manager does, up to where its jobs can be asked; the event loop meanwhile."""
    running = manager(journal=folder, client=sdk())  # to make one takes the loop a tenth of a second
    async with heartbeat() as idle:
        await anyio.sleep(0.2)
    async with heartbeat() as late:
        clock = Clock()
        async with running:
            running.jobs()
            await anyio.sleep(0)
            measured = clock.stop()
    return measured | {"later_ms": percentile(late, 0.99) - percentile(idle, 0.99)}


def select_facts(folder: str) -> Measured:
    """Read and decode a journal's facts, and do nothing with them."""
    from abatch.protocol import facts

    clock = Clock()
    with closing(sqlite3.connect(Path(folder, "journal.db"))) as database:
        decoded = [facts.decode(fact) for (fact,) in database.execute("SELECT fact FROM facts ORDER BY seq")]
    return clock.stop() | {"facts": len(decoded)}


PROGRAMS = {
    program.__name__.replace("_", "-"): program
    for program in (
        abatch_drain,
        abatch_idle,
        abatch_jobs,
        abatch_looks,
        abatch_many,
        abatch_open,
        abatch_put,
        abatch_recover,
        abatch_run,
        abatch_submit,
        abatch_waiting,
        finished_jobs,
        inbox_rows,
        raw_drain,
        raw_run,
        raw_submit,
        s3_upload,
        sdk_drain,
        sdk_run,
        sdk_submit,
        select_facts,
        sqlite_rows,
        write_jobs,
        write_journal,
    )
}


if __name__ == "__main__":
    logging.getLogger("abatch").setLevel(logging.ERROR)
    program, args = PROGRAMS[sys.argv[1]], sys.argv[2:]
    measured = anyio.run(program, *args) if asyncio.iscoroutinefunction(program) else program(*args)
    sys.stdout.write(json.dumps(measured) + "\n")
