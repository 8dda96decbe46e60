"""A presence without a driver, for drains that are tested alone."""

from __future__ import annotations

import anyio

__all__ = ["Alone"]


class Alone:
    """The presence of a drain whose batch is always visible and never given up."""

    async def rest(self, seconds: float, /) -> None:
        """Sleep."""
        await anyio.sleep(seconds)

    async def missed(self) -> str:
        """Ignore the miss."""
        return ""

    def unread(self, why: str, /) -> None:
        """Ignore the reason."""

    async def seen(self) -> None:
        """Ignore the batch."""

    def given_up(self) -> str:
        """Return an empty string."""
        return ""
