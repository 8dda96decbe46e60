"""What the journal's facts come to: every job and shard as it stands now, kept in step with the journal.

Reading it costs nothing, changing it is `record`: append the facts durably, then apply them here. What other
processes appended (wishes, mostly) comes in by `refresh`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import anyio

from abatch.errors import IllegalTransition, JournalCorrupt
from abatch.facts import (
    Abandoned,
    CancelWished,
    Committing,
    Counts,
    Cut,
    Drained,
    DuplicateSeen,
    FileSource,
    Finished,
    Found,
    Moved,
    Planned,
    ResolveWished,
    Resumed,
    Spend,
    Stopped,
    Submitted,
    Withdrawn,
)
from abatch.facts import Held as HeldFact
from abatch.journal import Entry, Overtaken
from abatch.lifecycle import Dead, Done, Draining, Held, InDoubt, Processing, Ready, Rejected, State, after, resealed
from abatch.places import absolute_url, is_local, shown
from abatch.prices import BATCH_DISCOUNT
from abatch.result import Summary, Usage
from abatch.threads import whole

if TYPE_CHECKING:
    from pathlib import Path

    from abatch.facts import SealedRecord, ShardFact
    from abatch.journal import Journal, Recorded
    from abatch.prices import PriceList

__all__ = ["JobRecord", "Ledger", "Progress", "ShardRecord"]


@dataclass(slots=True, kw_only=True)
class ShardRecord:
    """A shard as it stands."""

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
        return not isinstance(self.state, Done | Dead)

    @property
    def batch_id(self) -> str | None:
        """The batch it is, where that is known."""
        match self.state:
            case Processing() | Draining() | Done():
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is, in requests unless named otherwise."""

    planned: int = 0
    submitted: int = 0
    """In a batch, or in doubt, now or before."""
    in_flight: int = 0
    """In a batch that has not ended, or in doubt."""
    sealed: int = 0
    """With their final line in the destination, or known missing."""
    failed: int = 0
    """Of the sealed: not succeeded."""
    batches: int = 0
    batches_in_flight: int = 0
    in_doubt: int = 0
    """Shards."""
    held: int = 0
    """Shards."""
    retried: int = 0
    total: int | None = None
    """All requests of the job, where that is known."""


@dataclass(slots=True, kw_only=True)
class JobRecord:
    """A job as it stands."""

    job: int
    folder: Path
    """The journal's."""
    submitted: Submitted
    started_at: float
    changed_at: float
    cut: Cut = field(default_factory=lambda: Cut(rows=0))
    shards: dict[int, ShardRecord] = field(default_factory=dict[int, ShardRecord])
    sealed_order: list[int] = field(default_factory=list[int])
    """Shards in the order their results were sealed."""
    wishes: dict[int, ResolveWished] = field(default_factory=dict[int, ResolveWished])
    stopped: Stopped | None = None
    finished: Finished | None = None
    duplicates: set[str] = field(default_factory=set[str])
    """Batches that were paid for besides those that count."""
    moves: list[Moved] = field(default_factory=list[Moved])
    """To other destinations, in their order."""
    cuts: int = 0
    """How many cuts and moves there were: the position of the next."""
    parts: int = 0
    """Part numbers given out."""
    _changed: anyio.Event | None = None
    _cancelling: anyio.Event = field(default_factory=anyio.Event)

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

    def take_part(self) -> int:
        """The part number for a new shard; one that is then not recorded leaves a gap."""
        self.parts += 1
        return self.parts - 1

    async def change(self) -> None:
        """Wait until a fact of this job is recorded."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    @property
    def cancel_wished(self) -> bool:
        """Whether somebody wished to cancel this job."""
        return self._cancelling.is_set()

    async def cancelling(self) -> None:
        """Wait until somebody wishes to cancel this job; every batch does, and is not woken by each fact."""
        await self._cancelling.wait()

    def wake(self) -> None:
        """Let everybody who waits for a change look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def apply(self, recorded: Recorded) -> None:
        """Add one fact of this job or of a shard of it."""
        self.changed_at = recorded.at
        if recorded.shard is not None:
            fact_of_shard: ShardFact = recorded.fact  # type: ignore[assignment]  # another does not follow from them
            self._apply_to_shard(recorded.shard, fact_of_shard, recorded.at)
            return
        fact = recorded.fact
        match fact:
            case Submitted():
                raise AssertionError("a job has one first fact")
            case Cut():
                self.cut = fact
                self.cuts += 1
            case CancelWished():
                self._cancelling.set()
            case ResolveWished():
                self.wishes[fact.shard] = fact
            case DuplicateSeen():
                self.duplicates.add(fact.batch_id)
            case Stopped():
                self.stopped = fact
            case Resumed():
                self.stopped = None
            case Moved():
                self.moves.append(fact)
                self.cuts += 1
                for number, sealed in fact.sealed.items():
                    shard = self.shards[number]
                    shard.state = resealed(shard.state, sealed)
            case Finished():
                self.finished = fact
            case _:
                raise AssertionError("a fact of a shard names no shard")

    def _apply_to_shard(self, number: int, fact: ShardFact, at: float) -> None:
        shard = self.shards.get(number)
        if shard is None:
            state = after(None, fact)
            assert isinstance(fact, Planned)
            self.parts = max(self.parts, fact.part + 1)
            self.shards[number] = ShardRecord(shard=number, job=self.job, planned=fact, state=state, since=at)
            return
        shard.state = after(shard.state, fact)
        shard.length += 1
        shard.since = at
        match fact:
            case Committing():
                if shard.committed_at is None:
                    shard.committed_at = fact.date
            case Found() | Withdrawn() | HeldFact():
                self.wishes.pop(number, None)  # a word given before this was for what is settled now
            case Drained() | Abandoned():
                self.sealed_order.append(number)
            case _:
                pass

    def progress(self) -> Progress:
        """A snapshot; its cost grows with the number of shards, not of requests."""
        submitted = in_flight = sealed = failed = batches = flying = in_doubt = held = retried = 0
        for shard in self.shards.values():
            rows, first = shard.planned.rows, shard.planned.trial == 1
            match shard.state:
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
                case Draining():
                    batches += 1
                case Done(drained=end):
                    batches += 1
                    sealed += end.counts.total + end.missing
                    failed += end.counts.total - end.counts.succeeded + end.missing
                    retried += end.retried
                case Dead(end=Abandoned() as end):
                    sealed += end.counts.total
                    failed += end.counts.total
                    continue
                case Dead():
                    continue
                case _:
                    assert_never(shard.state)
            submitted += rows if first else 0
        source = self.submitted.source
        return Progress(
            planned=self.cut.rows,
            submitted=submitted,
            in_flight=in_flight,
            sealed=sealed,
            failed=failed,
            batches=batches,
            batches_in_flight=flying,
            in_doubt=in_doubt,
            held=held,
            retried=retried,
            total=self.cut.rows if self.cut.last else source.rows if isinstance(source, FileSource) else None,
        )

    def summary(self, prices: PriceList) -> Summary:
        """What the job came to so far; complete once it is finished."""
        counts, missing, batches, retried = Counts(), 0, 0, 0
        spends: list[Spend] = []
        for shard in self.shards.values():
            match shard.state:
                case Done(drained=end):
                    counts += end.counts
                    missing += end.missing
                    retried += end.retried
                    spends += end.spend
                    batches += 1
                case Dead(end=Abandoned() as end):
                    counts += end.counts
                case Processing() | Draining():
                    batches += 1
                case _:
                    pass
        total = prices.total(spends)
        return Summary(
            key=self.key,
            location=self.location,
            requests=self.cut.rows,
            succeeded=counts.succeeded,
            errored=counts.errored,
            canceled=counts.canceled,
            expired=counts.expired,
            other=counts.other,
            missing=missing,
            batches=batches,
            retried=retried,
            duplicates=len(self.duplicates),
            seconds=self.changed_at - self.started_at,
            usage=sum((spend.usage for spend in spends), Usage()),
            cost=None if total is None else total * BATCH_DISCOUNT,
            synchronous_cost=total,
        )


