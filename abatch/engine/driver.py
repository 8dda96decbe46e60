"""Drive one shard: perform the next action, make its fact durable, look again. Running and recovering are the same.

The submission, step by step; a crash on any line leaves a state that the next run goes on from:

    admitted        the queue limit, the request rate and a slot for uploading allow it
    upload          headers and the body, all but its final `]}`: nothing can exist on the server yet
    gate            the server's `Date` by a second connection, the guard, then `Committing` made durable
    tail            `]}`, unless more than a minute passed since the `Date` or a stop is wished (then Withdrawn)
    answer          judged by table A; a definite one is recorded, else the shard is in doubt and table B settles it

Past the gate the attempt is shielded from cancellation: it gets the manager's patience (30 s) for its answer.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, assert_never

import anyio
import msgspec

from abatch.config import GRACE_FOREIGN_SOCKET, GRACE_OWN_SOCKET
from abatch.engine.drain import NotOurs, seal_fallbacks
from abatch.errors import ApiError, BackendError, JobStopped, TooManyOpenFiles, cancel_and_skip
from abatch.input.located import Named, named
from abatch.input.spool import FREE_DISK, SpoolDamaged, SpoolReader, SpoolUnusable, SpoolWriter, guarded, open_spool
from abatch.journal.sqlite import Entry, Overtaken
from abatch.log import log
from abatch.protocol import wire
from abatch.protocol.absence import Absence
from abatch.protocol.clocks import Moment, awake, moment
from abatch.protocol.durations import ANSWER_WITHIN, CREATED_WITHIN, DAY, GATE_WITHIN, HOUR, KEPT_FOR, QUEUED_FOR
from abatch.protocol.early import one_failure, stop_for
from abatch.protocol.facts import (
    Abandoned,
    Accepted,
    CancelledAsParked,
    CandidatesChanged,
    Committing,
    Ended,
    Found,
    Held,
    IterableSource,
    Lost,
    LostWished,
    Planned,
    Reappeared,
    Rejected,
    ResolveWished,
    Split,
    Stopped,
    Unreadable,
    Vanished,
    WishRefused,
    Withdrawn,
    takes_changed_input,
)
from abatch.protocol.lifecycle import (
    Abandon,
    Drain,
    Draining,
    GiveUp,
    InDoubt,
    Processing,
    Ready,
    Settle,
    Upload,
    Watch,
    doubt_of,
    next_action,
)
from abatch.protocol.lifecycle import Held as HeldState
from abatch.protocol.lifecycle import Lost as LostState
from abatch.protocol.pacing import READ_AGAIN, Backoff
from abatch.protocol.reconcile import (
    CORRECT,
    Absent,
    Created,
    CreatedUnnamed,
    Doubt,
    FoundBatch,
    Hold,
    Later,
    NoAnswer,
    Refused,
    Replied,
    TooLarge,
    Unknown,
    judge,
    of_another,
    still_open,
)
from abatch.protocol.refusals import remedy_of
from abatch.system import threads
from abatch.system.disk import remove

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator

    from abatch.backend import Backend, JobRef
    from abatch.config import Config
    from abatch.engine.client import Client
    from abatch.engine.drain import Collector
    from abatch.engine.outage import Outage
    from abatch.engine.poller import Scope
    from abatch.journal.ledger import JobRecord, Ledger, ShardRecord
    from abatch.protocol.facts import Drained, ShardFact
    from abatch.protocol.lifecycle import Action
    from abatch.protocol.parked import Parked
    from abatch.protocol.reconcile import BatchSeen, Verdict

__all__ = ["Driver", "JobContext", "Shutdown", "backend_unknown"]

T = TypeVar("T")

FOREIGN_SOCKET: Final = (GRACE_FOREIGN_SOCKET - GRACE_OWN_SOCKET).total_seconds()
"""Seconds by which bound A4 is wider where the socket is not abatch's own."""
LOOKS_EVERY: Final = 1.0
"""Seconds between two looks at what no fact tells: the pace. Only who is next in a scope looks."""
SHORT_REST: Final = 10.0
"""Seconds that may be slept in a slot of `PrioritySlots`."""


class Shutdown:
    """The manager's wish to leave: nothing new begins; attempts past their commit point get `patience` seconds."""

    def __init__(self, patience: float = 30.0) -> None:
        self.wished = False
        self._patience = patience
        self._committed: dict[anyio.CancelScope, None] = {}  # in order, so that a simulated history is repeatable
        self._none = anyio.Event()

    def wish(self) -> None:
        """Ask to leave; calling it again is harmless."""
        self.wished = True
        deadline = anyio.current_time() + self._patience
        for scope in self._committed:
            scope.deadline = min(scope.deadline, deadline)

    def commit(self, scope: anyio.CancelScope) -> None:
        """This attempt passes its commit point: it is not cancelled from outside any more."""
        scope.shield = True
        self._committed[scope] = None
        if self.wished:
            scope.deadline = min(scope.deadline, anyio.current_time() + self._patience)

    def over(self, scope: anyio.CancelScope) -> None:
        """It has its answer, or will not have one."""
        self._committed.pop(scope, None)
        if not self._committed:
            self._none.set()

    async def answered(self) -> None:
        """Wait until no attempt waits for its answer."""
        while self._committed:
            self._none = anyio.Event()
            await self._none.wait()


