"""What the journal's facts come to: every job and shard as it stands now, kept in step with the journal.

Reading it costs nothing, changing it is `record`: append the facts durably, then apply them here. What other
processes appended (wishes, mostly) comes in by `refresh`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from sys import intern
from typing import TYPE_CHECKING, Final, assert_never

import anyio
import msgspec

from abatch.errors import IllegalTransition, JournalCorrupt, Overtaken
from abatch.journal.log import Entry
from abatch.prices import MOST_SPENDS, OTHER_MODELS, TOO_MANY
from abatch.protocol.facts import (
    Abandoned,
    Accepted,
    CancelledAsParked,
    CancelWished,
    CandidatesChanged,
    ChangedSource,
    Committing,
    Counts,
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
    Planned,
    Reopened,
    ResolveWished,
    Resumed,
    SelectedSource,
    Spend,
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
    Held,
    InDoubt,
    Lost,
    Processing,
    Ready,
    Rejected,
    State,
    after,
    resealed,
)
from abatch.protocol.parked import REMEMBERED, note
from abatch.protocol.stops import add_stops
from abatch.result import Summary, Usage
from abatch.system.paths import absolute_url, is_local, shown
from abatch.system.threads import whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from abatch.journal.folder import JournalFolder
    from abatch.journal.lineage import Lineage
    from abatch.journal.log import FactLog, Recorded
    from abatch.prices import PriceList
    from abatch.protocol.facts import FilePart, Headers, SealedRecord, ShardFact
    from abatch.result import Failure

__all__ = ["JobRecord", "Ledger", "Progress", "ShardRecord"]


# A journal of a hundred thousand shards is read in a second or two. To find that a state or fact is *not* of a class
# takes five times as long as to find that it is: below, what is frequent stands first.

ENDS: Final = (Done, Dead)
"""States in which nothing is left to be done."""


class ShardRecord(msgspec.Struct, kw_only=True, gc=False):
    """A shard as it stands; a journal may hold a hundred thousand, so the garbage collector does not follow them."""

    shard: int
    job: int
    planned: Planned
    state: State
    length: int = 1
    """How many facts it has: the position of the next."""
    since: float = 0.0
    """When its last fact was recorded."""
    committed_at: float | None = None
    """The server's `Date` at its first commit point."""

    @property
    def open(self) -> bool:
        """Whether something is still to be done."""
        return not isinstance(self.state, ENDS)

    @property
    def batch_id(self) -> str | None:
        """The batch it is, where that is known."""
        match self.state:
            case Done() | Processing() | Draining() | Lost():
                return self.state.batch_id
            case _:
                return None

    @property
    def sealed(self) -> SealedRecord | None:
        """Its durable results, where there are any."""
        match self.state:
            case Done(drained=end) | Dead(end=Abandoned() as end):
                return end.sealed
            case _:
                return None


WISHES: Final = (CancelWished, ResolveWished, LostWished)
"""Facts that other processes append, and that the one that drives the job has to heed."""
CHANGE_ITS_STATE_ALONE: Final = frozenset({Accepted, CancelledAsParked, CandidatesChanged, Unreadable, RejectedFact})
"""Facts of a shard that say nothing else of its job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is, in requests unless named otherwise."""

    planned: int = 0
    """Checked, and cut into shards."""
    submitted: int = 0
    """In a batch, or in doubt, now or before."""
    in_flight: int = 0
    """In a batch that has not ended, or in doubt."""
    sealed: int = 0
    """With their final line in the destination, or known missing."""
    failed: int = 0
    """Of the sealed: not succeeded, or missing."""
    missing: int = 0
    """Of the failed: their result cannot be got."""
    batches: int = 0
    """Batches that the API took, ended or not."""
    batches_in_flight: int = 0
    """Of these: not ended."""
    in_doubt: int = 0
    """Shards whose create was not answered."""
    held: int = 0
    """Shards of which only an operator can say what became of them."""
    retried: int = 0
    """Requests that were sent again because they expired or failed for a passing reason."""
    total: int | None = None
    """All requests of the job, where that is known."""
    limit: int | None = None
    """How many of these are sent at most, the first ones; None for all."""

    @property
    def wanted(self) -> int | None:
        """How many requests are to be sent for now: all, or what the limit allows; None while it is not known."""
        if self.limit is None:
            return self.total
        if self.planned >= self.limit:
            return self.planned
        return None if self.total is None else min(self.total, self.limit)


