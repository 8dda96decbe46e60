"""Retry a job's storage while it fails temporarily, until the job's patience is over.

All shards of a job share one outage. It begins with the first failure, and ends with the next step that succeeds: a
shard is sealed, or the destination is finished or connected. During an outage every shard that failed waits for the
same moment, the waits between these moments double, and shards that do not use the storage continue.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from abatch.errors import BackendError
from abatch.journal.status import StorageDown
from abatch.log import log
from abatch.protocol.pacing import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from abatch.config import Config

__all__ = ["Outage"]

T = TypeVar("T")

LONGEST_WAIT: Final = 60.0
"""The maximum number of seconds between two tries."""


class Outage:
    """The outage of one job's storage, if there is one: when it began, and how long to wait."""

    def __init__(self, job: str, config: Config) -> None:
        self._job = job
        self._patience = config.storage_patience.total_seconds()
        self._waits = Backoff(first=config.storage_retry_every.total_seconds(), most=LONGEST_WAIT)
        self._began: float | None = None
        self._next_try = 0.0
        self.down: StorageDown | None = None
        """For the driver status: why the storage is not available, and since when."""

    async def wait(self, failure: BackendError) -> None:
        """Wait until the storage should be tried again after this failure.

        Raises:
            BackendError: the failure is permanent, or the storage has failed for longer than the job's patience.

        """
        if not failure.passes or not self._patience:
            raise failure
        now = anyio.current_time()
        if self._began is None:
            self._began = now
            since = time.time()
            self.down = StorageDown(job=self._job, since=since, why=failure.why, until=since + self._patience)
        deadline = self._began + self._patience
        if now >= deadline:
            why = f"{failure.why}. It has failed for {now - self._began:.0f} seconds; run again when it is available"
            raise BackendError(failure.url, why, passes=True) from failure
        if now >= self._next_try:  # This is the first of the shards that failed in this try.
            wait = min(self._waits.next(), deadline - now)
            self._next_try = now + wait
            log.warning(
                "storage_unavailable",
                job=self._job,
                why=failure.why,
                seconds=round(now - self._began, 1),
                next_in_seconds=round(wait, 1),
            )
        await anyio.sleep(self._next_try - now)

    def over(self) -> None:
        """Note that the storage works: the next failure begins another outage."""
        if self._began is not None:
            log.info("storage_available", job=self._job, seconds=round(anyio.current_time() - self._began, 1))
            self._began = None
            self._next_try = 0.0
            self.down = None
            self._waits.reset()

    async def survive(self, step: Callable[[], Awaitable[T]], /) -> T:
        """Do a repeatable step of the storage, and retry it until it succeeds.

        Raises:
            BackendError: the failure is permanent, or the storage has failed for longer than the job's patience.

        """
        while True:
            try:
                done = await step()
            except BackendError as failure:
                await self.wait(failure)
            else:
                self.over()
                return done