class Postponed(Exception):
    """Too many drains are sleeping: release the slot, and retry after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class PrioritySlots:
    """Priority semaphore: `slots` holders, lowest rank first; up to `slots` more may sleep without one."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._may_sleep = slots
        self._queue: list[tuple[float, int, anyio.Event]] = []
        self._arrivals = count()

    @asynccontextmanager
    async def slot(self, rank: float) -> AsyncGenerator[Callable[[float], Awaitable[None]], None]:
        """Hold a slot during the block; yields a sleep that releases the slot meanwhile."""
        holds = False

        async def take() -> None:
            nonlocal holds
            await self._take(rank)
            holds = True

        async def rest(seconds: float) -> None:
            nonlocal holds
            if not self._may_sleep:
                if seconds > SHORT_REST:
                    raise Postponed(seconds)
                await anyio.sleep(seconds)
                return
            self._may_sleep -= 1
            self._leave()
            holds = False
            try:
                await anyio.sleep(seconds)
                await take()
            finally:
                self._may_sleep += 1

        await take()
        try:
            yield rest
        finally:
            if holds:
                self._leave()

    async def _take(self, rank: float) -> None:
        if self._free:
            self._free -= 1
        else:
            mine = (rank, next(self._arrivals), anyio.Event())
            heappush(self._queue, mine)
            try:
                await mine[2].wait()
            except BaseException:
                if mine in self._queue:
                    self._queue.remove(mine)
                    heapify(self._queue)
                else:
                    self._leave()
                raise

    def _leave(self) -> None:
        if self._queue:
            heappop(self._queue)[2].set()
        else:
            self._free += 1


