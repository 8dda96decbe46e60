"""End the work of a command in good order at the first Ctrl-C or SIGTERM, and at once at the second."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio

from abatch.cli.exit_codes import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

__all__ = ["until_interrupted"]


async def until_interrupted(
    work: Callable[[], Awaitable[None]], *, first: Callable[[], None], second: Callable[[], None]
) -> None:
    """Do the work; the first SIGINT or SIGTERM cancels it, the second ends the process; the journal makes that safe.

    Args:
        work: must not raise, because the task group would wrap its exception.
        first: called at the first signal.
        second: called at the second signal, before the process ends.

    """
    async with anyio.create_task_group() as group:
        running = anyio.CancelScope()
        await group.start(_watch_signals, running, first, second)
        with running:
            await work()
        group.cancel_scope.cancel()


async def _watch_signals(
    running: anyio.CancelScope,
    first: Callable[[], None],
    second: Callable[[], None],
    *,
    task_status: TaskStatus[None],
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        is_interrupted = False
        async for _ in signals:
            if is_interrupted:
                second()
                os._exit(INTERRUPTED)
            is_interrupted = True
            running.cancel()
            first()
