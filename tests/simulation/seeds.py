"""Run seeds: one, with its trace, or many, in several Python processes."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.simulation.effects import simulated
from tests.simulation.plan import Plan
from tests.simulation.unkind import draw
from tests.simulation.world import World

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Told", "ready", "regressions", "run_here", "run_many", "run_seed"]

CHUNK: Final = 50
"""Seeds that one worker runs: it leaves its garbage to the kernel, some 100 MB."""
COLLECT_EVERY: Final = 50
MEMORY: Final = Path("/dev/shm")


@dataclass(slots=True)
class Told:
    """What seeds came to."""

    seeds: int = 0
    seconds: float = 0.0
    """Of processor time."""
    violations: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    hits: Counter[str] = field(default_factory=Counter)
    """In how many seeds each rule, fault and misfortune was met."""
    digests: dict[int, str] = field(default_factory=dict[int, str])

    def add(self, other: Told) -> None:
        """Take in what other seeds came to."""
        self.seeds += other.seeds
        self.seconds += other.seconds
        self.violations |= other.violations
        self.hits += other.hits
        self.digests |= other.digests


@contextmanager
def ready() -> Iterator[None]:
    """Simulate in this block: the doors are in place, no umask hides modes, garbage is collected between seeds."""
    hook, was_on, umask = sys.unraisablehook, gc.isenabled(), os.umask(0)
    gc.disable()
    gc.freeze()
    sys.unraisablehook = lambda _: None  # the dead leave coroutines and connections that nobody closes
    try:
        with simulated(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", ResourceWarning)
            yield
            gc.unfreeze()  # a weighed world froze what those before it left
            for _ in range(3):  # what goes lets go of more
                gc.collect()
    finally:
        os.umask(umask)
        sys.unraisablehook = hook
        gc.unfreeze()
        if was_on:
            gc.enable()


def run_seed(seed: int, *, trace: Callable[[str], None] | None = None, plan: Plan | None = None) -> Told:
    """One seed; inside `ready`."""
    began = time.process_time()
    folder = Path(tempfile.mkdtemp(prefix="abatch-simulation-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        world = World(draw(seed) if plan is None else plan, seed, folder, trace=trace)
        try:
            world.run()
        except Exception:  # noqa: BLE001 - whatever it is, this seed fails
            world.violations.append(f"the simulation broke: {traceback.format_exc()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told = Told(seeds=1, hits=Counter(world.hits), digests={seed: world.digest()})
    if world.violations:
        told.violations[seed] = world.violations
    told.seconds = time.process_time() - began
    return told


def run_here(seeds: Sequence[int]) -> Told:
    """Some seeds, one after the other."""
    told = Told()
    with ready():
        for number, seed in enumerate(seeds, 1):
            told.add(run_seed(seed))
            if number % COLLECT_EVERY == 0:
                gc.collect()
    return told


_for_ever = ExitStack()


def _run_chunk(seeds: Sequence[int], told_to: Connection) -> None:
    """Some seeds in a worker that ends after them, as it is."""
    began = time.process_time()
    _for_ever.enter_context(ready())
    told = Told()
    for seed in seeds:
        told.add(run_seed(seed))
    told.seconds = time.process_time() - began
    told_to.send(told)


def run_many(seeds: Sequence[int], *, workers: int, until: float = float("inf")) -> Iterator[Told]:
    """Many seeds in several Python processes; what each handful came to, until `time.monotonic()` says so."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)][::-1]
    context = get_context("fork")  # nothing is imported again; this process has no threads
    working: dict[Any, Any] = {}
    try:
        while chunks or working:
            while chunks and len(working) < workers and time.monotonic() < until:
                receiver, sender = context.Pipe(duplex=False)
                worker = context.Process(target=_run_chunk, args=(chunks.pop(), sender))
                worker.start()
                sender.close()
                working[receiver] = worker
            for receiver in wait(list(working)):
                yield receiver.recv()
                working.pop(receiver).join()
            if time.monotonic() >= until:
                return
    finally:
        for worker in working.values():
            worker.terminate()
            worker.join()


def regressions() -> list[int]:
    """Seeds that once failed."""
    lines = Path(__file__).with_name("regressions.txt").read_text().splitlines()
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
