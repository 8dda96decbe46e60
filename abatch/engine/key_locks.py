"""One lock per key of a job, so that calls about the same job follow one another."""

from __future__ import annotations

from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

__all__ = ["KeyLocks"]


class KeyLocks:
    """The locks of the keys that are in use."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    @asynccontextmanager
    async def __call__(self, key: str) -> AsyncGenerator[None, None]:
        """Hold the lock of this key, which exists as long as a task holds it or waits for it."""
        lock = self._locks[key]
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)