class Ledger:
    """All jobs of one journal."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.jobs: dict[int, JobRecord] = {}
        self._others_seq = 0  # up to here, everything that others appended is applied
        self._version = 0
        self._next_shard = 1
        self._refreshing = anyio.Lock()

    @classmethod
    async def load(cls, journal: Journal) -> Ledger:
        """Replay the journal.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        ledger = cls(journal)
        ledger._version = await journal.version()

        def visit(recorded: Recorded) -> None:
            try:
                ledger._apply(recorded)
            except (IllegalTransition, AssertionError) as failure:
                why = f"fact {recorded.seq} does not follow from those before it ({failure})"
                raise JournalCorrupt(journal.folder, why) from failure
            ledger._others_seq = recorded.seq

        await journal.replay(visit)
        return ledger

    def job(self, key: str) -> JobRecord | None:
        """The job of this key."""
        return next((job for job in self.jobs.values() if job.key == key), None)

    def shard(self, number: int) -> ShardRecord | None:
        """The shard of this number."""
        return next((job.shards[number] for job in self.jobs.values() if number in job.shards), None)

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
        recorded = await self.journal.add_job(fact)
        self._apply(recorded)
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
            appended = await self.journal.append(*entries)
        except Overtaken:
            await self.refresh()
            raise
        for recorded in appended:
            self._apply(recorded)
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
            version = await self.journal.version()
            if version == self._version:
                return False
            fresh: list[Recorded] = []
            await self.journal.replay(fresh.append, since=self._others_seq, others_only=True)
            self._version = version
            for recorded in fresh:
                self._apply(recorded)
                self._others_seq = recorded.seq
                self.jobs[recorded.job].wake()
            return bool(fresh)

    def _apply(self, recorded: Recorded) -> None:
        fact = recorded.fact
        if recorded.shard is not None and recorded.shard >= self._next_shard:
            self._next_shard = recorded.shard + 1
        if isinstance(fact, Submitted) and recorded.job not in self.jobs and recorded.shard is None:
            self.jobs[recorded.job] = JobRecord(
                job=recorded.job,
                folder=self.journal.folder,
                submitted=fact,
                started_at=recorded.at,
                changed_at=recorded.at,
            )
            return
        job = self.jobs.get(recorded.job)
        if job is None:
            raise JournalCorrupt(self.journal.folder, f"fact {recorded.seq} is of a job that never began")
        job.apply(recorded)


def bound_batches(job: JobRecord) -> list[tuple[ShardRecord, str, float]]:
    """The shards of a job whose batch is known by an answer or a tag, with its id and time of creation."""
    return [
        (shard, shard.state.batch_id, shard.state.created_at)
        for shard in job.shards.values()
        if isinstance(shard.state, Processing | Draining | Done)
        and (isinstance(shard.state, Done) or shard.state.proven)
    ]
