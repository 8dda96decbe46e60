"""Watch one scope: a single list call per interval answers for every batch in flight and every doubt.

A *scope* is where batches live: the journal's base URL and one workspace header. Everything that is true of a
whole scope stands here or in a part of it:

    availability   whether the list can be read, and why creates would be refused
    watched        batches of ours that have not ended
    doubts         attempts of which it is not known whether they made a batch
    audit          batches that no driver waits for: duplicates of ours, and those that were given up
    key            whether the key in use sees what was sent
    pace           the queue limit and the request rate
    skew           by how much the server's two clocks differ
"""

from __future__ import annotations

import math
import random
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

import anyio

from abatch.engine.audit import Audit
from abatch.engine.availability import Availability
from abatch.engine.key_guard import KeyGuard
from abatch.engine.pending import PendingDoubts
from abatch.engine.polling import PollTimer
from abatch.engine.skew import ClockSkew
from abatch.engine.watched import WatchedBatches
from abatch.errors import ApiError
from abatch.log import log
from abatch.protocol.clocks import moment
from abatch.protocol.pacing import Pace
from abatch.protocol.parked import Parking
from abatch.protocol.reconcile import (
    BatchSeen,
    Doubt,
    Known,
    Listing,
    oldest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Sequence

    from abatch.config import Config
    from abatch.engine.answers import Page
    from abatch.engine.client import Client
    from abatch.protocol.clocks import Moment
    from abatch.protocol.commits import CommitTimes

__all__ = ["Scope"]


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
        chance = random.Random()  # noqa: S311 - spreads calls, keeps no secret
        self.client = client
        self.workspace_id = workspace_id
        self.known = known
        self.pace = Pace(config.tier)
        self.parking = Parking(durations)
        self.turn = anyio.Lock()
        """Held by the shard that is admitted next; first come, first served."""
        self.skew = ClockSkew()
        self.key = KeyGuard(client, workspace_id, known, fingerprint)
        self.availability = Availability(workspace_id, first=config.poll_interval.total_seconds(), troubled=troubled)
        self._timer = PollTimer(config, chance)
        self.watched = WatchedBatches(
            self.pace, self.parking, self.key, ask_for=self._ask_for, wake=self._timer.want_if_idle
        )
        self.audit = Audit(
            client,
            workspace_id,
            known,
            commits=commits,
            prove=prove,
            duplicate=duplicate,
            wake=self._timer.want,
            chance=chance,
        )
        self.doubts = PendingDoubts(
            known,
            self.key,
            self.audit.examiner,
            grace=grace,
            hold=config.unresolved == "hold",
            ask_for=self._ask_for,
            wake=self._timer.want,
        )
        self.date = 0.0
        """The server's clock, as the last list gave it."""
        self._listed_at: dict[str, float] = {}
        """When a list last showed each live batch, by time of the event loop."""

    # ---- what others ask --------------------------------------------------------------------------------------

    def forget(self, batch_id: str) -> None:
        """This batch is lost: it is watched no more, and no list has to show it."""
        self.watched.forget(batch_id)
        self.drained(batch_id)
        self.audit.lost.add(batch_id)

    def interrupt(self, shard: int) -> None:
        """Let the one who waits for this shard's ruling, or for its batch, look at something else first."""
        self.doubts.interrupt(shard)
        self.watched.interrupt(shard)

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
        """The results of this batch are sealed: no driver asks for it any more."""
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

    def accepted(self, batch: BatchSeen, *, gate: float, answer: float | None) -> None:
        """A create was answered with this batch: it is ours, and shows how `Date` and `created_at` differ (bound A6).

        `gate` is the `Date` of the list just before, `answer` that of the answer; both in seconds since the epoch.
        """
        self.owns(batch.batch_id, batch.created_at)
        ahead = self.skew.note_create(batch.created_at, gate=gate, answer=answer)
        self.known.ahead = max(self.known.ahead, ahead)

    async def until_usable(self, guarded: Callable[[], bool]) -> None:
        """Ask the list until it works, without a body under way; or until it is known why it does not.

        Args:
            guarded: whether the key needs not be confirmed. If it cannot be, the gate decides what follows.

        """

        async def ask() -> None:
            await self.page(limit=1)
            if not guarded():
                await self.key.confirm()

        await self.availability.until_usable(ask)

    # ---- the loop ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Poll until it is cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.audit.examiner.run)
            await self._poll()

    async def _poll(self) -> None:
        while True:
            if self.watched.is_empty and not self.doubts.pending and not self.pace.queued:
                await self._timer.until_wanted()
            self._timer.begin()
            try:
                news = await self._look()
            except ApiError as failure:
                await self.availability.poll_failed(failure)
                continue
            self.availability.polls.worked()
            await self._timer.rest(news=news, in_doubt=bool(self.doubts.pending))

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
        await self.audit.look(shown.values(), at.date)
        news = await self.watched.look(shown, began=began, date=at.date)
        pending = [each for each in pending if not each.done.is_set()]
        if pending:
            by_id = await self.doubts.hidden_candidates(pending, shown)
            news |= await self.doubts.settle(pending, Listing(at=at, shown=shown, by_id=by_id))
        return news

    async def _list(self, doubts: Sequence[Doubt], shown: dict[str, BatchSeen]) -> Moment:
        """Fill `shown` with a list that reaches back to all that is watched or in doubt; return when it was made.

        Raises:
            ApiError: a page failed, or does not join the one before; `shown` has what came until then.

        """
        created = self.watched.created()
        awaited = set(created)
        reach = [*created.values()]
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
            if failure.status == 404:
                await self.watched.missed(batch_id, self.date)
            return None
        self.key.note_shown([batch_id])
        return batch