@dataclass(slots=True, kw_only=True)
class JobContext:
    """What the drivers of one job share."""

    client: Client
    ledger: Ledger
    config: Config
    job: JobRecord
    ref: JobRef
    scope: Scope
    shutdown: Shutdown
    uploads: anyio.Semaphore
    drains: PrioritySlots
    backend: Backend | None
    collector: Collector | None
    outage: Outage
    fingerprint: str | None
    may_submit: bool
    spawn: Callable[[int], None]
    """Start a driver for a new shard of this job."""
    look_up: Callable[[Named, Stopped], None]
    """Look up, outside of the uploads' slots, on which lines the requests stand for which this stop was recorded."""
    guard_checked: Callable[[], bool]

    @property
    def submits(self) -> bool:
        """Whether shards of this job may be sent now."""
        return self.may_submit and self.job.stopped is None and not self.shutdown.wished

    @property
    def wants_more(self) -> bool:
        """Whether requests of this job are still to be planned and sent."""
        return self.submits and not self.job.cancel_wished

    async def while_wanted(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """Await what waits to plan or to send; None once the job wants no more of it."""
        outcome: T | None = None
        failure: Exception | None = None

        async def leave_when_unwanted(scope: anyio.CancelScope) -> None:
            while self.wants_more:  # a fact of the job or the wish to stop ends it, and either wakes the job
                await self.job.change()
            scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(leave_when_unwanted, group.cancel_scope)
            try:
                outcome = await waiting
            except Exception as error:  # noqa: BLE001 - raised below, alone and not in a group
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return outcome


@dataclass(slots=True)
class _Gate:
    """How far one attempt came."""

    failure: BaseException | None = None
    """Why the body was not sent to its end."""
    committed: bool = False
    """`Committing` is durable."""
    released: bool = False
    """The tail was given to the socket."""
    before: set[str] = field(default_factory=set[str])
    """Batches that were shown before `Committing`: none of them is this attempt's."""


class _NotNow(Exception):
    """The attempt is given up before its tail; the shard stays, or becomes, Ready."""


@dataclass(slots=True)
class Driver:
    """Drive one shard: `run` returns once it is done, or when only an operator or the caller can move it on."""

    context: JobContext
    shard: ShardRecord
    _pause: Backoff = field(default_factory=lambda: Backoff(first=1.0, most=120.0))
    _reads: Iterator[float] = field(default_factory=lambda: iter(READ_AGAIN))
    _put_off: Backoff = field(default_factory=lambda: Backoff(first=SHORT_REST, most=900.0))
    _absence: Absence = field(default_factory=Absence)
    """How long the batch was missed while it was drained."""
    _out_of_files: Backoff = field(default_factory=lambda: Backoff(first=1.0, most=120.0))
    _missed_at: float = inf
    """When a miss was last noted, by time of the event loop."""
    _committed_here: bool = False
    _recording: anyio.Lock = field(default_factory=anyio.Lock)
    """Held while a fact of the shard is appended: the poller notes candidates beside the driver."""
    _at: int = 0
    """The position of the next fact: those the shard had when this action began, and those recorded here since."""

    async def run(self) -> None:
        """Go on until nothing is left to do for this shard here and now.

        Raises:
            JobStopped: the job cannot go on; recorded before it is raised.
            BackendError: the job's storage failed in a way that does not pass, or for longer than its patience.
            JournalError: nothing can go on.

        """
        while (action := next_action(self.shard.state)) is not None:
            self._at = self.shard.length
            try:
                if not await self._perform(action):
                    return
            except Overtaken:
                log.warning("shard_overtaken", shard=self.shard.shard)
            except SpoolDamaged as damage:
                await self._stop_job(str(damage), RESTORE if isinstance(self.shard.state, Ready) else RESTORE_PAID)
            except SpoolUnusable as failure:
                await self._stop_job(str(failure), FREE_DISK)
            except TooManyOpenFiles as failure:
                if isinstance(action, Upload):  # the spool's: no seal follows that would end an outage
                    await self._rest(failure)
                else:
                    await self.context.outage.wait(failure)
            except BackendError as failure:  # only draining and abandoning use it: they begin again with a new sink
                await self.context.outage.wait(failure)
        await threads.run(remove, self.context.ledger.journal.spool / self.shard.planned.spool)

    async def _rest(self, failure: TooManyOpenFiles) -> None:
        pause = self._out_of_files.next()
        log.warning("too_many_open_files", shard=self.shard.shard, place=failure.url, seconds=pause)
        await anyio.sleep(pause)

    async def _perform(self, action: Action) -> bool:
        match action:
            case Upload(attempt):
                return await self._upload(attempt)
            case Settle():
                return await self._settle()
            case Watch(batch_id):
                return await self._watch(batch_id)
            case Drain() | GiveUp():
                return await self._drain()
            case Abandon(error):
                line = b'{"type":"errored","error":%b}' % error.encode()
                return await self._abandon("the API refuses this request as too large", line)
            case _:
                assert_never(action)

    async def _record(self, *facts: ShardFact) -> None:
        async with self._recording:
            await self._append(*facts, at=self._at)
            self._at += len(facts)

    async def _append(self, *facts: ShardFact, at: int) -> None:
        await self.context.ledger.record(*self.context.ledger.next(self.shard, *facts, at=at))
        for fact in facts:
            say = log.warning if isinstance(fact, Vanished | Lost | CancelledAsParked) else log.info
            say(
                EVENTS[type(fact)],
                job=self.context.job.key,
                shard=self.shard.shard,
                **{name: value for name in SAID if (value := getattr(fact, name, None)) is not None},
            )

    async def _stop_job(self, reason: str, remedy: str) -> NoReturn:
        await self._record_stop(reason, remedy)
        raise JobStopped(self.context.job.key, reason, remedy)

    async def _record_stop(self, reason: str, remedy: str) -> Stopped | None:
        """Submit nothing more of the job; its shards that are in doubt or in a batch go on.

        Returns the stop, or None if the job was stopped before.
        """
        context = self.context
        if context.job.stopped is not None:
            return None
        stop = Stopped(reason=reason, remedy=remedy)
        await context.ledger.record(Entry(context.job.job, stop))
        log.error("job_stopped", job=context.job.key, reason=reason)
        return stop

    # ---- upload -----------------------------------------------------------------------------------------------

    async def _upload(self, attempt: int) -> bool:
        context = self.context
        if context.job.cancel_wished:
            return await self._abandon("the job was cancelled before this shard was sent")
        if attempt > wire.MAX_ATTEMPT:
            await self._stop_job(
                f"shard {self.shard.shard} was refused {attempt - 1} times", "Look at the log for why."
            )
        pause = 0.0
        try:
            if not await self._admitted():
                return context.wants_more or context.job.cancel_wished  # it may have been handed over again meanwhile
            async with context.uploads:
                if not context.wants_more:
                    return context.job.cancel_wished
                if not context.scope.usable or context.scope.refused is not None:  # since this shard was admitted
                    return True
                pause = await self._attempt(attempt)
        finally:
            if not isinstance(self.shard.state, InDoubt | Processing):
                context.scope.pace.frees(self.shard.shard)
        if pause:
            await context.while_wanted(anyio.sleep(pause))
        return True

    async def _admitted(self) -> bool:
        """Wait for room in the queue and a turn; False if the shard is not wanted on the way any more."""
        context = self.context
        admitted = await context.while_wanted(self._has_turn())
        if context.wants_more and (refusal := context.scope.refused) is not None:
            await self._stop_job(refusal.reason, refusal.remedy)
        return bool(admitted)

    async def _has_turn(self) -> bool:
        """Wait in the scope's order; False if every create would be refused."""
        pace, rows = self.context.scope.pace, self.shard.planned.rows
        async with self.context.scope.turn:
            await self.context.scope.until_usable(self.context.guard_checked)
            while self.context.scope.refused is None:
                wait = pace.wait(anyio.current_time())
                if wait == 0 and pace.has_room(rows):
                    pace.holds(self.shard.shard, rows)
                    return True
                with anyio.move_on_after(min(wait or LOOKS_EVERY, LOOKS_EVERY)):
                    await self.context.job.change()
        return False

    async def _attempt(self, attempt: int) -> float:
        """One create, from the first byte to its verdict; the seconds to wait before another."""
        context, planned = self.context, self.shard.planned
        free = (await threads.run(shutil.disk_usage, context.ledger.journal.folder)).free
        if free < context.config.free_disk:
            await self._stop_job(f"{free} bytes are free on the journal's disk", FREE_DISK)
        try:
            await context.client.renew(context.scope.workspace_id)
        except ApiError as failure:
            return await self._not_sent(_Gate(failure=failure), None)
        prefix = wire.prefix(context.ledger.journal.lineage_key, self.shard.shard, attempt)
        reader = await self._open_spool()
        gate, answer = _Gate(), None
        context.scope.pace.called(anyio.current_time())
        with closing(reader), anyio.CancelScope() as scope:
            try:
                body = self._body(reader, prefix, attempt, gate, scope)
                answer = await context.client.create(planned.headers, planned.body_bytes, body)
                if gate.released:  # still shielded, so that an answer that came is recorded
                    date = answer.date if isinstance(answer, Replied) else None
                    await self._conclude(judge(answer), date, gate.before)
            finally:
                context.shutdown.over(scope)
        if not gate.released:
            return await self._not_sent(gate, answer)
        if answer is None:
            log.warning("shard_in_doubt", shard=self.shard.shard, rule="A11", why="no answer in time")
        return 0.0

    async def _body(
        self, reader: SpoolReader, prefix: bytes, attempt: int, gate: _Gate, scope: anyio.CancelScope
    ) -> AsyncIterator[bytes]:
        try:
            with closing(reader.body(prefix)) as pieces:
                while (piece := await threads.run(next, pieces, None)) is not None:
                    yield piece
            await self._pass_gate(attempt, gate, scope)
        except Exception as failure:
            # the SDK hides what a body raises behind a connection error
            gate.failure = failure
            raise
        gate.released = True
        yield wire.BODY_TAIL

    async def _pass_gate(self, attempt: int, gate: _Gate, scope: anyio.CancelScope) -> None:
        """Make `Committing` durable: when this returns, the tail may be sent.

        Raises:
            _NotNow: the tail must not be sent.

        """
        context = self.context
        if context.scope.refused is not None:  # another create of the scope was answered meanwhile
            raise _NotNow
        page = await context.scope.page(limit=1)
        at = moment(page.date)
        if not context.guard_checked() and not await context.scope.confirm_key():
            await self._stop_job(
                "the API key is not the one that this journal's unfinished batches were sent with, "
                "and does not see them",
                "Use the old key, or `abatch resolve` what is open, then run again.",
            )
        if not context.wants_more:
            raise _NotNow
        context.shutdown.commit(scope)
        gate.before = context.scope.candidates().union(batch.batch_id for batch in page.batches)
        await self._record(
            Committing(
                attempt=attempt,
                date=page.date,
                fingerprint=context.fingerprint,
                at=at,
                newest=page.batches[0].created_at if page.batches else 0.0,
                ahead=context.scope.known.ahead,
            )
        )
        gate.committed = True
        if (committed := doubt_of(self.shard.state)) is not None:
            context.scope.awaits_answer(self._doubt_about(committed), partial(self._note, attempt))
        context.scope.committed(self.shard.planned.rows, page.date)
        context.scope.pace.holds(self.shard.shard, self.shard.planned.rows, page.date + QUEUED_FOR)
        self._committed_here = True
        if awake() - at.boot > GATE_WITHIN or context.shutdown.wished:
            await self._record(Withdrawn(why="the tail was never sent"))
            raise _NotNow
        scope.deadline = min(scope.deadline, anyio.current_time() + ANSWER_WITHIN)

    async def _not_sent(self, gate: _Gate, answer: Replied | NoAnswer | None) -> float:
        """The attempt ended before its tail: nothing was created."""
        failure = gate.failure
        self.context.scope.answered(self.shard.shard)
        if gate.committed and isinstance(self.shard.state, InDoubt):
            await self._record(Withdrawn(why="the tail was never sent"))
        if isinstance(failure, _NotNow):
            return 0.0
        if failure is not None and not isinstance(failure, ApiError):
            raise failure
        if isinstance(failure, ApiError):
            self.context.scope.check_failed(failure)
            log.warning("create_not_sent", shard=self.shard.shard, error=str(failure))
        elif answer is not None:
            verdict = judge(answer)
            match verdict:
                case Refused() | TooLarge() | Later():
                    await self._refused(verdict)
                    return 0.0
                case Created() | CreatedUnnamed():
                    log.error("answered_before_the_end", shard=self.shard.shard, rule=verdict.rule)
                case Unknown(why=why):
                    log.warning("create_not_sent", shard=self.shard.shard, error=why)
        return self._pause.next() * (1 + random.random() / 10)  # noqa: S311

    def _is_of_another(self, batch: BatchSeen, before: Collection[str]) -> bool:
        """Whether the batch that this attempt was answered with is certainly another's.

        Raises:
            Overtaken: another process has settled the attempt.

        """
        committed = doubt_of(self.shard.state)
        if committed is None:
            raise Overtaken
        return of_another(batch, self._doubt_about(committed), self.context.scope.known, before=before)

    async def _conclude(self, verdict: Verdict, date: float | None, before: Collection[str]) -> None:
        """Record what a complete create came to.

        Args:
            verdict: table A's.
            date: `Date` of the answer.
            before: batches that were shown before the commit point.

        """
        context, planned = self.context, self.shard.planned
        if isinstance(verdict, Created) and self._is_of_another(verdict.batch, before):
            log.warning("answer_names_another_batch", shard=self.shard.shard, batch_id=verdict.batch.batch_id)
            verdict = CreatedUnnamed(rule="A5", status=200)  # a batch was made, but not the one that was named
        refused = isinstance(verdict, Later) or (isinstance(verdict, Refused) and not verdict.definite)
        doubted = refused and context.config.refusals == "doubt"
        log.info("create_answered", shard=self.shard.shard, rule="A9" if doubted else verdict.rule)
        if not doubted and not isinstance(verdict, CreatedUnnamed | Unknown):
            context.scope.answered(self.shard.shard)
        match verdict:
            case Created(batch=batch):
                self._pause.reset()
                context.scope.pace.accepted()
                if batch.total != planned.rows:
                    log.error(
                        "count_differs",
                        shard=self.shard.shard,
                        batch_id=batch.batch_id,
                        sent=planned.rows,
                        told=batch.total,
                    )
                committed = doubt_of(self.shard.state)
                assert committed is not None
                with context.scope.binding(batch.batch_id):  # at once: another answer may name it, too
                    await self._record(Accepted(batch_id=batch.batch_id, created_at=batch.created_at, date=date))
                context.scope.accepted(batch, gate=committed.date, answer=date)
            case CreatedUnnamed(status=status):
                await self._record(Unreadable(status=status))
            case Refused() | Later() if doubted:
                await self._doubt(verdict)
            case Refused() | TooLarge() | Later():
                await self._refused(verdict)
            case Unknown(why=why):
                log.warning("shard_in_doubt", shard=self.shard.shard, rule=verdict.rule, why=why)
            case _:
                assert_never(verdict)

    async def _doubt(self, verdict: Refused | Later) -> None:
        """A refusal that is not believed: nothing more is sent, but table B says what became of this attempt."""
        match verdict:
            case Later(wait=asked):
                wait = self.context.scope.pace.refused(anyio.current_time(), asked, random.random())  # noqa: S311
                log.warning("api_asks_to_wait", shard=self.shard.shard, seconds=round(wait, 1))
                log.warning("shard_in_doubt", shard=self.shard.shard, rule="A9", why="answered 429")
            case Refused(reason=reason, remedy=remedy):
                log.warning("shard_in_doubt", shard=self.shard.shard, rule="A9", why=reason)
                if verdict.whole_scope:
                    self.context.scope.refusal = verdict
                await self._record_stop(reason, remedy)
            case _:
                assert_never(verdict)

    async def _refused(self, verdict: Refused | TooLarge | Later) -> None:
        """A definite no: nothing was created."""
        committed, context = isinstance(self.shard.state, InDoubt), self.context
        match verdict:
            case Later(wait=asked):
                wait = self.context.scope.pace.refused(anyio.current_time(), asked, random.random())  # noqa: S311
                log.warning("api_asks_to_wait", shard=self.shard.shard, seconds=round(wait, 1))
                if committed:
                    await self._record(Withdrawn(why="429"))
            case TooLarge(envelope=envelope):
                await self._split(envelope, committed=committed)
            case Refused(reason=reason, remedy=remedy):
                if committed:
                    await self._record(Withdrawn(why=reason))
                if remedy == CORRECT:
                    remedy = _correction(context.job)
                message = Named(reason=reason)
                if verdict.whole_scope:
                    self.context.scope.refusal = verdict
                else:
                    message = await named(reason, self.shard.planned, context.ledger.journal.spool)
                told = message.told()
                if (stop := await self._record_stop(told, remedy)) is not None:
                    context.look_up(message, stop)
                raise JobStopped(context.job.key, told, remedy)
            case _:
                assert_never(verdict)

    async def _split(self, envelope: bytes, *, committed: bool) -> None:
        """413: the rows go in two shards; a row that is too large alone gets the error as its line."""
        context, planned = self.context, self.shard.planned
        if planned.rows == 1:
            await self._record(Rejected(error=_on_one_line(envelope)))
            return
        withdrawn: list[ShardFact] = [Withdrawn(why="413")] if committed else []
        halves = [context.ledger.number_shard(), context.ledger.number_shard()]
        with guarded(context.ledger.journal.spool):
            written = await threads.run(self._write_halves, halves)
        async with self._recording:
            entries = context.ledger.next(self.shard, *withdrawn, Split(into=tuple(halves)), at=self._at)
            for number, half in zip(halves, written, strict=True):
                entries.append(
                    Entry(context.job.job, msgspec.structs.replace(half, part=context.job.take_part()), number, 0)
                )
            await context.ledger.record(*entries)
        log.warning("shard_split", job=context.job.key, shard=self.shard.shard, into=halves)
        for number in halves:
            context.spawn(number)

    def _write_halves(self, numbers: list[int]) -> list[Planned]:
        folder, planned = self.context.ledger.journal.spool, self.shard.planned
        halves: list[Planned] = []
        with closing(SpoolReader(folder, planned)) as reader:
            middle = planned.rows // 2
            for number, rows in zip(numbers, (range(middle), range(middle, planned.rows)), strict=True):
                writer = SpoolWriter(folder)
                for row in rows:
                    writer.add(reader.custom_id(row), reader.params(row), reader.own_fallback(row))
                name = f"{number:08d}.spool"
                written = writer.seal(name)
                half = written.planned(name, planned.headers, parent=self.shard.shard, trial=planned.trial)
                halves.append(half)
        return halves

    async def _abandon(self, why: str, result: bytes | None = None) -> bool:
        """The shard is never sent: every row gets `result`, or its fallback line."""
        context = self.context
        if context.backend is None:
            raise backend_unknown(context.job.key)
        with closing(await self._open_spool()) as reader:
            counts, sealed, failures = await seal_fallbacks(context.backend, context.ref, self.shard, reader, result)
        context.outage.over()
        await self._record(Abandoned(why=why, counts=counts, sealed=sealed, failures=failures))
        return True

    async def _open_spool(self) -> SpoolReader:
        return await open_spool(self.context.ledger.journal.spool, self.shard.planned)

    # ---- doubt ------------------------------------------------------------------------------------------------

    async def _settle(self) -> bool:
        context, committed = self.context, doubt_of(self.shard.state)
        assert committed is not None
        held = isinstance(self.shard.state, HeldState)
        context.scope.pace.holds(self.shard.shard, self.shard.planned.rows, committed.date + QUEUED_FOR)
        match wish := self._wish():
            case ResolveWished():
                await self._obey(wish)
                return True
            case LostWished():  # a look at the list comes first: it may show the batch
                once = True
            case None:
                once = held and not self._may_conclude(committed)
        since = None if self._committed_here else self._committed_at(committed)
        doubt = self._doubt_about(committed)
        ruling = await context.scope.settled(doubt, since=since, note=partial(self._note, committed.attempt), once=once)
        match ruling:
            case None if wish is not None:
                await self._lose()
            case None:
                return not held or self._wish() is not None or (once and self._may_conclude(committed))
            case Hold() if held:
                return False
            case FoundBatch(batch=batch):
                late = batch.created_at + context.scope.offset - committed.date - CREATED_WITHIN
                if late > (0 if context.client.owns_socket else FOREIGN_SOCKET):
                    log.warning("bound_A1_broken", shard=self.shard.shard, batch_id=batch.batch_id)
                await self._record(Found(batch_id=batch.batch_id, created_at=batch.created_at, by="tag"))
                context.scope.owns(batch.batch_id, batch.created_at)
            case Absent():
                await self._record_absence()
            case Hold(reason=reason):
                await self._record(Held(reason=reason))
            case _:
                assert_never(ruling)
        return True

    async def _record_absence(self) -> None:
        """Record that the attempt made no batch (B8), unless a candidate is on record that the ruling did not know.

        The list of another shard's gate may have shown one while the ruling was made, and `_note` may have been
        cancelled, or its doubt replaced, once the fact was durable. Then the doubt is settled again, from the facts.
        """
        async with self._recording:  # `_note` holds it while it records
            committed = doubt_of(self.shard.state)
            if committed is None:
                raise Overtaken
            if still_open(self._doubt_about(committed), self.context.scope.known):
                return
            self.context.scope.pace.frees(self.shard.shard)
            await self._append(Withdrawn(why="no batch appeared (B8)"), at=self._at)
            self._at += 1

    def _doubt_about(self, committed: InDoubt) -> Doubt:
        """The attempt, as table B takes it."""
        guarded = self.context.scope.is_guarded(committed.fingerprint)
        return Doubt(shard=self.shard.shard, rows=self.shard.planned.rows, committed=committed, guarded=guarded)

    async def _note(self, attempt: int, change: CandidatesChanged) -> None:
        """Make durable what a look changed of this attempt, at whatever position: it stays true while it is in doubt.

        Raises:
            Overtaken: the attempt is not in doubt any more.

        """
        async with self._recording:
            while True:
                state = self.shard.state
                doubt = doubt_of(state) if isinstance(state, InDoubt | HeldState) else None
                if doubt is None or doubt.attempt != attempt:
                    raise Overtaken
                known = {each.batch_id for each in doubt.candidates} | doubt.foreign
                seen = tuple(each for each in change.seen if each.batch_id not in known)
                foreign = tuple(each for each in change.foreign if each not in doubt.foreign)
                closes = None if doubt.closed_at is not None else change.closed_at
                if not seen and not foreign and closes is None:
                    return
                at = self.shard.length
                try:
                    await self._append(CandidatesChanged(seen=seen, foreign=foreign, closed_at=closes), at=at)
                except Overtaken:  # by another process, and its facts are here now
                    continue
                if self._at == at:
                    self._at += 1
                return

    def _committed_at(self, committed: InDoubt) -> Moment:
        """The commit point on every clock."""
        if committed.at is not None:
            return committed.at
        return Moment(date=committed.date, boot=0.0, boot_id="", wall=self.shard.since)  # a journal of format 2

    def _may_conclude(self, doubt: InDoubt) -> bool:
        """Whether an absence would be acted on: the reason for which a shard was held may be gone."""
        policy = self.context.config.unresolved == "resubmit"
        return policy and not doubt.certain and self.context.scope.is_guarded(doubt.fingerprint)

    def _wish(self) -> ResolveWished | LostWished | None:
        """An operator's word on the attempt in doubt."""
        wish, doubt = self.context.job.wishes.get(self.shard.shard), doubt_of(self.shard.state)
        return wish if wish is not None and doubt is not None and wish.attempt == doubt.attempt else None

    def is_called_lost(self) -> bool:
        """Whether an operator gave up what this attempt made."""
        return isinstance(self._wish(), LostWished)

    async def _lose(self) -> None:
        """Table B9: an operator gave the attempt up; it is lost unless the API shows a batch that may be its."""
        scope, committed = self.context.scope, doubt_of(self.shard.state)
        if committed is None or not self.is_called_lost():
            return
        candidates = still_open(self._doubt_about(committed), scope.known)
        asked = [each.batch_id for each in candidates if each.batch_id not in scope.known.gone]
        if await self._are_lost(asked, "the API shows this batch, which may be the shard's"):
            scope.pace.frees(self.shard.shard)
            await self._record(Lost(why=CALLED_LOST))

    async def _obey(self, wish: ResolveWished) -> None:
        """Table B9: an operator says what became of the attempt."""
        context = self.context
        if wish.batch_id is None:
            context.scope.pace.frees(self.shard.shard)
            await self._record(Withdrawn(why="an operator says that it was not created"))
            return
        try:
            batch = await context.client.retrieve(context.scope.workspace_id, wish.batch_id)
        except ApiError as failure:
            if failure.status != 404:
                await self._try_word_again(wish.batch_id, str(failure))
                return
            await self._refuse(wish.batch_id, str(failure))
            return
        if batch.total != self.shard.planned.rows:
            await self._refuse(wish.batch_id, f"it has {batch.total} requests, the shard {self.shard.planned.rows}")
            return
        await self._record(Found(batch_id=batch.batch_id, created_at=batch.created_at, by="operator"))

    # ---- the batch --------------------------------------------------------------------------------------------

    async def _watch(self, batch_id: str) -> bool:
        context, state = self.context, self.shard.state
        assert isinstance(state, Processing)
        context.scope.pace.holds(self.shard.shard, self.shard.planned.rows, state.created_at + QUEUED_FOR)
        news = await self._lost_by_word(batch_id) if self.is_called_lost() else await self._news_of(batch_id, state)
        if news is not None:
            await self._record(news)
        if isinstance(news, Lost):
            context.scope.forget(batch_id)
        return True

    async def _lost_by_word(self, batch_id: str) -> Lost | None:
        """An operator gave the batch up."""
        return Lost(why=CALLED_LOST) if await self._are_lost([batch_id], "the API shows the batch") else None

    async def _are_lost(self, batch_ids: list[str], shown: str) -> bool:
        """Whether an operator's word on these batches holds: the API knows none of them, and the key would see them.

        If not, the word is refused, for the reason `shown`, or tried again after a pause.
        """
        try:
            for batch_id in batch_ids:
                if await self._shows(batch_id):
                    await self._refuse(batch_id, shown)
                    return False
            if not batch_ids or await self._may_see():
                return True
            why = OTHER_KEY
        except ApiError as failure:
            why = str(failure)
        await self._try_word_again(batch_ids[0], why)
        return False

    async def _may_see(self) -> bool:
        """Whether a 404 counts: the key in use would see the batch, or the operator says that it need not.

        Raises:
            ApiError: the API could not be asked.

        """
        wish, doubt = self._wish(), doubt_of(self.shard.state)
        assert doubt is not None
        anyhow = isinstance(wish, LostWished) and wish.any_key
        return anyhow or await self.context.scope.may_see(doubt.fingerprint)

    async def _shows(self, batch_id: str) -> bool:
        """Whether the API knows the batch.

        Raises:
            ApiError: it could not be asked.

        """
        try:
            await self.context.client.retrieve(self.context.scope.workspace_id, batch_id)
        except ApiError as failure:
            if failure.status != 404:
                raise
            return False
        return True

    async def _try_word_again(self, batch_id: str, why: str) -> None:
        """An operator's word cannot be obeyed yet: wait before the next try."""
        log.warning("resolve_waits", shard=self.shard.shard, batch_id=batch_id, why=why)
        await anyio.sleep(self._pause.next())

    async def _refuse(self, batch_id: str, why: str) -> None:
        """An operator's word cannot be obeyed, now and after a restart."""
        await self.context.ledger.record(Entry(self.context.job.job, WishRefused(shard=self.shard.shard)))
        log.error("resolve_refused", shard=self.shard.shard, batch_id=batch_id, why=why)

    async def _news_of(
        self, batch_id: str, state: Processing
    ) -> Ended | Vanished | Reappeared | Lost | CancelledAsParked | None:
        """Wait for something to record of the batch: what its scope says, or that it is given up as parked."""
        news: list[Ended | Vanished | Reappeared | Lost | CancelledAsParked | None] = []

        async def give_up() -> None:
            news.append(CancelledAsParked(why=str(await self._parked_for_good(batch_id))))
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            if state.parked:  # on record; whether the API heard of it is not known
                group.start_soon(self._cancel, batch_id)
            elif state.proven:
                group.start_soon(self._cancel_when_wished, batch_id)
                if self.context.config.parked == "cancel-and-retry":
                    group.start_soon(give_up)
            news.append(
                await self.context.scope.ended(
                    self.shard.shard,
                    batch_id,
                    state.created_at,
                    fingerprint=state.doubt.fingerprint,
                    vanished=state.vanished,
                )
            )
            group.cancel_scope.cancel()
        return news[-1]

    async def _parked_for_good(self, batch_id: str) -> Parked:
        """Wait until the batch is parked, and its rows could be sent again; else it is left alone."""
        context = self.context
        if self.shard.planned.trial >= context.job.submitted.tries:
            await anyio.sleep_forever()
        while True:
            parked = await context.scope.parking.until_parked(batch_id)
            if context.wants_more and context.scope.refused is None:
                return parked
            await anyio.sleep(context.config.longest_poll_interval.total_seconds())

    async def _cancel_when_wished(self, batch_id: str) -> None:
        """A wish to cancel the job cancels its batches, once each is proven ours."""
        await self.context.job.cancelling()
        await self._cancel(batch_id)

    async def _cancel(self, batch_id: str) -> None:
        pause = Backoff(first=1.0, most=60.0)
        while True:
            try:
                await self.context.client.cancel(self.context.scope.workspace_id, batch_id)
            except ApiError as failure:
                log.warning("cancel_not_taken", batch_id=batch_id, error=str(failure))
                if failure.status == 400 and remedy_of(400, failure.error_code, failure.message) is None:
                    return  # it ended meanwhile
                await anyio.sleep(pause.next())
                continue
            log.info("batch_cancel_asked", batch_id=batch_id)
            return

    async def _drain(self) -> bool:
        context, state = self.context, self.shard.state
        assert isinstance(state, Draining | LostState)
        if context.collector is None:
            return False
        if isinstance(state, Draining):
            _warn_of_deadline(self.shard.shard, state, context.scope.date)
        elif state.batch_id is not None:
            context.scope.forget(state.batch_id)
        try:
            async with context.drains.slot(state.created_at) as rest:
                presence = _Presence(self, rest)
                collected = await context.collector.drain(self.shard, state, presence, self._reads)
        except Postponed as postponed:  # the next try begins at the first line, and with short rests
            await self.unless_called_lost(anyio.sleep, max(postponed.seconds, self._put_off.next()))
            return True
        except NotOurs as other:
            await self._record(Held(reason=str(other)))
            return True
        except wire.LineTooLong as failure:
            reason = f"batch {state.batch_id} of shard {self.shard.shard}: {failure}"
            remedy = "All else of the job is done. Fetch the results of this batch from the API by hand."
            await self._stop_job(reason, remedy)
        context.outage.over()
        entries = context.ledger.next(self.shard, collected.drained, at=self._at)
        retry = None
        if collected.retry is not None:
            retry = context.ledger.number_shard()
            planned = msgspec.structs.replace(collected.retry, part=context.job.take_part())
            entries.append(Entry(context.job.job, planned, retry, 0))
        unpaid = collected.billing and context.job.stopped is None
        stop = BILLING if unpaid else self._stop_of_failing(collected.drained)
        if stop is not None:
            entries.append(Entry(context.job.job, stop))
        await context.ledger.record(*entries)
        if state.batch_id is not None:
            context.scope.drained(state.batch_id)
        counts = collected.drained.counts
        log.info(
            "shard_drained",
            job=context.job.key,
            shard=self.shard.shard,
            succeeded=counts.succeeded,
            failed=counts.total - counts.succeeded,
            retried=collected.drained.retried,
            missing=collected.drained.missing,
        )
        if retry is not None:
            context.spawn(retry)
        if stop is not None:
            log.error("job_stopped", job=context.job.key, reason=stop.reason)
        return True

    def _stop_of_failing(self, drained: Drained) -> Stopped | None:
        """The end of submitting, if this batch failed as a whole, none succeeded before, and requests are unsent."""
        context, job = self.context, self.context.job
        if context.config.failing != "stop" or job.stopped is not None or job.cancel_wished or job.has_succeeded:
            return None
        failure = one_failure(drained, self.shard.planned.rows, job.largest)
        if failure is None:
            return None
        unsent = not job.cut.last or any(isinstance(shard.state, Ready) for shard in job.open_shards.values())
        return stop_for(failure, self.shard.batch_id) if unsent else None

    async def unless_called_lost(self, sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
        """Sleep, but no longer than until an operator gives up what this attempt made."""

        async def wake(scope: anyio.CancelScope) -> None:
            while not self.is_called_lost():
                await self.context.job.wish()
            scope.cancel()

        failure: Postponed | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(wake, group.cancel_scope)
            try:
                await sleep(seconds)
            except Postponed as postponed:  # raised below, alone and not in a group
                failure = postponed
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def missed(self) -> str:
        """The batch that is drained, and its results, are a 404: why they are given up; empty while they are not."""
        context, state = self.context, self.shard.state
        if not isinstance(state, Draining):  # another process moved it on
            raise Overtaken
        before, self._missed_at = self._missed_at, anyio.current_time()
        try:
            page = await context.scope.page(limit=1)  # only a list tells the server's time
            news = self._absence.missed(moment(page.date), state.vanished)
            if context.scope.listed_since(state.batch_id, before) or (
                news is not None and await context.scope.lists(state.batch_id, state.created_at)
            ):
                await self.seen()
                return ""
            if isinstance(news, Lost):
                return news.why if await context.scope.may_see(state.doubt.fingerprint) else ""
        except ApiError as failure:
            log.info("batch_not_visible", batch_id=state.batch_id, status=failure.status)
            return ""
        if news is not None:
            await self._record(news)
        return ""

    async def seen(self) -> None:
        """The API shows the batch that is drained, or its results."""
        state = self.shard.state
        if not isinstance(state, Draining):
            raise Overtaken
        news = self._absence.seen(state.vanished)
        if news is not None:
            await self._record(news)


@dataclass(frozen=True, slots=True)
class _Presence:
    """What a drain asks its driver: to sleep, and whether the batch is to be given up."""

    driver: Driver
    sleep: Callable[[float], Awaitable[None]]

    async def rest(self, seconds: float) -> None:
        await self.driver.unless_called_lost(self.sleep, seconds)

    async def missed(self) -> str:
        return await self.driver.missed()

    async def seen(self) -> None:
        await self.driver.seen()

    def given_up(self) -> str:
        return CALLED_LOST if self.driver.is_called_lost() else ""


CALLED_LOST: Final = "an operator says that it is lost"
OTHER_KEY: Final = (
    "the API key is not known to be the one that the batch was sent with, and sees no other batch of this journal; "
    "use that key, or say --lost --any-key if it is gone"
)
CORRECT_FILE: Final = (
    "Correct what the message names in the input, then run the same command again with --changed-input "
    "(`changed_input=True` in Python)."
)
CORRECT_ITERABLE: Final = (
    "Cancel the job, correct what the message names, and submit the requests that the job did not answer under "
    "another key."
)
RESTORE: Final = "Put the file back; or submit its requests, which were not sent, under another key."
RESTORE_PAID: Final = (
    "Put the file back: the batch is paid for, and its results are there for 29 days (abatch status --batches). "
    "Requests that are submitted under another key are paid again."
)
BILLING: Final = Stopped(
    reason="the API could not bill the account",
    remedy="Settle the account's billing, then run the same command again.",
)
TOO_LARGE: Final = '{"type":"error","error":{"type":"request_too_large","message":"refused with 413"}}'
SAID: Final = ("attempt", "batch_id", "why", "reason", "by", "status")
EVENTS: Final[dict[type[ShardFact], str]] = {
    CandidatesChanged: "candidates_changed",
    Committing: "shard_committing",
    Unreadable: "answer_unreadable",
    Accepted: "shard_accepted",
    Found: "shard_found",
    CancelledAsParked: "parked_batch_cancelled",
    Withdrawn: "shard_withdrawn",
    Rejected: "shard_rejected",
    Vanished: "batch_vanished",
    Reappeared: "batch_reappeared",
    Lost: "shard_lost",
    Ended: "batch_ended",
    Held: "shard_held",
    Abandoned: "shard_abandoned",
}


def _correction(job: JobRecord) -> str:
    """What helps where the API refuses a request of this job."""
    source = job.submitted.source
    if takes_changed_input(source):
        return CORRECT_FILE
    return CORRECT_ITERABLE if isinstance(source, IterableSource) else cancel_and_skip(job.key)


def backend_unknown(key: str) -> JobStopped:
    """The job's backend is an object of the application, which this process was not given."""
    return JobStopped(key, "its backend object is not known to this process", "Hand the job over again with it.")


def _on_one_line(envelope: bytes) -> str:
    """The API's error envelope as it can stand in a line of results; one of our own if it did not send one."""
    try:
        return json.dumps(json.loads(envelope), separators=(",", ":"))
    except (ValueError, RecursionError):
        return TOO_LARGE


def _warn_of_deadline(shard: int, state: Draining, server_now: float) -> None:
    left = state.created_at + KEPT_FOR - (server_now or time.time())
    if left < 2 * DAY:
        log.error("results_vanish_soon", shard=shard, batch_id=state.batch_id, hours_left=round(left / HOUR))
    elif left < 7 * DAY:
        log.warning("results_vanish", shard=shard, batch_id=state.batch_id, hours_left=round(left / HOUR))
