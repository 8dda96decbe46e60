"""Shut a manager down, but let attempts past their commit point wait for their answer."""

from __future__ import annotations

import anyio

__all__ = ["Shutdown"]


class Shutdown:
    """The shutdown of a manager: nothing new begins, and attempts past their commit point get `patience` seconds."""

    def __init__(self, patience: float = 30.0) -> None:
        self.wished = False
        self._patience = patience
        # A dict keeps the order of its keys, so that a simulated history is repeatable.
        self._committed: dict[anyio.CancelScope, None] = {}
        self._none = anyio.Event()

    def wish(self) -> None:
        """Begin the shutdown; calling this again is harmless."""
        self.wished = True
        deadline = anyio.current_time() + self._patience
        for scope in self._committed:
            scope.deadline = min(scope.deadline, deadline)

    def commit(self, scope: anyio.CancelScope) -> None:
        """Note that an attempt passes its commit point, and shield it from cancellation from outside."""
        scope.shield = True
        self._committed[scope] = None
        if self.wished:
            scope.deadline = min(scope.deadline, anyio.current_time() + self._patience)

    def over(self, scope: anyio.CancelScope) -> None:
        """Note that an attempt has its answer, or will not get one."""
        self._committed.pop(scope, None)
        if not self._committed:
            self._none.set()

    async def answered(self) -> None:
        """Wait until no attempt waits for its answer."""
        while self._committed:
            self._none = anyio.Event()
            await self._none.wait()
