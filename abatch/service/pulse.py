"""How late the event loop is."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

import anyio

__all__ = ["Pulse"]

BEAT: Final = 1.0
KEPT: Final = 60
"""Beats that are remembered."""


class Pulse:
    """Measures how late the event loop is."""

    def __init__(self) -> None:
        self._due = time.monotonic()
        self._recent: deque[float] = deque(maxlen=KEPT)

    @property
    def late(self) -> float:
        """The number of seconds that the loop is late now."""
        return max(0.0, time.monotonic() - self._due)

    @property
    def worst(self) -> float:
        """The largest number of seconds that the loop was late in the last minute."""
        return max(self.late, *self._recent, 0.0)

    async def run(self) -> None:
        """Beat once a second, until it is cancelled."""
        while True:
            self._due = time.monotonic() + BEAT
            await anyio.sleep(BEAT)
            self._recent.append(self.late)
