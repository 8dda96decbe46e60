"""Run every benchmark, print a row per claim, and exit 1 if one is below its floor.

Each client runs in a process of its own, so that its time and memory are its own; the sandbox runs in another.
`--quick` takes small inputs: it shows that the benchmarks work, not what the claims are worth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = Path(__file__).with_name("clients.py")


@contextmanager
def sandbox(*options: str) -> Iterator[str]:
    """A sandbox in a process of its own; its URL."""
    command = [sys.executable, "-m", "abatch.sandbox", "--port", "0", "--exit-with-parent", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
        server.stdin.close()


def client(name: str, url: str, folder: Path, *args: str) -> dict[str, float]:
    """Run one client to its end; what it measured of itself."""
    env = {**os.environ, "ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "benchmark"}
    done = subprocess.run(
        [sys.executable, str(CLIENTS), name, *args], cwd=folder, env=env, stdout=subprocess.PIPE, check=True
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def write_requests(path: Path, count: int) -> None:
    """Tiny requests, all different."""
    params = '{"model":"claude-haiku-4-5","max_tokens":1,"messages":[{"role":"user","content":"%d"}]}'
    row = '{"custom_id":"r%d","params":' + params + "}\n"
    with path.open("w") as file:
        file.writelines(row % (number, number) for number in range(count))


def drain_against_the_sdk(rows: int, folder: Path) -> tuple[str, float, float]:
    """Lines per second from an ended batch to a durable file, over those of the SDK's `results()`."""
    write_requests(folder / "drain.jsonl", rows)
    with sandbox("--answer-bytes", "900") as url:
        ours = client("abatch-drain", url, folder, "drain.jsonl")
        theirs = client("sdk-drain", url, folder, "drain.jsonl")
    return f"drain {rows:,} results into JSONL, lines/s over the SDK's", theirs["seconds"] / ours["seconds"], 2.0


def memory_of_a_large_job(rows: int, folder: Path) -> tuple[str, float, float]:
    """200 MB over the peak memory of a whole job through the command line."""
    write_requests(folder / "large.jsonl", rows)
    with sandbox() as url:
        peak = client("abatch-run", url, folder, "large.jsonl")["peak_mb"]
    return f"`abatch run` of {rows:,} requests peaks at {peak:.0f} MB, 200 MB over it", 200 / peak, 1.0


def main() -> int:
    """Run all; 1 if a floor is missed."""
    quick = "--quick" in sys.argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [
            drain_against_the_sdk(5_000 if quick else 100_000, folder),
            memory_of_a_large_job(20_000 if quick else 1_000_000, folder),
        ]
    missed = 0
    for claim, ratio, floor in rows:
        good = quick or ratio >= floor
        missed += not good
        print(f"{'ok  ' if good else 'MISS'} {claim}: {ratio:.2f} (floor {floor:.2f})")
    return 1 if missed else 0


sys.exit(main())
