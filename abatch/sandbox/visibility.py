"""Decide which batches a call does not see, or sees as odd entries: hidden, unknown to a replica, late in a list."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from abatch.sandbox import faults as f

if TYPE_CHECKING:
    from datetime import datetime

    from abatch.sandbox.batches import Batch
    from abatch.sandbox.visit import Visit

__all__ = ["is_hidden", "is_odd", "lag_of"]


def is_hidden(batch: Batch, visit: Visit, now: datetime) -> bool:
    """Return whether a fault of this call hides the batch."""
    age = (now - batch.created_at).total_seconds()
    for fault in visit.faults:
        match fault:
            case f.Stale(seconds) if age < seconds:
                return True
            case f.Hide() if _is_in_span(fault, age, batch.seed):
                return True
            case _:
                pass
    return False


def is_odd(batch: Batch, visit: Visit) -> bool:
    """Return whether a fault of this list makes the entry of the batch odd."""
    odd = visit.fault(f.OddEntry)
    return odd is not None and (batch.seed * 0x85EBCA6B % 2**32 >> 16) / 0x10000 < odd.share


def _is_in_span(hide: f.Hide, age: float, seed: int) -> bool:
    drawn = seed * 0x9E3779B1 % 2**32  # these bits are independent of those that decide the lag
    if (drawn & 0xFFFF) / 0x10000 >= hide.share:
        return False
    since = age - hide.after - hide.spread * (drawn >> 16) / 0xFFFF
    if since < 0:
        return False
    return (since if hide.every is None else since % hide.every) < hide.seconds


def lag_of(batch: Batch, longest: float) -> timedelta:
    """Return how long the list leaves out this batch: a share of the longest lag that is fixed for each batch."""
    return timedelta(seconds=longest * (batch.seed & 0xFFFF) / 0xFFFF)
