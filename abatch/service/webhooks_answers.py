"""How an attempt to deliver a message ended, and when the next one begins."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["WAITS", "Answer", "Delivered", "Failed", "Gone", "wait_after"]

WAITS: Final = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 73_500.0)
"""Seconds from the end of an attempt to the next one: ten attempts in three days."""
JITTER: Final = 0.1
"""A wait is longer by at most this part, so that messages that failed together are not sent again together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The receiver has the message."""

    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The receiver does not have the message, as far as is known."""

    note: str
    not_before: float = 0.0
    """The seconds for which the receiver asked not to be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The receiver wants no more messages."""

    note: str


Answer: TypeAlias = Delivered | Failed | Gone


def wait_after(attempts: int, waits: tuple[float, ...], failed: Failed) -> float | None:
    """Return the seconds until the next attempt; None if no other follows.

    Args:
        attempts: the attempts that ended, from 1.
        waits: the seconds after each attempt but the last.
        failed: how the last one ended.

    """
    if attempts > len(waits):
        return None
    wait = waits[attempts - 1] * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311 - no secret
    return max(wait, min(failed.not_before, max(waits)))
