"""What every claim needs: a server and clients in processes of their own, rounds that alternate, a table.

A ratio is the median of the ratios of each round, whose two sides ran one after the other: what slows the machine
for a while slows both. Where one side ran more often, as in `growth`, it is the ratio of the medians.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
Measured = dict[str, float]
CEILING = "the server, by a bare socket"
"""The row that shows what the server can do: nothing can be faster beside it."""
MEMORY = 768 * 2**20
"""Bytes that a drain of `ONE_BATCH` takes, in the process and in files, with some to spare."""
PATIENCE = 3600.0
"""Seconds after which a client hangs."""


@dataclass(kw_only=True)
class Size:
    """How large a run is: `quick` shows that the benchmarks work, not what the claims are worth."""

    quick: bool = False
    rounds: int = 5

    def of(self, rows: int) -> int:
        return rows // 1000 if self.quick else rows


@dataclass(kw_only=True)
class Server:
    """The server of one claim, and the clients that talk to it."""

    url: str
    folder: Path
    memory: int
    """Bytes that are fetched before a program begins."""
    workspaces: int = 0

    def account(self) -> Any:
        """What the server counted: looks at the list, batches, those that ask again."""
        with urllib.request.urlopen(f"{self.url}/account") as answer:
            return json.load(answer)

    def batches(self) -> list[str]:
        names: list[str] = self.account()["batches"]
        return names

    def client(self, name: str, *args: str, **environment: str) -> Measured:
        """Run a program of `clients.py` in an empty folder; what it measured of itself."""
        return self.program(name, [sys.executable, str(HERE / "clients.py"), name, *args], **environment)

    def program(
        self, name: str, command: list[str], *, keep: bool = False, quiet: bool = False, **environment: str
    ) -> Measured:
        """Run a program in an empty folder, or the one it had; what it measured of itself, its last line.

        Each has a key, and so a workspace, of its own: it does not see the batches of those before it.

        Raises:
            subprocess.CalledProcessError: it failed.

        """
        place = self.folder / name
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            self.workspaces += 1
        self._fetch_memory()
        environment = {
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": f"benchmark-{self.workspaces}",
            **environment,
        }
        done = subprocess.run(
            command,
            cwd=place,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            check=True,
            timeout=PATIENCE,
        )
        measured: Measured = json.loads(done.stdout.splitlines()[-1])
        return measured

    def curl(self, path: str) -> Measured:
        """Let curl write what stands under this path to a file, which it does not fsync; its start is left out."""
        (self.folder / "curl.out").unlink(missing_ok=True)  # or the time to empty it is curl's
        self._fetch_memory()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            ["curl", "-sf", "-o", "curl.out", "-w", "%{time_total}", self.url + path],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"seconds": float(done.stdout), "cpu": cpu}

    def _fetch_memory(self) -> None:
        """Have the memory at hand that a drain takes, the file that it writes included.

        A virtual machine may have given back what nobody uses. To fetch it again takes several times as long as to
        write to it, and whoever happened to come first would pay for all.
        """
        with tempfile.TemporaryFile(dir=self.folder) as file:
            for _ in range(self.memory // 2**20):
                file.write(bytes(2**20))


def timed(command: list[str], place: Path) -> Measured:
    """Run a program that does not measure itself, from its start to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=place, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


@contextmanager
def serving(folder: Path, size: Size, *options: str) -> Iterator[Server]:
    """A server in a process of its own."""
    command = [sys.executable, str(HERE / "server.py"), *options]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield Server(url=url, folder=folder, memory=0 if size.quick else MEMORY)
        process.stdin.close()


def write_requests(path: Path, count: int, prompt_bytes: int = 8) -> None:
    """Requests, all different, each with a prompt of this size."""
    row = (
        '{"custom_id":"request-%d","params":{"model":"claude-haiku-4-5","max_tokens":1024,"messages":'
        '[{"role":"user","content":"%d%s"}]}}\n'
    )
    prompt = ("Say in one sentence what this is about. " * (prompt_bytes // 40 + 1))[:prompt_bytes]
    with path.open("w") as file:
        file.writelines(row % (number, number, prompt) for number in range(count))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A number and its bounds; `at_most` where less is better."""

    text: str
    value: float
    floor: float
    goal: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.floor if self.at_most else self.value >= self.floor

    @property
    def reaches_its_goal(self) -> bool:
        return self.value <= self.goal if self.at_most else self.value >= self.goal


@dataclass(kw_only=True)
class Table:
    """The runs of one claim, side by side, and what comes of them."""

    title: str
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    """What a run deals with, for `rows/s`; none where that says nothing."""
    megabytes: float = 0.0
    runs: dict[str, list[Measured]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)

    def measure(self, rounds: int, programs: dict[str, Callable[[], Measured]]) -> None:
        """Run the programs in turn, round after round."""
        for _ in range(rounds):
            for name, program in programs.items():
                self.runs.setdefault(name, []).append(program())

    def best(self, name: str, what: str = "seconds") -> float:
        """The least of all rounds: what disturbs a run only ever makes it slower or larger."""
        return min(run[what] for run in self.runs[name])

    def most(self, name: str, what: str = "peak_mb") -> float:
        return max(run[what] for run in self.runs[name])

    def middle(self, name: str, what: str) -> float:
        return median(run[what] for run in self.runs[name])

    def ratio(self, over: str, under: str, what: str = "seconds") -> float:
        """The median of what each round gives, of two programs that were measured in turn."""
        rounds = zip(self.runs[over], self.runs[under], strict=True)
        return median(one[what] / other[what] for one, other in rounds)

    def claim(self, text: str, value: float, *, floor: float, goal: float, at_most: bool = False) -> None:
        self.claims.append(Claim(text=text, value=value, floor=floor, goal=goal, at_most=at_most))

    def print(self, *, strict: bool) -> int:
        """Show it; how many claims are below their floor."""
        print("", self.title, *self.notes, sep="\n")
        others = dict.fromkeys(
            key for runs in self.runs.values() for key in runs[0] if key not in {"seconds", "cpu", "peak_mb"}
        )
        heads = [
            "wall s",
            "CPU s",
            *(["rows/s"] if self.rows else []),
            *(["MB/s"] if self.megabytes else []),
            "peak MB",
        ]
        print(f"  {'':42}" + "".join(f"{head:>16}" for head in [*heads, *others]))
        for name, runs in self.runs.items():
            seconds = self.best(name)
            cells = [f"{seconds:.3f}", f"{self.best(name, 'cpu'):.3f}"]
            cells += [f"{self.rows / seconds:,.0f}"] if self.rows else []
            cells += [f"{self.megabytes / seconds:,.0f}"] if self.megabytes else []
            cells += [f"{self.most(name):,.0f}" if "peak_mb" in runs[0] else ""]
            cells += [f"{self.middle(name, key):,.4g}" if key in runs[0] else "" for key in others]
            print(f"  {name:42}" + "".join(f"{cell:>16}" for cell in cells))
        missed = 0
        for claim in self.claims:
            state = "ok" if claim.reaches_its_goal else "near" if claim.holds else "MISS"
            missed += strict and not claim.holds
            sign = "≤" if claim.at_most else "≥"
            bounds = f"(floor {sign} {claim.floor:g}, goal {sign} {claim.goal:g})"
            print(f"  {state:5}{claim.text}: {claim.value:.2f} {bounds}")
        sys.stdout.flush()
        return missed
