"""What a drain asks its driver while it reads: to sleep, and whether the batch is given up."""

from __future__ import annotations

from typing import Protocol

import anyio

__all__ = ["Alone", "Presence"]


class Presence(Protocol):
    """Answers what a drain asks while it reads one batch."""

    async def rest(self, seconds: float, /) -> None:
        """Sleep, but no longer than until the batch is given up."""
        ...

    async def missed(self) -> str:
        """Note that the batch and its results are a 404; why they are given up, empty while they are not."""
        ...

    async def seen(self) -> None:
        """Note that the API shows the batch, or its results."""
        ...

    def given_up(self) -> str:
        """Why somebody gave the batch up; empty if nobody did."""
        ...


class Alone:
    """The presence of a batch that nobody gives up."""

    async def rest(self, seconds: float, /) -> None:
        """Sleep."""
        await anyio.sleep(seconds)

    async def missed(self) -> str:
        """Wait on."""
        return ""

    async def seen(self) -> None:
        """Go on."""

    def given_up(self) -> str:
        """Nobody did."""
        return ""
