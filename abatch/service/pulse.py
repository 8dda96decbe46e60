"""How late the event loop is."""

from __future__ import annotations

import time
from typing import Final

import anyio

__all__ = ["Pulse"]

BEAT: Final = 1.0


class Pulse:
    """Measures how late the event loop is."""

    def __init__(self) -> None:
        self._due = time.monotonic()

    @property
    def late(self) -> float:
        """The number of seconds that the loop is late now."""
        return max(0.0, time.monotonic() - self._due)

    async def run(self) -> None:
        """Beat once a second, until it is cancelled."""
        while True:
            self._due = time.monotonic() + BEAT
            await anyio.sleep(BEAT)
