"""The interface through which a drain sleeps, and learns whether its batch is given up."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Presence"]


class Presence(Protocol):
    """The services of a driver for a drain that reads one batch."""

    async def rest(self, seconds: float, /) -> None:
        """Sleep, but wake when the batch is given up."""
        ...

    async def missed(self) -> str:
        """Note that the batch and its results return 404; return why they are given up, or an empty string."""
        ...

    def unread(self, why: str, /) -> None:
        """Note why the results could not be read completely, for the status."""
        ...

    async def seen(self) -> None:
        """Note that the API shows the batch, or its results."""
        ...

    def given_up(self) -> str:
        """Return why an operator gave the batch up; empty if it is not given up."""
        ...
