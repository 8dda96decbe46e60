"""Other programs for the same job, side by side: same server, same requests, in turn, each in a venv of its own.

The venvs stay in `.venvs/peers`. Besides plain runs each is run once against a server that loses its first answer to
a create, and again with the same command if it did not come to its end; and once against one that ends results
early, though cleanly. What is lost or paid for twice then stands beside its time.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.measure import CEILING, HERE, Size, Table, serving, write_requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.measure import Measured, Server

VENVS: Final = HERE.parent / ".venvs" / "peers"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A program of `neighbours.py`, and what pip must install for it; nothing where it is installed with abatch."""

    program: str
    needs: tuple[str, ...] = ()

    def python(self) -> str:
        """Its Python.

        Raises:
            subprocess.CalledProcessError: it cannot be installed; `stderr` says why.

        """
        if not self.needs:
            return sys.executable
        venv = VENVS / self.program
        ready = venv / ".ready"
        if not ready.exists() or ready.read_text() != repr(self.needs):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
            pip = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *self.needs], check=True, stderr=subprocess.PIPE, text=True)
            ready.write_text(repr(self.needs))
        return str(venv / "bin/python")


OURS: Final = "abatch"
PEERS: Final = {
    OURS: Peer(program="abatch"),
    "SDK": Peer(program="sdk"),
    "batchwizard 0.5.0": Peer(program="batchwizard", needs=("batchwizard==0.5.0",)),
    "airflow common.ai 1.0.0": Peer(
        program="airflow",
        needs=("apache-airflow==3.3.2", "apache-airflow-providers-common-ai==1.0.0", "anthropic==2.11.0"),
    ),
    "pydantic-ai 2.62.0": Peer(
        program="pydantic-ai", needs=("pydantic-ai-slim[anthropic]==2.62.0", "anthropic==2.11.0")
    ),
}


def peers(folder: Path, size: Size) -> Table:
    """A job from a file to all its results, beside every other; quick: without faults, and those that need no venv."""
    rows = size.of(20_000)
    requests = folder / "requests.jsonl"
    write_requests(requests, rows, prompt_bytes=400)
    table = Table(title=f"A job of {rows:,} requests with answers of 2 KB, beside other programs", rows=rows)
    serve = partial(serving, folder, size, "--answer-bytes", "1600", "--at-once", "--questions")
    commands: dict[str, list[str]] = {}
    for name, peer in PEERS.items():
        if size.quick and peer.needs:
            continue
        try:
            commands[name] = [peer.python(), str(HERE / "neighbours.py"), peer.program, str(requests)]
        except subprocess.CalledProcessError as failure:
            why = (failure.stderr or str(failure)).strip().splitlines()[-1]
            table.notes.append(f"{name} is not measured, it could not be installed: {why}")
    faults = {name: {} if size.quick else _faults(serve, command, rows) for name, command in commands.items()}

    def ceiling() -> Measured:
        with serve() as server:
            return server.client("raw-run", str(requests))

    def run(name: str) -> Measured:
        with serve() as server:
            measured = server.program("peer", commands[name])
            found = {LOST: rows - measured.pop("rows"), SECOND: server.account()["again"]}
        return measured | {what: count + faults[name].get(what, 0) for what, count in found.items()}

    table.measure(size.rounds, {CEILING: ceiling} | {name: partial(run, name) for name in commands})
    others = [name for name in commands if name != OURS]
    for text, what in MEASURES.items():
        least = min(table.ratio(name, OURS, what) for name in others)
        table.claim(f"{text}, times less than the best neighbour's", least, floor=1, goal=1)
    for what in (LOST, SECOND):
        table.claim(f"{what} of abatch", table.most(OURS, what), floor=0, goal=0, at_most=True)
    return table


MEASURES: Final = {"wall": "seconds", "CPU": "cpu", "peak memory": "peak_mb"}
LOST, SECOND = "lost rows", "second batches"


def _faults(serve: Callable[..., AbstractContextManager[Server]], command: list[str], rows: int) -> Measured:
    with serve("--lose", "1") as server:
        for again in (False, True):
            with suppress(subprocess.CalledProcessError):  # it failed, and is run again
                if server.program("peer", command, keep=again, quiet=True)["rows"] == rows:
                    break
        second = server.account()["again"]
    with serve("--cut") as server:
        lost = rows
        with suppress(subprocess.CalledProcessError):  # it ends with nothing to show
            lost -= server.program("peer", command, quiet=True)["rows"]
        second += server.account()["again"]
    return {LOST: lost, SECOND: second}
