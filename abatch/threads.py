"""The one door to blocking work.

Everything that may block the event loop (files, SQLite, compression, long parsing) goes through `run`, so that
one place bounds the threads and a simulation can run the work inline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]

P = ParamSpec("P")
T = TypeVar("T")


async def run(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work` in a worker thread and return what it returns.

    The work is one unit: a cancellation comes before it or waits until it is done, so that nothing runs on unseen
    and no result is lost.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()
    with anyio.CancelScope(shield=True):
        return await anyio.to_thread.run_sync(lambda: work(*args, **kwargs))
    raise AssertionError("a shielded scope is not left early")
