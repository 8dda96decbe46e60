"""The single entry to blocking work, and work that no cancellation interrupts.

Everything that may block the event loop (files, SQLite, compression, long parsing) goes through `run`, so that
one place limits the threads and a simulation can run the work inline.

A shielded cancel scope of anyio holds back the cancellations of anyio, but not `task.cancel()`, `asyncio.timeout` or
the end of `asyncio.run`. So work that must not be interrupted runs in a separate task, which `whole` awaits to its end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["clean_up", "opened", "run", "whole"]

P = ParamSpec("P")
T = TypeVar("T")
THREADS: Final = 8
"""The number of worker threads: the disk is not faster with more, and each needs memory and the GIL."""
_limiters: RunVar[anyio.CapacityLimiter] = RunVar("abatch.system.threads")


async def run(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work` in a worker thread and return its result.

    A cancellation takes effect before the work or after it, never during it, so that no work continues unnoticed. After
    the work the cancellation is raised and the result is dropped. So use `opened` for a result that must be closed.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()
    return await whole(anyio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=_limiter()))


def _limiter() -> anyio.CapacityLimiter:
    """Return the limiter of this event loop, which is separate from the application's."""
    try:
        return _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiters.set(limiter)
        return limiter


async def opened(close: Callable[[T], object], work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Open something in a worker thread; if the caller is cancelled during that time, close it at once."""
    made: list[T] = []
    try:
        await run(lambda: made.append(work(*args, **kwargs)))
    except BaseException:
        for each in made:
            await clean_up(close, each)
        raise
    return made[0]


async def clean_up(work: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Do `work` in a worker thread even if the caller is cancelled, so that nothing is left behind."""
    with anyio.CancelScope(shield=True):
        await run(work, *args, **kwargs)


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end and return its result; a cancellation of any kind is raised after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as wish:
                cancelled = wish
    if cancelled is not None:
        if not task.cancelled():  # the end of the loop cancels every task
            task.exception()  # retrieve the failure, or asyncio logs it; the caller gets the cancellation
        try:
            raise cancelled
        finally:
            del cancelled, task  # break the cycle traceback → frame → result
    return task.result()
