"""Measure a wait by two clocks at once, the server's `Date` and this machine's, and believe the slower one.

Either clock alone can end a wait too early: a `Date` may come from a gateway that runs ahead, or jump at a failover,
and this machine's clock may be set. Only time that passed on both clocks has certainly passed. While the machine has
not been restarted, its clock is the time since boot, which cannot be set and which continues during sleep. After a
restart the wall clock is used instead.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Moment", "awake", "boot_id", "elapsed", "moment"]

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""CLOCK_BOOTTIME exists on Linux, and continues while the machine sleeps."""


class Moment(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A moment on the server's clock and on this machine's two clocks, in seconds."""

    date: float
    """The server's `Date`, since the epoch."""
    boot: float
    """This machine's time since boot."""
    boot_id: str
    """The id of that boot; empty if the system does not provide one."""
    wall: float
    """This machine's wall clock, since the epoch."""


def awake() -> float:
    """Return the seconds on this machine's clock that cannot be set and that continues while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


@cache
def boot_id() -> str:
    """Return the id of this machine's last boot; empty if the system does not provide one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def moment(date: float) -> Moment:
    """Return the present moment, given the `Date` of an answer that the server just sent."""
    return Moment(date=date, boot=awake(), boot_id=boot_id(), wall=time.time())


def elapsed(earlier: Moment, later: Moment) -> float:
    """Return the seconds that have certainly passed: those of the slower clock, never below zero."""
    if earlier.boot_id and earlier.boot_id == later.boot_id:
        here = later.boot - earlier.boot
    else:
        here = later.wall - earlier.wall
    return max(0.0, min(later.date - earlier.date, here))
