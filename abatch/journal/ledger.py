"""The present state of all jobs of a journal, in memory and in step with the log of facts.

Reading it costs nothing. `record` changes it: it appends facts durably, then applies them here. `refresh` applies the
facts that other processes appended, which are mostly wishes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import anyio

from abatch.errors import IllegalTransition, JobNotFound, JournalCorrupt, Overtaken
from abatch.journal.log import Entry
from abatch.journal.records import JobRecord, ShardRecord
from abatch.protocol.facts import (
    CancelWished,
    ChangedSource,
    Cut,
    Ended,
    Finished,
    LostWished,
    Planned,
    Reopened,
    ResolveWished,
    Resumed,
    SelectedSource,
    Submitted,
)
from abatch.protocol.lifecycle import (
    Processing,
    State,
    after,
)
from abatch.protocol.parked import REMEMBERED, note
from abatch.system.threads import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from abatch.journal.folder import JournalFolder
    from abatch.journal.inbox import InboxRequest
    from abatch.journal.lineage import Lineage
    from abatch.journal.log import FactLog, Recorded
    from abatch.protocol.facts import ShardFact
    from abatch.result import Failure

__all__ = ["Ledger"]

WISHES: Final = (CancelWished, ResolveWished, LostWished)
"""Facts that other processes append, and to which the driving process must respond."""


class Ledger:
    """All jobs of one journal."""

    def __init__(self, facts: FactLog, folder: JournalFolder) -> None:
        self.facts = facts
        self.folder = folder
        self.jobs: dict[int, JobRecord] = {}
        self._by_key: dict[str, JobRecord] = {}
        self.unfinished: dict[int, JobRecord] = {}
        """The jobs that are not finished."""
        self._shards: dict[int, ShardRecord] = {}
        self.durations: deque[float] = deque(maxlen=REMEMBERED)
        """The seconds that the last batches took, from their creation to the first look that showed their end."""
        self._wished: dict[int, JobRecord] = {}
        self._submitted: dict[int, JobRecord] = {}
        self._late: list[Recorded] = []
        """Facts of jobs whose shards were released; they are applied once the shards are loaded again."""
        self._on_finished: Callable[[JobRecord], object] | None = None
        self.on_recorded: Callable[[Recorded, str], object] | None = None
        """Called with every fact that this or another process records from now on, and with its job's key."""
        self.others_seq = 0
        """The number of the last fact of another process that is applied."""
        self._version = 0
        self._next_shard = 1
        self._turn = anyio.Lock(fast_acquire=True)
        """Held from an append or a look at the log to the application of its facts. Without it, `refresh` could apply a
        wish before a fact of this process that is durable already, and that fact would then drop the later wish."""

    @classmethod
    async def load(
        cls, facts: FactLog, folder: JournalFolder, *, finished: Callable[[JobRecord], object] | None = None
    ) -> Ledger:
        """Replay the journal.

        Args:
            facts: the log.
            folder: the folder of the journal.
            finished: called, in a worker thread, with every finished job before its shards are released.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        ledger = cls(facts, folder)
        ledger._version = await facts.version()
        ledger._on_finished = finished
        ledger.others_seq = await facts.replay(ledger._apply)
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
        """Return the job with this key; None if no job has it."""
        return self._by_key.get(key)

    def named(self, key: str) -> JobRecord:
        """Return the job with this key.

        Raises:
            JobNotFound: no job has this key.

        """
        if (job := self.job(key)) is None:
            raise JobNotFound(self.folder.path, key, tuple(each.key for each in self.jobs.values()))
        return job

    def shard(self, number: int) -> ShardRecord | None:
        """Return the shard with this number, if its job is not finished; otherwise use `find_shard`."""
        return self._shards.get(number)

    async def find_shard(self, number: int) -> ShardRecord | None:
        """Return the shard with this number; read it from the journal if its job is finished.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        if (known := self.shard(number)) is not None:
            return known
        job = self.jobs.get(await self.facts.job_of(number) or 0)
        return None if job is None else (await self.in_full(job)).shards.get(number)

    async def in_full(self, job: JobRecord) -> JobRecord:
        """Return the job with its shards: the same record, or a new one from the journal if the shards were released.

        The new record has the state in which the job finished.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        if not job.let_go:
            return job
        first, last = job.seqs
        began: list[Submitted] = []
        if isinstance(job.submitted.source, SelectedSource | ChangedSource):  # its mask was released, too
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
        """Return the failures of a job so far, in few groups; for a finished job they are read from the journal.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        return (await self.in_full(job)).failures()

    async def take_back(self, job: JobRecord) -> None:
        """Load the shards of a finished job again, until the job is finished once more or `let_go` is called.

        Raises:
            JournalCorrupt: a fact cannot be read, or does not follow from those before it.

        """
        full = await self.in_full(job)
        if full is not job:
            job.take_shards_back(full)
            self._shards.update(full.shards)

    def let_go(self, job: JobRecord) -> None:
        """Release the shards of a finished job and keep its totals; do nothing for an unfinished job."""
        if job.finished is not None and not job.let_go:
            self._finish(job)

    async def _apply_late(self) -> None:
        """Apply the later facts of jobs that were reopened."""
        late, self._late = self._late, []
        for recorded in late:
            job = self.jobs[recorded.job]
            if recorded.shard is not None:
                await self.take_back(job)
            self._apply(recorded)

    def take_wished(self) -> list[JobRecord]:
        """Return the jobs for which other processes recorded wishes since the last call."""
        wished = list(self._wished.values())
        self._wished.clear()
        return wished

    def take_submitted(self) -> list[JobRecord]:
        """Return the jobs that processes which do not drive have submitted since the last call, or submitted again."""
        taken = list(self._submitted.values())
        self._submitted.clear()
        return taken

    def needed_inputs(self) -> set[str]:
        """Return the names of the kept inputs that unfinished jobs read."""
        folder = self.folder.inputs
        paths = [path for job in self.unfinished.values() for path in job.input_paths]
        return {path.name for path in paths if path.parent == folder}

    def needed_spool(self) -> set[str]:
        """Return the names of the spool files that open shards need, and that their retry shards may need."""
        needed: set[str] = set()
        for job in self.unfinished.values():
            for shard in job.open_shards.values():
                needed |= {shard.planned.spool, self.folder.retry_name(shard.shard)}
        return needed

    def number_shard(self) -> int:
        """Return a shard number that no other shard has."""
        number = self._next_shard
        self._next_shard += 1
        return number

    async def put(self, job: JobRecord, requests: Sequence[InboxRequest]) -> int:
        """Make requests durable in the inbox of an open job; return how many were new.

        Raises:
            RequestConflict: the inbox holds one of these custom_ids with other params; none was put.
            InboxClosed: the job takes no further requests; none was put.

        """
        new = await self.facts.put(job.job, requests)
        job.note_arrival()
        return new

    async def start_job(self, fact: Submitted) -> JobRecord:
        """Record a job's first fact.

        Raises:
            JobConflict: another process has taken the key.

        """
        return await whole(self._start_job(fact))

    async def _start_job(self, fact: Submitted) -> JobRecord:
        async with self._turn:
            recorded = await self.facts.add_job(fact)
            self._apply(recorded)
            self._announce(recorded)
        return self.jobs[recorded.job]

    async def record(self, *entries: Entry) -> None:
        """Append facts durably, all or none, and apply them.

        Raises:
            IllegalTransition: a shard's state does not allow one of the facts; nothing was appended.
            Overtaken: another process was first; the ledger was refreshed.

        """
        await whole(self._record(entries))

    async def _record(self, entries: tuple[Entry, ...]) -> None:
        try:
            async with self._turn:
                self._check(entries)
                for recorded in await self.facts.append(*entries):
                    self._apply(recorded)
                    self._announce(recorded)
        except Overtaken:
            await self.refresh()
            raise
        for job in {entry.job for entry in entries}:
            self.jobs[job].wake()

    def next(self, shard: ShardRecord, *facts: ShardFact, at: int | None = None) -> list[Entry]:
        """Make entries for the next facts of a shard.

        With `at`, their positions follow the first `at` facts: those that the shard had when the facts were decided.
        """
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
            if entry.n != length:  # another process appended facts, and they were read in the meantime
                raise Overtaken
            lengths[entry.shard] = length + 1
            state = states.get(entry.shard, None if record is None else record.state)
            fact: ShardFact = entry.fact  # type: ignore[assignment]  # the facts of a shard are shard facts
            states[entry.shard] = after(state, fact)

    def _check_cut(self, job: JobRecord, cut: Cut, entries: tuple[Entry, ...]) -> None:
        """Raise unless a cut plans exactly the rows between the last position and its own."""
        planned = sum(entry.fact.rows for entry in entries if isinstance(entry.fact, Planned))
        if job.cut.last or cut.rows != job.cut.rows + planned:
            raise IllegalTransition(job.cut, cut)

    async def refresh(self) -> bool:
        """Apply the facts that other processes appended, and return whether there were any.

        A wish may be applied after facts of this process that follow it in the log. A replay would let such a fact
        answer the wish; here the wish stays until it is obeyed or refused, which is a fact in either case.
        """
        async with self._turn:
            version = await self.facts.version()
            if version == self._version:
                return False
            for job in self.unfinished.values():
                if job.is_open:  # Another process may have put requests; these are no facts.
                    job.note_arrival()
            fresh: list[Recorded] = []
            await self.facts.replay(fresh.append, since=self.others_seq, others_only=True)
            for recorded in fresh:
                self._apply(recorded)
                await self._apply_late()
                self.others_seq = recorded.seq
                self._announce(recorded)
                job = self.jobs[recorded.job]
                job.wake()
                if isinstance(recorded.fact, WISHES):
                    self._wished[job.job] = job
                elif isinstance(recorded.fact, Submitted | Resumed) and recorded.fact.terms is not None:
                    self._submitted[job.job] = job
            self._version = version  # set last, so that after a cancellation the rest is read again
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
                terms=fact.terms,
            )
            began.seqs = recorded.seq, recorded.seq
            began.submitted_seq = 0 if fact.terms is None else recorded.seq
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
        """Release the shards of a finished job, and keep its totals."""
        if self._on_finished is not None:
            self._on_finished(job)
        for number in job.shards:
            self._shards.pop(number, None)
        self.unfinished.pop(job.job, None)
        job.let_shards_go()

    def _never_began(self, recorded: Recorded) -> JournalCorrupt:
        return JournalCorrupt(self.folder.path, f"fact {recorded.seq} is of a job that never began")

    def _note_duration(self, job: JobRecord, ended: Recorded) -> None:
        """Note how long a batch took, unless abatch cancelled it as parked, because that duration is not usual."""
        shard = None if ended.shard is None else job.shards.get(ended.shard)
        if shard is not None and isinstance(shard.state, Processing) and not shard.state.parked:
            note(self.durations, ended.at - shard.state.created_at)
