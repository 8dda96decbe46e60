"""Events as server-sent events: a client that was cut off continues with `Last-Event-ID`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from starlette.responses import StreamingResponse

from abatch.service.replies import Refusal
from abatch.service.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from abatch.events import Event
    from abatch.service.state import State

__all__ = ["event_stream"]

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the journal."""
PING_EVERY: Final = 15.0
"""Seconds after which a silent stream gets a comment, so that proxies keep it open."""


def event_stream(request: Request) -> StreamingResponse:
    """Return the stream of events after `Last-Event-ID` or `since`; without them, of those that happen from now on."""
    given = request.headers.get("last-event-id") or request.query_params.get("since")
    if given is not None and not (given.isascii() and given.isdecimal() and len(given) < 20):
        raise Refusal(400, f"since must be the number of an event, got {given!r}")
    return StreamingResponse(
        _stream(state_of(request), None if given is None else int(given)), media_type="text/event-stream"
    )


async def _stream(state: State, since: int | None) -> AsyncIterator[bytes]:
    yield b": abatch\n\n"
    silent = 0.0
    if since is None:
        await state.view.refresh()
        since = state.view.seq
    while not state.stopping.is_set():
        async for event in state.view.events(since):
            yield _encoded(event)
            since, silent = event.seq, 0.0
        with anyio.move_on_after(LOOK_EVERY):
            await state.stopping.wait()
        silent += LOOK_EVERY
        if silent >= PING_EVERY:
            yield b": ping\n\n"
            silent = 0.0


def _encoded(event: Event) -> bytes:
    data = msgspec.json.encode({"kind": event.kind, **asdict(event)})
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.kind.encode(), data)
