"""The state of a job and of a shard, and the changes that each fact makes to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import anyio
import msgspec

from abatch.journal.sums import Progress, Totals, progress_of, progress_of_sums, totals_of
from abatch.protocol.early import stands
from abatch.protocol.facts import (
    Abandoned,
    Accepted,
    CancelledAsParked,
    CancelWished,
    CandidatesChanged,
    ChangedSource,
    Closed,
    Committing,
    Cut,
    Drained,
    DuplicateSeen,
    Ended,
    Finished,
    Found,
    InputChanged,
    IterableSource,
    Limited,
    LostWished,
    Moved,
    OpenSource,
    Planned,
    Reopened,
    ResolveWished,
    Resumed,
    SelectedSource,
    Split,
    Stopped,
    Submitted,
    Unplanned,
    Unreadable,
    WishRefused,
    Withdrawn,
    files_of,
)
from abatch.protocol.facts import Held as HeldFact
from abatch.protocol.facts import Lost as LostFact
from abatch.protocol.facts import Rejected as RejectedFact
from abatch.protocol.failures import MOST_OF_JOB, Failures
from abatch.protocol.lifecycle import (
    Dead,
    Done,
    Draining,
    Lost,
    Processing,
    Ready,
    State,
    after,
    resealed,
)
from abatch.result import Summary, Usage
from abatch.system.paths import absolute, absolute_url, is_local, shown

if TYPE_CHECKING:
    from pathlib import Path

    from abatch.journal.log import Recorded
    from abatch.prices import PriceList
    from abatch.protocol.facts import FilePart, Headers, SealedRecord, ShardFact
    from abatch.protocol.terms import Terms
    from abatch.result import Failure

__all__ = ["JobRecord", "ShardRecord"]


# A journal of a hundred thousand shards is read in a second or two. A failed class pattern takes five times as long as
# a match, so the code below tests frequent states and facts first.

ENDS: Final = (Done, Dead)
"""States in which nothing is left to do."""


class ShardRecord(msgspec.Struct, kw_only=True, gc=False):
    """The state of a shard. A journal may hold a hundred thousand, so the garbage collector does not track them."""

    shard: int
    job: int
    planned: Planned
    state: State
    length: int = 1
    """The number of its facts, which is the position of the next one."""
    since: float = 0.0
    """When its last fact was recorded."""
    committed_at: float | None = None
    """The server's `Date` at its first commit point."""

    @property
    def open(self) -> bool:
        """Whether something is left to do."""
        return not isinstance(self.state, ENDS)

    @property
    def batch_id(self) -> str | None:
        """The id of its batch, if that is known."""
        match self.state:
            case Done() | Processing() | Draining() | Lost():
                return self.state.batch_id
            case _:
                return None

    @property
    def sealed(self) -> SealedRecord | None:
        """Its durable results, if there are any."""
        match self.state:
            case Done(drained=end) | Dead(end=Abandoned() as end):
                return end.sealed
            case _:
                return None


CHANGE_ITS_STATE_ALONE: Final = frozenset({Accepted, CancelledAsParked, CandidatesChanged, Unreadable, RejectedFact})
"""Facts of a shard that change nothing else in its job."""
_NO_SHARDS: Final[dict[int, ShardRecord]] = {}
_NO_ORDER: Final[list[int]] = []
_NO_HEADERS: Final[frozenset[Headers]] = frozenset()
"""Empty values that all finished jobs share. Nothing is added to them, because no facts of their shards can follow."""


