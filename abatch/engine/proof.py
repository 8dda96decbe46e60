"""Read the first lines of ended batches that may be ours: a tag in a line proves which attempt made a batch.

Foreign batches are read here, too. This happens in a separate task, so that slow or dead results of a foreign batch
delay neither the list nor a drain. One batch is read at a time, for at most half a minute, and all of them together for
at most ten minutes an hour. A look that proves nothing is repeated at growing intervals; after two days the batch
counts as *gone*.
"""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

import anyio

from abatch.errors import ApiError, LineTooLong
from abatch.log import log
from abatch.protocol import wire
from abatch.protocol.durations import GONE_AFTER, HOUR
from abatch.protocol.pacing import READ_AGAIN
from abatch.protocol.reconcile import Proof

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from abatch.engine.client import Client
    from abatch.protocol.reconcile import BatchSeen, Known

__all__ = ["FIRST_LINES", "LOOK_WITHIN", "Examiner"]

FIRST_LINES: Final = 100
"""The number of lines without a tag of ours that prove that a batch is foreign; one line with a tag proves it ours."""
SHORT_LOOKS: Final = 6
"""The number of looks with fewer lines than that, and than the batch has, after which it counts as foreign.

Several looks are needed because a stream may be cut.
"""
LOOK_WITHIN: Final = 30.0
"""Seconds for one look."""
SECONDS_AN_HOUR: Final = 600.0
"""Seconds that all looks together may take in an hour."""
SHORTEST_WAIT: Final = 0.001
"""The minimum wait in seconds: after rounding, a shorter one might never refill the budget and repeat endlessly."""


@dataclass(slots=True)
class _Look:
    """A batch to look at."""

    batch: BatchSeen
    urgent: bool
    """Whether a doubt waits for it; otherwise it may only be a duplicate."""
    due: float
    """Loop time at which the next look may begin."""
    tries: int = 0
    short: int = 0
    """The number of looks that found lines, but too few to conclude that the batch is foreign."""


