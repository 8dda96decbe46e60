"""What the core takes from the machine it runs on, simulated: clocks, chance, worker threads, disk, log.

`simulated()` patches the few doors once, for any number of worlds; each door asks for the world of the moment.

- Blocking work runs inline, as one unit, between two moments at which the process may die or stand still.
- `fsync` costs nothing and is recorded: a file must be synced before it gets its name. The crash model is the death
  of a process, not the loss of power, so unsynced bytes survive; that they were synced is checked here instead.
- The disk fills, or breaks, where the world says so: in a write of the journal, in an fsync, in a rename.
- Watches that look every half second look every half hour, those that look every second every half minute:
  virtual days of half seconds would take seconds.
- A page of the list has twenty batches, not a thousand: so many of somebody else's would only take time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import secrets
import shutil
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from io import FileIO
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import anyio
import anyio._backends._asyncio as anyio_asyncio
import sniffio

import abatch.backend
import abatch.engine.follow
import abatch.engine.key_guard
import abatch.engine.pending
import abatch.engine.runner
import abatch.engine.scope
import abatch.engine.submission
import abatch.engine.upload
import abatch.engine.withheld
import abatch.input.iterables
import abatch.journal.lock
import abatch.log
import abatch.protocol.clocks
import abatch.sandbox.api
import abatch.system.disk
from abatch.backend import Sealed
from abatch.engine.client import Client
from abatch.errors import BackendError
from abatch.input.spool import SpoolWriter
from abatch.protocol import reconcile
from abatch.protocol.facts import Committing
from abatch.system import threads
from tests.simulation.api import hidden
from tests.simulation.loop import OWNER, order_scopes

if TYPE_CHECKING:
    from abatch.backend import Backend, JobRef, ShardRef, Sink
    from abatch.result import Line
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["PAGE", "WISHES_EVERY", "Died", "Disk", "here", "simulated"]

FREE = 2**40
WISHES_EVERY = 1800.0
LOOKS_EVERY = 30.0
PAGE = 20
EXEMPT = (".driver-",)
"""Names of files on which nothing depends."""


class Died(BaseException):
    """The process died inside a unit of blocking work."""


class _Here:
    """The world that runs now."""

    world: World
    chance: random.Random
    """Where the core's own random numbers come from."""

    def enter(self, world: World, chance: random.Random) -> None:
        """From now on it is this world."""
        self.world, self.chance = world, chance

    @property
    def process(self) -> Process | None:
        """The simulated process whose code runs now."""
        owner: Any = OWNER.get()
        return owner


here = _Here()


