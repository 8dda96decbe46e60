"""The programs that benchmarks measure: `python clients.py NAME ARGUMENTS`; each prints what it measured as JSON.

One process each, so that time and memory are its own. The time begins when everything is imported and connected,
where the results are asked for, and ends when they are durable.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import anyio

Measured = dict[str, float]


def cpu() -> float:
    """Seconds of processor time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """The most memory this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Clock:
    """Wall and processor time from its making on."""

    def __init__(self) -> None:
        self.base_mb = peak_mb()
        self.began, self.used = time.perf_counter(), cpu()

    def stop(self) -> Measured:
        return {
            "seconds": time.perf_counter() - self.began,
            "cpu": cpu() - self.used,
            "peak_mb": peak_mb(),
            "base_mb": self.base_mb,
        }


# ---- draining -------------------------------------------------------------------------------------------------


async def abatch_drain(requests: str, to: str) -> Measured:
    """Submit one batch; measure from asking for its results to the finished job."""
    from abatch import BatchManager, Config
    from abatch.collector import Collector

    clocks: list[Clock] = []
    drain = Collector.drain

    async def timed(self: Collector, *args, **kwargs):
        clocks.append(Clock())
        return await drain(self, *args, **kwargs)

    Collector.drain = timed  # type: ignore[method-assign]
    every = timedelta(milliseconds=50)
    config = Config(requests_per_batch=100_000, poll_every=every, poll_at_most=every)
    async with BatchManager(journal="journal", config=config) as manager:
        job = await manager.submit(Path(requests), to=to, key="drain")
        await job.wait()
        return clocks[0].stop()


async def sdk_drain(batch: str, out: str) -> Measured:
    """The official SDK: `async for … results()` writing JSON lines."""
    from anthropic import AsyncAnthropic

    client = AsyncAnthropic()
    await client.messages.batches.retrieve(batch)
    clock = Clock()
    with Path(out).open("w") as file:
        async for result in await client.messages.batches.results(batch):
            file.write(result.to_json(indent=None) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return clock.stop()


def raw_drain(batch: str) -> Measured:
    """Read a batch's results from a socket and drop them: what the server can give."""
    address = urlsplit(os.environ["ANTHROPIC_BASE_URL"])
    buffer, size = bytearray(2**20), 0
    clock = Clock()
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"GET /v1/messages/batches/{batch}/results HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while (got := connection.recv_into(buffer)) and not buffer[:got].endswith(b"\r\n0\r\n\r\n"):
            size += got
    return clock.stop() | {"bytes": size}


PROGRAMS = {"abatch-drain": abatch_drain, "sdk-drain": sdk_drain}


if __name__ == "__main__":
    name, *args = sys.argv[1:]
    measured = raw_drain(*args) if name == "raw-drain" else anyio.run(PROGRAMS[name], *args)
    sys.stdout.write(json.dumps(measured) + "\n")