class Examiner:
    """Looks at the ended batches of one scope, one after another.

    Args:
        client: the API.
        workspace_id: the scope's workspace.
        known: receives each proof, and the batches that are foreign or gone.
        prove: returns the shard and attempt whose tag a wire id carries, or None if the tag is not ours.
        proved: called after a tag was found, with the batch and its proof.
        done: called after a look that found a tag, and after the last urgent look that is due.

    """

    def __init__(
        self,
        client: Client,
        workspace_id: str | None,
        known: Known,
        *,
        prove: Callable[[bytes], tuple[int, int] | None],
        proved: Callable[[str, Proof], Awaitable[None]],
        done: Callable[[], None],
    ) -> None:
        self._client = client
        self._workspace_id = workspace_id
        self._known = known
        self._prove = prove
        self._proved = proved
        self._done = done
        self._looks: dict[str, _Look] = {}
        self._asked = anyio.Event()
        self._first_looks_over = anyio.Event()
        self._date = 0.0
        self._allowance = SECONDS_AN_HOUR
        self._allowed_at = -inf

    def ask(self, batch: BatchSeen, *, date: float, urgent: bool) -> bool:
        """Queue an ended batch for a look; return False if it is queued already.

        `date` is the server's time. Urgent batches, for which a doubt waits, come first.
        """
        self._date = max(self._date, date)
        look = self._looks.get(batch.batch_id)
        if look is not None:
            look.batch = batch
            look.urgent = look.urgent or urgent
            return False
        self._looks[batch.batch_id] = _Look(batch, urgent, due=anyio.current_time())
        self._asked.set()
        return True

    async def first_looks(self) -> None:
        """Wait until every queued batch has had its first look."""
        while any(look.tries == 0 for look in self._looks.values()):
            if self._first_looks_over.is_set():  # All waiting tasks share one event, so only a used one is replaced.
                self._first_looks_over = anyio.Event()
            await self._first_looks_over.wait()

    async def run(self) -> None:
        """Look at queued batches until cancelled."""
        while True:
            self._asked = anyio.Event()
            look = min(self._looks.values(), key=lambda each: (each.due, not each.urgent), default=None)
            wait = inf if look is None else max(look.due - anyio.current_time(), self._until_allowed())
            if look is None or wait > 0:
                with anyio.move_on_after(max(wait, SHORTEST_WAIT)):
                    await self._asked.wait()
                continue
            urgent = [each for each in self._looks.values() if each.urgent and each.due <= anyio.current_time()]
            await self._look(urgent[0] if urgent else look)

    def _until_allowed(self) -> float:
        """Return the seconds until another look may begin."""
        now = anyio.current_time()
        if self._allowed_at > -inf:
            fresh = (now - self._allowed_at) * SECONDS_AN_HOUR / HOUR
            self._allowance = min(self._allowance + fresh, SECONDS_AN_HOUR)
        self._allowed_at = now
        return max(0.0, LOOK_WITHIN - self._allowance) * HOUR / SECONDS_AN_HOUR

    async def _look(self, look: _Look) -> None:
        began = anyio.current_time()
        batch = look.batch
        try:
            with anyio.fail_after(LOOK_WITHIN):
                settled = await self._read(look)
        except TimeoutError:
            settled = False
            log.info("candidate_not_readable", batch_id=batch.batch_id, error="too slow")
        except LineTooLong as failure:
            settled = False
            log.info("candidate_not_readable", batch_id=batch.batch_id, error=failure.reason)
        except ApiError as failure:
            settled = batch.archived and self._is_old(batch)
            if settled:
                self._known.gone.add(batch.batch_id)
            log.info("candidate_not_readable", batch_id=batch.batch_id, status=failure.status)
        finally:
            self._allowance -= anyio.current_time() - began
        self._after(look, settled=settled)
        proof = self._known.proven.get(batch.batch_id)
        if proof is not None:
            await self._proved(batch.batch_id, proof)
        self._first_looks_over.set()
        if proof is not None or not self._is_due():
            self._done()

    def _after(self, look: _Look, *, settled: bool) -> None:
        batch_id = look.batch.batch_id
        if not settled and look.tries >= SHORT_LOOKS and self._is_old(look.batch):
            self._known.gone.add(batch_id)
            log.warning("candidate_never_readable", batch_id=batch_id, looks=look.tries + 1)
            settled = True
        if settled:
            self._looks.pop(batch_id, None)
            return
        look.due = anyio.current_time() + READ_AGAIN[min(look.tries, len(READ_AGAIN) - 1)]
        look.tries += 1

    def _is_due(self) -> bool:
        """Return whether a doubt waits for another look that is due now."""
        now = anyio.current_time()
        return any(look.urgent and look.due <= now for look in self._looks.values())

    def _is_old(self, batch: BatchSeen) -> bool:
        """Return whether the batch is older than two days by the server's `Date` and by this machine's clock."""
        return min(self._date, time.time()) - batch.created_at > GONE_AFTER

    async def _read(self, look: _Look) -> bool:
        """Read the first lines; return whether they prove that the batch is ours or foreign."""
        batch = look.batch
        untagged = 0
        async with aclosing(self._first_lines(batch.batch_id)) as lines:
            async for line in lines:
                # A proxy's page or a torn line proves nothing, so it must not count towards a foreign batch.
                if (seen := wire.read_line(line)) is None:
                    continue
                untagged += 1
                if (owner := self._prove(seen.wire_id.encode("utf-8", "replace"))) is not None:
                    shard, attempt = owner
                    self._known.proven[batch.batch_id] = Proof(
                        shard=shard, attempt=attempt, created_at=batch.created_at
                    )
                    return True
        look.short += bool(untagged)
        # A single line is read twice, because it may be a stray one in place of ours.
        whole = untagged >= min(FIRST_LINES, batch.total or FIRST_LINES) and (untagged > 1 or look.short > 1)
        if not whole and look.short < SHORT_LOOKS:
            log.info("candidate_not_readable", batch_id=batch.batch_id, lines=untagged)
            return False
        self._known.foreign.add(batch.batch_id)
        log.info("candidate_foreign", batch_id=batch.batch_id)
        return True

    async def _first_lines(self, batch_id: str) -> AsyncGenerator[bytes, None]:
        reader, left = wire.LineReader(), FIRST_LINES
        async with self._client.results(self._workspace_id, batch_id) as chunks:
            async for chunk in chunks:
                for line in reader.feed(chunk):
                    yield line
                    left -= 1
                    if not left:
                        return
        for line in reader.end():
            if wire.is_whole(line):
                yield line
