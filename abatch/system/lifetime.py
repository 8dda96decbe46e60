"""Hold a block open in a task of its own, so that it can be left from another task than the one that entered it.

A task group must be left by the task that entered it. A fixture of pytest-asyncio and a cell of a notebook run each
step in another task, so the block itself is entered and left by one task of ours, which waits in between.

Two things reach the task that entered as they would if the block stood in it: what fails inside cancels it at once,
and `leave` raises the failure. A cancellation of the task that enters or leaves is raised once the block is closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

__all__ = ["Lifetime"]


class Lifetime:
    """One block, entered once and left once."""

    def __init__(self, block: AbstractAsyncContextManager[object]) -> None:
        self._block = block
        self._leaving = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        """Enters the block, waits, and leaves it."""
        self._guest: asyncio.Task[object] | None = None
        """The task that called `enter`; its code runs between `enter` and `leave`."""
        self._guest_cancelled = False

    async def enter(self) -> None:
        """Enter the block.

        Raises:
            BaseException: what the block raises when it is entered; nothing is open then.

        """
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._guest = asyncio.current_task()
        self._owner = asyncio.create_task(self._live(opened), name="abatch.system.lifetime")
        try:
            await asyncio.wait([self._owner, opened], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._leaving.set()  # this task is cancelled already: `_cancel_guest` must not do it again
            self._owner.cancel()
            await self._closed()
            self._failure()  # the cancellation is what the caller gets
            raise
        if not opened.done():
            await self._owner

    def begin_to_leave(self) -> None:
        """Let the block end, without waiting for it; `leave` is still to be called."""
        self._leaving.set()

    def check_loop(self, call: str) -> None:
        """Refuse a call from another event loop than the one that entered: it would wait for ever, or break the block.

        Code that runs in no event loop is not refused: it may look, and cannot wait.

        Raises:
            RuntimeError: it comes from another event loop.

        """
        assert self._owner is not None
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return
        if here is not self._owner.get_loop():
            raise RuntimeError(
                f"{call} is called from another event loop than the one that entered the block; from another thread "
                "use asyncio.run_coroutine_threadsafe(call, loop), and not one asyncio.run() for each call"
            )

    async def leave(self) -> None:
        """Leave the block, from any task of the event loop that entered, and wait until it is closed, whatever comes.

        Raises:
            RuntimeError: it is left from another event loop while it is open.
            BaseException: what failed in the block.
            CancelledError: this task was cancelled meanwhile, and nothing failed.

        """
        assert self._owner is not None
        if self._owner.done() and self._owner.get_loop().is_closed():
            if not self._owner.cancelled() and (failure := self._owner.exception()) is not None:
                raise failure
            return  # the loop that entered has ended, and closed the block before that
        self.check_loop("leaving")
        self._leaving.set()
        cancelled = await self._closed()
        failure = self._failure()
        try:
            if failure is None:
                if cancelled is not None:
                    raise cancelled
                return
            if self._guest_cancelled and self._guest is asyncio.current_task() and self._guest is not None:
                self._guest.uncancel()  # that was our own, to say what is raised here
            raise failure from None
        finally:
            del cancelled, failure  # break the cycle from traceback to frame to error

    async def _live(self, opened: asyncio.Future[None]) -> None:
        async with self._block:
            opened.set_result(None)
            try:
                await self._leaving.wait()
            except asyncio.CancelledError:  # something failed in the block, or the event loop ends
                self._cancel_guest()
                raise

    def _cancel_guest(self) -> None:
        """Interrupt the code between `enter` and `leave`, if the task that entered is still there."""
        if self._guest is not None and not self._guest.done() and not self._leaving.is_set():
            self._guest_cancelled = True
            self._guest.cancel()

    async def _closed(self) -> asyncio.CancelledError | None:
        """Wait for the end of the block; a cancellation that came meanwhile."""
        assert self._owner is not None
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            waited = False
            while not (waited and self._owner.done()):  # at least once: a cancellation that is on its way arrives here
                try:
                    await asyncio.wait([self._owner])
                except asyncio.CancelledError as wish:
                    cancelled = wish
                waited = True
        return cancelled

    def _failure(self) -> BaseException | None:
        """What the block ended with."""
        assert self._owner is not None
        return asyncio.CancelledError() if self._owner.cancelled() else self._owner.exception()
