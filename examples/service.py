"""abatch in FastAPI under uvicorn: jobs by HTTP, their status, and their results as server-sent events.

SIGTERM ends the service within seconds, also while clients read results: uvicorn first waits for its connections, and
then ends the application, so the signal handler closes the manager, and the readers of results get `ManagerClosed`.
Try it:

    abatch sandbox &
    export ANTHROPIC_BASE_URL=http://127.0.0.1:8790 ANTHROPIC_API_KEY=sandbox-key
    uvicorn examples.service:app
    curl -X PUT http://127.0.0.1:8000/topics/herons
    curl http://127.0.0.1:8000/topics/herons
    curl http://127.0.0.1:8000/topics/herons/results
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from types import FrameType
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from abatch import BatchManager, Job, JobNotFound, ManagerClosed


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
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start and leave the manager with the application. Unfinished jobs of the last run continue automatically."""
    async with BatchManager(journal="service.abatch") as manager:
        app.state.manager = manager
        with closed_by_sigterm(manager):
            yield


def manager_of(request: Request) -> BatchManager:
    """Return the manager of the application."""
    manager: BatchManager = request.app.state.manager
    return manager


app = FastAPI(lifespan=lifespan)
Manager = Annotated[BatchManager, Depends(manager_of)]


class Status(BaseModel):
    """The state of one topic."""

    state: str
    requests: int | None
    answered: int
    failed: int
    eta: datetime | None
    reason: str
    remedy: str


def questions(topic: str) -> list[dict[str, object]]:
    """Return the requests of one topic."""
    return [
        {
            "custom_id": f"{topic}/{number}",
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 100,
                "messages": [{"role": "user", "content": f"Fact number {number} about {topic}, in one sentence."}],
            },
        }
        for number in range(1, 51)
    ]


def job_of(manager: BatchManager, topic: str) -> Job:
    """Return the job of a topic."""
    try:
        return manager.job(f"facts-{topic}")
    except JobNotFound as unknown:
        raise HTTPException(404, f"no facts about {topic} were asked for") from unknown


@app.put("/topics/{topic}", status_code=202)
async def ask(manager: Manager, topic: str) -> Status:
    """Submit the job of a topic. The same topic again is the same job, so a client may repeat the call."""
    return status_of(await manager.submit(questions(topic), to="facts.db", key=f"facts-{topic}"))


@app.get("/topics/{topic}")
async def status(manager: Manager, topic: str) -> Status:
    """Report the state of a topic."""
    return status_of(job_of(manager, topic))


def status_of(job: Job) -> Status:
    """Return what a client may know of a job."""
    progress = job.progress()
    return Status(
        state=job.state,
        requests=progress.wanted,
        answered=progress.sealed,
        failed=progress.failed,
        eta=job.eta,
        reason=job.reason,
        remedy=job.remedy,
    )


@app.get("/topics/{topic}/results")
async def results(manager: Manager, topic: str) -> StreamingResponse:
    """Stream every result of a topic as it arrives, as server-sent events."""
    return StreamingResponse(events(job_of(manager, topic)), media_type="text/event-stream")


async def events(job: Job) -> AsyncIterator[bytes]:
    """Yield the results of a job, and `done` after the last one; a client that was cut off asks again."""
    yield b": results follow\n\n"
    try:
        async for result in job.results():
            yield b"event: result\ndata: " + result.raw + b"\n\n"
    except ManagerClosed:
        return
    yield b"event: done\ndata: {}\n\n"