@dataclass(slots=True, kw_only=True)
class JobRecord:
    """The state of a job. A finished job keeps only its totals; its shards can be read again from the journal."""

    job: int
    folder: Path
    """The folder of the journal."""
    submitted: Submitted
    started_at: float
    changed_at: float
    cut: Cut = field(default_factory=lambda: Cut(rows=0))
    head: str = ""
    """The `head` of its first cut; it is released together with the shards."""
    shards: dict[int, ShardRecord] = field(default_factory=dict[int, ShardRecord])
    open_shards: dict[int, ShardRecord] = field(default_factory=dict[int, ShardRecord])
    """Its shards with something left to do."""
    missing_shards: list[int] = field(default_factory=list[int])
    """The numbers of its shards with rows that have no result."""
    listed: tuple[str, ...] = ()
    """SHA-256 of each list of missing requests that the destination may hold from before a shard was reopened."""
    header_sets: frozenset[Headers] = _NO_HEADERS
    """The headers of all its shards."""
    sealed_order: list[int] = field(default_factory=list[int])
    """The numbers of its shards, in the order in which their results were sealed."""
    wishes: dict[int, ResolveWished | LostWished] = field(default_factory=dict[int, ResolveWished | LostWished])
    """An operator's last decision about each shard that is not settled."""
    refused: dict[int, ResolveWished | LostWished] = field(default_factory=dict[int, ResolveWished | LostWished])
    """The last decision about each shard, if it was refused because the API contradicted it."""
    submitted_seq: int = 0
    """The number of the last fact by which a process submitted it that does not drive; 0 if none has."""
    stopped: Stopped | None = None
    terms: Terms | None = None
    """The choices of the last process that submitted the job from outside; None if no process has."""
    limited: Limited | None = None
    """The last fact that changed its limit."""
    finished: Finished | None = None
    duplicates: frozenset[str] = frozenset()
    """Batches that were paid for in addition to those that count."""
    earlier_files: tuple[FilePart, ...] = ()
    """Its files before its input changed."""
    moves: tuple[Moved, ...] = ()
    """Its moves to other destinations, in their order."""
    cuts: int = 0
    """The position of the next fact among its cuts, moves, input changes and reopenings."""
    parts: int = 0
    """The number of part numbers that are taken."""
    sealed_count: int = 0
    """The number of shards that have durable results."""
    has_succeeded: bool = False
    """Whether any of its requests ever succeeded."""
    largest: int = 0
    """The number of requests in its largest shard."""
    seqs: tuple[int, int] = (0, 0)
    """The numbers of its first fact in the journal and of the fact that finished it."""
    cancel_wished: bool = False
    """Whether the cancellation of this job was requested."""
    closed: bool = False
    """Whether it is an open job that takes no further requests."""
    _changed: anyio.Event | None = None
    _cancelling: anyio.Event | None = None
    _wished: anyio.Event | None = None
    _arrived: anyio.Event | None = None
    _reopened: frozenset[int] = frozenset()
    """Shards that were sealed before and reopened: they keep their place in the order."""
    _sums: Totals | None = None
    """The totals of a finished job whose shards were released."""

    @property
    def to(self) -> str:
        """The URL of the present destination in the form that the journal keeps; empty for a backend object."""
        return self.moves[-1].to if self.moves else self.submitted.to

    @property
    def destinations(self) -> list[str]:
        """Every destination that the job has had, the first one first."""
        return [self.submitted.to, *(move.to for move in self.moves)]

    @property
    def location(self) -> str:
        """The location of the results; a local destination moves with the journal."""
        to = self.to
        if self.finished is None or is_local(to):
            return shown(absolute_url(self.folder, to))
        return self.finished.location

    @property
    def key(self) -> str:
        """The job's key."""
        return self.submitted.key

    @property
    def limit(self) -> int | None:
        """The number of its requests that are sent, the first ones; None for all."""
        return self.submitted.limit if self.limited is None else self.limited.rows

    @property
    def input_paths(self) -> tuple[Path, ...]:
        """The present paths of its input files; none if its requests come from a caller or its inbox."""
        moved = () if self.terms is None else self.terms.paths
        return tuple(absolute(self.folder, path) for path in moved or [f.path for f in files_of(self.submitted.source)])

    @property
    def has_recovered(self) -> bool:
        """Whether results that came after a stop for failed first results speak against it."""
        if not self.has_succeeded:
            return False
        done = self.progress()
        return not stands(self.submitted.pilot, succeeded=done.sealed - done.failed, failed=done.failed)

    @property
    def limit_reached(self) -> bool:
        """Whether its limit holds back the requests that are not planned yet."""
        total = self._total
        is_more = not self.cut.last and (total is None or self.cut.rows < total)
        return self.limit is not None and self.cut.rows >= self.limit and is_more

    def take_part(self) -> int:
        """Take the part number for a new shard; if the shard is not recorded, a gap remains."""
        self.parts += 1
        return self.parts - 1

    async def change(self) -> None:
        """Wait until a fact of this job is recorded."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    async def cancelling(self) -> None:
        """Wait until the cancellation of this job is requested.

        Every batch waits here. It has a separate event so that not every fact wakes all of them.
        """
        if not self.cancel_wished:
            if self._cancelling is None:
                self._cancelling = anyio.Event()
            await self._cancelling.wait()

    @property
    def let_go(self) -> bool:
        """Whether its shards were released; `Ledger.in_full` reads them again."""
        return self._sums is not None

    def let_shards_go(self) -> None:
        """Release the shards of a finished job, and keep its totals."""
        self._sums = self._totals()
        self.shards = _NO_SHARDS
        self.open_shards = _NO_SHARDS
        self.sealed_order = _NO_ORDER
        if not self.missing_shards:
            self.missing_shards = _NO_ORDER
        self.header_sets = _NO_HEADERS
        self.head = ""
        self._cancelling = None
        source = self.submitted.source
        if isinstance(source, SelectedSource | ChangedSource):  # a mask has up to a byte per request
            source = msgspec.structs.replace(source, mask=b"")
            self.submitted = msgspec.structs.replace(self.submitted, source=source)

    def take_shards_back(self, full: JobRecord) -> None:
        """Load the released shards again; `full` is the job in the state in which it finished."""
        self.shards = full.shards
        self.open_shards = full.open_shards
        self.sealed_order = full.sealed_order
        self.missing_shards = full.missing_shards
        self.listed = full.listed
        self.header_sets = full.header_sets
        self.head = full.head
        self.submitted = full.submitted
        self._sums = None

    async def wish(self) -> None:
        """Wait until an operator decides about a shard.

        This has a separate event, so that not every fact wakes shards that wait for days.
        """
        if self._wished is None:
            self._wished = anyio.Event()
        await self._wished.wait()

    @property
    def is_open(self) -> bool:
        """Whether it is an open job that is not closed or cancelled; requests may still arrive in its inbox."""
        return isinstance(self.submitted.source, OpenSource) and not self.closed and not self.cancel_wished

    def arrival(self) -> anyio.Event:
        """Return an event that is set when a request arrives in the inbox of this open job, or when it is closed.

        Get it before the inbox is read, so that nothing that arrives during the read is missed.
        """
        if self._arrived is None:
            self._arrived = anyio.Event()
        return self._arrived

    def note_arrival(self) -> None:
        """Wake the task that plans the inbox of this open job."""
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    def wake(self) -> None:
        """Wake all tasks that wait for a change."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def apply(self, recorded: Recorded) -> None:
        """Apply one fact of this job or of one of its shards."""
        self.changed_at = recorded.at
        number = recorded.shard
        if number is not None:
            fact_of_shard: ShardFact = recorded.fact  # type: ignore[assignment]  # any other raises IllegalTransition in `after`
            shard = self.shards.get(number)
            if shard is None:
                self._begin_shard(number, fact_of_shard, recorded.at)
                return
            shard.state = after(shard.state, fact_of_shard)
            shard.length += 1
            shard.since = recorded.at
            if type(fact_of_shard) not in CHANGE_ITS_STATE_ALONE:
                self._apply_to_shard(shard, fact_of_shard)
            return
        fact = recorded.fact
        match fact:
            case Submitted():
                raise AssertionError("a job has one first fact")
            case Cut():
                self.head = fact.head or self.head
                self.cut = msgspec.structs.replace(fact, head="") if fact.head else fact  # it outlives `head`
                self.cuts += 1
            case Closed():
                self.closed = True
                self.note_arrival()
            case CancelWished():
                self.cancel_wished = True
                self.note_arrival()
                if self._cancelling is not None:
                    self._cancelling.set()
            case ResolveWished() | LostWished():
                self.wishes[fact.shard] = fact
                self.refused.pop(fact.shard, None)
                if self._wished is not None:
                    self._wished.set()
                    self._wished = None
            case WishRefused():
                if (wish := self.wishes.pop(fact.shard, None)) is not None:
                    self.refused[fact.shard] = wish
            case DuplicateSeen():
                self.duplicates |= {fact.batch_id}
            case Stopped():
                self.stopped = fact
            case Resumed(terms=terms):
                if terms is not None:
                    self.terms = terms
                    self.submitted_seq = recorded.seq
                if terms is None or terms.goes_on or self.stopped is None or not self.stopped.failing:
                    self.stopped = None
            case Limited():
                self.limited = fact
            case InputChanged(source=source):
                self.earlier_files += files_of(self.submitted.source)
                self.submitted = msgspec.structs.replace(self.submitted, source=source)
                self.cut = Cut(rows=source.sent)
                self.cuts += 1
            case Moved():
                self.moves += (fact,)
                self.cuts += 1
                for number, sealed in fact.sealed.items():
                    shard = self.shards[number]
                    shard.state = resealed(shard.state, sealed)
            case Finished():
                self.finished = fact
                self.seqs = self.seqs[0], recorded.seq
            case _:
                raise AssertionError("a fact of a shard names no shard")

    def _begin_shard(self, number: int, fact: ShardFact, at: float) -> None:
        state = after(None, fact)
        assert isinstance(fact, Planned)
        assert not self.let_go
        self.parts = max(self.parts, fact.part + 1)
        shard = ShardRecord(shard=number, job=self.job, planned=fact, state=state, since=at)
        self.shards[number] = self.open_shards[number] = shard
        self.largest = max(self.largest, fact.rows)
        if fact.headers not in self.header_sets:
            self.header_sets |= {fact.headers}

    def _apply_to_shard(self, shard: ShardRecord, fact: ShardFact) -> None:
        """Apply a shard's fact to the job; the shard's state is changed already."""
        number = shard.shard
        match fact:
            case Committing():
                if shard.committed_at is None:
                    shard.committed_at = fact.date
                wish = self.wishes.get(number)
                if isinstance(wish, ResolveWished) and wish.batch_id is None:
                    del self.wishes[number]  # it is about an earlier attempt, which made no batch: it was right
            case Drained() | Abandoned():
                self.wishes.pop(number, None)
                if number not in self._reopened:
                    self.sealed_order.append(number)
                    self.sealed_count += 1
                self.open_shards.pop(number)
                if isinstance(fact, Drained):
                    self.has_succeeded = self.has_succeeded or fact.counts.succeeded > 0
                    if fact.missing:
                        self.missing_shards.append(number)
            case Ended() | Found() | Withdrawn() | HeldFact() | LostFact():
                self.wishes.pop(number, None)  # an earlier answer was about the attempt just settled
                if not isinstance(fact, HeldFact):
                    self.refused.pop(number, None)
            case Reopened():
                self._reopen(number)
                self.open_shards[number] = shard
                if number in self.missing_shards:
                    self.missing_shards.remove(number)
                if fact.listed and fact.listed not in self.listed:
                    self.listed += (fact.listed,)
            case Split() | Unplanned():
                self.open_shards.pop(number)
            case _:
                pass

    def _reopen(self, number: int) -> None:
        """Note that a sealed shard is drained once more, so the job must be finished again at a new position."""
        self._reopened |= {number}
        if self.finished is not None:
            self.finished = None
            self.cuts += 1

    def progress(self) -> Progress:
        """Return a snapshot of the progress; its cost grows with the number of shards, not of requests."""
        if self._sums is not None:
            return progress_of_sums(self._sums, planned=self.cut.rows, total=self._total, limit=self.limit)
        return progress_of(self.shards.values(), planned=self.cut.rows, total=self._total, limit=self.limit)

    @property
    def _total(self) -> int | None:
        source = self.submitted.source
        if self.cut.last:
            return self.cut.rows
        return None if isinstance(source, IterableSource | OpenSource) else source.rows

    @property
    def not_sent(self) -> int | None:
        """The number of requests that were never planned because the job was cancelled; None if it is not known."""
        if self.finished is None or self.cut.last:
            return 0
        return None if self._total is None else self._total - self.cut.rows

    @property
    def unsettled(self) -> int:
        """The number of requests in shards that may have been sent and are not sealed."""
        return sum(shard.planned.rows for shard in self.open_shards.values() if not isinstance(shard.state, Ready))

    @property
    def missing(self) -> int:
        """The number of its requests that have no result."""
        return self._totals().missing

    def failures(self) -> tuple[Failure, ...]:
        """Return the failures so far, in few groups; the shards must be loaded, see `Ledger.failures`."""
        found = Failures(MOST_OF_JOB)
        for shard in self.shards.values():
            match shard.state:
                case Done(drained=end) | Dead(end=Abandoned() as end):
                    found.update(end.failures)
                case _:
                    pass
        return found.groups

    def summary(self, prices: PriceList) -> Summary:
        """Return the summary of the job so far; it is complete once the job is finished."""
        totals = self._totals()
        counts, bill = totals.counts, prices.bill(totals.spends)
        return Summary(
            key=self.key,
            location=self.location,
            requests=self.cut.rows,
            succeeded=counts.succeeded,
            errored=counts.errored,
            canceled=counts.canceled,
            expired=counts.expired,
            other=counts.other,
            missing=totals.missing,
            not_sent=self.not_sent,
            batches=totals.batches,
            retried=totals.retried,
            duplicates=len(self.duplicates),
            seconds=self.changed_at - self.started_at,
            usage=sum((spend.usage for spend in totals.spends), Usage()),
            stop_reasons=dict(totals.stops),
            cost=bill.batch,
            synchronous_cost=bill.synchronous,
            unpriced=bill.unpriced,
            prices_of=prices.date,
        )

    def _totals(self) -> Totals:
        return totals_of(self.shards.values()) if self._sums is None else self._sums
