"""Keep the attempts in doubt and those awaiting their answer: their candidates from lists, and rulings by table B."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import anyio

from abatch.engine.proof import LOOK_WITHIN, Examiner
from abatch.errors import Overtaken
from abatch.log import log
from abatch.protocol.clocks import elapsed
from abatch.protocol.facts import CandidatesChanged
from abatch.protocol.reconcile import (
    Absent,
    AbsentOnce,
    BatchSeen,
    Doubt,
    FoundBatch,
    Hold,
    Known,
    Listing,
    Wait,
    closing,
    misfits,
    newly_odd,
    newly_seen,
    settle,
    still_open,
    to_inspect,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from abatch.engine.key_guard import KeyGuard
    from abatch.protocol.clocks import Moment
    from abatch.protocol.reconcile import OddEntry

__all__ = ["Pending", "PendingDoubts"]

ASKED_FOR: Final = 20
"""The maximum number of candidates missing from a list that are requested by id after it."""
LOOKS_WHEN_HELD: Final = 3
"""The maximum number of looks for which a held shard waits while the results of a candidate are read."""


@dataclass(slots=True, kw_only=True)
class Pending:
    """A doubt whose ruling a driver waits for, or an attempt that awaits its answer."""

    doubt: Doubt
    last: Moment | None
    """The look up to which the grace was counted; None before the first look, if the grace begins with that."""
    once: bool
    """Whether only one look is wanted, which may prove the batch now: the shard is held."""
    note: Callable[[CandidatesChanged], Awaitable[None]]
    """Records the candidates that a look changed."""
    looks: int = 0
    done: anyio.Event = field(default_factory=anyio.Event)
    ruling: FoundBatch | Absent | Hold | None = None
    failure: Overtaken | None = None
    waiting: str = ""


class PendingDoubts:
    """The doubts of one scope.

    Args:
        known: the journal's knowledge of the scope's batches.
        key: checks whether the key in use sees the batches that were sent.
        examiner: reads the first lines of ended batches.
        grace: seconds for which an unanswered create may still appear in the list.
        hold: whether an operator decides about an absence.
        ask_for: requests a batch by its id; returns None if it is not visible.
        wake: called when the scope should look at its list.

    """

    def __init__(
        self,
        known: Known,
        key: KeyGuard,
        examiner: Examiner,
        *,
        grace: float,
        hold: bool,
        ask_for: Callable[[str], Awaitable[BatchSeen | None]],
        wake: Callable[[], None],
    ) -> None:
        self._known = known
        self._key = key
        self._examiner = examiner
        self._grace = grace
        self._hold = hold
        self._ask_for = ask_for
        self._wake = wake
        self.pending: dict[int, Pending] = {}
        """The doubts that a driver waits for, by shard."""
        self.unanswered: dict[int, Pending] = {}
        """Attempts past their commit point that await their answer; batches in lists now may be theirs."""
        self._asked_at: dict[str, float] = {}
        """Loop time at which each candidate missing from lists was last requested by id."""

    async def settled(
        self,
        doubt: Doubt,
        *,
        since: Moment | None,
        note: Callable[[CandidatesChanged], Awaitable[None]],
        once: bool = False,
    ) -> FoundBatch | Absent | Hold | None:
        """Wait until table B has a ruling for an attempt in doubt; None if `interrupt` came first.

        Args:
            doubt: the attempt.
            since: the beginning of its grace; None if the grace begins with the next look.
            note: records the candidates that a look changed; called before anything is concluded from the look.
            once: whether to look for its batch only once, because the shard is held already.

        Raises:
            Overtaken: another process appended to the shard.

        """
        pending = Pending(doubt=doubt, last=since, note=note, once=once)
        self.pending[doubt.shard] = pending
        self.unanswered.pop(doubt.shard, None)
        self._wake()
        try:
            await pending.done.wait()
        finally:
            self.pending.pop(doubt.shard, None)
        if pending.failure is not None:
            raise pending.failure
        return pending.ruling

    def awaits_answer(self, doubt: Doubt, note: Callable[[CandidatesChanged], Awaitable[None]]) -> None:
        """Remember candidates of this attempt until `answered` or `settled` is called for its shard."""
        self.unanswered[doubt.shard] = Pending(doubt=doubt, last=None, once=False, note=note)

    def answered(self, shard: int) -> None:
        """Note that the attempt has a definite answer, or was never sent."""
        if (unanswered := self.unanswered.pop(shard, None)) is not None:
            unanswered.done.set()

    def interrupt(self, shard: int) -> None:
        """Wake the driver that waits for this shard's ruling, so that it can act on something else first."""
        if (pending := self.pending.get(shard)) is not None:
            pending.done.set()

    def waiting(self) -> dict[int, str]:
        """Return for display why each shard in doubt still waits."""
        return {shard: pending.waiting for shard, pending in self.pending.items() if pending.waiting}

    def candidates(self) -> set[str]:
        """Return the batches in lists that an attempt in doubt, or awaiting its answer, may have made."""
        return {each.batch_id for pending in self._doubts() for each in pending.doubt.committed.candidates}

    def _doubts(self) -> list[Pending]:
        """Return every attempt that is in doubt or awaits its answer."""
        return [*self.unanswered.values(), *self.pending.values()]

    async def remember(self, batches: Collection[BatchSeen], odd: Collection[OddEntry] = ()) -> None:
        """Record which batches an attempt may have made, and which it did not, before anything is concluded."""
        every = self._doubts()
        if not every:
            return
        of_size: defaultdict[int, list[BatchSeen]] = defaultdict(list)
        for batch in batches:
            of_size[batch.total].append(batch)
        for each in every:
            doubt, known = each.doubt, self._known
            seen = newly_seen(doubt, of_size[doubt.rows], known) + newly_odd(doubt, odd, known)
            candidates = doubt.committed.candidates
            foreign = tuple(each.batch_id for each in candidates if each.batch_id in known.foreign)
            foreign += misfits(doubt, batches, known)
            if seen or foreign:
                await self._note(each, CandidatesChanged(seen=seen, foreign=foreign))

    async def _note(self, pending: Pending, change: CandidatesChanged) -> None:
        """Record a change of a doubt's candidates and apply it here, unless the doubt was settled meanwhile."""
        if pending.ruling is not None or pending.failure is not None:  # An interrupted doubt is still open.
            return
        try:
            await pending.note(change)
        except Overtaken as overtaken:
            pending.failure = overtaken
            pending.done.set()
            return
        doubt = pending.doubt
        for each in change.seen:
            log.info("candidate_seen", shard=doubt.shard, attempt=doubt.attempt, batch_id=each.batch_id)
        pending.doubt = doubt.after(change)

    async def hidden_candidates(
        self, pending: Sequence[Pending], shown: Mapping[str, BatchSeen]
    ) -> dict[str, BatchSeen]:
        """Request by id the candidates that a list does not show, or shows as odd entries; return the visible ones.

        The least recently requested ones come first. What is learned of their size and age is recorded.
        """
        known = self._known
        hidden = {
            each.batch_id
            for doubt in pending
            for each in still_open(doubt.doubt, known)
            if each.batch_id not in shown and not known.has_looked_at(each.batch_id)
        }
        self._asked_at = {batch_id: at for batch_id, at in self._asked_at.items() if batch_id in hidden}
        visible: dict[str, BatchSeen] = {}
        with anyio.move_on_after(LOOK_WITHIN):
            for batch_id in sorted(hidden, key=lambda each: (self._asked_at.get(each, 0.0), each))[:ASKED_FOR]:
                self._asked_at[batch_id] = anyio.current_time()
                if (batch := await self._ask_for(batch_id)) is not None:
                    visible[batch_id] = batch
        await self.remember(visible.values())
        return visible

    async def settle(self, pending: Sequence[Pending], listing: Listing) -> bool:
        """Rule on doubts from a list, as far as the list and table B allow; return whether one was settled."""
        for each in pending:
            passed = 0.0 if each.last is None else elapsed(each.last, listing.at)
            each.doubt = replace(each.doubt, waited=each.doubt.waited + passed)
            each.last = listing.at
            each.looks += 1
            if (change := closing(each.doubt, listing, self._known, grace=self._grace)) is not None:
                if each.doubt.guarded or self._key.confirmed:
                    await self._note(each, change)
                else:
                    # It is not recorded: a list of another workspace must not close the candidates for the right key.
                    each.doubt = each.doubt.after(change)
        for batch in to_inspect([each.doubt for each in pending], listing, self._known):
            self._examiner.ask(batch, date=listing.date, urgent=True)
        if not self._key.confirmed and not all(each.doubt.guarded for each in pending):
            await self._key.confirm()  # One call serves all doubts, because each would request the same batches.
        news = False
        for each in pending:
            if not each.done.is_set():
                news |= self._rule(each, listing)
        return news

    def _rule(self, pending: Pending, listing: Listing) -> bool:
        doubt = pending.doubt = replace(pending.doubt, guarded=pending.doubt.guarded or self._key.confirmed)
        ruling = settle(doubt, listing, self._known, grace=self._grace, hold=self._hold)
        if pending.once and not isinstance(ruling, FoundBatch):
            if not (isinstance(ruling, Wait) and ruling.soon and pending.looks < LOOKS_WHEN_HELD):
                pending.done.set()
            return False
        if isinstance(ruling, Wait):
            pending.waiting = ruling.why
            if ruling.rule in ("B6", "B11"):
                pending.doubt = replace(doubt, empty_at=None)
            return False
        if isinstance(ruling, AbsentOnce):
            pending.doubt = replace(doubt, empty_at=ruling.waited)
            return False
        log.info("doubt_settled", shard=doubt.shard, attempt=doubt.attempt, rule=ruling.rule)
        pending.ruling = ruling
        pending.done.set()
        return True
