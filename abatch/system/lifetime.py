"""Hold a block open in a separate task, so that a different task may leave it than the one that entered it.

A task group must be left by the task that entered it. A fixture of pytest-asyncio and a cell of a notebook run each
step in a different task. So one task of ours enters and leaves the block itself, and waits in between.

Failures reach the task that called `enter` as if it had entered the block itself: a failure inside cancels that task at
once, and `leave` raises the failure. A cancellation of the task that enters or leaves is raised once the block is
closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

__all__ = ["Lifetime"]


class Lifetime:
    """One block, which is entered once and left once."""

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
            BaseException: the error that the block raised on entry; nothing is open then.

        """
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._guest = asyncio.current_task()
        self._owner = asyncio.create_task(self._live(opened), name="abatch.system.lifetime")
        try:
            await asyncio.wait([self._owner, opened], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._leaving.set()  # this task is cancelled already, so `_cancel_guest` must not cancel it again
            self._owner.cancel()
            await self._closed()
            self._failure()  # retrieve the failure, or asyncio logs it; the caller gets the cancellation
            raise
        if not opened.done():
            await self._owner

    def begin_to_leave(self) -> None:
        """Let the block end without waiting for it; `leave` must still be called."""
        self._leaving.set()

    def check_loop(self, call: str) -> None:
        """Refuse a call from another event loop than the one that entered: it would wait forever, or break the block.

        Code that runs in no event loop is not refused, because it may look but cannot wait.

        Raises:
            RuntimeError: the call comes from another event loop.

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
        """Leave the block, from any task of the event loop that entered it, and wait until it is closed.

        A cancellation of this task does not end the wait.

        Raises:
            RuntimeError: the call comes from another event loop while the block is open.
            BaseException: the failure in the block.
            CancelledError: this task was cancelled while it waited, and nothing failed.

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
                self._guest.uncancel()  # this was our own cancellation, which is replaced by the failure
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
        """Wait for the end of the block, and return a cancellation of this task that came while it waited."""
        assert self._owner is not None
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            waited = False
            while not (waited and self._owner.done()):  # wait at least once, so that a pending cancellation arrives
                try:
                    await asyncio.wait([self._owner])
                except asyncio.CancelledError as wish:
                    cancelled = wish
                waited = True
        return cancelled

    def _failure(self) -> BaseException | None:
        """Return the error that ended the block; None if it ended well."""
        assert self._owner is not None
        return asyncio.CancelledError() if self._owner.cancelled() else self._owner.exception()
