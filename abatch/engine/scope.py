"""Watch one scope: a single list call per interval answers for every batch in flight and every doubt.

A *scope* is where batches live: the journal's base URL and one workspace header. `Scope` and its parts keep the state
of a whole scope:

    availability   whether the list can be read, and why creates would be refused
    in_flight      batches of ours that have not ended
    doubts         attempts that may or may not have made a batch
    audit          batches that no driver waits for: duplicates of ours, and batches that were given up
    key            whether the key in use sees the batches that were sent
    pace           the queue limit and the request rate
    skew           the difference between the server's two clocks
"""

from __future__ import annotations

import math
import random
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from abatch.engine.audit import Audit
from abatch.engine.availability import Availability
from abatch.engine.in_flight import BatchesInFlight
from abatch.engine.key_guard import KeyGuard
from abatch.engine.pending import PendingDoubts
from abatch.engine.polling import PollTimer
from abatch.engine.skew import ClockSkew
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
    OddEntry,
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
        grace: seconds for which an unanswered create may still appear in the list.
        fingerprint: the fingerprint of the key in use.
        known: the journal's knowledge of this scope's batches.
        commits: the times and sizes of the attempts that the journal committed.
        prove: returns the shard and attempt whose tag a wire id carries, or None if the tag is not ours.
        duplicate: returns whether a batch that carries the tag of this shard and attempt is a duplicate.
        durations: seconds that the journal's last batches took.
        troubled: called when reads are definitely refused, so that tasks that wait for a job are woken.

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
        self.in_flight = BatchesInFlight(
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
        """The server's time in the last list."""
        self.odd = ""
        """Why an entry of the last list cannot be read; empty if every entry can."""
        self._listed_at: dict[str, float] = {}
        """Loop time at which the last list that showed each live batch began."""

    # ---- batches of ours --------------------------------------------------------------------------------------

    def forget(self, batch_id: str) -> None:
        """Stop watching a lost batch; no list has to show it any more."""
        self.in_flight.forget(batch_id)
        self.drained(batch_id)
        self.audit.lost.add(batch_id)

    def interrupt(self, shard: int) -> None:
        """Wake the driver that waits for this shard's ruling or batch, so that it can act on something else first."""
        self.doubts.interrupt(shard)
        self.in_flight.interrupt(shard)

    @contextmanager
    def binding(self, batch_id: str) -> Generator[None, None, None]:
        """Bind a batch to this journal while the block records it; if the block fails, the batch is unbound."""
        self.known.bound.add(batch_id)
        try:
            yield
        except BaseException:
            self.known.bound.discard(batch_id)
            raise

    def owns(self, batch_id: str, created_at: float) -> None:
        """Note that a batch is ours, as an answer or a tag has proven."""
        self.known.bound.add(batch_id)
        self.known.live[batch_id] = created_at

    def drained(self, batch_id: str) -> None:
        """Note that the results of a batch are sealed, so no driver asks for it any more."""
        self.known.live.pop(batch_id, None)
        self.known.listed.discard(batch_id)
        self._listed_at.pop(batch_id, None)

    def listed_since(self, batch_id: str, when: float) -> bool:
        """Return whether a list that began after this loop time showed the batch."""
        return self._listed_at.get(batch_id, -math.inf) > when

    async def lists(self, batch_id: str, created_at: float) -> bool:
        """Return whether the list shows the batch; it is read back to `created_at`.

        Raises:
            ApiError: a page failed.

        """
        async with aclosing(self._pages(created_at)) as pages:
            async for page in pages:
                if batch_id in page.ids:
                    return True
        return False

    def accepted(self, batch: BatchSeen, *, gate: float, answer: float | None) -> None:
        """Note that the answer to a create names this batch: it is ours, and it shows the clock skew (bound A6).

        `gate` is the `Date` of the list just before the create, `answer` that of its answer; both are epoch seconds.
        """
        self.owns(batch.batch_id, batch.created_at)
        ahead = self.skew.note_create(batch.created_at, gate=gate, answer=answer)
        self.known.ahead = max(self.known.ahead, ahead)

    async def until_usable(self, guarded: Callable[[], bool]) -> None:
        """Call the list until it works, or until it is known why it does not; no body is sent meanwhile.

        Args:
            guarded: returns whether the key needs no confirmation. If it cannot be confirmed, the gate decides.

        """

        async def ask() -> None:
            await self.page(limit=1)
            if not guarded():
                await self.key.confirm()

        await self.availability.until_usable(ask)

    # ---- the loop ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Poll until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.audit.examiner.run)
            await self._poll()

    async def _poll(self) -> None:
        while True:
            if self.in_flight.is_empty and not self.doubts.pending and not self.pace.queued:
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
        """Read one list and act on it; return whether it brought news."""
        began = anyio.current_time()
        pending = list(self.doubts.pending.values())  # A doubt that arrives later may need a longer list.
        listing = await self._list([each.doubt for each in pending])
        self._note_odd(listing)
        self.date = listing.date
        self.skew.note_list(listing.date, listing.shown.values())
        self.pace.expire(listing.date)
        listed = self.known.live.keys() & listing.ids
        self.known.listed.update(listed)
        self._listed_at.update(dict.fromkeys(listed, began))
        self.key.note_shown(listing.ids)
        await self.audit.look(listing.shown.values(), listing.date)
        news = await self.in_flight.look(listing, began=began)
        pending = [each for each in pending if not each.done.is_set()]
        if pending:
            by_id = await self.doubts.hidden_candidates(pending, listing.shown)
            news |= await self.doubts.settle(pending, replace(listing, by_id=by_id))
        return news

    def _note_odd(self, listing: Listing) -> None:
        """Note why entries of a list cannot be read; each new reason is logged once."""
        first = next(iter(listing.odd.values()), listing.unnamed)
        odd = "" if first is None else str(first)
        if odd and odd != self.odd:
            log.warning("list_has_odd_entries", workspace=self.workspace_id, why=odd)
        self.odd = odd

    async def _list(self, doubts: Sequence[Doubt]) -> Listing:
        """Return a list that reaches back to every batch watched or in doubt.

        Raises:
            ApiError: a page failed, or does not continue the one before.

        """
        created = self.in_flight.created()
        awaited = set(created)
        reach = [*created.values()]
        if doubts:  # The list must then be long enough to show whether it is complete.
            reach += [*(oldest(doubt, self.known) for doubt in doubts), *self.known.live.values()]
        at: Moment | None = None
        shown: dict[str, BatchSeen] = {}
        odd: dict[str, OddEntry] = {}
        unnamed: OddEntry | None = None
        async with aclosing(self._pages(min(reach, default=0.0))) as pages:
            async for page in pages:
                at = moment(page.date) if at is None else at
                for batch in page.batches:
                    shown[batch.batch_id] = batch
                for entry in page.odd:
                    if entry.batch_id is None:
                        unnamed = entry
                    else:
                        odd[entry.batch_id] = entry
                awaited -= page.ids
                if not awaited and not doubts:
                    break
        assert at is not None
        return Listing(at=at, shown=shown, odd=odd, unnamed=unnamed)

    async def page(self, *, limit: int | None = None, after_id: str | None = None) -> Page:
        """Read one page of the list, and remember its entries for every attempt in doubt or awaiting its answer.

        Raises:
            ApiError: as `Client.list` does.

        """
        self.pace.called(anyio.current_time())
        size = {} if limit is None else {"limit": limit}
        page = await self.client.list(self.workspace_id, after_id=after_id, **size)
        await self.doubts.remember(page.batches, page.odd)
        return page

    async def _pages(self, until: float) -> AsyncGenerator[Page, None]:
        """Yield the pages of the list, newest first, back to the page whose last batch was created before `until`.

        Raises:
            ApiError: a page failed, or does not continue the one before.

        """
        after_id, asked = None, set[str]()
        while True:
            page = await self.page(after_id=after_id)
            yield page
            if not page.has_more or (page.oldest is not None and page.oldest < until):
                return
            # Without this check the loop might never end.
            if page.last_id is None or page.last_id in asked or not page.entries:
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
                await self.in_flight.missed(batch_id, self.date)
            return None
        self.key.note_shown([batch_id])
        return batch
