"""The hooks that a subclass of the suite defines, and steps that use them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from abatch.journal.log import FactLog

__all__ = ["Hooks"]


class Hooks:
    """Open, hold, fail and damage the log under test."""

    facts: ClassVar[int] = 100_000
    """The number of facts that `test_many_facts_are_replayed_in_order_and_none_is_missing` appends."""
    patience: ClassVar[float] = 60.0
    """The number of seconds after which the suite takes it that a call hangs."""

    # ---- defined by a subclass ----------------------------------------------------------------------------

    async def open(self, *, drive: bool) -> FactLog:
        """Open the log under test as another process would; it is the same for all calls within a test.

        The first call with `drive` makes the log.
        """
        raise NotImplementedError

    async def open_other(self) -> FactLog:
        """Make the log of another journal, and open it to drive. A test calls this once."""
        raise NotImplementedError

    def held(self, log: FactLog, /) -> AbstractAsyncContextManager[Callable[[], Awaitable[object]]]:
        """Hold the next write of this connection in its middle: its facts are written, but not durable yet.

        The block gets a function that waits until a write has arrived there. When the block ends, the write continues;
        it then fails if `fail_next_sync` was called before. Waits end with the block, too, even if no write arrived.
        """
        raise NotImplementedError

    def fail_next_sync(self, log: FactLog, /, *, skip: int = 0) -> None:
        """Let the next sync of this connection fail as on a disk whose fsync fails, or the next after `skip` others.

        A sync is what makes a write durable: an fsync, a commit, or a request to a server. The subclass decides whether
        the facts exist after it has failed, because a disk may have stored them or not.
        """
        raise NotImplementedError

    async def damage(self, seq: int, /) -> None:
        """Spoil the stored fact of this number, so that it cannot be read. No connection is open."""
        raise NotImplementedError

    # ---- the steps of the tests ---------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self, connections: int = 1) -> AsyncGenerator[list[FactLog]]:
        """Open this many connections for the duration of a block; the first drives."""
        async with AsyncExitStack() as closing:
            logs: list[FactLog] = []
            for number in range(connections):
                log = await self.open(drive=number == 0)
                closing.push_async_callback(log.aclose)
                logs.append(log)
            yield logs

    async def arrival(self, arrived: Callable[[], Awaitable[object]], call: asyncio.Future[Any]) -> None:
        """Wait until a call has arrived where it is held; fail if it ends before, or hangs."""
        waiting = asyncio.ensure_future(arrived())
        await asyncio.wait([waiting, call], timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done() and call.done():
            waiting.cancel()
            failure = None if call.cancelled() else call.exception()
            raise AssertionError("the call ended before it arrived where it is held") from failure
        if not waiting.done():
            waiting.cancel()
            raise AssertionError("the call hangs before it arrived where it is held")
        await waiting

    async def ended(self, call: asyncio.Future[Any], hangs: str) -> None:
        """Wait until a call has ended; fail with this text if it hangs."""
        await asyncio.wait([call], timeout=self.patience)
        assert call.done(), hangs
