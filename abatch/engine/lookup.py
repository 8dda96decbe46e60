"""Wait for single results of one job by custom_id; any number of callers share one look at the destination."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from abatch.backend import Lookup
from abatch.errors import ConfigError, NoResult, RequestNotFound
from abatch.journal.missing import read_reasons
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from abatch.engine.destination import Destination
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

__all__ = ["ResultLookup"]

AT_ONCE: Final = 1_000
"""custom_ids that a backend looks for in one call."""


class ResultLookup:
    """The callers of one process that wait for single results of one open job.

    Args:
        ledger: the journal's jobs.
        job: the job.
        destination: the destination of the job, whose backend must have the optional method `find`.
        changed: waits for a change of the job; if not given, for its next fact.

    """

    def __init__(
        self,
        ledger: Ledger,
        job: JobRecord,
        destination: Destination,
        *,
        changed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._job = job
        self._destination = destination
        self._changed = changed or job.change
        self._turn = anyio.Lock()
        self._callers: dict[str, int] = {}
        """The number of callers that wait for each request."""
        self._looked: dict[str, int] = {}
        """For each of these requests: how many shards were sealed when it was last looked for."""
        self._found: dict[str, bytes] = {}
        self._missing: dict[str, str] = {}
        """Why requests of the job have no result."""
        self._lists_read: set[int] = set()
        """Shards whose list of missing requests was read."""

    async def line(self, custom_id: str, *, check: Callable[[], None]) -> bytes:
        """Wait for the line of a request.

        Args:
            custom_id: the request.
            check: called before each wait; it raises if the job cannot continue, or has ended.

        Raises:
            RequestNotFound: no request with this custom_id was put.
            NoResult: the request ended without a result.
            ConfigError: the destination cannot find single results.
            BackendError: the destination cannot be used.
            Exception: whatever `check` raises.

        """
        job = self._job
        known = False
        with self._waiting(custom_id):
            while True:
                while self._looked[custom_id] < job.sealed_count and custom_id not in self._found:
                    async with self._turn:
                        if self._looked[custom_id] < job.sealed_count:
                            await self._look()
                if custom_id in self._found:
                    return self._found[custom_id]
                if (reason := self._missing.get(custom_id)) is not None:
                    raise NoResult(job.key, custom_id, reason)
                if not known:
                    if not await self._ledger.facts.was_put(job.job, msgspec.json.encode(custom_id)):
                        raise RequestNotFound(job.key, custom_id)
                    known = True
                    continue  # More may have been sealed meanwhile.
                check()
                await self._changed()

    @contextmanager
    def _waiting(self, custom_id: str) -> Generator[None]:
        self._callers[custom_id] = self._callers.get(custom_id, 0) + 1
        self._looked.setdefault(custom_id, 0)
        try:
            yield
        finally:
            self._callers[custom_id] -= 1
            if not self._callers[custom_id]:
                del self._callers[custom_id], self._looked[custom_id]
                self._found.pop(custom_id, None)

    async def _look(self) -> None:
        """Look for every request that a caller waits for, in all that is sealed by now."""
        job = self._job
        sealed = job.sealed_count
        wanted = [custom_id for custom_id in self._callers if custom_id not in self._found]
        found: dict[str, bytes] = {}
        async with self._destination.reading() as backend:
            if not isinstance(backend, Lookup):
                raise ConfigError(
                    f"the destination of job {job.key!r} does not find single results; read them all with results(), "
                    "or let an open job have a database: to='results.db'"
                )
            for first in range(0, len(wanted), AT_ONCE):
                found.update(await backend.find(wanted[first : first + AT_ONCE]))
        for shard in set(job.missing_shards) - self._lists_read:
            self._missing.update(await threads.run(read_reasons, self._ledger.folder.missing_list(shard)))
            self._lists_read.add(shard)
        for custom_id in wanted:
            if custom_id in self._callers:  # Its caller may have given up meanwhile.
                self._looked[custom_id] = sealed
                if custom_id in found:
                    self._found[custom_id] = found[custom_id]
