"""Measure a wait by two clocks at once, the server's `Date` and this machine's, and believe the slower one.

Either clock alone can end a wait too early: a `Date` may come from a gateway that runs ahead, or jump at a failover;
a machine's clock may be set. Only what passed on both has certainly passed. Where the machine has not been restarted,
its clock is the time since boot, which nobody can set and which goes on during sleep; after a restart the wall clock
stands in.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Moment", "awake", "boot_id", "elapsed", "moment"]

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux has the former, which goes on while the machine sleeps."""


class Moment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A moment on the server's clock and on this machine's two clocks, in seconds."""

    date: float
    """The server's `Date`, since the epoch."""
    boot: float
    """This machine's, since it was started."""
    boot_id: str
    """Which start that was; empty where the system does not tell."""
    wall: float
    """This machine's, since the epoch."""


def awake() -> float:
    """Seconds of this machine's clock that nobody can set, and that goes on while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


@cache
def boot_id() -> str:
    """The name of this machine's last start; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def moment(date: float) -> Moment:
    """Now, at a server whose answer carried this `Date`."""
    return Moment(date=date, boot=awake(), boot_id=boot_id(), wall=time.time())


def elapsed(earlier: Moment, later: Moment) -> float:
    """Seconds that have passed for certain: those of the slower clock, never below zero."""
    if earlier.boot_id and earlier.boot_id == later.boot_id:
        here = later.boot - earlier.boot
    else:
        here = later.wall - earlier.wall
    return max(0.0, min(later.date - earlier.date, here))
