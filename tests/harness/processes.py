"""Processes that die: the command line in a forked child or as a process of its own, and the sandbox in another.

*Forked* runs begin in a parent that has imported everything and started nothing, no thread, no loop, no
connection; they reach a kill in a third of the time. *Real* runs are `python -m abatch`. Both are told apart in
the table. The kernel kills every child with its parent.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.harness.places import make_all

PATIENCE = 120.0
"""Seconds after which a run hangs."""


class Hung(Exception):
    """A process did not end."""


# ---- what a run does at its places ----------------------------------------------------------------------------


class Deed:
    """What happens in a run, and where."""

    def prepare(self) -> None:
        """In the child, before the command line begins."""

    def at(self, place: str, nth: int, total: int) -> None:
        """Reached: this place for the nth time; `total` places in all."""

    @property
    def label(self) -> str:
        """Its row in the table."""
        return str(self)

    def __str__(self) -> str:
        return "undisturbed"


@dataclass(frozen=True)
class KillAt(Deed):
    """kill -9, or another signal, at the nth time a place is reached."""

    place: str
    nth: int
    sent: tuple[int, ...] = (signal.SIGKILL,)

    def at(self, place: str, nth: int, total: int) -> None:
        if place == self.place and nth == self.nth:
            for number in self.sent:
                os.kill(os.getpid(), number)

    def __str__(self) -> str:
        return f"{self.label} ({self.nth})"

    @property
    def label(self) -> str:
        names = "" if self.sent == (signal.SIGKILL,) else "+".join(signal.Signals(each).name for each in self.sent)
        return f"{names and names + ' at '}{self.place}"


INSTANT = "(any instant"


@dataclass(frozen=True)
class KillNth(Deed):
    """kill -9 at the nth place of all."""

    number: int

    def at(self, place: str, nth: int, total: int) -> None:
        if total == self.number:
            os.kill(os.getpid(), signal.SIGKILL)

    label = "(any place)"

    def __str__(self) -> str:
        return f"place {self.number} of all"


@dataclass(frozen=True)
class KillAfter(Deed):
    """kill -9 from outside, so many seconds after the start, wherever the run is."""

    seconds: float
    real: bool = False
    """In a process of its own."""

    @property
    def label(self) -> str:
        return f"{INSTANT}, {'real' if self.real else 'forked'} process)"

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s after the start{' of a process of its own' * self.real}"


@dataclass
class Survey(Deed):
    """Count what is reached, and write it down at the end, with what was imported on the way."""

    file: Path
    seen: Counter[str] = field(default_factory=Counter)

    def at(self, place: str, nth: int, total: int) -> None:
        self.seen[place] = nth
        if place == "after finish":
            self.file.write_text(json.dumps({"seen": self.seen, "modules": sorted(sys.modules)}))


# ---- runs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    status: int
    """Its exit status, or the signal that killed it, negative."""
    out: bytes
    err: bytes
    seconds: float

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Run:
    """One run of the command line."""

    def __init__(self, arguments: Sequence[str], folder: Path, env: dict[str, str], deed: Deed, *, said: Path) -> None:
        self._said, self._began = said, time.monotonic()
        for suffix in (".out", ".err"):
            said.with_suffix(suffix).touch(mode=0o600)
        self.pid = fork(lambda: _be_command(arguments, folder, env, deed, said))
        self._until = self._began + deed.seconds if isinstance(deed, KillAfter) else None

    def ended(self) -> Ended:
        """Wait for its end, and kill it on the way if that is the deed."""
        if self._until is not None and not has_ended(self.pid, self._until):
            self.send(signal.SIGKILL)
        if not has_ended(self.pid, time.monotonic() + PATIENCE):
            self.send(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise Hung(f"a run did not end within {PATIENCE:.0f} s; it said:\n{self._read('.err').decode()[-3000:]}")
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, self._read(".out"), self._read(".err"), time.monotonic() - self._began)

    def stopped(self) -> bool:
        """Wait until it stands still (SIGSTOP); False if it ended instead."""
        flags = os.WSTOPPED | os.WEXITED | os.WNOWAIT
        found = os.waitid(os.P_PID, self.pid, flags)
        return found is not None and found.si_code == os.CLD_STOPPED

    def send(self, number: int) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def _read(self, suffix: str) -> bytes:
        return self._said.with_suffix(suffix).read_bytes()


def _be_command(arguments: Sequence[str], folder: Path, env: dict[str, str], deed: Deed, said: Path) -> int:
    """Become `abatch`; the exit status."""
    os.umask(0)  # modes are those that were asked for
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    for number, path in ((1, said.with_suffix(".out")), (2, said.with_suffix(".err"))):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if isinstance(deed, KillAfter) and deed.real:
        os.execve(sys.executable, [sys.executable, "-m", "abatch", *arguments], env)
    deed.prepare()
    if type(deed).at is not Deed.at:
        make_all(_counting(deed))
    sys.argv = ["abatch", *arguments]
    from abatch.cli.app import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _counting(deed: Deed) -> Callable[[str], None]:
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def reach(place: str) -> None:
        with lock:
            seen[place] += 1
            nth, total = seen[place], seen.total()
        deed.at(place, nth, total)

    return reach


# ---- the sandbox ----------------------------------------------------------------------------------------------


class Api:
    """A sandbox in a process of its own, which gives its account when asked."""

    def __init__(self, seed: int, *, answer_bytes: int = 0) -> None:
        self.answer_bytes = answer_bytes
        self._ours, theirs = socket.socketpair()
        self.pid = fork(lambda: _be_sandbox(theirs, self._ours, seed, answer_bytes))
        theirs.close()
        self._lines = self._ours.makefile("r")
        self.url = json.loads(self._lines.readline())

    def account(self) -> Any:
        """`violated`, the ids of `created` batches, and how `often` a request was accepted, by its digest."""
        self._ours.sendall(b"\n")
        return json.loads(self._lines.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._lines.close()
        self._ours.close()


def _be_sandbox(theirs: socket.socket, ours: socket.socket, seed: int, answer_bytes: int) -> int:
    from abatch.sandbox import Sandbox

    ours.close()
    sandbox = Sandbox(seed=seed, latency=(0.0, 0.15), answer_bytes=answer_bytes)
    with sandbox, theirs.makefile("rw") as lines:
        lines.write(json.dumps(sandbox.url) + "\n")
        lines.flush()
        for _ in lines:
            account = sandbox.account
            told = {
                "violated": account.violated,
                "created": account.created,
                "often": {digest.hex(): times for digest, times in account._accepted.items()},
            }
            lines.write(json.dumps(told) + "\n")
            lines.flush()
    return 0


# ---- children -------------------------------------------------------------------------------------------------


def fork(work: Callable[[], int]) -> int:
    """Do `work` in a child that dies with this process; its pid."""
    if threading.active_count() > 1:
        raise RuntimeError("a parent of runs has no threads")
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        _die_with(parent)
        status = work()
    except BaseException:  # noqa: BLE001 - a child never returns into its parent's code
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def has_ended(pid: int, until: float) -> bool:
    """Wait for a child's end, without taking its status; False if the time is over first."""
    descriptor = os.pidfd_open(pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], max(until - time.monotonic(), 0))
    finally:
        os.close(descriptor)
    return bool(ready)


def import_everything(modules: Sequence[str]) -> None:
    """What a run imports on its way, once for all of them."""
    for name in modules:
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
