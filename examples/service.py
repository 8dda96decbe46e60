"""abatch behind HTTP, in Starlette under uvicorn: SIGTERM ends it at once, also while clients read results.

uvicorn first waits for its connections, and then ends the application. So the signal handler closes the manager:
readers of results get `ManagerClosed`, and their connections end. Try it:

    abatch sandbox &
    export ANTHROPIC_BASE_URL=http://127.0.0.1:8790 ANTHROPIC_API_KEY=sandbox-key
    uvicorn examples.service:app
    curl http://127.0.0.1:8000/results
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from abatch import BatchManager, ManagerClosed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import FrameType

    from starlette.requests import Request

    from abatch import Job

REQUESTS = [
    {
        "custom_id": f"fact/{number}",
        "params": {
            "model": "claude-haiku-4-5",
            "max_tokens": 100,
            "messages": [{"role": "user", "content": f"Fact number {number} about herons, in one sentence."}],
        },
    }
    for number in range(1, 51)
]


@contextmanager
def closed_by_sigterm(manager: BatchManager) -> Iterator[None]:
    """Close the manager as soon as SIGTERM arrives, then call the server's own handler."""
    loop = asyncio.get_running_loop()
    servers_handler = signal.getsignal(signal.SIGTERM)

    def close(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(manager.close)
        if callable(servers_handler):
            servers_handler(number, frame)

    signal.signal(signal.SIGTERM, close)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, servers_handler)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Start and leave the manager with the application."""
    async with BatchManager(journal="service.abatch") as manager:
        app.state.manager = manager
        with closed_by_sigterm(manager):
            yield


async def results(request: Request) -> StreamingResponse:
    """Stream every result of the job as it arrives, as JSON lines."""
    manager: BatchManager = request.app.state.manager
    job = await manager.submit(REQUESTS, to="facts.db", key="facts")
    return StreamingResponse(lines(job), media_type="application/x-ndjson")


async def lines(job: Job) -> AsyncIterator[bytes]:
    """Yield the lines of a job; a client that was cut off asks again."""
    yield b"\n"
    try:
        async for result in job.results():
            yield result.raw + b"\n"
    except ManagerClosed:
        return


app = Starlette(routes=[Route("/results", results)], lifespan=lifespan)
