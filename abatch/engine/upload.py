"""Upload one shard: one attempt, from its admission to the verdict on its answer.

These are the steps of a submission; a crash at any step leaves a state from which the next run continues:

    admitted        the queue limit, the request rate and a slot for uploading allow it
    upload          send headers and the body without its final `]}`: nothing can exist on the server yet
    gate            get the server's `Date` by a second connection, check the guard, then make `Committing` durable
    tail            send `]}`, unless more than a minute passed since the `Date` or a stop is wished (then Withdrawn)
    answer          judged by table A; a definite one is recorded, otherwise the shard is in doubt, settled by table B

Past the gate the attempt is shielded from cancellation: it gets the manager's patience (30 s) for its answer.
"""

from __future__ import annotations

import json
import random
import shutil
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

import anyio
import msgspec

from abatch.engine.doubt import doubt_about
from abatch.engine.early_answer import EarlyAnswer, check_unanswered
from abatch.errors import CORRECT_FILE, ApiError, JobStopped, Overtaken, cancel_and_skip
from abatch.input.located import Named, named
from abatch.input.spool import FREE_DISK, SpoolReader, SpoolWriter, guarded, open_spool
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol import wire
from abatch.protocol.clocks import awake, moment
from abatch.protocol.durations import ANSWER_WITHIN, GATE_WITHIN, QUEUED_FOR
from abatch.protocol.facts import (
    Accepted,
    Committing,
    IterableSource,
    Planned,
    Rejected,
    Split,
    Unreadable,
    Withdrawn,
    takes_changed_input,
)
from abatch.protocol.lifecycle import (
    InDoubt,
    Processing,
    doubt_of,
)
from abatch.protocol.pacing import Backoff
from abatch.protocol.reconcile import (
    CORRECT,
    Created,
    CreatedUnnamed,
    Later,
    NoAnswer,
    Refused,
    Replied,
    TooLarge,
    Unknown,
    judge,
    of_another,
)
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from abatch.engine.context import JobContext
    from abatch.engine.recorder import ShardRecorder
    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.protocol.facts import ShardFact
    from abatch.protocol.reconcile import BatchSeen, Verdict

__all__ = ["Uploader"]

LOOKS_EVERY: Final = 1.0
"""Seconds between two checks of the pace, which no fact reports; only the next shard of a scope checks it."""
CORRECT_ITERABLE: Final = (
    "Cancel the job, correct what the message names, and submit the requests that the job did not answer under "
    "another key."
)
TOO_LARGE: Final = '{"type":"error","error":{"type":"request_too_large","message":"refused with 413"}}'


@dataclass(slots=True)
class _Gate:
    """The progress of one attempt."""

    failure: BaseException | None = None
    """The error that kept the body from being sent completely."""
    committed: bool = False
    """Whether `Committing` is durable."""
    released: bool = False
    """Whether the tail was passed to the socket."""
    before: set[str] = field(default_factory=set[str])
    """Batches that lists showed before `Committing`, so this attempt made none of them."""


class _NotNow(Exception):
    """The attempt ends before its tail, and the shard stays or becomes Ready."""


