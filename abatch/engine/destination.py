"""Connect, read and close the destination of one job.

A destination with a URL is connected when it is first needed. Once its job is finished and its run is over, it is
closed as soon as it has no reader, and a later reader reconnects it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from abatch import backend as backends
from abatch.engine.sealing import sealed_of
from abatch.errors import BackendError
from abatch.log import log
from abatch.system import threads
from abatch.system.paths import is_local

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from abatch.backend import Backend, JobRef, Sealed
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["Destination"]


class Destination:
    """The destination of one job, with its backend while that is connected.

    Args:
        ledger: the journal's jobs.
        job: the job.
        url: the URL to connect to; None if the backend is an object of the caller's, which may not be known yet.

    """

    def __init__(self, ledger: Ledger, job: JobRecord, url: str | None) -> None:
        self._ledger = ledger
        self._job = job
        self.url = url
        self._backend: Backend | None = None
        self._connecting = anyio.Lock()
        self._readers = 0
        self._users = 0
        """The number of blocks of `in_use` that were entered and not left."""
        self._assembled = False
        """Whether `finish` was called on the connected backend after the job was finished."""

    def ref(self) -> JobRef:
        """Return the job as backends know it."""
        ledger = self._ledger
        return backends.JobRef(
            key=self._job.key,
            lineage=ledger.lineage.name,
            finished=self._job.finished is not None,
            missing=ledger.folder.missing_lists(self._job.missing_shards),
            listed=self._job.listed,
        )

    def use(self, backend: Backend) -> None:
        """Use the caller's own backend."""
        self._backend = backend

    @property
    def connected(self) -> Backend | None:
        """The backend, if one is connected now."""
        return self._backend

    @property
    def is_unknown(self) -> bool:
        """Whether the backend is an object of the caller's that this process does not have."""
        return self._backend is None and self.url is None

    async def backend(self) -> Backend | None:
        """Return the job's backend and connect it if necessary; None if only the caller has it.

        Raises:
            BackendError: the destination cannot be used.

        """
        async with self._connecting:
            if self._backend is None and self.url is not None:
                self._backend = await backends.connect(self.url, self.ref())
            return self._backend

    async def _known_backend(self) -> Backend:
        backend = await self.backend()
        if backend is None:
            why = "its backend is an object of the application: submit the job again with it"
            raise BackendError(self._job.key, why)
        return backend

    @asynccontextmanager
    async def in_use(self) -> AsyncGenerator[None, None]:
        """Keep the backend connected during the block, even if the job is finished and has no reader."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            await self._close_if_idle()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[Backend, None]:
        """Hold the backend ready to read sealed shards during the block.

        Raises:
            BackendError: the destination is not what it was, or only the caller has its backend.

        """
        self._readers += 1
        try:
            backend = await self._known_backend()
            if self._job.finished is not None and not self._assembled:
                await self.assemble(backend, await self.sealed())
            yield backend
        finally:
            self._readers -= 1
            await self._close_if_idle()

    @asynccontextmanager
    async def rewriting(self) -> AsyncGenerator[Backend, None]:
        """Hold the backend during the block, with the destination claimed as for a job that is not finished.

        Raises:
            BackendError: the destination is not free or is being read, or only the caller has the backend.

        """
        if self._job.finished is not None and self.url is not None:
            async with self._connecting:
                if self._readers:
                    raise BackendError(self._job.key, "its results are being read; try again once that is over")
                await self._close(self._backend)
                self._backend = None  # Otherwise a failure to connect would leave a closed backend here.
                self._backend = await backends.connect(self.url, replace(self.ref(), finished=False, reopened=True))
        self._readers += 1
        try:
            backend = await self._known_backend()
            yield backend
        finally:
            self._readers -= 1
            await self._close_if_idle()

    async def assemble(self, backend: Backend, sealed: list[Sealed]) -> None:
        """Finish the destination of a job whose `Finished` fact is recorded; this is repeatable."""
        await backend.finish(self.ref(), sealed)
        self._assembled = True

    async def check(self) -> BackendError | None:
        """Assemble the destination of a finished job again; return the failure, if there is one."""
        self._assembled = False
        try:
            async with self.reading():
                return None
        except BackendError as failure:
            return failure

    async def sealed(self) -> list[Sealed]:
        """Return the sealed shards in the order of their parts."""
        full = await self._ledger.in_full(self._job)
        records = [shard.sealed for shard in full.shards.values()]
        return [sealed_of(each) for each in sorted(filter(None, records), key=lambda each: each.part)]

    async def sealed_since(self, given: int) -> list[Sealed]:
        """Return the readable shards in sealing order, after the first `given`, up to one that is being redrained."""
        if given >= self._job.sealed_count:
            return []
        full = await self._ledger.in_full(self._job)
        found: list[Sealed] = []
        for number in full.sealed_order[given:]:
            if (record := full.shards[number].sealed) is None:
                break
            found.append(sealed_of(record))
        return found

    async def tidy(self) -> None:
        """Finish the cleanup on this machine that a run left undone when it died just after the end of the job."""
        if not is_local(self._job.to) or not await threads.run(Path(self._job.location).exists):
            return
        try:
            async with self.reading():
                pass
        except BackendError as failure:  # It was moved or is not available, but the job does not depend on the cleanup.
            log.info("backend_not_tidied", job=self._job.key, why=failure.why)

    async def move_to(self, url: str) -> None:
        """Use another destination from now on; the run must be paused."""
        closing = self._detach()
        self.url = url
        await self._close(closing)

    async def aclose(self) -> None:
        """Close the backend; sealed shards do not depend on it."""
        await self._close(self._backend)

    async def _close_if_idle(self) -> None:
        """Close the backend of a finished job that has no reader; a later reader reconnects."""
        if self._job.finished is not None and not self._users and not self._readers and self.url is not None:
            closing = self._detach()  # Detach first, so that a concurrent reader opens its own connection.
            with anyio.CancelScope(shield=True):
                await self._close(closing)

    def _detach(self) -> Backend | None:
        backend, self._backend = self._backend, None
        self._assembled = False
        return backend

    async def _close(self, backend: Backend | None) -> None:
        if backend is not None:
            try:
                await backend.aclose()
            except Exception as failure:  # noqa: BLE001 - a backend may raise anything; the others must be closed, too
                log.warning("backend_not_closed", job=self._job.key, error=type(failure).__name__)
