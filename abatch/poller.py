"""One scope, watched: a single list call per interval answers for every batch in flight and every doubt.

A *scope* is where batches live: the journal's base URL and one workspace header. Everything that is true of a
whole scope stands here: what its list last showed, whose batches are whose, the guard, and the pace.

404 or absence of an accepted batch is never an end: it is asked for again, shows as "not visible" after an hour,
and is never sent again. Absence is a conclusion only for a doubt, and only by table B of `reconcile.py`.
"""

from __future__ import annotations

import random
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import anyio

from abatch import wire
from abatch.errors import ApiError
from abatch.log import log
from abatch.pacing import Backoff, Pace
from abatch.parked import Parking
from abatch.reconcile import (
    CLOCK_SLACK,
    Absent,
    AbsentOnce,
    BatchSeen,
    Doubt,
    FoundBatch,
    Hold,
    Known,
    Listing,
    Wait,
    counts_of,
    settle,
    to_inspect,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence

    from abatch.client import Client
    from abatch.config import Config
    from abatch.facts import Counts
    from abatch.reconcile import Refused

__all__ = ["Scope"]

NOT_VISIBLE_AFTER: Final = 3600.0
VISIBLE_WITHIN: Final = 300.0
"""Bound A2: a created batch shows in the list within this many seconds."""
RESULTS_GONE_AFTER: Final = 2 * 24 * 3600.0
"""Seconds after a batch's creation from which a 404 of its results is final: a day of processing and one more."""
DOUBT_FIRST, DOUBT_MOST = 15.0, 300.0
WITNESSES: Final = 3
AUDITS: Final = 4
"""Batches that resemble ours whose first lines are read after one list, at most."""
FIRST_LINES: Final = 100
"""One line with a tag of ours proves whose a batch is; so many without it that it is foreign."""
LOOK_WITHIN: Final = 30.0
SHORT_LOOKS: Final = 6
"""Looks at fewer lines than that, or than the batch has, before it is foreign: a stream may have been cut."""
AUDITED_FOR: Final = 2 * 24 * 3600.0


@dataclass(slots=True, kw_only=True)
class _Watch:
    """A batch that somebody waits for."""

    shard: int
    created_at: float
    accepted: float
    """Loop time at which it was first watched."""
    done: anyio.Event = field(default_factory=anyio.Event)
    ended: BatchSeen | None = None
    seen: bool = False
    absent: float = 0.0
    """Seconds from then to the last list that had to show it and did not."""
    late: bool = False
    """Bound A2 was seen broken."""


@dataclass(slots=True, kw_only=True)
class _Pending:
    """A doubt that somebody waits for."""

    doubt: Doubt
    fresh: bool
    """It began in this process, so its grace begins with the first list after it."""
    once: bool
    """Held: it only asks whether the batch can be proven now."""
    done: anyio.Event = field(default_factory=anyio.Event)
    ruling: FoundBatch | Absent | Hold | None = None
    waiting: str = ""


class Scope:
    """A workspace of the API, as one journal uses it.

    Args:
        client: the API.
        workspace_id: the header of every call; None for the key's own workspace.
        config: polling, policy and tier.
        grace: seconds that an unanswered create may still take to appear.
        fingerprint: of the key in use.
        known: what the journal knows of this scope's batches.
        prove: the shard and attempt whose tag a wire id carries, if it is ours.
        duplicate: asked whether a batch that carries the tag of this shard and attempt is one too many.
        durations: seconds that the journal's last batches took.

    """

    def __init__(
        self,
        client: Client,
        workspace_id: str | None,
        config: Config,
        *,
        grace: float,
        fingerprint: str | None,
        known: Known,
        prove: Callable[[bytes], tuple[int, int] | None],
        duplicate: Callable[[int, int, str], Awaitable[bool]],
        durations: Collection[float] = (),
    ) -> None:
        self.client, self.workspace_id, self.known = client, workspace_id, known
        self.pace = Pace(config.tier)
        self.parking = Parking(durations)
        self.turn = anyio.Lock()
        """Whoever waits to be admitted; first come, first served."""
        self.trouble: ApiError | None = None
        """Why the last look at the list failed."""
        self.refusal: Refused | None = None
        """Why every create would be refused; None again when a job is handed over."""
        self._config, self._grace, self._fingerprint = config, grace, fingerprint
        self._prove, self._duplicate = prove, duplicate
        self._watched: dict[str, _Watch] = {}
        self._pending: dict[int, _Pending] = {}
        self._vouched = False
        self._commits: dict[int, list[float]] = {}
        self._reported: set[str] = set()
        self._short_looks: dict[str, int] = {}
        self._wanted = anyio.Event()
        self._idle = False
        self.date = 0.0
        """The server's clock, as the last list gave it."""
        self._random = random.Random()  # noqa: S311 - spreads calls, keeps no secret

    # ---- what others ask --------------------------------------------------------------------------------------

    async def ended(self, shard: int, batch_id: str, created_at: float) -> Counts:
        """Wait until a batch of ours has ended; its counts, as the API gives them.

        It is watched to its end even if nobody waits any more: until then it has its place in the queue.
        """
        if self._idle:  # else a look is due anyway, which sees this batch too
            self._want()
        watch = _Watch(shard=shard, created_at=created_at, accepted=anyio.current_time())
        watch = self._watched.setdefault(batch_id, watch)
        await watch.done.wait()
        assert watch.ended is not None
        return counts_of(watch.ended)

    async def settled(self, doubt: Doubt, *, fresh: bool, once: bool = False) -> FoundBatch | Absent | Hold | None:
        """Wait until table B has a ruling for an attempt in doubt; None if `interrupt` came first.

        With `once`, look once whether its batch is found: a shard that is held already.
        """
        pending = _Pending(doubt=doubt, fresh=fresh, once=once)
        self._pending[doubt.shard] = pending
        self._want()
        try:
            await pending.done.wait()
        finally:
            self._pending.pop(doubt.shard, None)
        return pending.ruling

    def interrupt(self, shard: int) -> None:
        """Let the one who waits for this shard's ruling look at something else first."""
        if (pending := self._pending.get(shard)) is not None:
            pending.done.set()

    def waiting(self) -> dict[int, str]:
        """Why each shard in doubt still is, for people."""
        return {shard: pending.waiting for shard, pending in self._pending.items() if pending.waiting}

    def not_visible(self) -> list[str]:
        """Accepted batches that the API has not shown for an hour."""
        now = anyio.current_time()
        return [
            batch_id
            for batch_id, watch in self._watched.items()
            if not watch.seen and now - watch.accepted > NOT_VISIBLE_AFTER
        ]

    def owns(self, batch: BatchSeen) -> None:
        """This batch is ours, by an answer or a tag."""
        self.known.bound.add(batch.batch_id)
        self.known.live[batch.batch_id] = batch.created_at

    def committed(self, rows: int, date: float) -> None:
        """An attempt of this size passed its commit point: batches like it may turn out to be duplicates of ours."""
        recent = [other for other in self._commits.get(rows, ()) if other > date - AUDITED_FOR]
        self._commits[rows] = [*recent, date]

    def is_guarded(self, fingerprint: str | None) -> bool:
        """Whether an empty list means something for what was committed under this key."""
        return self._vouched or (fingerprint is not None and fingerprint == self._fingerprint)

    async def vouch(self) -> bool:
        """Try to show that this key sees the journal's batches: one that is known must be retrievable.

        Raises:
            ApiError: the API could not be asked.

        """
        for batch_id, _ in sorted(self.known.live.items(), key=lambda item: -item[1])[:WITNESSES]:
            try:
                await self.client.retrieve(self.workspace_id, batch_id)
            except ApiError as failure:
                if failure.status != 404:
                    raise
                continue
            self._vouched = True
            break
        return self._vouched

    # ---- the loop ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Watch for ever; cancelled from outside."""
        first, most = self._config.poll_every.total_seconds(), self._config.poll_at_most.total_seconds()
        calm = Backoff(first=first, most=most)
        trouble = Backoff(first=min(first, 5.0), most=300.0)
        doubtful = Backoff(first=min(first, DOUBT_FIRST), most=DOUBT_MOST)
        while True:
            if not self._watched and not self._pending and not self.pace.queued:
                self._idle = True
                await self._wanted.wait()
                self._idle = False
            self._wanted = anyio.Event()
            try:
                news = await self._look()
            except ApiError as failure:
                self.trouble = failure
                wait = max(failure.retry_after or 0.0, trouble.next())
                log.warning(
                    "list_failed",
                    workspace=self.workspace_id,
                    status=failure.status,
                    error=str(failure),
                    next_in_seconds=round(wait, 1),
                )
                await anyio.sleep(wait)
                continue
            self.trouble = None
            trouble.reset()
            if news:
                calm.reset()
            if not self._pending:
                doubtful.reset()
            wait = min(calm.next(), doubtful.next()) if self._pending else calm.next()
            with anyio.move_on_after(wait * (1 + self._random.random() / 10)):
                await self._wanted.wait()
                await anyio.sleep(min(first, 0.5))  # let others join the same call

    def _want(self) -> None:
        self._wanted.set()

    async def _look(self) -> bool:
        """One list, and everything that follows from it; whether it brought news."""
        began = anyio.current_time()
        pending = list(self._pending.values())  # for those who come later it may not go back far enough
        listing = await self._list([each.doubt for each in pending])
        self.date = listing.date
        self.pace.expire(listing.date)
        shown = {batch.batch_id: batch for batch in listing.batches}
        if not self._vouched and any(batch_id in shown for batch_id in self.known.bound):
            self._vouched = True
        await self._audit(listing)  # before anything ends, so that a job does not end without it
        news = False
        for batch_id, watch in list(self._watched.items()):
            batch = shown.get(batch_id)
            if batch is not None:
                watch.seen = True
            elif not watch.seen:
                watch.absent = began - watch.accepted
            if batch is None and (batch := await self._ask_for(batch_id)) is None:
                continue
            self._look_at_bound(batch_id, watch)
            self.parking.look(batch, listing.date)
            if batch.ended:
                watch.ended = batch
                watch.done.set()
                del self._watched[batch_id]
                self.pace.frees(watch.shard)
                news = True
        pending = [each for each in pending if not each.done.is_set()]
        if pending:
            news |= await self._settle(pending, listing)
        return news

    def _look_at_bound(self, batch_id: str, watch: _Watch) -> None:
        """Bound A2: a list that began so late shows every batch that there is, and this one there was."""
        if watch.absent > VISIBLE_WITHIN and not watch.late:
            watch.late = True
            log.warning("bound_A2_broken", batch_id=batch_id, seconds_not_visible=round(watch.absent))

    async def _list(self, doubts: Sequence[Doubt]) -> Listing:
        """A complete list, newest back to before everything that is watched or in doubt."""
        oldest = min(
            [watch.created_at for watch in self._watched.values()] + [doubt.date - CLOCK_SLACK for doubt in doubts],
            default=0.0,
        )
        awaited = set(self._watched)
        batches: dict[str, BatchSeen] = {}
        date = after_id = None
        while True:
            self.pace.called(anyio.current_time())
            page = await self.client.list(self.workspace_id, after_id=after_id)
            date = page.date if date is None else date
            for batch in page.batches:
                batches[batch.batch_id] = batch
            awaited -= batches.keys()
            reached = bool(page.batches) and page.batches[-1].created_at < oldest
            if not page.has_more or reached or (not awaited and not doubts):
                return Listing(date=date, batches=tuple(batches.values()))
            if page.last_id is None or page.last_id == after_id:
                raise ApiError("list", message="a page names no next page")
            after_id = page.last_id

    async def _ask_for(self, batch_id: str) -> BatchSeen | None:
        try:
            self.pace.called(anyio.current_time())
            batch = await self.client.retrieve(self.workspace_id, batch_id)
        except ApiError as failure:
            if failure.status in (401, 403):
                raise
            log.info("batch_not_visible", batch_id=batch_id, status=failure.status)
            return None
        self._vouched |= batch_id in self.known.bound
        return batch

    # ---- doubts -----------------------------------------------------------------------------------------------

    async def _settle(self, pending: Sequence[_Pending], listing: Listing) -> bool:
        for each in pending:
            if each.fresh:
                each.doubt = replace(each.doubt, since=max(listing.date, each.doubt.date))
                each.fresh = False
        for batch in to_inspect([each.doubt for each in pending], listing, self.known):
            await self._inspect(batch, listing.date)
        if not self._vouched and not all(each.doubt.guarded for each in pending):
            await self.vouch()  # once for all of them: each would ask for the same batches
        news = False
        for each in pending:
            news |= self._rule(each, listing)
        return news

    def _rule(self, pending: _Pending, listing: Listing) -> bool:
        doubt = pending.doubt = replace(pending.doubt, guarded=pending.doubt.guarded or self._vouched)
        ruling = settle(doubt, listing, self.known, grace=self._grace, hold=self._config.unresolved == "hold")
        if pending.once and not isinstance(ruling, FoundBatch):
            pending.done.set()
            return False
        if isinstance(ruling, Wait):
            pending.waiting = ruling.why
            if ruling.rule == "B6":
                pending.doubt = replace(doubt, empty_since=None)
            return False
        if isinstance(ruling, AbsentOnce):
            pending.doubt = replace(doubt, empty_since=ruling.date)
            return False
        log.info("doubt_settled", shard=doubt.shard, attempt=doubt.attempt, rule=ruling.rule)
        pending.ruling = ruling
        pending.done.set()
        return True

    async def _audit(self, listing: Listing) -> None:
        """B10: a batch with a tag of ours besides the one that counts was paid for, too."""
        known = self.known
        looked_at = 0
        for batch in self._random.sample(listing.batches, len(listing.batches)):  # so that none is never looked at
            settled = batch.batch_id in known.bound or batch.batch_id in known.foreign or batch.batch_id in known.gone
            if settled or not batch.ended:
                continue
            if batch.batch_id not in known.proven and self._resembles_ours(batch) and looked_at < AUDITS:
                looked_at += 1
                await self._inspect(batch, listing.date)
            owner = known.proven.get(batch.batch_id)
            if owner is None or batch.batch_id in self._reported:
                continue
            shard, attempt = owner
            if await self._duplicate(shard, attempt, batch.batch_id):
                self._reported.add(batch.batch_id)
                log.error("duplicate_seen", shard=shard, attempt=attempt, batch_id=batch.batch_id)

    def _resembles_ours(self, batch: BatchSeen) -> bool:
        return any(
            date - CLOCK_SLACK <= batch.created_at <= date + AUDITED_FOR for date in self._commits.get(batch.total, ())
        )

    async def _inspect(self, batch: BatchSeen, now: float) -> None:
        """Read the first lines of an ended candidate: they prove whose batch it is."""
        try:
            with anyio.fail_after(LOOK_WITHIN):
                owner = await self._owner(batch)
        except TimeoutError:
            log.info("candidate_not_readable", batch_id=batch.batch_id, error="too slow")
            return
        except wire.LineTooLong as failure:
            log.info("candidate_not_readable", batch_id=batch.batch_id, error=str(failure))
            return
        except ApiError as failure:
            final = failure.status == 404 and now - batch.created_at > RESULTS_GONE_AFTER
            if batch.archived or final:
                self.known.gone.add(batch.batch_id)
            log.info("candidate_not_readable", batch_id=batch.batch_id, status=failure.status)
            return
        if owner is None:
            self.known.foreign.add(batch.batch_id)
            log.info("candidate_foreign", batch_id=batch.batch_id)
            return
        self.known.proven[batch.batch_id] = owner

    async def _owner(self, batch: BatchSeen) -> tuple[int, int] | None:
        strange = 0
        async with aclosing(self._first_lines(batch.batch_id)) as lines:
            async for line in lines:
                # a proxy's page, a torn line: it proves nothing, least of all that the batch is foreign
                if (seen := wire.read_line(line)) is not None:
                    strange += 1
                    if (owner := self._prove(seen.wire_id.encode("utf-8", "replace"))) is not None:
                        self._short_looks.pop(batch.batch_id, None)
                        return owner
        looks = self._short_looks[batch.batch_id] = self._short_looks.get(batch.batch_id, 0) + bool(strange)
        if strange < min(FIRST_LINES, max(batch.total, 2)) and looks < SHORT_LOOKS:
            raise ApiError("results", message=f"{strange} lines do not prove whose they are")
        del self._short_looks[batch.batch_id]
        return None

    async def _first_lines(self, batch_id: str) -> AsyncGenerator[bytes, None]:
        reader, left = wire.LineReader(), FIRST_LINES
        async with self.client.results(self.workspace_id, batch_id) as chunks:
            async for chunk in chunks:
                for line in reader.feed(chunk):
                    yield line
                    left -= 1
                    if not left:
                        return
        for line in reader.end():
            if wire.is_whole(line):
                yield line