async def _run(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """`threads.run`, inline."""
    await anyio.lowlevel.checkpoint_if_cancelled()
    name = getattr(work, "__qualname__", type(work).__name__)
    process = here.process
    assert process is not None
    try:  # no shield: a moment yields only in a shielded checkpoint, and the dead hear nothing
        await process.moment(f"before {name}")
        here.world.disk.before(process, name, args)
        done = work(*args, **kwargs)
        here.world.disk.after(process, name)
    except Died:
        await process.sleep_for_ever()
    await process.moment(f"after {name}")
    return done


class Disk:
    """The disk of one world: when it is full, and what was synced.

    Args:
        world: whose; its plan says which operations fail, counted from 1.

    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._operations = 0
        """Of those that may fail, so many were begun."""
        self._synced: dict[int, tuple[int, int]] = {}
        self._unsynced_names: dict[int, str] = {}

    def before(self, process: Process, unit: str, given: tuple[Any, ...]) -> None:
        """A unit begins; a journal transaction may find the disk full."""
        if unit in ("SqliteLog._append", "SqliteLog._add_job") and self._fails(process, unit):
            if unit == "SqliteLog._append" and any(isinstance(entry.fact, Committing) for entry in given[0]):
                self._world.hit("A2")
            raise sqlite3.OperationalError("database or disk is full")
        if unit == "SqliteLog._append" and self._unsynced_names:
            names = sorted(self._unsynced_names.values())
            self._world.violation(f"J0: a fact follows {names} whose folder was not synced")
            self._unsynced_names.clear()
        if unit == "SqliteLog._append":
            self._world.witness.recorded(process, given[0])

    def after(self, process: Process, unit: str) -> None:
        """A unit is done; the journal may not learn that its transaction was."""
        next_breaks = self._operations + 1 in self._world.plan.broken_at
        if unit == "SqliteLog._append" and next_breaks and self._fails(process, f"{unit}, which is done"):
            raise sqlite3.OperationalError("disk I/O error")

    def _fails(self, process: Process, what: str) -> bool:
        plan = self._world.plan
        if not self._world.disturbed:
            return False
        self._operations += 1
        if self._operations not in plan.full_at | plan.broken_at:
            return False
        self._world.hit("disk full" if self._operations in plan.full_at else "disk broken")
        process.note(f"finds the disk failing in {what}")
        process.disk_failed = True
        return True

    def _refuse(self, what: str) -> None:
        process = here.process
        if process is not None and self._fails(process, what):
            code = errno.ENOSPC if self._operations in self._world.plan.full_at else errno.EIO
            raise OSError(code, os.strerror(code))

    def fsync(self, descriptor: int) -> None:
        """`os.fsync`."""
        self._moment("fsync")
        now = os.fstat(descriptor)
        if stat.S_ISDIR(now.st_mode):
            self._unsynced_names.pop(now.st_ino, None)
        self._refuse("fsync")
        if not stat.S_ISDIR(now.st_mode):
            self._synced[now.st_ino] = now.st_size, now.st_mtime_ns

    def named(self, source: Any, target: Any, real: Callable[..., Any], **more: Any) -> Any:
        """`os.rename` and `os.link`: the one step that makes a file seen."""
        if here.process is None:
            return real(source, target, **more)
        old, new = Path(source), Path(target)
        self._moment(f"naming {new.name}")
        self._refuse(f"naming {new.name}")
        now = old.stat()
        real(source, target, **more)
        self._moment(f"after naming {new.name}")
        if not old.name.startswith(EXEMPT):
            if not self._world.plan.fenced and self._synced.get(now.st_ino) != (now.st_size, now.st_mtime_ns):
                self._world.violation(f"J0: {new.name} got its name before it was synced")
            self._unsynced_names[new.parent.stat().st_ino] = new.name
        return None

    def unlink(self, path: Any, real: Callable[..., Any], **more: Any) -> None:
        """`os.unlink`."""
        self._moment(f"removing {Path(path).name}")
        real(path, **more)

    def _moment(self, what: str) -> None:
        process = here.process
        if process is not None and process.counts_down(what):
            raise Died

    def heard(self, folder: Path) -> None:
        """Somebody was told that the names in a folder are not durable, and relies on none."""
        if here.process is not None:
            here.process.disk_failed = True
        self._unsynced_names.pop(folder.stat().st_ino, None)

    def forget_unsynced(self) -> None:
        """The process died; what comes next begins anew."""
        self._unsynced_names.clear()

    def usage(self, path: Any) -> Any:
        """`shutil.disk_usage`."""
        full = self._world.disturbed and self._world.now() < self._world.plan.no_room_until
        if full:
            self._world.hit("disk has no room")
        return SimpleNamespace(total=FREE, used=0, free=0 if full else FREE)


def _recorded(_self: object, name: str) -> Callable[..., None]:
    def record(event: str, **facts: Any) -> None:
        here.world.logged(name, event, facts)

    return record


def _judged(answer: Any) -> Any:
    verdict = reconcile.judge(answer)
    here.world.hit(verdict.rule)
    return verdict


def _settled(doubt: Any, listing: Any, known: Any, **policy: Any) -> Any:
    ruling = reconcile.settle(doubt, listing, known, **policy)
    here.world.hit(ruling.rule)
    if (why := getattr(ruling, "why", getattr(ruling, "reason", ""))) and (of := _kind_of(why)):
        here.world.hit(f"{ruling.rule} {of}")
    for proof in (known.proven.get(each.batch_id) for each in doubt.committed.candidates):
        if proof is not None and (proof.shard, proof.attempt) != (doubt.shard, doubt.attempt):
            here.world.hit("B3")
    return ruling


def _kind_of(why: str) -> str:
    """Which of the cases of one row of table B it is, for those that must be met."""
    return next((name for words, name in CASES.items() if words in why), "")


CASES = {
    "proves no absence": "without an id",
    "in a form that cannot be read": "odd entry",
    "is not visible": "hidden",
    "still runs": "runs",
    "the list is partial": "partial",
    "cannot be read": "gone",
}


def _closing(doubt: Any, listing: Any, known: Any, **more: Any) -> Any:
    change = reconcile.closing(doubt, listing, known, **more)
    if change is not None:
        here.world.hit("candidates closed")
    return change


_may_see = abatch.engine.key_guard.KeyGuard.may_see


async def _seen_to(self: abatch.engine.key_guard.KeyGuard, fingerprint: str | None) -> bool:
    sees = await _may_see(self, fingerprint)
    if not sees:
        here.world.hit("guard keeps what may be lost")
    return sees


_take_lock = abatch.journal.lock._take_lock


def _taken(path: Path) -> FileIO:
    lock = _take_lock(path)
    assert here.process is not None
    here.process.locks.append(lock)
    return lock


_connect = abatch.backend.connect


async def _connected(url: str, job: JobRef) -> Backend:
    """`abatch.backend.connect`; in some worlds the sinks of what it gives refuse now and then."""
    backend = await _connect(url, job)
    if not any(here.world.plan.refuses):
        return backend
    unspoilt = backend.open

    async def open_(shard: ShardRef) -> Sink | Sealed:
        opened = await unspoilt(shard)
        if not isinstance(opened, Sealed):
            _spoil(opened, url, shard)
        return opened

    spoilt: Any = backend
    spoilt.open = open_
    return backend


def _spoil(sink: Sink, url: str, shard: ShardRef) -> None:
    """Let a sink refuse lines: in any write, and in the very read whose stream breaks, which is told first."""
    unspoilt = sink.write

    async def write(lines: Sequence[Line]) -> None:
        process = here.process
        assert process is not None
        breaks = process.breaking.get(shard.batch_id, False)
        if not here.world.refuses(at_break=breaks):
            await unspoilt(lines)
            return
        await process.moment("before a sink refuses")
        process.note(f"finds that the sink of shard {shard.shard} refuses {len(lines)} lines")
        process.disk_failed = True
        here.world.hit("sink refuses at a break" if breaks else "sink refuses")
        raise BackendError(url, os.strerror(errno.ENOSPC))

    spoilt: Any = sink
    spoilt.write = write


_sync = abatch.system.disk._sync


def _synced(folder: Path, failures: int) -> None:
    """`abatch.system.disk._sync`, whose failure somebody hears of."""
    try:
        _sync(folder, failures)
    except OSError:
        here.world.disk.heard(folder)
        raise


class _RetrySpool(SpoolWriter):
    """The spool of what goes again; in some worlds it refuses rows now and then."""

    def add(self, custom_id: bytes, params: bytes, fallback: bytes = b"") -> None:
        process = here.process
        assert process is not None
        if here.world.refuses(at_break=True):
            process.note("finds that the spool of retries refuses a row")
            process.disk_failed = True
            here.world.hit("spool refuses at a break" if any(process.breaking.values()) else "spool refuses")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().add(custom_id, params, fallback)


class _Names:
    """Names for temporary files that are the same in every run."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __next__(self) -> str:
        return f"{next(self._numbers):08d}"


def _parts_of_anyio() -> list[Any]:
    parts = [part for name, part in sys.modules.items() if name.startswith("anyio.")]
    return [part for part in parts if "get_async_backend" in vars(part)]


@contextmanager
def simulated() -> Iterator[None]:
    """Put the doors in place."""
    order_scopes()
    real_flock = fcntl.flock
    real_link, real_rename, real_unlink = os.link, os.rename, os.unlink

    def skewed() -> float:
        process = here.process
        return here.world.server_time() + (0.0 if process is None else process.skew)

    # each asks for the world of the moment, so none can be a method of one world's
    doors: list[tuple[Any, str, Any]] = [
        (threads, "run", _run),
        (time, "time", skewed),
        (time, "clock_gettime", lambda _clock: here.world.now() - here.world.booted_at),
        (abatch.protocol.clocks, "boot_id", lambda: here.world.boot_id()),  # noqa: PLW0108
        (abatch.sandbox.api, "is_hidden", lambda *what: hidden(here.world, *what)),
        (Client.list, "__kwdefaults__", {**(Client.list.__kwdefaults__ or {}), "limit": PAGE}),
        (abatch.input.iterables, "perf_counter", lambda: 0.0),
        (abatch.engine.follow, "EVERY", WISHES_EVERY),
        (abatch.engine.upload, "LOOKS_EVERY", LOOKS_EVERY),
        (abatch.engine.scope, "random", SimpleNamespace(Random=lambda: random.Random(here.chance.random()))),
        (random, "random", lambda: here.chance.random()),  # noqa: PLW0108
        (secrets, "randbits", lambda k: here.chance.getrandbits(k)),  # noqa: PLW0108
        (secrets, "token_bytes", lambda n: here.chance.randbytes(n)),  # noqa: PLW0108
        (secrets, "token_hex", lambda n: here.chance.randbytes(n).hex()),
        (tempfile, "_name_sequence", _Names()),
        (os, "fsync", lambda descriptor: here.world.disk.fsync(descriptor)),  # noqa: PLW0108
        (os, "rename", lambda a, b, **more: here.world.disk.named(a, b, real_rename, **more)),
        (os, "link", lambda a, b, **more: here.world.disk.named(a, b, real_link, **more)),
        (os, "unlink", lambda path, **more: here.world.disk.unlink(path, real_unlink, **more)),
        (fcntl, "flock", lambda file, how: None if here.world.plan.fenced else real_flock(file, how)),
        (abatch.journal.lock, "_take_lock", _taken),
        (abatch.engine.withheld, "SpoolWriter", _RetrySpool),
        (abatch.system.disk, "_sync", _synced),
        (abatch.engine.upload, "judge", _judged),
        (abatch.engine.pending, "settle", _settled),
        (abatch.engine.pending, "closing", _closing),
        (abatch.engine.key_guard.KeyGuard, "may_see", _seen_to),
        (abatch.backend, "connect", _connected),
        (abatch.engine.submission, "connect", _connected),
        (abatch.backend, "_registered", cache(abatch.backend._registered)),
        (shutil, "disk_usage", lambda path: here.world.disk.usage(path)),  # noqa: PLW0108
        (abatch.log._Log, "__getattr__", _recorded),
        (sniffio.thread_local, "name", "asyncio"),  # else anyio asks at every step which library it is in
        *((part, "get_async_backend", lambda *_: anyio_asyncio.AsyncIOBackend) for part in _parts_of_anyio()),
    ]
    with ExitStack() as stack:
        for where, name, door in doors:
            stack.enter_context(patch.object(where, name, door, create=name == "__getattr__"))
        yield
