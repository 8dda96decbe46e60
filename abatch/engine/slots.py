"""A priority semaphore whose holders may sleep without their slot."""

from __future__ import annotations

from contextlib import asynccontextmanager
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

__all__ = ["SHORT_REST", "Postponed", "PrioritySlots"]

SHORT_REST: Final = 10.0
"""The maximum number of seconds that a holder may sleep without releasing its slot."""


class Postponed(Exception):
    """Too many drains are sleeping: release the slot, and retry after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class PrioritySlots:
    """Priority semaphore: `slots` holders, lowest rank first; up to `slots` more may sleep without one."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._may_sleep = slots
        self._queue: list[tuple[float, int, anyio.Event]] = []
        self._arrivals = count()

    @asynccontextmanager
    async def slot(self, rank: float) -> AsyncGenerator[Callable[[float], Awaitable[None]], None]:
        """Hold a slot during the block; yield a sleep function that releases the slot meanwhile."""
        holds = False

        async def take() -> None:
            nonlocal holds
            await self._take(rank)
            holds = True

        async def rest(seconds: float) -> None:
            nonlocal holds
            if not self._may_sleep:
                if seconds > SHORT_REST:
                    raise Postponed(seconds)
                await anyio.sleep(seconds)
                return
            self._may_sleep -= 1
            self._leave()
            holds = False
            try:
                await anyio.sleep(seconds)
                await take()
            finally:
                self._may_sleep += 1

        await take()
        try:
            yield rest
        finally:
            if holds:
                self._leave()

    async def _take(self, rank: float) -> None:
        if self._free:
            self._free -= 1
        else:
            mine = (rank, next(self._arrivals), anyio.Event())
            heappush(self._queue, mine)
            try:
                await mine[2].wait()
            except BaseException:
                if mine in self._queue:
                    self._queue.remove(mine)
                    heapify(self._queue)
                else:
                    self._leave()
                raise

    def _leave(self) -> None:
        if self._queue:
            heappop(self._queue)[2].set()
        else:
            self._free += 1
