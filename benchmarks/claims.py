"""The claims, each a function that measures and gives its table."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

from benchmarks.measure import CEILING, Size, Table, serving, timed, write_requests
from benchmarks.peers import peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.measure import Measured
    from tests.servers import SeaweedS3

ONE_BATCH: Final = 99_000
"""Requests that surely become one batch: the largest, less what shards are cut below it, so that sizes differ."""


def results_path(batch: str) -> str:
    return f"/v1/messages/batches/{batch}/results"


def drain_jsonl(folder: Path, size: Size) -> Table:
    """Draining into a file, against the SDK and curl."""
    rows = size.of(ONE_BATCH)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    with serving(folder, size, "--answer-bytes", "900") as server:
        server.client("abatch-drain", str(requests), "out.jsonl")
        batch = server.batches()[0]
        table = Table(title=f"Drain {rows:,} results of 1.3 KB, one batch, into JSONL", rows=rows)
        table.megabytes = (server.folder / "abatch-drain" / "out.jsonl").stat().st_size / 1e6
        table.measure(
            size.rounds,
            {
                CEILING: lambda: server.client("raw-drain", batch),
                "curl -o": lambda: server.curl(results_path(batch)),
                "SDK, results()": lambda: server.client("sdk-drain", batch, str(rows)),
                "abatch": lambda: server.client("abatch-drain", str(requests), "out.jsonl"),
            },
        )
    table.claim("lines/s over the SDK's, one batch", table.ratio("SDK, results()", "abatch"), floor=8, goal=12)
    # curl copies bytes, abatch runs Python: the ratio depends on the machine, from 0.21 to 0.35 on those measured.
    table.claim("throughput over curl's, one batch", table.ratio("curl -o", "abatch"), floor=0.15, goal=0.45)
    return table


def drain_sqlite(folder: Path, size: Size) -> Table:
    """Draining into SQLite, against `executemany` of the same rows."""
    rows = size.of(ONE_BATCH)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    with serving(folder, size, "--answer-bytes", "900") as server:
        database = folder / "abatch-drain" / "out.db"
        server.client("abatch-drain", str(requests), "out.db")
        table = Table(title=f"Drain {rows:,} results of 1.3 KB, one batch, into SQLite", rows=rows)
        table.measure(
            size.rounds,
            {
                CEILING: lambda: server.client("raw-drain", server.batches()[0]),
                "executemany of rows in memory": lambda: server.client("sqlite-rows", str(database)),
                "abatch": lambda: server.client("abatch-drain", str(requests), "out.db"),
            },
        )
    ratio = table.ratio("executemany of rows in memory", "abatch")
    # From 0.42 to 0.56 on the machines measured: half of the time is SQLite's, and the other half Python's.
    table.claim("rows/s over executemany's", ratio, floor=0.3, goal=0.7)
    return table


@contextmanager
def bucket(folder: Path) -> Iterator[tuple[SeaweedS3, dict[str, str]]]:
    """A SeaweedFS with a bucket `bench`, and the environment that a client of it needs."""
    import aioboto3  # noqa: F401 - says what is missing before anything is started
    import boto3

    from tests.servers import SeaweedS3

    s3 = SeaweedS3(folder / "s3")
    s3.start()
    try:
        boto3.client(
            "s3",
            endpoint_url=s3.url,
            region_name="us-east-1",
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key,
        ).create_bucket(Bucket="bench")
        yield s3, {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    finally:
        s3.stop()


def drain_s3(folder: Path, size: Size) -> Table:
    """Draining into a local SeaweedFS, against aioboto3's own upload of the same bytes."""
    rows = size.of(ONE_BATCH)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    with ExitStack() as open_:
        s3, keys = open_.enter_context(bucket(folder))
        server = open_.enter_context(serving(folder, size, "--answer-bytes", "900"))
        server.client("abatch-drain", str(requests), "out.jsonl")
        file = folder / "same.jsonl"
        (folder / "abatch-drain" / "out.jsonl").rename(file)
        table = Table(title=f"Drain {rows:,} results of 1.3 KB, one batch, into S3", rows=rows)
        table.megabytes = file.stat().st_size / 1e6
        numbers = count()

        def place() -> str:
            return f"s3://bench/{next(numbers)}?endpoint_url={s3.url}&region=us-east-1"

        eight = open_.enter_context(serving(folder, size, "--answer-bytes", "900", "--pause", "0.5"))
        table.measure(
            size.rounds,
            {
                CEILING: lambda: server.client("raw-drain", server.batches()[0]),
                "aioboto3, upload_file": lambda: server.client("s3-upload", str(file), s3.url, "bench", **keys),
                "abatch": lambda: server.client("abatch-drain", str(requests), place(), **keys),
                "abatch, 8 batches at once": lambda: eight.client(
                    "abatch-many", str(requests), place(), str(rows // 8 + 300), "8", **keys
                ),
            },
        )
    ratio = table.ratio("aioboto3, upload_file", "abatch")
    table.claim("throughput over aioboto3's", ratio, floor=0.6, goal=0.8)
    assert size.quick or all(run["at_once"] == 8 for run in table.runs["abatch, 8 batches at once"])
    # the SDK and aioboto3 take 120 MB before the first byte; a drain holds its part, and what becomes the next one
    memory = (table.most("abatch, 8 batches at once") - table.most("abatch")) / 7
    table.claim("memory of each further drain at once in MB", memory, floor=16, goal=10, at_most=True)
    return table


def long_lines(folder: Path, size: Size) -> Table:
    """Lines of 32 KB, and one of 60 MB, against small lines: megabytes a second, and memory."""
    megabytes, longest = (1, 1) if size.quick else (120, 60)
    table = Table(title=f"Drain {megabytes} MB in lines of other lengths, into JSONL")
    small, long, one = "1.3 KB", "32 KB", f"1.3 KB and one of {longest} MB"
    shapes = {
        small: (megabytes * 1_000_000 // 1_300, ("--answer-bytes", "900")),
        long: (megabytes * 1_000_000 // 32_400, ("--answer-bytes", "32000")),
        one: (megabytes * 1_000_000 // 1_300, ("--answer-bytes", "900", "--longest", str(longest * 1_000_000))),
    }
    programs: dict[str, Callable[[], Measured]] = {}
    with ExitStack() as open_:
        for number, (shape, (rows, options)) in enumerate(shapes.items()):
            place = folder / str(number)
            place.mkdir()
            requests = place / "requests.jsonl"
            write_requests(requests, rows)
            server = open_.enter_context(serving(place, size, *options))
            server.client("abatch-drain", str(requests), "out.jsonl")
            written = (place / "abatch-drain" / "out.jsonl").stat().st_size / 1e6

            def drain(program: str, *args: str, server=server, written=written) -> Measured:
                measured = server.client(program, *args)
                return measured | {"MB/s": written / measured["seconds"]}

            programs[f"{CEILING}, {shape}"] = partial(drain, "raw-drain", server.batches()[0])
            programs[shape] = partial(drain, "abatch-drain", str(requests), "out.jsonl")
        table.measure(size.rounds, programs)
    table.claim("MB/s of 32 KB lines over small ones, JSONL", table.ratio(long, small, "MB/s"), floor=1, goal=1)
    table.claim("MB/s with one of 60 MB over small ones, JSONL", table.ratio(one, small, "MB/s"), floor=1, goal=1)
    added = (table.most(one) - table.most(small)) / longest
    table.claim("memory that one of 60 MB adds, over its size, JSONL", added, floor=3, goal=2, at_most=True)
    return table


def many_batches(folder: Path, size: Size) -> Table:
    """Many batches drained at once, against as few as the API allows, one after another; the event loop meanwhile.

    A shard is cut up to 256 rows below its limit, so that on average a batch has 5,000.
    """
    rows, limit = size.of(995_000), 50 if size.quick else 5_128
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    table = Table(title=f"Drain {rows:,} results of 1.3 KB, into JSONL", rows=rows)
    with serving(folder, size, "--pause", "0.5") as server:
        interval = 0.5 if size.quick else 15.0
        looks = server.client("abatch-looks", str(requests), str(limit), str(interval))
        account = server.account()
        many = len(account["batches"])
    each = f"{many} batches, 16 at once"
    few = "10 batches, one at a time"
    turns = [(few, size.of(100_000), 1), (each, limit, 16)]
    for _ in range(min(size.rounds, 3)):
        for name, per_batch, drains in turns:
            # a server of its own: beside the results of the run before, the second of two that are alike was slower
            with serving(folder, size, "--pause", "0.5") as server:
                run = partial(server.client, "abatch-many", str(requests), "out.jsonl", str(per_batch), str(drains))
                table.measure(1, {name: run})
                if name == each:
                    assert size.quick or table.runs[each][-1]["at_once"] == 16
                    table.measure(1, {CEILING: partial(server.client, "raw-drain", *server.batches())})
        turns.reverse()  # in case that one leaves the other something: memory, or dirty files
    table.claim("throughput over few batches, one at a time", table.ratio(few, each), floor=0.7, goal=0.9)
    table.claim("peak memory in MB", table.most(each), floor=180, goal=150, at_most=True)
    late = table.middle(each, "later_ms")
    table.claim("event loop's p99 over idle, in ms", late, floor=20, goal=10, at_most=True)
    pages = -(-many // 1_000)
    called = (account["looks"] + account["retrieves"]) / (looks["intervals"] + 1) / pages
    table.notes.append(
        f"{account['looks']} lists and {account['retrieves']} retrieves in {looks['intervals']:.1f} intervals of "
        f"{interval:g} s, besides the list of one batch before each create"
    )
    table.claim(
        "list and retrieve calls per interval and 1,000 batches, besides one per create",
        called,
        floor=1,
        goal=1,
        at_most=True,
    )
    return table


def growth(folder: Path, size: Size) -> Table:
    """Ten times the results, in turn; the small job's start and waits are part of its time."""
    return _growth(folder, size, [100_000, 1_000_000], min(size.rounds, 3))


def growth_large(folder: Path, size: Size) -> Table:
    """A hundred times the results, once, between two of the smallest."""
    return _growth(folder, size, [100_000, 1_000_000, 10_000_000], 1)


def _growth(folder: Path, size: Size, full: list[int], rounds: int) -> Table:
    table = Table(title="Whole jobs of growing size through the command line, into JSONL")
    counts = [size.of(rows) for rows in (full[:: len(full) - 1] if size.quick else full)]
    names = [f"{rows:,}" for rows in counts]

    def run(program: str, rows: int, *options: str) -> Measured:
        requests = folder / "requests.jsonl"
        write_requests(requests, rows)
        with serving(folder, size, "--answer-bytes", "300", "--drop") as server:
            measured = server.client(program, str(requests), *options)
        return measured | {"µs/result": measured["seconds"] / rows * 1e6}

    # the server ends a batch at once: what the smallest tier allows in a minute would be used up in one
    tier = ("--tier", "scale")
    programs = {name: partial(run, "abatch-run", rows, *tier) for name, rows in zip(names, counts, strict=True)}
    first, last = names[0], names[-1]
    table.measure(1, {f"{CEILING}, {last}": partial(run, "raw-run", counts[-1])})
    table.measure(rounds, programs)
    if not size.quick:
        table.measure(1, {first: programs[first]})
    times = counts[-1] // counts[0]
    memory = table.middle(last, "peak_mb") / table.middle(first, "peak_mb")
    table.claim(f"peak memory of {times} times the results", memory, floor=1.15, goal=1.05, at_most=True)
    time = table.middle(last, "µs/result") / table.middle(first, "µs/result")
    table.claim(f"time per result of {times} times the results", time, floor=1.3, goal=1.1, at_most=True)
    return table


def submit(folder: Path, size: Size) -> Table:
    """100 MB of requests from a file to the accepted batch, against the SDK's `create(list)`."""
    table = _submit(folder, size, prompt_bytes=880)

    def ratio(what: str) -> float:
        return table.ratio("SDK, create(list)", "abatch", what)

    table.claim("CPU, times less", ratio("cpu"), floor=3, goal=4)
    table.claim("wall, times less", ratio("seconds"), floor=2, goal=3)
    table.claim("longest block of the event loop, times less", ratio("blocked_ms"), floor=20, goal=20)
    table.claim("peak memory in MB", table.most("abatch"), floor=150, goal=120, at_most=True)
    return table


def submit_largest(folder: Path, size: Size) -> Table:
    """249 MB of requests: the largest batch that the API takes, about."""
    table = _submit(folder, size, prompt_bytes=2_390)
    table.claim("peak memory in MB", table.most("abatch"), floor=150, goal=120, at_most=True)
    return table


def _submit(folder: Path, size: Size, prompt_bytes: int) -> Table:
    rows = size.of(ONE_BATCH)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows, prompt_bytes=prompt_bytes)
    megabytes = requests.stat().st_size / 1e6
    table = Table(title=f"Submit {rows:,} requests of {megabytes:.0f} MB as one batch", rows=rows, megabytes=megabytes)
    with serving(folder, size, "--answer-bytes", "10") as server:
        table.measure(
            size.rounds,
            {
                CEILING: lambda: server.client("raw-submit", str(requests)),
                "SDK, create(list)": lambda: server.client("sdk-submit", str(requests)),
                "abatch": lambda: server.client("abatch-submit", str(requests)),
                "abatch, of a list": lambda: server.client("abatch-submit", str(requests), "list"),
            },
        )
    return table


PUTTING_TASKS: Final = 1_000


def puts(folder: Path, size: Size) -> Table:
    """Durable puts into an open job from a thousand tasks, against `executemany` of the same rows."""
    rows = size.of(20_000)
    table = Table(title=f"Put {rows:,} requests one by one from {PUTTING_TASKS:,} tasks", rows=rows)
    with serving(folder, size, "--answer-bytes", "10") as server:
        table.measure(
            size.rounds,
            {
                "executemany of rows in memory": lambda: server.client("inbox-rows", str(rows)),
                "abatch": lambda: server.client("abatch-put", str(rows), str(PUTTING_TASKS)),
            },
        )
    ratio = table.ratio("executemany of rows in memory", "abatch")
    table.claim("durable puts/s over executemany's rows/s", ratio, floor=0.05, goal=0.15)
    return table


def recovery(folder: Path, size: Size) -> Table:
    """Opening a journal of 10,000 shards, against one of 1,000 and against reading its facts."""
    few, many = size.of(1_000), size.of(10_000)
    table = Table(title=f"Open a journal of {many:,} shards")
    with serving(folder, size) as server:
        for shards in (few, many):
            server.client("write-journal", str(folder / str(shards)), str(shards))
        table.measure(
            size.rounds,
            {
                f"SELECT and decode, {many:,}": lambda: server.client("select-facts", str(folder / str(many))),
                f"abatch, {few:,}": lambda: server.client("abatch-recover", str(folder / str(few))),
                f"abatch, {many:,}": lambda: server.client("abatch-recover", str(folder / str(many))),
            },
        )
    ours = f"abatch, {many:,}"
    growth = table.ratio(ours, f"abatch, {few:,}")
    table.claim("time over that of a tenth of the shards", growth, floor=12, goal=10, at_most=True)
    bare = table.ratio(ours, f"SELECT and decode, {many:,}")
    table.claim("time over SELECT and decode", bare, floor=3, goal=2, at_most=True)
    return table


def open_(folder: Path, size: Size) -> Table:
    """Opening a manager on 100,000 shards of equal size, all of the last two days, against a tenth of them."""
    few, many = size.of(10_000), size.of(100_000)
    table = Table(title=f"Open a manager on {many:,} shards of equal size, sent within two days")
    with serving(folder, size) as server:
        for shards in (few, many):
            server.client("write-journal", str(folder / str(shards)), str(shards), "recent")
        table.measure(
            min(size.rounds, 3),
            {
                f"SELECT and decode, {many:,}": lambda: server.client("select-facts", str(folder / str(many))),
                f"abatch, {few:,}": lambda: server.client("abatch-open", str(folder / str(few))),
                f"abatch, {many:,}": lambda: server.client("abatch-open", str(folder / str(many))),
            },
        )
    ours = f"abatch, {many:,}"
    growth = table.ratio(ours, f"abatch, {few:,}", "cpu")
    table.claim("CPU over that of a tenth of the shards", growth, floor=15, goal=10, at_most=True)
    bare = table.ratio(ours, f"SELECT and decode, {many:,}", "cpu")
    table.claim("CPU over SELECT and decode", bare, floor=5, goal=3, at_most=True)
    late = table.middle(ours, "later_ms")
    table.claim("event loop's p99 over idle, in ms", late, floor=150, goal=20, at_most=True)
    return table


def jobs(folder: Path, size: Size) -> Table:
    """A thousand jobs in flight at once, into each medium: what they hold open, and memory."""
    count = 10 if size.quick else 1_000
    table = Table(title=f"{count:,} jobs of two requests, all in flight at once, to their ends")
    with ExitStack() as open_:
        s3, keys = open_.enter_context(bucket(folder))
        media = {
            "into JSONL, a file each": ("{}.jsonl", {}),
            "into one SQLite database": ("results.db", {}),
            "into SQLite, a database each": ("{}.db", {}),
            "into S3": (f"s3://bench/jobs?endpoint_url={s3.url}&region=us-east-1", keys),
        }
        for name, (to, environment) in media.items():
            with serving(folder, size, "--pause", "0.3" if size.quick else "10") as server:
                table.measure(1, {name: partial(server.client, "abatch-jobs", to, str(count), **environment)})
    for what, most in (("descriptors", 80), ("threads", 20)):
        value = max(table.most(name, what) for name in media)
        table.claim(f"{what}, whatever the medium", value, floor=most, goal=0.75 * most, at_most=True)
    memory = max(table.most(name) for name in media)
    table.claim("peak memory in MB, whatever the medium", memory, floor=250, goal=200, at_most=True)
    return table


def idle(folder: Path, size: Size) -> Table:
    """What jobs take of which nothing is to be done: ten thousand finished ones, and two thousand that wait."""
    many, waiting = (20, 10) if size.quick else (10_000, 2_000)
    seconds = "0.2" if size.quick else "20"
    table = Table(title=f"{many:,} finished jobs, and {waiting:,} that wait for the queue")
    base, plain = "python -c pass", "an idle manager, no job"
    status, finished, queued = "abatch status", f"{many:,} finished", f"{waiting:,} waiting"
    with serving(folder, size, "--pause", "1000000") as server:
        journal = str(folder / "many")
        server.client("write-jobs", journal, str(many))
        place = folder / "commands"
        place.mkdir()
        command = [sys.executable, "-m", "abatch", "status", "--journal", journal]
        table.measure(
            size.rounds,
            {
                base: lambda: timed([sys.executable, "-c", "pass"], place),
                status: lambda: timed(command, place),
                f"{status} --json": lambda: timed([*command, "--json"], place),
            },
        )
        table.measure(
            1,
            {
                plain: lambda: server.client("abatch-idle", str(folder / "none"), seconds),
                finished: lambda: server.client("abatch-idle", journal, seconds),
                queued: lambda: server.client("abatch-waiting", str(waiting), seconds),
                "memory of a finished job": lambda: server.client("finished-jobs", journal),
            },
        )
    share = "% of a core"
    ratio = table.ratio(status, base, "cpu")
    table.claim("CPU of abatch status over that of python -c pass", ratio, floor=150, goal=60, at_most=True)
    more = table.most(finished, share) - table.most(plain, share)
    table.claim("% of a core for 10,000 finished jobs, over none", max(more, 0.001), floor=1, goal=0.1, at_most=True)
    more = table.most(queued, share) - table.most(plain, share)
    table.claim("% of a core for 2,000 waiting jobs, over none", max(more, 0.001), floor=2, goal=1, at_most=True)
    each = table.most("memory of a finished job", "bytes each") / 1024
    table.claim("KB of memory per finished job", each, floor=2, goal=2, at_most=True)
    return table


def whole_job(folder: Path, size: Size) -> Table:
    """A job through the command line, against a plain program on the SDK."""
    rows = size.of(100_000)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows, prompt_bytes=400)
    table = Table(title=f"A whole job of {rows:,} requests, `abatch run` into JSONL", rows=rows)
    with serving(folder, size, "--answer-bytes", "900") as server:
        table.measure(
            min(size.rounds, 3),
            {
                CEILING: lambda: server.client("raw-run", str(requests)),
                "a program on the SDK": lambda: server.client("sdk-run", str(requests)),
                "abatch run": lambda: server.client("abatch-run", str(requests)),
            },
        )
    theirs, ours = "a program on the SDK", "abatch run"
    table.claim("CPU, times less", table.ratio(theirs, ours, "cpu"), floor=3, goal=5)
    memory = table.ratio(ours, theirs, "peak_mb")
    table.claim("peak memory over the program's", memory, floor=0.5, goal=0.4, at_most=True)
    return table


CLAIMS: Final[dict[str, Callable[[Path, Size], Table]]] = {
    "drain-jsonl": drain_jsonl,
    "drain-sqlite": drain_sqlite,
    "drain-s3": drain_s3,
    "long-lines": long_lines,
    "many-batches": many_batches,
    "growth": growth,
    "growth-large": growth_large,
    "submit": submit,
    "submit-largest": submit_largest,
    "puts": puts,
    "recovery": recovery,
    "open": open_,
    "jobs": jobs,
    "idle": idle,
    "whole-job": whole_job,
    "peers": peers,
}

APART: Final = ("growth-large", "peers")
"""What takes long or needs more than is installed here; run only when named."""
