"""The programs that benchmarks measure: `python clients.py NAME FILE`; each prints what it measured as JSON."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path

import anyio


def peak_mb() -> float:
    """The most memory this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def abatch_drain(path: Path) -> dict[str, float]:
    """Submit one batch, then measure from the moment it ended to the sealed and assembled file."""
    from abatch import BatchManager, Config

    config = Config(
        requests_per_batch=100_000, poll_every=timedelta(milliseconds=20), poll_at_most=timedelta(seconds=1)
    )
    async with BatchManager(journal="drain-journal", config=config) as manager:
        job = await manager.submit(path, to="drained/", key="drain")
        while not job.progress().batches:
            await anyio.sleep(0.005)
        began = time.perf_counter()
        await job.wait()
        return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


async def sdk_drain(path: Path) -> dict[str, float]:
    """The official SDK: create, wait, then measure `async for … results()` writing JSON lines."""
    from anthropic import AsyncAnthropic

    client = AsyncAnthropic()
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    batch = await client.messages.batches.create(requests=requests)
    while batch.processing_status != "ended":
        batch = await client.messages.batches.retrieve(batch.id)
    began = time.perf_counter()
    with Path("sdk.jsonl").open("w") as out:
        async for result in await client.messages.batches.results(batch.id):
            out.write(result.to_json(indent=None) + "\n")
        out.flush()
        os.fsync(out.fileno())
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


def abatch_run(path: Path) -> dict[str, float]:
    """A whole job through the command line."""
    from abatch.__main__ import main

    out = os.dup(1)
    os.dup2(2, 1)
    sys.argv = [
        "abatch",
        "run",
        str(path),
        "--to",
        "large-results.jsonl",
        "--poll-interval",
        "0.2",
        "--quiet",
        "--json",
    ]
    began = time.perf_counter()
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
    os.dup2(out, 1)
    return {"seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


if __name__ == "__main__":
    logging.getLogger("abatch").setLevel(logging.ERROR)
    os.environ.setdefault("ABATCH_LOG", "warning")
    name, file = sys.argv[1], Path(sys.argv[2])
    if name == "abatch-run":
        measured = abatch_run(file)
    else:
        measured = anyio.run({"abatch-drain": abatch_drain, "sdk-drain": sdk_drain}[name], file)
    sys.stdout.write(json.dumps(measured) + "\n")
