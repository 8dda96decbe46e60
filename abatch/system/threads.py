"""The one door to blocking work, and work that no cancellation splits.

Everything that may block the event loop (files, SQLite, compression, long parsing) goes through `run`, so that
one place bounds the threads and a simulation can run the work inline.

A cancel scope of anyio holds its own cancellations back, but not `task.cancel()`, `asyncio.timeout` or the end of
`asyncio.run`. What must not be split is therefore a task of its own, which is awaited whatever comes: `whole`.
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
"""Worker threads at once: the disk has no use for more, and each keeps memory and wants the GIL."""
_limiters: RunVar[anyio.CapacityLimiter] = RunVar("abatch.system.threads")


async def run(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work` in a worker thread and return what it returns.

    The work is one unit: a cancellation comes before it or waits until it is done, so that nothing runs on unseen.
    One that waited is raised then, and the result dropped: what must be closed is opened by `opened`.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()
    return await whole(anyio.to_thread.run_sync(lambda: work(*args, **kwargs), limiter=_limiter()))


def _limiter() -> anyio.CapacityLimiter:
    """Of this event loop, and not the one that the application uses."""
    try:
        return _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(THREADS)
        _limiters.set(limiter)
        return limiter


async def opened(close: Callable[[T], object], work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Open something in a worker thread; if the caller is cancelled meanwhile, it is closed at once."""
    made: list[T] = []
    try:
        await run(lambda: made.append(work(*args, **kwargs)))
    except BaseException:
        for each in made:
            await clean_up(close, each)
        raise
    return made[0]


async def clean_up(work: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Do `work` in a worker thread even where everything is cancelled: it leaves nothing behind."""
    with anyio.CancelScope(shield=True):
        await run(work, *args, **kwargs)


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` to its end and return what it returns; a cancellation, of whatever kind, goes on after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as wish:
                cancelled = wish
    if cancelled is not None:
        if not task.cancelled():  # as all tasks are when the loop ends
            task.exception()  # asked for; the cancellation is what the caller hears
        try:
            raise cancelled
        finally:
            del cancelled, task  # break the cycle traceback → frame → result
    return task.result()
