"""abatch inside a service: one manager for the life of the application, which submits jobs for its requests.

A framework calls `lifespan` (Starlette and FastAPI accept it unchanged); `main` plays the framework. Try it:

    abatch sandbox &
    export ANTHROPIC_BASE_URL=http://127.0.0.1:8790 ANTHROPIC_API_KEY=sandbox-key
    python examples/embed.py
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import structlog

from abatch import BatchManager, JobStopped, Request
from abatch.log import redact

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def lifespan(app: SimpleNamespace) -> AsyncIterator[None]:
    """Start and leave the manager with the application. Unfinished jobs of the last run continue automatically."""
    async with BatchManager(journal="service.abatch") as manager:
        app.manager = manager
        yield


async def questions(topic: str) -> AsyncIterator[Request]:
    """Yield the requests of one job from the place where the application keeps them."""
    for number in range(1, 51):
        text = f"Fact number {number} about {topic}, in one sentence."
        yield Request(
            custom_id=f"{topic}/{number}",
            params={
                "model": "claude-haiku-4-5",
                "max_tokens": 100,
                "messages": [{"role": "user", "content": text}],
            },
        )


async def ask(app: SimpleNamespace, topic: str) -> str:
    """Run one job, as a handler does. The same key again resumes the job, or finds it done."""
    job = await app.manager.submit(questions(topic), to="sqlite:///facts.db", key=f"facts-{topic}")
    try:
        summary = await job.wait()
    except JobStopped as stop:
        return f"{topic}: stopped. {stop.reason}. {stop.remedy}"
    return f"{topic}: {summary.succeeded} of {summary.requests}, ${summary.cost or 0:.4f}"


async def main() -> None:
    """Serve two callers at once."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            redact,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    app = SimpleNamespace()
    async with lifespan(app):
        for report in await asyncio.gather(ask(app, "herons"), ask(app, "lighthouses")):
            sys.stdout.write(f"{report}\n")


if __name__ == "__main__":
    asyncio.run(main())
