"""Watch one scope: a single list call per interval answers for every batch in flight and every doubt.

A *scope* is where batches live: the journal's base URL and one workspace header. Everything that is true of a
whole scope stands here: what its list last showed, whose batches are whose, the guard, and the pace.

404 or absence of an accepted batch is never a reason to send it again: it is asked for again, shows as "not visible"
after an hour, and is lost after two days (`absence.py`). That nothing was created is a conclusion only for a doubt,
and only by table B of `reconcile.py`.
"""

from __future__ import annotations

import math
import random
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio

from abatch.engine.key_guard import KeyGuard
from abatch.engine.pending import PendingDoubts
from abatch.engine.proof import Examiner
from abatch.engine.skew import ClockSkew
from abatch.errors import ApiError
from abatch.log import log
from abatch.protocol.absence import Absence
from abatch.protocol.clocks import moment
from abatch.protocol.durations import AUDITED_FOR, CLOCK_SLACK, VANISHED_AFTER, VISIBLE_WITHIN
from abatch.protocol.facts import Ended, Lost
from abatch.protocol.pacing import Backoff, Pace
from abatch.protocol.parked import Parking
from abatch.protocol.reads import Reads
from abatch.protocol.reconcile import (
    BatchSeen,
    Doubt,
    Known,
    Listing,
    counts_of,
    oldest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterable, Sequence

    from abatch.config import Config
    from abatch.engine.answers import Page
    from abatch.engine.client import Client
    from abatch.protocol.clocks import Moment
    from abatch.protocol.commits import CommitTimes
    from abatch.protocol.facts import Reappeared, Vanished
    from abatch.protocol.reconcile import Proof, Refused

__all__ = ["Scope"]

DOUBT_FIRST: Final = 15.0
DOUBT_MOST: Final = 300.0
"""Seconds between two looks while something is in doubt: from the first to the longest wait."""
AUDITS: Final = 4
"""Batches that resemble ours whose first lines are asked for after one list, at most."""
AUDITED_WITHIN: Final = 30.0
"""Seconds for which the end of a job waits for looks at batches that may be duplicates."""


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
    fingerprint: str | None = None
    """Of the key it was sent with."""
    vanished: Moment | None = None
    """What is on record of its absence."""
    absence: Absence = field(default_factory=Absence)
    news: Vanished | Reappeared | Lost | None = None
    """What the last look says should be put on record."""

    def note_seen(self) -> None:
        """Note that the API shows the batch."""
        self.news = self.absence.seen(self.vanished)
        if self.news is not None:
            self.done.set()


class Scope:
    """A workspace of the API, as one journal uses it.

    Args:
        client: the API.
        workspace_id: the header of every call; None for the key's own workspace.
        config: polling, policy and tier.
        grace: seconds that an unanswered create may still take to appear.
        fingerprint: of the key in use.
        known: what the journal knows of this scope's batches.
        commits: when it committed attempts of which size.
        prove: the shard and attempt whose tag a wire id carries, if it is ours.
        duplicate: asked whether a batch that carries the tag of this shard and attempt is one too many.
        durations: seconds that the journal's last batches took.
        troubled: called when reads are refused for good, so that those who wait for a job hear of it.

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
        commits: CommitTimes,
        prove: Callable[[bytes], tuple[int, int] | None],
        duplicate: Callable[[int, int, str], Awaitable[bool]],
        durations: Collection[float] = (),
        troubled: Callable[[], None] = lambda: None,
    ) -> None:
        self.client = client
        self.workspace_id = workspace_id
        self.known = known
        self.pace = Pace(config.tier)
        self.parking = Parking(durations)
        self.turn = anyio.Lock()
        """Whoever waits to be admitted; first come, first served."""
        first = config.poll_interval.total_seconds()
        self.polls = Reads(first=first)
        """The looks of `run`."""
        self.checks = Reads(first=first)
        """The list before and within creates."""
        self._refusal: Refused | None = None
        """Why every create would be refused; None again when a job is handed over."""
        self._config = config
        self._duplicate = duplicate
        self._troubled = troubled
        self._watched: dict[str, _Watch] = {}
        self._commits = commits
        self._reported: set[str] = set()
        self._listed_at: dict[str, float] = {}
        """When a list last showed each live batch, by time of the event loop."""
        self.skew = ClockSkew()
        self.key = KeyGuard(client, workspace_id, known, fingerprint)
        self._examiner = Examiner(client, workspace_id, known, prove=prove, proved=self._report, done=self._want)
        self.doubts = PendingDoubts(
            known,
            self.key,
            self._examiner,
            grace=grace,
            hold=config.unresolved == "hold",
            ask_for=self._ask_for,
            wake=self._want,
        )
        self._wanted = anyio.Event()
        self._again = anyio.Event()
        """Set when a look may work although the last one failed."""
        self._idle = False
        self.lost: set[str] = set()
        """Batches of ours that were given up, all of whose rows are missing: a list that shows one is news."""
        self.date = 0.0
        """The server's clock, as the last list gave it."""
        self._random = random.Random()  # noqa: S311 - spreads calls, keeps no secret

    # ---- what others ask --------------------------------------------------------------------------------------

    async def ended(
        self,
        shard: int,
        batch_id: str,
        created_at: float,
        *,
        fingerprint: str | None = None,
        vanished: Moment | None = None,
    ) -> Ended | Vanished | Reappeared | Lost | None:
        """Wait until there is something to record of a batch of ours, at last its end; None if `interrupt` came first.

        It is watched to its end even if nobody waits any more: until then it has its place in the queue.

        Args:
            shard: the shard it holds.
            batch_id: the batch.
            created_at: when it was made.
            fingerprint: of the key it was sent with.
            vanished: since when it is missed, as far as that is on record.

        """
        if self._idle:  # else a look is due anyway, which sees this batch too
            self._want()
        watch = _Watch(shard=shard, created_at=created_at, accepted=anyio.current_time())
        watch = self._watched.setdefault(batch_id, watch)
        watch.fingerprint = fingerprint
        watch.vanished = vanished
        watch.news = None  # the last look is recorded; the next one repeats it if it still holds
        await watch.done.wait()
        if watch.ended is not None:
            return Ended(counts=counts_of(watch.ended))
        watch.done = anyio.Event()
        return watch.news

    def forget(self, batch_id: str) -> None:
        """This batch is lost: it is watched no more, and no list has to show it."""
        if (watch := self._watched.pop(batch_id, None)) is not None:
            self.pace.frees(watch.shard)
        self.drained(batch_id)
        self.parking.forget(batch_id)
        self.lost.add(batch_id)

    def interrupt(self, shard: int) -> None:
        """Let the one who waits for this shard's ruling, or for its batch, look at something else first."""
        self.doubts.interrupt(shard)
        for watch in self._watched.values():
            if watch.shard == shard:
                watch.done.set()

    def not_visible(self) -> list[str]:
        """Accepted batches that the API has not shown for an hour."""
        now, here = anyio.current_time(), moment(self.date)
        return [
            batch_id
            for batch_id, watch in self._watched.items()
            if (not watch.seen and now - watch.accepted > VANISHED_AFTER) or watch.absence.lasts(here)
        ]

    @contextmanager
    def binding(self, batch_id: str) -> Generator[None, None, None]:
        """Bind a batch while that is being recorded; if it cannot be, it is not bound."""
        self.known.bound.add(batch_id)
        try:
            yield
        except BaseException:
            self.known.bound.discard(batch_id)
            raise

    def owns(self, batch_id: str, created_at: float) -> None:
        """This batch is ours, by an answer or a tag."""
        self.known.bound.add(batch_id)
        self.known.live[batch_id] = created_at

    def drained(self, batch_id: str) -> None:
        """The results of this batch are sealed: nobody asks for it any more."""
        self.known.live.pop(batch_id, None)
        self.known.listed.discard(batch_id)
        self._listed_at.pop(batch_id, None)

    def listed_since(self, batch_id: str, when: float) -> bool:
        """Whether a list that began after this time of the event loop showed the batch."""
        return self._listed_at.get(batch_id, -math.inf) > when

    async def lists(self, batch_id: str, created_at: float) -> bool:
        """Whether the list, read back to this time, shows the batch.

        Raises:
            ApiError: a page failed.

        """
        async with aclosing(self._pages(created_at)) as pages:
            async for page in pages:
                if any(batch.batch_id == batch_id for batch in page.batches):
                    return True
        return False

    def committed(self, rows: int, date: float) -> None:
        """An attempt of this size passed its commit point: batches like it may turn out to be duplicates of ours."""
        self._commits.add(rows, date)

    def accepted(self, batch: BatchSeen, *, gate: float, answer: float | None) -> None:
        """A create was answered with this batch: it is ours, and tells how `Date` and `created_at` differ (bound A6).

        `gate` is the `Date` of the list just before, `answer` that of the answer; both in seconds since the epoch.
        """
        self.owns(batch.batch_id, batch.created_at)
        ahead = self.skew.note_create(batch.created_at, gate=gate, answer=answer)
        self.known.ahead = max(self.known.ahead, ahead)

    async def audited(self) -> None:
        """Wait until the batches that resemble ours were looked at once, for half a minute at most."""
        with anyio.move_on_after(AUDITED_WITHIN):
            await self._examiner.first_looks()

    # ---- whether the list can be used -------------------------------------------------------------------------

    @property
    def trouble(self) -> ApiError | None:
        """Why the API cannot be asked at the moment."""
        return self.polls.trouble or self.checks.trouble

    @property
    def refused(self) -> Refused | None:
        """Why nothing of this scope can be sent."""
        return self._refusal or self.polls.refusal or self.checks.refusal

    def refuse(self, verdict: Refused) -> None:
        """Note that a create was refused for a reason that holds for every create, until a job is handed over."""
        self._refusal = verdict

    @property
    def usable(self) -> bool:
        """Whether a body may be uploaded: the list has worked since it last failed for a create."""
        return self.checks.usable

    async def until_usable(self, guarded: Callable[[], bool]) -> None:
        """Ask the list until it works, without a body under way; or until `refused` says why it does not.

        It is asked once in a process, and again after a failure: an upload needs the list at its end, and would be
        for nothing without it.

        Args:
            guarded: whether the key needs no `confirm_key`. What follows if it cannot be given is decided in the gate.

        """
        while not (self.usable and self.polls.trouble is None) and self.refused is None:
            await self._pause(self.checks.wait(anyio.current_time()))
            try:
                await self.page(limit=1)
                if not guarded():
                    await self.key.confirm()
            except ApiError as failure:
                self.check_failed(failure)
            else:
                self.checks.worked()
                self._again.set()
                return

    def check_failed(self, failure: ApiError) -> None:
        """The list failed before or within a create: no body is uploaded before it works."""
        self._failed(self.checks, failure)

    def start_over(self) -> None:
        """A job was handed over, so somebody may have acted on what was refused."""
        self._refusal = None
        self.polls.start_over()
        self.checks.start_over()
        self._again.set()

    async def _pause(self, seconds: float) -> None:
        """Sleep so long, or until there is a reason to ask again."""
        if self._again.is_set():
            self._again = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._again.wait()

    def _failed(self, reads: Reads, failure: ApiError) -> float:
        known = reads.refusal
        wait = reads.failed(failure, anyio.current_time())
        if reads.refusal is not None and known is None:
            refusal = reads.refusal
            log.error("list_refused", workspace=self.workspace_id, reason=refusal.reason, remedy=refusal.remedy)
            self._troubled()
        log.warning(
            "list_failed",
            workspace=self.workspace_id,
            status=failure.status,
            error=str(failure),
            next_in_seconds=round(wait, 1),
        )
        return wait

    # ---- the loop ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Poll until it is cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._examiner.run)
            await self._poll()

    async def _poll(self) -> None:
        first, most = self._config.poll_interval.total_seconds(), self._config.longest_poll_interval.total_seconds()
        calm = Backoff(first=first, most=most)
        doubtful = Backoff(first=min(first, DOUBT_FIRST), most=DOUBT_MOST)
        while True:
            if not self._watched and not self.doubts.pending and not self.pace.queued:
                self._idle = True
                await self._wanted.wait()
                self._idle = False
            self._wanted = anyio.Event()
            try:
                news = await self._look()
            except ApiError as failure:
                await self._pause(self._failed(self.polls, failure))
                continue
            self.polls.worked()
            if news:
                calm.reset()
            if not self.doubts.pending:
                doubtful.reset()
            wait = min(calm.next(), doubtful.next()) if self.doubts.pending else calm.next()
            with anyio.move_on_after(wait * (1 + self._random.random() / 10)):
                await self._wanted.wait()
                await anyio.sleep(min(first, 0.5))  # let others join the same call

    def _want(self) -> None:
        self._wanted.set()

    async def _look(self) -> bool:
        """One list, and everything that follows from it; whether it brought news."""
        began = anyio.current_time()
        pending = list(self.doubts.pending.values())  # snapshot: a doubt that arrives later may need a longer list
        shown: dict[str, BatchSeen] = {}
        at = await self._list([each.doubt for each in pending], shown)
        self.date = at.date
        self.skew.note_list(at.date, shown.values())
        self.pace.expire(at.date)
        self.known.listed.update(self.known.live.keys() & shown.keys())
        self._listed_at.update(dict.fromkeys(self.known.live.keys() & shown.keys(), began))
        self.key.note_shown(shown)
        await self._audit(shown.values())
        self._look_for_lost(shown.values())
        news = False
        for batch_id, watch in list(self._watched.items()):
            batch = shown.get(batch_id)
            if batch is not None:
                watch.seen = True
            elif not watch.seen:
                watch.absent = began - watch.accepted
            if batch is None and (batch := await self._ask_for(batch_id)) is None:
                continue
            if self._watched.get(batch_id) is not watch:  # it was given up meanwhile
                continue
            self._check_bound_a2(batch_id, watch)
            watch.note_seen()
            self.parking.look(batch, at.date)
            if batch.ended:
                watch.ended = batch
                watch.done.set()
                del self._watched[batch_id]
                self.pace.frees(watch.shard)
                news = True
        pending = [each for each in pending if not each.done.is_set()]
        if pending:
            by_id = await self.doubts.hidden_candidates(pending, shown)
            news |= await self.doubts.settle(pending, Listing(at=at, shown=shown, by_id=by_id))
        return news

    def _check_bound_a2(self, batch_id: str, watch: _Watch) -> None:
        """Report bound A2 as broken: lists that began later than it allows did not show this batch, which existed."""
        if watch.absent > VISIBLE_WITHIN and not watch.late:
            watch.late = True
            log.warning("bound_A2_broken", batch_id=batch_id, seconds_not_visible=round(watch.absent))

    async def _list(self, doubts: Sequence[Doubt], shown: dict[str, BatchSeen]) -> Moment:
        """Fill `shown` with a list that reaches back to all that is watched or in doubt; return when it was made.

        Raises:
            ApiError: a page failed, or does not join the one before; `shown` has what came until then.

        """
        awaited = set(self._watched)
        reach = [watch.created_at for watch in self._watched.values()]
        if doubts:  # then the list must show whether it is complete
            reach += [*(oldest(doubt, self.known) for doubt in doubts), *self.known.live.values()]
        at: Moment | None = None
        async with aclosing(self._pages(min(reach, default=0.0))) as pages:
            async for page in pages:
                at = moment(page.date) if at is None else at
                for batch in page.batches:
                    shown[batch.batch_id] = batch
                awaited -= shown.keys()
                if not awaited and not doubts:
                    break
        assert at is not None
        return at

    async def page(self, *, limit: int | None = None, after_id: str | None = None) -> Page:
        """One page of the list. What it shows is remembered for every attempt that is in doubt or awaits its answer.

        Raises:
            ApiError: as of `Client.list`.

        """
        self.pace.called(anyio.current_time())
        size = {} if limit is None else {"limit": limit}
        page = await self.client.list(self.workspace_id, after_id=after_id, **size)
        await self.doubts.remember(page.batches)
        return page

    async def _pages(self, until: float) -> AsyncGenerator[Page, None]:
        """The pages of the list, newest first, back to the one that ends before this time of creation.

        Raises:
            ApiError: a page failed, or does not join the one before.

        """
        after_id, asked = None, set[str]()
        while True:
            page = await self.page(after_id=after_id)
            yield page
            if not page.has_more or (page.batches and page.batches[-1].created_at < until):
                return
            if page.last_id is None or page.last_id in asked or not page.batches:  # or it would go on without end
                raise ApiError("list", status=200, message="a page says that more follow, and names no next page")
            after_id = page.last_id
            asked.add(after_id)

    async def _ask_for(self, batch_id: str) -> BatchSeen | None:
        try:
            self.pace.called(anyio.current_time())
            batch = await self.client.retrieve(self.workspace_id, batch_id)
        except ApiError as failure:
            if failure.status in (401, 403):
                raise
            log.info("batch_not_visible", batch_id=batch_id, status=failure.status)
            if failure.status == 404 and (watch := self._watched.get(batch_id)) is not None:
                await self._miss(watch)
            return None
        self.key.note_shown([batch_id])
        return batch

    async def _miss(self, watch: _Watch) -> None:
        """A batch of ours is in no complete list, and a 404 by its id: say what should be recorded of that."""
        news = watch.absence.missed(moment(self.date), watch.vanished)
        if news is None or (isinstance(news, Lost) and not await self.key.may_see(watch.fingerprint)):
            return
        watch.news = news
        watch.done.set()

    def _look_for_lost(self, batches: Iterable[BatchSeen]) -> None:
        """Report batches that were given up and are listed after all: their results can be read."""
        for batch in batches:
            if batch.batch_id in self.lost and batch.ended and not batch.archived:
                self.lost.discard(batch.batch_id)  # it is reported once
                log.warning("lost_batch_seen", batch_id=batch.batch_id)

    # ---- duplicates -------------------------------------------------------------------------------------------

    async def _audit(self, batches: Iterable[BatchSeen]) -> None:
        """Look for duplicates (B10): a batch with a tag of ours besides the one that counts was paid for, too."""
        known, asked = self.known, 0
        every = list(batches)
        for batch in self._random.sample(every, len(every)):  # in random order: each is looked at in its turn
            if not batch.ended or batch.batch_id in known.bound:
                continue
            if (proof := known.proven.get(batch.batch_id)) is not None:
                await self._report(batch.batch_id, proof)
            elif asked < AUDITS and not known.has_looked_at(batch.batch_id) and self._resembles_ours(batch):
                asked += self._examiner.ask(batch, date=self.date, urgent=False)

    async def _report(self, batch_id: str, proof: Proof) -> None:
        """Report a batch with a tag of ours if it is one too many."""
        if batch_id in self._reported:
            return
        if await self._duplicate(proof.shard, proof.attempt, batch_id):
            self._reported.add(batch_id)
            log.error("duplicate_seen", shard=proof.shard, attempt=proof.attempt, batch_id=batch_id)

    def _resembles_ours(self, batch: BatchSeen) -> bool:
        since, until = batch.created_at - AUDITED_FOR, batch.created_at + self.known.ahead + CLOCK_SLACK
        return self._commits.any_between(batch.total, since, until)