_NO_SHARDS: Final[dict[int, ShardRecord]] = {}
_NO_ORDER: Final[list[int]] = []
_NO_HEADERS: Final[frozenset[Headers]] = frozenset()
"""Of every finished job; nothing is added to them, since facts of its shards cannot follow."""


class Totals(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a job's shards come to, for its summary."""

    counts: Counts
    missing: int
    batches: int
    retried: int
    spends: tuple[Spend, ...]
    """One per model, price step, place of inference, and what has no price."""
    stops: tuple[tuple[str, int], ...] = ()
    """Answers per stop reason; the most frequent first."""
    submitted: int = 0
    """Requests of the batches that are drained, each counted once however often it was tried."""


@dataclass(slots=True, kw_only=True)
class JobRecord:
    """A job as it stands. Of a finished one only the sums stay: its shards are read again from the journal."""

    job: int
    folder: Path
    """The journal's."""
    submitted: Submitted
    started_at: float
    changed_at: float
    cut: Cut = field(default_factory=lambda: Cut(rows=0))
    head: str = ""
    """Of its first cut; let go with the shards."""
    shards: dict[int, ShardRecord] = field(default_factory=dict[int, ShardRecord])
    open_shards: dict[int, ShardRecord] = field(default_factory=dict[int, ShardRecord])
    """Those of them of which something is still to be done."""
    missing_shards: list[int] = field(default_factory=list[int])
    """Those of which rows have no result."""
    listed: tuple[str, ...] = ()
    """SHA-256 of each list of missing requests that the destination may hold from before a shard was reopened."""
    header_sets: frozenset[Headers] = _NO_HEADERS
    """Of all its shards."""
    sealed_order: list[int] = field(default_factory=list[int])
    """Shards in the order their results were sealed."""
    wishes: dict[int, ResolveWished | LostWished] = field(default_factory=dict[int, ResolveWished | LostWished])
    """An operator's last word on each shard that is not settled."""
    refused: frozenset[int] = frozenset()
    """Shards on which the last word was refused: the API said otherwise."""
    stopped: Stopped | None = None
    limited: Limited | None = None
    """The last word on how many of its requests are sent."""
    finished: Finished | None = None
    duplicates: frozenset[str] = frozenset()
    """Batches that were paid for besides those that count."""
    earlier_files: tuple[FilePart, ...] = ()
    """Its files before its input changed."""
    moves: tuple[Moved, ...] = ()
    """To other destinations, in their order."""
    cuts: int = 0
    """How many cuts and moves there were: the position of the next."""
    parts: int = 0
    """Part numbers given out."""
    sealed_count: int = 0
    """How many shards have durable results."""
    has_succeeded: bool = False
    """Whether a request of it ever succeeded."""
    largest: int = 0
    """Requests of its largest shard."""
    seqs: tuple[int, int] = (0, 0)
    """Where its facts are in the journal, from its first to the one that ended it."""
    cancel_wished: bool = False
    """Whether somebody wished to cancel this job."""
    _changed: anyio.Event | None = None
    _cancelling: anyio.Event | None = None
    _wished: anyio.Event | None = None
    _reopened: frozenset[int] = frozenset()
    """Shards that were sealed once before: they keep their place in the order."""
    _sums: Totals | None = None
    """Of a finished job whose shards were let go."""

    @property
    def to(self) -> str:
        """The destination's URL as the journal keeps it, where the job is now; empty for a backend object."""
        return self.moves[-1].to if self.moves else self.submitted.to

    @property
    def places(self) -> list[str]:
        """Every destination that the job ever had, the first one first."""
        return [self.submitted.to, *(move.to for move in self.moves)]

    @property
    def location(self) -> str:
        """Where the results are; a local place moves with the journal."""
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
        """How many of its requests are sent, the first ones; None for all."""
        return self.submitted.limit if self.limited is None else self.limited.rows

    @property
    def limit_reached(self) -> bool:
        """Whether its limit holds back the requests that are not planned yet."""
        total = self._total
        is_more = not self.cut.last and (total is None or self.cut.rows < total)
        return self.limit is not None and self.cut.rows >= self.limit and is_more

    def take_part(self) -> int:
        """The part number for a new shard; one that is then not recorded leaves a gap."""
        self.parts += 1
        return self.parts - 1

    async def change(self) -> None:
        """Wait until a fact of this job is recorded."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    async def cancelling(self) -> None:
        """Wait until somebody wishes to cancel this job; every batch does, and is not woken by each fact."""
        if not self.cancel_wished:
            if self._cancelling is None:
                self._cancelling = anyio.Event()
            await self._cancelling.wait()

    @property
    def let_go(self) -> bool:
        """Whether its shards are not here any more: `Ledger.in_full` has them."""
        return self._sums is not None

    def let_shards_go(self) -> None:
        """Keep what a finished job came to, and not of what parts."""
        self._sums = self._totals()
        self.shards = self.open_shards = _NO_SHARDS
        self.sealed_order = _NO_ORDER
        if not self.missing_shards:
            self.missing_shards = _NO_ORDER
        self.header_sets = _NO_HEADERS
        self.head = ""
        self._cancelling = None
        source = self.submitted.source
        if isinstance(source, SelectedSource | ChangedSource):  # a byte per request, if they are many and mixed
            source = msgspec.structs.replace(source, mask=b"")
            self.submitted = msgspec.structs.replace(self.submitted, source=source)

    def take_shards_back(self, full: JobRecord) -> None:
        """Have the shards again that were let go; `full` is the job as it stood when it finished."""
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
        """Wait until an operator says something of a shard; shards that wait for days are not woken by each fact."""
        if self._wished is None:
            self._wished = anyio.Event()
        await self._wished.wait()

    def wake(self) -> None:
        """Let everybody who waits for a change look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def apply(self, recorded: Recorded) -> None:
        """Add one fact of this job or of a shard of it."""
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
            case CancelWished():
                self.cancel_wished = True
                if self._cancelling is not None:
                    self._cancelling.set()
            case ResolveWished() | LostWished():
                self.wishes[fact.shard] = fact
                self.refused -= {fact.shard}
                if self._wished is not None:
                    self._wished.set()
                    self._wished = None
            case WishRefused():
                self.wishes.pop(fact.shard, None)
                self.refused |= {fact.shard}
            case DuplicateSeen():
                self.duplicates |= {fact.batch_id}
            case Stopped():
                self.stopped = fact
            case Resumed():
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
        """What a fact of a shard says of the job; its state is changed already."""
        number = shard.shard
        match fact:
            case Committing():
                if shard.committed_at is None:
                    shard.committed_at = fact.date
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
                if number in self.refused and not isinstance(fact, HeldFact):
                    self.refused -= {number}
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
        """A sealed shard is to be drained once more: the job has to be finished again, at a position of its own."""
        self._reopened |= {number}
        if self.finished is not None:
            self.finished = None
            self.cuts += 1

    def progress(self) -> Progress:
        """A snapshot; its cost grows with the number of shards, not of requests."""
        if self._sums is not None:
            counts, missing = self._sums.counts, self._sums.missing
            return Progress(
                planned=self.cut.rows,
                submitted=self._sums.submitted,
                sealed=counts.total + missing,
                failed=counts.total - counts.succeeded + missing,
                missing=missing,
                batches=self._sums.batches,
                retried=self._sums.retried,
                total=self._total,
                limit=self.limit,
            )
        submitted = in_flight = sealed = failed = missing = batches = flying = in_doubt = held = retried = 0
        for shard in self.shards.values():
            rows, first = shard.planned.rows, shard.planned.trial == 1
            match shard.state:
                case Done(drained=end):
                    batches += shard.batch_id is not None
                    sealed += end.counts.total + end.missing
                    failed += end.counts.total - end.counts.succeeded + end.missing
                    missing += end.missing
                    retried += end.retried
                case Ready() | Rejected():
                    continue
                case InDoubt():
                    in_doubt += 1
                    in_flight += rows
                case Held():
                    held += 1
                    in_flight += rows
                case Processing():
                    batches += 1
                    flying += 1
                    in_flight += rows
                case Draining() | Lost():
                    batches += shard.batch_id is not None
                case Dead(end=Abandoned() as end):
                    sealed += end.counts.total
                    failed += end.counts.total
                    continue
                case Dead():
                    continue
                case _:
                    assert_never(shard.state)
            submitted += rows if first else 0
        return Progress(
            planned=self.cut.rows,
            submitted=submitted,
            in_flight=in_flight,
            sealed=sealed,
            failed=failed,
            missing=missing,
            batches=batches,
            batches_in_flight=flying,
            in_doubt=in_doubt,
            held=held,
            retried=retried,
            total=self._total,
            limit=self.limit,
        )

    @property
    def _total(self) -> int | None:
        source = self.submitted.source
        if self.cut.last:
            return self.cut.rows
        return None if isinstance(source, IterableSource) else source.rows

    @property
    def not_sent(self) -> int | None:
        """Requests that it never took up because it was cancelled; None if their number is not known."""
        if self.finished is None or self.cut.last:
            return 0
        return None if self._total is None else self._total - self.cut.rows

    @property
    def unsettled(self) -> int:
        """Requests in shards that may have been sent, and are not sealed."""
        return sum(shard.planned.rows for shard in self.open_shards.values() if not isinstance(shard.state, Ready))

    @property
    def missing(self) -> int:
        """How many of its requests have no result."""
        return self._totals().missing

    def failures(self) -> tuple[Failure, ...]:
        """What did not succeed so far, in few groups; of a job whose shards are here, see `Ledger.failures`."""
        found = Failures(MOST_OF_JOB)
        for shard in self.shards.values():
            match shard.state:
                case Done(drained=end) | Dead(end=Abandoned() as end):
                    found.update(end.failures)
                case _:
                    pass
        return found.groups

    def summary(self, prices: PriceList) -> Summary:
        """What the job came to so far; complete once it is finished."""
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
        if self._sums is not None:
            return self._sums
        counts, missing, batches, retried, submitted = Counts(), 0, 0, 0, 0
        spent: dict[tuple[str, bool, str, tuple[str, ...]], Usage] = {}
        stops: dict[str, int] = {}
        for shard in self.shards.values():
            match shard.state:
                case Done(drained=end):
                    counts += end.counts
                    missing += end.missing
                    retried += end.retried
                    submitted += shard.planned.rows if shard.planned.trial == 1 else 0
                    add_stops(stops, end.stops)
                    for spend in end.spend:
                        usage = spend.usage
                        # jobs have few models between them
                        bucket = (intern(spend.model), spend.long, usage.inference_geo, usage.unpriced)
                        if bucket not in spent and len(spent) >= MOST_SPENDS:
                            bucket = (OTHER_MODELS, False, "", (TOO_MANY,))
                            usage = msgspec.structs.replace(usage, inference_geo="", unpriced=bucket[3])
                        spent[bucket] = spent[bucket] + usage if bucket in spent else usage
                    batches += shard.batch_id is not None
                case Dead(end=Abandoned() as end):
                    counts += end.counts
                case Processing() | Draining() | Lost():
                    batches += shard.batch_id is not None
                case _:
                    pass
        return Totals(
            counts=counts,
            missing=missing,
            batches=batches,
            retried=retried,
            spends=tuple(Spend(model=key[0], long=key[1], usage=usage) for key, usage in spent.items()),
            stops=tuple(sorted(stops.items(), key=lambda stop: (-stop[1], stop[0]))),
            submitted=submitted,
        )


class Ledger:
    """All jobs of one journal."""

    def __init__(self, facts: FactLog, folder: JournalFolder) -> None:
        self.facts = facts
        self.folder = folder
        self.jobs: dict[int, JobRecord] = {}
        self._by_key: dict[str, JobRecord] = {}
        self.unfinished: dict[int, JobRecord] = {}
        """Those of them that are not finished."""
        self._shards: dict[int, ShardRecord] = {}
        self.durations: deque[float] = deque(maxlen=REMEMBERED)
        """Seconds that the last batches took, from their creation until they were seen to have ended."""
        self._wished: dict[int, JobRecord] = {}
        self._late: list[Recorded] = []
        """Facts of jobs whose shards were released; applied once those are loaded again."""
        self._on_finished: Callable[[JobRecord], object] | None = None
        self.on_recorded: Callable[[Recorded, str], object] | None = None
        """Called with every fact that is recorded from now on, here or by another process, and its job's key."""
        self._others_seq = 0  # up to here, everything that others appended is applied
        self._version = 0
        self._next_shard = 1
        self._refreshing = anyio.Lock()

    @classmethod
    async def load(
        cls, facts: FactLog, folder: JournalFolder, *, finished: Callable[[JobRecord], object] | None = None
    ) -> Ledger:
        """Replay the journal.

        Args:
            facts: the log.
            folder: the journal's.
            finished: called, in a worker thread, with every finished job before its shards are let go.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        ledger = cls(facts, folder)
        ledger._version = await facts.version()
        ledger._on_finished = finished
        ledger._others_seq = await facts.replay(ledger._apply)
        try:
            await ledger._apply_late()
        except (IllegalTransition, AssertionError) as failure:
            why = f"a fact of a job that was reopened does not follow from those before it ({failure})"
            raise JournalCorrupt(folder.path, why) from failure
        ledger._on_finished = None
        return ledger

    @property
    def lineage(self) -> Lineage:
        """The journal's identity."""
        return self.facts.lineage

    def job(self, key: str) -> JobRecord | None:
        """The job of this key."""
        return self._by_key.get(key)

    def shard(self, number: int) -> ShardRecord | None:
        """The shard of this number, if its job is not finished; else see `find_shard`."""
        return self._shards.get(number)

    async def find_shard(self, number: int) -> ShardRecord | None:
        """The shard of this number, from the journal if its job is finished.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        if (known := self.shard(number)) is not None:
            return known
        job = self.jobs.get(await self.facts.job_of(number) or 0)
        return None if job is None else (await self.in_full(job)).shards.get(number)

    async def in_full(self, job: JobRecord) -> JobRecord:
        """The job with its shards: itself, or if it let them go, another record as it stood when it finished.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        if not job.let_go:
            return job
        first, last = job.seqs
        began: list[Submitted] = []
        if isinstance(job.submitted.source, SelectedSource | ChangedSource):  # without its mask
            await self.facts.replay(
                lambda each: began.append(each.fact) if isinstance(each.fact, Submitted) else None,
                since=first - 1,
                until=first,
                job=job.job,
            )
        full = JobRecord(
            job=job.job,
            folder=job.folder,
            submitted=began[0] if began else job.submitted,
            started_at=job.started_at,
            changed_at=job.changed_at,
        )
        await self.facts.replay(full.apply, since=first, until=last, job=job.job)
        full.duplicates = job.duplicates
        full.changed_at = job.changed_at
        return full

    async def failures(self, job: JobRecord) -> tuple[Failure, ...]:
        """What did not succeed so far of a job, in few groups; of a finished job they are read from the journal.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        return (await self.in_full(job)).failures()

    async def take_back(self, job: JobRecord) -> None:
        """Have the shards of a finished job here again, until it is finished once more or `let_go`.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        full = await self.in_full(job)
        if full is not job:
            job.take_shards_back(full)
            self._shards.update(full.shards)

    def let_go(self, job: JobRecord) -> None:
        """Keep of a finished job what it came to; nothing is done to another."""
        if job.finished is not None and not job.let_go:
            self._finish(job)

    async def _apply_late(self) -> None:
        """Apply what followed in jobs that were reopened."""
        late, self._late = self._late, []
        for recorded in late:
            job = self.jobs[recorded.job]
            if recorded.shard is not None:
                await self.take_back(job)
            self._apply(recorded)

    def take_wished(self) -> list[JobRecord]:
        """The jobs of which other processes wished something since this was called last."""
        wished = list(self._wished.values())
        self._wished.clear()
        return wished

    def number_shard(self) -> int:
        """A shard number that no other shard has."""
        number = self._next_shard
        self._next_shard += 1
        return number

    async def start_job(self, fact: Submitted) -> JobRecord:
        """Record a job's first fact.

        Raises:
            JobConflict: another process took the key.

        """
        return await whole(self._start_job(fact))

    async def _start_job(self, fact: Submitted) -> JobRecord:
        recorded = await self.facts.add_job(fact)
        self._apply(recorded)
        self._announce(recorded)
        return self.jobs[recorded.job]

    async def record(self, *entries: Entry) -> None:
        """Append facts durably, all or none, and apply them.

        Raises:
            IllegalTransition: a shard's state does not allow one; nothing was appended.
            Overtaken: another process was first; the ledger has been brought up to date.

        """
        await whole(self._record(entries))

    async def _record(self, entries: tuple[Entry, ...]) -> None:
        self._check(entries)
        try:
            appended = await self.facts.append(*entries)
        except Overtaken:
            await self.refresh()
            raise
        for recorded in appended:
            self._apply(recorded)
            self._announce(recorded)
        for job in {entry.job for entry in entries}:
            self.jobs[job].wake()

    def next(self, shard: ShardRecord, *facts: ShardFact, at: int | None = None) -> list[Entry]:
        """Entries for the next facts of a shard; after `at` facts, for what was decided when it had so many."""
        first = shard.length if at is None else at
        return [Entry(shard.job, fact, shard.shard, first + i) for i, fact in enumerate(facts)]

    def _check(self, entries: tuple[Entry, ...]) -> None:
        states: dict[int, State | None] = {}
        lengths: dict[int, int] = {}
        for entry in entries:
            if entry.shard is None:
                if isinstance(entry.fact, Cut):
                    self._check_cut(self.jobs[entry.job], entry.fact, entries)
                continue
            record = self.jobs[entry.job].shards.get(entry.shard)
            length = lengths.get(entry.shard, 0 if record is None else record.length)
            if entry.n != length:  # what another process appended was read meanwhile
                raise Overtaken
            lengths[entry.shard] = length + 1
            state = states.get(entry.shard, None if record is None else record.state)
            fact: ShardFact = entry.fact  # type: ignore[assignment]  # facts at a shard are shard facts
            states[entry.shard] = after(state, fact)

    def _check_cut(self, job: JobRecord, cut: Cut, entries: tuple[Entry, ...]) -> None:
        """A cut plans just the rows between the last position and its own."""
        planned = sum(entry.fact.rows for entry in entries if isinstance(entry.fact, Planned))
        if job.cut.last or cut.rows != job.cut.rows + planned:
            raise IllegalTransition(job.cut, cut)

    async def refresh(self) -> bool:
        """Take in what other processes appended; whether there was anything."""
        async with self._refreshing:
            version = await self.facts.version()
            if version == self._version:
                return False
            fresh: list[Recorded] = []
            await self.facts.replay(fresh.append, since=self._others_seq, others_only=True)
            for recorded in fresh:
                self._apply(recorded)
                await self._apply_late()
                self._others_seq = recorded.seq
                self._announce(recorded)
                job = self.jobs[recorded.job]
                job.wake()
                if isinstance(recorded.fact, WISHES):
                    self._wished[job.job] = job
            self._version = version  # only now: a cancellation before this reads the rest again
            return bool(fresh)

    def _announce(self, recorded: Recorded) -> None:
        if self.on_recorded is not None:
            self.on_recorded(recorded, self.jobs[recorded.job].key)

    def _apply(self, recorded: Recorded) -> None:
        fact, number = recorded.fact, recorded.shard
        if number is not None:
            job = self.jobs.get(recorded.job)
            if job is None:
                raise self._never_began(recorded)
            if job.let_go:
                self._late.append(recorded)
                return
            kind = type(fact)
            if kind is Ended:
                self._note_duration(job, recorded)
            job.apply(recorded)
            if kind is Planned:
                self._shards[number] = job.shards[number]
                self._next_shard = max(self._next_shard, number + 1)
            elif kind is Reopened:
                self.unfinished[job.job] = job
            return
        if isinstance(fact, Submitted) and recorded.job not in self.jobs:
            began = JobRecord(
                job=recorded.job,
                folder=self.folder.path,
                submitted=fact,
                started_at=recorded.at,
                changed_at=recorded.at,
            )
            began.seqs = recorded.seq, recorded.seq
            self.jobs[recorded.job] = self.unfinished[recorded.job] = began
            self._by_key.setdefault(began.key, began)
            return
        job = self.jobs.get(recorded.job)
        if job is None:
            raise self._never_began(recorded)
        if job.let_go and any(each.job == job.job for each in self._late):
            self._late.append(recorded)
            return
        job.apply(recorded)
        if isinstance(fact, Finished) and not job.let_go:
            self._finish(job)

    def _finish(self, job: JobRecord) -> None:
        """Keep of a finished job what it came to."""
        if self._on_finished is not None:
            self._on_finished(job)
        for number in job.shards:
            self._shards.pop(number, None)
        self.unfinished.pop(job.job, None)
        job.let_shards_go()

    def _never_began(self, recorded: Recorded) -> JournalCorrupt:
        return JournalCorrupt(self.folder.path, f"fact {recorded.seq} is of a job that never began")

    def _note_duration(self, job: JobRecord, ended: Recorded) -> None:
        """How long a batch took; not of one that was parked and cancelled for it, which is what is not usual."""
        shard = None if ended.shard is None else job.shards.get(ended.shard)
        if shard is not None and isinstance(shard.state, Processing) and not shard.state.parked:
            note(self.durations, ended.at - shard.state.created_at)


def bound_batches(job: JobRecord) -> list[tuple[ShardRecord, str, float]]:
    """The shards of a job whose batch is known by an answer or a tag, with its id and time of creation."""
    bound: list[tuple[ShardRecord, str, float]] = []
    for shard in job.shards.values():
        match shard.state:
            case Done() | Processing() | Draining() | Lost():
                if shard.state.proven and shard.state.batch_id is not None:
                    bound.append((shard, shard.state.batch_id, shard.state.created_at))
            case _:
                pass
    return bound
