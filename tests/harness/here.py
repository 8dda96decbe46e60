"""A whole job in this process, against a machine without a socket whose clock goes on with each call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from anthropic import AsyncAnthropic
from httpx2 import AsyncBaseTransport, AsyncClient, Request, Response

from abatch import BatchManager, Summary
from abatch.sandbox.api import Machine, Settings
from abatch.sandbox.transport import URL, MachineTransport
from abatch.testing.crash import CrashPoints
from tests.e2e.jobs import config
from tests.harness.bench import memory
from tests.harness.secrets import KEY


@dataclass(frozen=True, slots=True)
class OpenRows:
    """The rows of an open job: put by threes, then it is closed."""

    rows: list[dict[str, Any]]


class Server:
    """A machine whose clock goes on a second with each call, so that every grace passes; or as long as `each_call`."""

    def __init__(self, settings: Settings | None = None, *, each_call: timedelta = timedelta(0)) -> None:
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        self.machine = Machine(clock=self._tick, rng=Random(5), settings=settings)
        self.each_call = each_call
        self.submitting: dict[str, Any] = {}
        """Further arguments of `submit`."""
        self.acknowledged: list[str] = []
        """The custom_ids of requests that were put into an open job."""

    def _tick(self) -> datetime:
        self.now += timedelta(seconds=0.5)
        return self.now

    async def run(self, path: Path | OpenRows, to: str, crash: CrashPoints | None = None, **more: Any) -> Summary:
        """Hand the job over and wait for its end."""
        transport: AsyncBaseTransport = _Hurried(self)
        if crash is not None:
            transport = crash.wrap(transport)
        async with AsyncClient(transport=transport) as http:
            client = AsyncAnthropic(api_key=KEY, base_url=URL, http_client=http)
            quick: dict[str, Any] = {
                "poll_interval": timedelta(milliseconds=10),
                "poll_interval_max": timedelta(milliseconds=10),
                **more,
            }
            async with BatchManager(client=client, config=config(requests_per_batch=8, **quick)) as manager:
                if isinstance(path, OpenRows):
                    return await self._put(manager, path.rows, to)
                job = await manager.submit(path, to=to, key="job", **self.submitting)
                return await job.wait()

    async def _put(self, manager: BatchManager, rows: list[dict[str, Any]], to: str) -> Summary:
        job = await manager.open_job("job", to=to, linger=timedelta(milliseconds=5))
        for first in range(0, len(rows), 3):
            some = rows[first : first + 3]
            if not job.closed:  # by a run that died
                await job.put_many(some)
            self.acknowledged += [row["custom_id"] for row in some]
        await job.close()
        return await job.wait()


class _Hurried(MachineTransport):
    """Lets time pass between two calls."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.machine)
        self._server = server

    async def handle_async_request(self, request: Request) -> Response:
        self._server.now += self._server.each_call
        return await super().handle_async_request(request)


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory if there is room: the death of a process loses nothing that was written, synced or not."""
    with tempfile.TemporaryDirectory(prefix="abatch-crash-", dir=memory(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)
