"""The manager's wish to leave, and the attempts that still wait for their answer."""

from __future__ import annotations

import anyio

__all__ = ["Shutdown"]


class Shutdown:
    """The manager's wish to leave: nothing new begins; attempts past their commit point get `patience` seconds."""

    def __init__(self, patience: float = 30.0) -> None:
        self.wished = False
        self._patience = patience
        self._committed: dict[anyio.CancelScope, None] = {}  # in order, so that a simulated history is repeatable
        self._none = anyio.Event()

    def wish(self) -> None:
        """Ask to leave; calling it again is harmless."""
        self.wished = True
        deadline = anyio.current_time() + self._patience
        for scope in self._committed:
            scope.deadline = min(scope.deadline, deadline)

    def commit(self, scope: anyio.CancelScope) -> None:
        """This attempt passes its commit point: it is not cancelled from outside any more."""
        scope.shield = True
        self._committed[scope] = None
        if self.wished:
            scope.deadline = min(scope.deadline, anyio.current_time() + self._patience)

    def over(self, scope: anyio.CancelScope) -> None:
        """It has its answer, or will not have one."""
        self._committed.pop(scope, None)
        if not self._committed:
            self._none.set()

    async def answered(self) -> None:
        """Wait until no attempt waits for its answer."""
        while self._committed:
            self._none = anyio.Event()
            await self._none.wait()
