"""What supervisors and monitors ask: whether the service is alive, whether it is ready, and its metrics.

It is alive while its event loop turns. It is ready while it drives its journal and can write there. An outage of the
API changes neither, because a restart would not help.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from abatch.service.replies import json
from abatch.service.state import state_of
from abatch.system import threads

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

__all__ = ["livez", "metrics", "readyz"]

LATE: Final = 5.0
"""Seconds that the event loop may be late."""


async def livez(request: Request) -> Response:
    """`GET /livez`: 200 if the event loop is less than five seconds late."""
    late = state_of(request).pulse.late
    return PlainTextResponse(
        "ok\n" if late < LATE else f"the event loop is {late:.1f} s late\n", 200 if late < LATE else 503
    )


async def readyz(request: Request) -> Response:
    """`GET /readyz`: 200 if the service drives its journal, and can write to its folder."""
    state = state_of(request)
    problems = [] if not state.stopping.is_set() else ["the service is ending"]
    if why := await threads.run(_why_not_writable, state.folder):
        problems.append(why)
    return json({"ready": not problems, "problems": problems}, 503 if problems else 200)


async def metrics(request: Request) -> Response:
    """`GET /metrics`: Prometheus' text format."""
    state = state_of(request)
    await state.view.refresh()
    text = state.metrics.exposition(
        state.view.jobs(), state.view.open_shards(), folder=state.folder, late=state.pulse.worst, now=time.time()
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def _why_not_writable(folder: Path) -> str:
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} cannot be written"
    return ""