class Uploader:
    """Sends one shard, one attempt after the other."""

    def __init__(self, context: JobContext, shard: ShardRecord, recorder: ShardRecorder) -> None:
        self.context = context
        self.shard = shard
        self.recorder = recorder
        self.committed_here = False
        """Whether an attempt of the shard passed its commit point in this process."""
        self._pause = Backoff(first=1.0, most=120.0)

    async def upload(self, attempt: int) -> bool:
        """Make one attempt once it is admitted; return whether the shard has another action to perform now."""
        context = self.context
        if attempt > wire.MAX_ATTEMPT:
            await self.context.stop(
                f"shard {self.shard.shard} was refused {attempt - 1} times", "Look at the log for why."
            )
        pause = 0.0
        try:
            if not await self._admitted():
                # The job may have been submitted again meanwhile.
                return context.wants_more or context.job.cancel_wished
            async with context.manager.uploads:
                if not context.wants_more:
                    return context.job.cancel_wished
                availability = context.scope.availability
                # This may have changed since the shard was admitted.
                if not availability.usable or availability.refused is not None:
                    return True
                pause = await self._attempt(attempt)
        finally:
            if not isinstance(self.shard.state, InDoubt | Processing):
                context.scope.pace.frees(self.shard.shard)
        if pause:
            await context.while_wanted(anyio.sleep(pause))
        return True

    async def _admitted(self) -> bool:
        """Wait for a turn and for room in the queue; return False if the shard should no longer be sent."""
        context = self.context
        admitted = await context.while_wanted(self._has_turn())
        if context.wants_more and (refusal := context.scope.availability.refused) is not None:
            await self.context.stop(refusal.reason, refusal.remedy)
        return bool(admitted)

    async def _has_turn(self) -> bool:
        """Wait for the shard's turn in the scope; return False if every create would be refused."""
        pace, rows = self.context.scope.pace, self.shard.planned.rows
        async with self.context.scope.turn:
            await self.context.scope.until_usable(self.context.guard_checked)
            while self.context.scope.availability.refused is None:
                wait = pace.wait(anyio.current_time())
                if wait == 0 and pace.has_room(rows):
                    pace.holds(self.shard.shard, rows)
                    return True
                with anyio.move_on_after(min(wait or LOOKS_EVERY, LOOKS_EVERY)):
                    await self.context.job.change()
        return False

    async def _attempt(self, attempt: int) -> float:
        """Make one create, from the first byte to its verdict; return the seconds to wait before another."""
        context, planned = self.context, self.shard.planned
        free = (await threads.run(shutil.disk_usage, context.folder.path)).free
        if free < context.config.free_disk:
            await self.context.stop(f"{free} bytes are free on the journal's disk", FREE_DISK)
        try:
            await context.client.renew(context.scope.workspace_id)
        except ApiError as failure:
            return await self._not_sent(_Gate(failure=failure), None)
        prefix = context.ledger.lineage.prefix(self.shard.shard, attempt)
        reader = await open_spool(context.folder.spool, planned)
        gate, answer = _Gate(), None
        context.scope.pace.called(anyio.current_time())
        with closing(reader), anyio.CancelScope() as scope:
            try:
                body = self._body(reader, prefix, attempt, gate, scope)
                answer = await context.client.create(planned.headers, planned.body_bytes, body)
                if gate.released:  # The scope is still shielded, so an answer that arrived is recorded.
                    date = answer.date if isinstance(answer, Replied) else None
                    await self._conclude(judge(answer), date, gate.before)
            finally:
                context.manager.shutdown.over(scope)
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
                    check_unanswered()
                    yield piece
            await self._pass_gate(attempt, gate, scope)
        except EarlyAnswer:  # This is no failure: the answer decides.
            raise
        except Exception as failure:
            # The failure is kept, because the SDK turns it into a connection error.
            gate.failure = failure
            raise
        gate.released = True
        yield wire.BODY_TAIL

    async def _pass_gate(self, attempt: int, gate: _Gate, scope: anyio.CancelScope) -> None:
        """Make `Committing` durable: when this returns, the tail may be sent.

        Raises:
            _NotNow: the tail must not be sent.
            EarlyAnswer: the create was answered before its end.

        """
        context = self.context
        if context.scope.availability.refused is not None:  # Another create of the scope was refused meanwhile.
            raise _NotNow
        page = await context.scope.page(limit=1)
        at = moment(page.date)
        if not context.guard_checked() and not await context.scope.key.confirm():
            await self.context.stop(
                "the API key is not the one that this journal's unfinished batches were sent with, "
                "and does not see them",
                "Use the old key, or `abatch resolve` what is open, then run again.",
            )
        if not context.wants_more:
            raise _NotNow
        check_unanswered()
        context.manager.shutdown.commit(scope)
        gate.before = context.scope.doubts.candidates() | page.ids
        await self.recorder.record(
            Committing(
                attempt=attempt,
                date=page.date,
                fingerprint=context.manager.fingerprint,
                at=at,
                newest=page.newest,
                ahead=context.scope.known.ahead,
            )
        )
        gate.committed = True
        if (committed := doubt_of(self.shard.state)) is not None:
            context.scope.doubts.awaits_answer(
                doubt_about(context.scope, self.shard, committed), partial(self.recorder.note, attempt)
            )
        context.scope.audit.committed(self.shard.planned.rows, page.date)
        context.scope.pace.holds(self.shard.shard, self.shard.planned.rows, page.date + QUEUED_FOR)
        self.committed_here = True
        if awake() - at.boot > GATE_WITHIN or context.manager.shutdown.wished:
            await self.recorder.record(Withdrawn(why="the tail was never sent", rule="A3"))
            raise _NotNow
        scope.deadline = min(scope.deadline, anyio.current_time() + ANSWER_WITHIN)

    async def _not_sent(self, gate: _Gate, answer: Replied | NoAnswer | None) -> float:
        """Handle an attempt that ended before its tail, so nothing was created; return the seconds to wait."""
        failure = gate.failure
        self.context.scope.doubts.answered(self.shard.shard)
        if gate.committed and isinstance(self.shard.state, InDoubt):
            await self.recorder.record(Withdrawn(why="the tail was never sent", rule="A3"))
        if isinstance(failure, _NotNow):
            return 0.0
        if failure is not None and not isinstance(failure, ApiError):
            raise failure
        if isinstance(failure, ApiError):
            self.context.scope.availability.check_failed(failure)
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
        """Return whether the batch in the answer was certainly made by another attempt.

        Raises:
            Overtaken: another process has settled the attempt.

        """
        committed = doubt_of(self.shard.state)
        if committed is None:
            raise Overtaken
        scope = self.context.scope
        return of_another(batch, doubt_about(scope, self.shard, committed), scope.known, before=before)

    async def _conclude(self, verdict: Verdict, date: float | None, before: Collection[str]) -> None:
        """Record the outcome of a complete create.

        Args:
            verdict: the verdict of table A.
            date: the `Date` of the answer.
            before: the batches that lists showed before the commit point.

        """
        context, planned = self.context, self.shard.planned
        if isinstance(verdict, Created) and self._is_of_another(verdict.batch, before):
            log.warning("answer_names_another_batch", shard=self.shard.shard, batch_id=verdict.batch.batch_id)
            verdict = CreatedUnnamed(rule="A5", status=200)  # A batch was made, but not the one that the answer names.
        refused = isinstance(verdict, Later) or (isinstance(verdict, Refused) and not verdict.definite)
        doubted = refused and context.config.refusals == "doubt"
        log.info("create_answered", shard=self.shard.shard, rule="A9" if doubted else verdict.rule)
        if not doubted and not isinstance(verdict, CreatedUnnamed | Unknown):
            context.scope.doubts.answered(self.shard.shard)
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
                with context.scope.binding(batch.batch_id):  # Bind it now, because another answer may name it, too.
                    await self.recorder.record(
                        Accepted(batch_id=batch.batch_id, created_at=batch.created_at, date=date)
                    )
                context.scope.accepted(batch, gate=committed.date, answer=date)
            case CreatedUnnamed(status=status):
                await self.recorder.record(Unreadable(status=status))
            case Refused() | Later() if doubted:
                await self._doubt(verdict)
            case Refused() | TooLarge() | Later():
                await self._refused(verdict)
            case Unknown(why=why):
                log.warning("shard_in_doubt", shard=self.shard.shard, rule=verdict.rule, why=why)
            case _:
                assert_never(verdict)

    async def _doubt(self, verdict: Refused | Later) -> None:
        """Handle a refusal that is not believed: nothing more is sent, and table B settles this attempt."""
        match verdict:
            case Later(wait=asked):
                wait = self.context.scope.pace.refused(anyio.current_time(), asked, random.random())  # noqa: S311
                log.warning("api_asks_to_wait", shard=self.shard.shard, seconds=round(wait, 1))
                log.warning("shard_in_doubt", shard=self.shard.shard, rule="A9", why="answered 429")
            case Refused(reason=reason, remedy=remedy):
                log.warning("shard_in_doubt", shard=self.shard.shard, rule="A9", why=reason)
                if verdict.whole_scope:
                    self.context.scope.availability.refuse(verdict)
                await self.context.record_stop(reason, remedy)
            case _:
                assert_never(verdict)

    async def _refused(self, verdict: Refused | TooLarge | Later) -> None:
        """Handle a definite refusal, after which nothing was created."""
        committed, context = isinstance(self.shard.state, InDoubt), self.context
        match verdict:
            case Later(wait=asked):
                wait = self.context.scope.pace.refused(anyio.current_time(), asked, random.random())  # noqa: S311
                log.warning("api_asks_to_wait", shard=self.shard.shard, seconds=round(wait, 1))
                if committed:
                    await self.recorder.record(Withdrawn(why="429", rule=verdict.rule))
            case TooLarge(envelope=envelope):
                await self._split(envelope, committed=committed)
            case Refused(reason=reason, remedy=remedy):
                if committed:
                    await self.recorder.record(Withdrawn(why=reason, rule=verdict.rule))
                if remedy == CORRECT:
                    remedy = _correction(context.job)
                message = Named(reason=reason)
                if verdict.whole_scope:
                    self.context.scope.availability.refuse(verdict)
                else:
                    message = await named(reason, self.shard.planned, context.folder.spool)
                told = message.told()
                if (stop := await self.context.record_stop(told, remedy)) is not None:
                    context.look_up(message, stop)
                raise JobStopped(context.job.key, told, remedy)
            case _:
                assert_never(verdict)

    async def _split(self, envelope: bytes, *, committed: bool) -> None:
        """Split the shard after a 413 into two shards; a single row that is too large gets the error as its line."""
        context, planned = self.context, self.shard.planned
        if planned.rows == 1:
            await self.recorder.record(Rejected(error=_on_one_line(envelope)))
            return
        withdrawn: list[ShardFact] = [Withdrawn(why="413", rule="A7")] if committed else []
        halves = [context.ledger.number_shard(), context.ledger.number_shard()]
        with guarded(context.folder.spool):
            written = await threads.run(self._write_halves, halves)
        async with self.recorder.appending:
            entries = self.recorder.entries(*withdrawn, Split(into=tuple(halves)))
            for number, half in zip(halves, written, strict=True):
                entries.append(
                    Entry(context.job.job, msgspec.structs.replace(half, part=context.job.take_part()), number, 0)
                )
            await context.ledger.record(*entries)
        log.warning("shard_split", job=context.job.key, shard=self.shard.shard, into=halves)
        for number in halves:
            context.spawn(number)

    def _write_halves(self, numbers: list[int]) -> list[Planned]:
        folder, planned = self.context.folder, self.shard.planned
        halves: list[Planned] = []
        with closing(SpoolReader(folder.spool, planned)) as reader:
            middle = planned.rows // 2
            for number, rows in zip(numbers, (range(middle), range(middle, planned.rows)), strict=True):
                writer = SpoolWriter(folder.spool)
                for row in rows:
                    writer.add(reader.custom_id(row), reader.params(row), reader.own_fallback(row))
                name = folder.spool_name(number)
                written = writer.seal(name)
                half = written.planned(name, planned.headers, parent=self.shard.shard, trial=planned.trial)
                halves.append(half)
        return halves


def _correction(job: JobRecord) -> str:
    """Return the remedy if the API refuses a request of this job."""
    source = job.submitted.source
    if takes_changed_input(source):
        return CORRECT_FILE
    return CORRECT_ITERABLE if isinstance(source, IterableSource) else cancel_and_skip(job.key)


def _on_one_line(envelope: bytes) -> str:
    """Return the API's error envelope on one line, for a line of results; a made-up one if the API sent none."""
    try:
        return json.dumps(json.loads(envelope), separators=(",", ":"))
    except (ValueError, RecursionError):
        return TOO_LARGE
