"""Facts to append, and steps that several tests share."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from abatch.protocol.facts import Committing, IterableSource, Planned, Submitted

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from abatch.journal.log import FactLog, Recorded

__all__ = ["STRANGE", "committing", "ignore", "in_order", "planned", "raised", "replayed", "submitted"]

STRANGE: tuple[str, ...] = ("", "\x00", "'quotes', \"double\", \\ and ;--", "ü\u2028\u2029\x85\r\n", "🦜" * 1000)
"""Texts that a store may confuse with its own syntax."""


def submitted(key: str) -> Submitted:
    """Make the first fact of a job."""
    return Submitted(key=key, to="memory:", source=IterableSource())


def planned(part: int = 0) -> Planned:
    """Make the first fact of a shard."""
    return Planned(part=part, rows=10, body_bytes=1000, spool="s", params_digest="p", ids_digest="i")


def committing(attempt: int = 1) -> Committing:
    """Make the second fact of a shard, after which something may be sent."""
    return Committing(attempt=attempt, date=1.0, fingerprint=None)


def ignore(_: Recorded) -> None:
    """Ignore a fact."""


def in_order(appended: list[Recorded]) -> bool:
    """Return whether each fact has a higher number than the one before it."""
    return all(before.seq < after.seq for before, after in itertools.pairwise(appended))


async def replayed(
    log: FactLog, *, since: int = 0, until: int | None = None, others_only: bool = False, job: int | None = None
) -> list[Recorded]:
    """Return the facts that a replay visits."""
    seen: list[Recorded] = []
    await log.replay(seen.append, since=since, until=until, others_only=others_only, job=job)
    return seen


async def raised(kind: type[Exception], call: Awaitable[object]) -> bool:
    """Return whether the call raises an error of this kind."""
    try:
        await call
    except kind:
        return True
    return False
