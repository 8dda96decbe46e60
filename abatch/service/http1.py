"""HTTP/1.1 with bounds: a connection that does not send a complete head in time is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

if TYPE_CHECKING:
    import asyncio

__all__ = ["HEAD_BYTES", "BoundedProtocol"]

HEAD_SECONDS: Final = 15.0
HEAD_BYTES: Final = 32 * 1024


class BoundedProtocol(H11Protocol):
    """One connection; h11 limits the size of its heads, and this class their duration."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Begin to wait for a head if no call is under way."""
        if self._deadline is None and self._is_idle():
            self._begin()
        super().data_received(data)

    def handle_events(self) -> None:
        """End the wait when a head is complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # a head was complete
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait."""
        self._end()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = getattr(self, "cycle", None)  # declared as if there always were one
        return cycle is None or cycle.response_complete

    def _begin(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
