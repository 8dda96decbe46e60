"""The claims, each a function that measures and gives its table."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Final

from benchmarks.measure import Size, Table, serving, write_requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE_BATCH: Final = 99_000
"""Requests that surely become one batch: the largest, less what shards are cut below it, so that sizes differ."""


def results_path(batch: str) -> str:
    return f"/v1/messages/batches/{batch}/results"


def drain_jsonl(folder: Path, size: Size) -> Table:
    """Draining into a file, against the SDK and curl."""
    rows = size.of(ONE_BATCH)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    with serving(folder, "--answer-bytes", "900") as server:
        server.client("abatch-drain", str(requests), "out.jsonl")
        batch = server.batches()[0]
        table = Table(title=f"Drain {rows:,} results of 1.3 KB, one batch, into JSONL", rows=rows)
        table.megabytes = (server.folder / "abatch-drain" / "out.jsonl").stat().st_size / 1e6
        table.measure(
            size.rounds,
            {
                "the server, read from a socket": lambda: server.client("raw-drain", batch),
                "curl -o": lambda: server.curl(results_path(batch)),
                "SDK, results()": lambda: server.client("sdk-drain", batch),
                "abatch": lambda: server.client("abatch-drain", str(requests), "out.jsonl"),
            },
        )
    ours = table.best("abatch")
    table.claim("lines/s over the SDK's", table.best("SDK, results()") / ours, floor=8, goal=12)
    table.claim("throughput over curl's", table.best("curl -o") / ours, floor=0.33, goal=0.45)
    return table


def drain_sqlite(folder: Path, size: Size) -> Table:
    """Draining into SQLite, against `executemany` of the same rows."""
    rows = size.of(ONE_BATCH)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    with serving(folder, "--answer-bytes", "900") as server:
        database = folder / "abatch-drain" / "out.db"
        server.client("abatch-drain", str(requests), "out.db")
        table = Table(title=f"Drain {rows:,} results of 1.3 KB, one batch, into SQLite", rows=rows)
        table.measure(
            size.rounds,
            {
                "executemany of rows in memory": lambda: server.client("sqlite-rows", str(database)),
                "abatch": lambda: server.client("abatch-drain", str(requests), "out.db"),
            },
        )
    ratio = table.best("executemany of rows in memory") / table.best("abatch")
    table.claim("rows/s over executemany's", ratio, floor=0.5, goal=0.7)
    return table


def drain_s3(folder: Path, size: Size) -> Table:
    """Draining into a local SeaweedFS, against aioboto3's own upload of the same bytes."""
    import aioboto3  # noqa: F401 - says what is missing before anything is started
    import boto3

    from tests.servers import SeaweedS3

    rows = size.of(ONE_BATCH)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    with ExitStack() as open_:
        s3 = SeaweedS3(folder / "s3")
        s3.start()
        open_.callback(s3.stop)
        keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        boto3.client(
            "s3",
            endpoint_url=s3.url,
            region_name="us-east-1",
            aws_access_key_id=s3.access_key,
            aws_secret_access_key=s3.secret_key,
        ).create_bucket(Bucket="bench")
        server = open_.enter_context(serving(folder, "--answer-bytes", "900"))
        server.client("abatch-drain", str(requests), "out.jsonl")
        file = folder / "same.jsonl"
        (folder / "abatch-drain" / "out.jsonl").rename(file)
        table = Table(title=f"Drain {rows:,} results of 1.3 KB, one batch, into S3", rows=rows)
        table.megabytes = file.stat().st_size / 1e6
        numbers = count()

        def place() -> str:
            return f"s3://bench/{next(numbers)}?endpoint_url={s3.url}&region=us-east-1"

        eight = open_.enter_context(serving(folder, "--answer-bytes", "900", "--pause", "0.5"))
        table.measure(
            size.rounds,
            {
                "aioboto3, upload_file": lambda: server.client("s3-upload", str(file), s3.url, "bench", **keys),
                "abatch": lambda: server.client("abatch-drain", str(requests), place(), **keys),
                "abatch, 8 batches at once": lambda: eight.client(
                    "abatch-many", str(requests), place(), str(rows // 8 + 300), "8", **keys
                ),
            },
        )
    ratio = table.best("aioboto3, upload_file") / table.best("abatch")
    table.claim("throughput over aioboto3's", ratio, floor=0.6, goal=0.8)
    memory = table.best("abatch, 8 batches at once", "peak_mb")
    table.claim("peak memory of 8 drains in MB", memory, floor=150, goal=150, at_most=True)
    return table


def long_lines(folder: Path, size: Size) -> Table:
    """Lines of 32 KB, and one of 60 MB, against small lines: megabytes a second, and memory."""
    megabytes = 2 if size.quick else 120
    longest = 1 if size.quick else 60
    table = Table(title=f"Drain {megabytes} MB in lines of other lengths, into JSONL")
    shapes = {
        "1.3 KB": (megabytes * 1_000_000 // 1_300, ("--answer-bytes", "900")),
        "32 KB": (megabytes * 1_000_000 // 32_400, ("--answer-bytes", "32000")),
        f"1.3 KB and one of {longest} MB": (
            megabytes * 1_000_000 // 1_300,
            ("--answer-bytes", "900", "--longest", str(longest * 1_000_000)),
        ),
    }
    for shape, (rows, options) in shapes.items():
        requests = folder / "requests.jsonl"
        write_requests(requests, rows)
        with serving(folder, *options) as server:

            def drain(server=server, requests=requests) -> dict[str, float]:
                measured = server.client("abatch-drain", str(requests), "out.jsonl")
                written = (server.folder / "abatch-drain" / "out.jsonl").stat().st_size / 1e6
                return measured | {"MB/s": written / measured["seconds"]}

            table.measure(size.rounds, {shape: drain})
    small, long, one = shapes
    table.claim(
        "MB/s of 32 KB lines over small ones", table.most(long, "MB/s") / table.most(small, "MB/s"), floor=1, goal=1
    )
    added = table.most(one) - table.most(small)
    table.claim(
        f"memory added by the line of {longest} MB, in its size", added / longest, floor=3, goal=2, at_most=True
    )
    return table


def many_batches(folder: Path, size: Size) -> Table:
    """Many batches drained at once, against one of the same total; the event loop meanwhile."""
    rows, per_batch = size.of(ONE_BATCH), size.of(5_000)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows)
    table = Table(title=f"Drain {rows:,} results from batches of {per_batch:,}, 16 at once, into JSONL", rows=rows)
    for _ in range(size.rounds):
        with serving(folder) as server:
            table.measure(
                1, {"one batch": lambda server=server: server.client("abatch-drain", str(requests), "out.jsonl")}
            )
        with serving(folder, "--pause", "0.5") as server:
            run = {
                "16 at once": lambda server=server: server.client(
                    "abatch-many", str(requests), "out.jsonl", str(per_batch), "16"
                )
            }
            table.measure(1, run)
    table.claim("throughput over one batch's", table.best("one batch") / table.best("16 at once"), floor=0.7, goal=0.9)
    table.claim("peak memory in MB", table.best("16 at once", "peak_mb"), floor=180, goal=150, at_most=True)
    late = table.best("16 at once", "p99_ms") - table.best("16 at once", "idle_p99_ms")
    table.claim("event loop's p99 over idle, in ms", late, floor=20, goal=10, at_most=True)
    return table


def growth(folder: Path, size: Size) -> Table:
    """Ten times the results, and with `--large` a hundred times: memory and time of each."""
    counts = [size.of(100_000), size.of(1_000_000)] + ([10_000_000] if size.large else [])
    table = Table(title="Whole jobs of growing size through the command line, into JSONL")
    for rows in counts:
        requests = folder / "requests.jsonl"
        write_requests(requests, rows)
        with serving(folder, "--answer-bytes", "300") as server:

            def run(server=server, requests=requests, rows=rows) -> dict[str, float]:
                measured = server.client("abatch-run", str(requests))
                return measured | {"µs/result": measured["seconds"] / rows * 1e6}

            table.measure(1 if rows > 100_000 else min(size.rounds, 3), {f"{rows:,}": run})
    first, last = f"{counts[0]:,}", f"{counts[-1]:,}"
    memory = table.best(last, "peak_mb") / table.best(first, "peak_mb")
    table.claim(f"peak memory of {last} over {first}", memory, floor=1.15, goal=1.05, at_most=True)
    time = table.best(last, "µs/result") / table.best(first, "µs/result")
    table.claim(f"time per result of {last} over {first}", time, floor=1.3, goal=1.1, at_most=True)
    return table


def submit(folder: Path, size: Size) -> Table:
    """100 MB of requests from a file to the accepted batch, against the SDK's `create(list)`."""
    rows = size.of(ONE_BATCH)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows, prompt_bytes=880)
    table = Table(title=f"Submit {rows:,} requests of 1 KB as one batch", rows=rows)
    table.megabytes = requests.stat().st_size / 1e6
    with serving(folder, "--answer-bytes", "10") as server:
        table.measure(
            size.rounds,
            {
                "SDK, create(list)": lambda: server.client("sdk-submit", str(requests)),
                "abatch": lambda: server.client("abatch-submit", str(requests)),
            },
        )

    def ratio(what: str) -> float:
        return table.best("SDK, create(list)", what) / table.best("abatch", what)

    table.claim("CPU, times less", ratio("cpu"), floor=3, goal=4)
    table.claim("wall, times less", ratio("seconds"), floor=2, goal=3)
    table.claim("longest block of the event loop, times less", ratio("blocked_ms"), floor=20, goal=20)
    table.claim("peak memory in MB", table.best("abatch", "peak_mb"), floor=150, goal=120, at_most=True)
    return table


def recovery(folder: Path, size: Size) -> Table:
    """Opening a journal of 10,000 shards, against one of 1,000 and against reading its facts."""
    few, many = size.of(1_000), size.of(10_000)
    table = Table(title=f"Open a journal of {many:,} shards")
    with serving(folder) as server:
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
    ours = table.best(f"abatch, {many:,}")
    table.claim(f"time over that of {few:,}", ours / table.best(f"abatch, {few:,}"), floor=12, goal=10, at_most=True)
    bare = table.best(f"SELECT and decode, {many:,}")
    table.claim("time over SELECT and decode", ours / bare, floor=3, goal=2, at_most=True)
    return table


def whole_job(folder: Path, size: Size) -> Table:
    """A job through the command line, against a plain program on the SDK."""
    rows = size.of(100_000)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows, prompt_bytes=400)
    table = Table(title=f"A whole job of {rows:,} requests, `abatch run` into JSONL", rows=rows)
    with serving(folder, "--answer-bytes", "900") as server:
        table.measure(
            min(size.rounds, 3),
            {
                "a program on the SDK": lambda: server.client("sdk-run", str(requests)),
                "abatch run": lambda: server.client("abatch-run", str(requests)),
            },
        )
    theirs, ours = "a program on the SDK", "abatch run"
    table.claim("CPU, times less", table.best(theirs, "cpu") / table.best(ours, "cpu"), floor=3, goal=5)
    memory = table.best(ours, "peak_mb") / table.best(theirs, "peak_mb")
    table.claim("peak memory over the program's", memory, floor=0.5, goal=0.4, at_most=True)
    return table


CLAIMS: Final[dict[str, Callable[[Path, Size], Table]]] = {
    "drain-jsonl": drain_jsonl,
    "drain-sqlite": drain_sqlite,
    "drain-s3": drain_s3,
    "long-lines": long_lines,
    "many-batches": many_batches,
    "growth": growth,
    "submit": submit,
    "recovery": recovery,
    "whole-job": whole_job,
}
