"""The hooks that a subclass of the suite defines, and what opens connections with them."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from abatch.journal.log import FactLog

__all__ = ["Hooks"]


class Hooks:
    """Open, hold and fail the log under test."""

    facts: ClassVar[int] = 100_000
    """The number of facts that `test_many_facts_are_replayed_in_order_and_none_is_missing` appends."""

    async def open(self, *, drive: bool) -> FactLog:
        """Open the log under test as another process would; it is the same for all calls within a test.

        The first call of a test drives, and makes the log.
        """
        raise NotImplementedError

    def held(self, log: FactLog, /) -> AbstractAsyncContextManager[Callable[[], Awaitable[object]]]:
        """Hold the next append of this connection in its middle: its facts are written, but not durable yet.

        The block gets a function that waits until an append has arrived there. When the block ends, the append
        continues; it then fails if `fail_next_sync` was called before.
        """
        raise NotImplementedError

    def fail_next_sync(self, log: FactLog, /) -> None:
        """Let the next append of this connection fail as on a disk whose fsync fails.

        The subclass decides whether its facts exist afterwards, because a disk may have stored them or not.
        """
        raise NotImplementedError

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
