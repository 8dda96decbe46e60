"""The protocol with one rule broken: each mutant must be found out by the simulation, or the simulation is too weak.

A mutant is a context manager that breaks the core by monkeypatching, for the seeds that run inside it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import anyio
import msgspec

import abatch.engine.answers
import abatch.engine.audit
import abatch.engine.client
import abatch.engine.doubt
import abatch.engine.drain
import abatch.engine.driver
import abatch.engine.pending
import abatch.engine.proof
import abatch.engine.scope
import abatch.engine.shard_drain
import abatch.engine.wishes
import abatch.journal.ledger
import abatch.journal.records
import abatch.journal.sqlite
import abatch.manager
import abatch.protocol.absence
import abatch.protocol.clocks
import abatch.protocol.lifecycle
import abatch.protocol.reads
import abatch.system.drafts
from abatch.engine.audit import Audit
from abatch.engine.key_guard import KeyGuard
from abatch.engine.outage import Outage
from abatch.engine.pending import PendingDoubts
from abatch.engine.planning import JobPlanning
from abatch.engine.recorder import ShardRecorder
from abatch.engine.runner import JobRun
from abatch.engine.scope import Scope
from abatch.engine.scopes import Scopes
from abatch.engine.sift import LineSifter
from abatch.engine.upload import Uploader
from abatch.engine.watch import BatchWatcher
from abatch.engine.wishes import CALLED_LOST, OperatorWishes
from abatch.errors import ApiError, BackendError
from abatch.input.planner import Planner
from abatch.journal.records import JobRecord
from abatch.journal.sqlite import SqliteLog
from abatch.log import log
from abatch.protocol import reconcile, wire
from abatch.protocol.absence import Absence
from abatch.protocol.facts import Committing, Cut, Lost, Withdrawn
from abatch.protocol.lifecycle import Processing, Ready
from abatch.protocol.reconcile import Replied
from abatch.sandbox.faults import (
    CutInLine,
    Deleted,
    EmptyResults,
    Garbage,
    Hide,
    KeyPool,
    LineSeparator,
    MissingLine,
    OddEntry,
    OutOfCredit,
    Skew,
    SpendLimit,
    StaleAnswer,
    UsageLimit,
)
from tests.doubts import committed_with
from tests.simulation.plan import OTHER_KEY, Plan

__all__ = ["FOUND_AS", "MUTANTS", "SHOWS_IN"]

Mutant = Callable[[], Any]


def _patched(*changes: tuple[Any, str, Any]) -> ExitStack:
    stack = ExitStack()
    for where, name, change in changes:
        stack.enter_context(patch.object(where, name, change))
    return stack


def _never_open() -> list[tuple[Any, str, Any]]:
    """Where the driver itself looks for candidates that are still open: it finds none."""
    return [(module, "still_open", lambda *_: []) for module in (abatch.engine.doubt, abatch.engine.wishes)]


def no_gate() -> ExitStack:
    """The tail leaves with the body; the gate is passed afterwards."""

    async def body(self: Uploader, reader: Any, prefix: bytes, *attempt_gate_scope: Any) -> AsyncIterator[bytes]:
        _, gate, _ = attempt_gate_scope
        for piece in reader.body(prefix):
            yield piece
        gate.released = True
        yield wire.BODY_TAIL
        await self._pass_gate(*attempt_gate_scope)

    return _patched((Uploader, "_body", body))


def commit_after_send() -> ExitStack:
    """`Committing` is recorded once the answer is there."""
    real_conclude, real_record = Uploader._conclude, ShardRecorder.record
    held_back: dict[int, Committing] = {}

    async def record(self: ShardRecorder, *facts: Any) -> None:
        if isinstance(facts[0], Committing):
            held_back[self.shard.shard] = facts[0]
            return
        await real_record(self, *facts)

    async def conclude(self: Uploader, *verdict: Any) -> None:
        await real_record(self.recorder, held_back.pop(self.shard.shard))
        await real_conclude(self, *verdict)

    return _patched((ShardRecorder, "record", record), (Uploader, "_conclude", conclude))


def no_fence() -> ExitStack:
    """A fact goes to the next free position, whoever was first at the one it was meant for."""
    real = abatch.journal.sqlite.SqliteLog._insert

    def insert(self: Any, entry: Any, at: float) -> Any:
        if entry.shard is not None:
            query = "SELECT coalesce(max(n) + 1, 0) FROM facts WHERE shard = ?"
            ((free,),) = self._db.execute(query, (entry.shard,)).fetchall()
            entry = entry._replace(n=free)
        return real(self, entry, at)

    return _patched((abatch.journal.sqlite.SqliteLog, "_insert", insert))


def grace_halved() -> ExitStack:
    """An unanswered create gets half of its time to appear."""
    real = abatch.manager.grace_of
    return _patched((abatch.manager, "grace_of", lambda *these, **more: real(*these, **more) / 2))


def guard_skipped() -> ExitStack:
    """An empty list proves absence, whatever the key."""

    async def confirm_key(_self: Any) -> bool:
        return True

    return _patched(
        (KeyGuard, "is_guarded", lambda _self, _fingerprint: True),
        (KeyGuard, "confirm", confirm_key),
    )


def sdk_retries_on() -> ExitStack:
    """A create that was not answered, or answered 5xx, is sent again at once, as the SDK would."""
    real = abatch.engine.client.Client.create

    async def create(self: Any, headers: Any, size: int, body: Any) -> Any:
        sent: list[bytes] = []

        async def noted() -> AsyncIterator[bytes]:
            async for piece in body:
                sent.append(piece)
                yield piece

        async def again() -> AsyncIterator[bytes]:
            for piece in sent:
                yield piece

        answer = await real(self, headers, size, noted())
        lost = not isinstance(answer, Replied) or answer.status >= 500
        return await real(self, headers, size, again()) if lost and sum(map(len, sent)) == size else answer

    return _patched((abatch.engine.client.Client, "create", create))


def server_error_is_refusal() -> ExitStack:
    """5xx: taken as "not created"."""
    real = reconcile.judge

    def judge(answer: Any) -> Any:
        if isinstance(answer, Replied) and answer.status >= 500:
            return reconcile.Later(rule="A10", wait=1.0)
        return real(answer)

    return _patched((reconcile, "judge", judge))


def redirect_is_refusal() -> ExitStack:
    """Any redirect: taken as "not created"."""
    real = reconcile.judge

    def judge(answer: Any) -> Any:
        if isinstance(answer, Replied) and 300 <= answer.status < 400:
            return reconcile.Later(rule="A6", wait=1.0)
        return real(answer)

    return _patched((reconcile, "judge", judge))


def doubted_refusal_is_believed() -> ExitStack:
    """A refusal ends the doubt, whatever the policy says."""

    async def doubt(self: Uploader, verdict: Any) -> None:
        await self._refused(verdict)

    return _patched((Uploader, "_doubt", doubt))


def proxy_is_believed() -> ExitStack:
    """A refusal counts without the API's envelope, too."""
    real = reconcile.judge

    def judge(answer: Any) -> Any:
        if isinstance(answer, Replied) and answer.kind is None:
            answer = replace(answer, kind="invalid_request_error")
        return real(answer)

    return _patched((reconcile, "judge", judge))


def resubmit_on_404() -> ExitStack:
    """An accepted batch that does not show is taken as lost, and sent again."""
    real_after, real_watch = abatch.protocol.lifecycle.after, BatchWatcher.watch

    def after(state: Any, fact: Any) -> Any:
        if isinstance(state, Processing) and isinstance(fact, Withdrawn):
            return Ready(attempt=state.doubt.attempt)
        return real_after(state, fact)

    async def watch(self: BatchWatcher, batch_id: str) -> bool:
        try:
            await self.context.manager.client.retrieve(self.context.scope.workspace_id, batch_id)
        except ApiError as failure:
            if failure.status == 404:
                await self.recorder.record(Withdrawn(why="404"))
                return True
        return await real_watch(self, batch_id)

    return _patched(
        (abatch.journal.ledger, "after", after),
        (abatch.journal.records, "after", after),
        (BatchWatcher, "watch", watch),
    )


def claim_before_proof() -> ExitStack:
    """The only batch of the right size and time is taken as ours, unread."""
    real = reconcile.settle

    def settle(doubt: Any, listing: Any, known: Any, **policy: Any) -> Any:
        mine = reconcile.still_open(doubt, known)
        if len(mine) == 1:
            return reconcile.FoundBatch(rule="B2", batch=mine[0])
        return real(doubt, listing, known, **policy)

    return _patched((reconcile, "settle", settle))


def candidates_that_run_are_ignored() -> ExitStack:
    """A request is sent again while the batch that may hold it still runs."""
    real = reconcile.settle

    def settle(doubt: Any, listing: Any, known: Any, **policy: Any) -> Any:
        shown = ((each, listing.visible(each.batch_id)) for each in doubt.committed.candidates)
        ended = tuple(each for each, batch in shown if batch is None or batch.ended)
        return real(committed_with(doubt, candidates=ended), listing, known, **policy)

    return _patched((reconcile, "settle", settle), *_never_open())


def tag_not_compared() -> ExitStack:
    """An id of our form is ours, whoever made its tag."""

    def prove(_self: Any, wire_id: bytes) -> tuple[int, int] | None:
        named = wire.parse_id(wire_id)
        return None if named is None else (named.shard, named.attempt)

    return _patched((Scopes, "_prove", prove))


def _settling(**policy: bool) -> ExitStack:
    real = reconcile.settle

    def settle(doubt: Any, listing: Any, known: Any, **more: Any) -> Any:
        return real(doubt, listing, known, **more | policy)

    return _patched((reconcile, "settle", settle))


def hold_ignored() -> ExitStack:
    """What is to be held is sent again once it does not appear."""
    return _settling(hold=False)


def unreadable_sent_again() -> ExitStack:
    """That a 2xx was seen is forgotten."""
    real = reconcile.settle

    def settle(doubt: Any, listing: Any, known: Any, **policy: Any) -> Any:
        return real(committed_with(doubt, certain=False), listing, known, **policy)

    return _patched((reconcile, "settle", settle))


def absence_is_held() -> ExitStack:
    """What does not appear waits for an operator, whatever the policy."""
    return _settling(hold=True)


def rename_before_fsync() -> ExitStack:
    """A spool file gets its name before its bytes are durable."""
    return _patched((abatch.system.drafts, "sync", lambda _descriptor: None))


def seal_without_count() -> ExitStack:
    """A stream that ends is complete."""

    async def read_all(self: Any, sink: Any, _state: Any) -> str:
        while await self._read_once(sink) is not None:
            await abatch.engine.drain.anyio.sleep(60)
        return ""

    return _patched((abatch.engine.drain._BatchDrain, "_read_all", read_all))


def read_but_once() -> ExitStack:
    """What a first look does not show is given up as missing."""
    return _patched((abatch.engine.shard_drain, "READ_AGAIN", ()))


def answers_mended() -> ExitStack:
    """A line is written as a JSON encoder has it, not as the API sent it."""
    real = wire.with_custom_id

    def with_custom_id(line: bytes, wire_id: bytes, custom_id: bytes) -> bytes:
        return json.dumps(json.loads(real(line, wire_id, custom_id))).encode()

    def never(_text: bytes, _head: bytes) -> None:
        return None

    return _patched((wire, "with_custom_id", with_custom_id), (wire, "read_plain", never))


def torn_line_is_taken() -> ExitStack:
    """A part of a line takes its row from the whole one."""
    real = wire._scan

    def scan(line: bytes) -> wire.Seen | None:
        torn = real(line)
        return None if torn is None else wire.Seen(*torn)

    return _patched((wire, "_scan", scan))


def refusal_is_a_break() -> ExitStack:
    """What a sink refuses while the stream breaks is taken for the break: those lines are never written."""

    async def read_once(self: Any, sink: Any) -> ApiError | None:
        trouble: list[Exception] = []
        full, empty = anyio.create_memory_object_stream[Any](0)
        async with anyio.create_task_group() as group:
            group.start_soon(abatch.engine.drain._write_all, sink, empty, trouble)
            try:
                async with full:
                    await self._read_into(full)
            except Exception as failure:  # noqa: BLE001 - the first is told, whichever it is
                trouble.append(failure)
        if trouble and not isinstance(trouble[0], ApiError):
            raise trouble[0]
        return trouble[0] if trouble else None

    return _patched((abatch.engine.drain._BatchDrain, "_read_once", read_once))


def short_seal_is_taken() -> ExitStack:
    """The same, and a seal with fewer lines than were given is taken as well."""
    both = refusal_is_a_break()
    both.enter_context(patch.object(abatch.engine.drain, "check_lines", lambda *_: None))
    return both


def separators_dropped() -> ExitStack:
    """U+2028 is left out of lines."""
    real = abatch.engine.drain._blocks

    async def blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for text in real(chunks):
            yield text.replace("\u2028".encode(), b"")

    return _patched((abatch.engine.drain, "_blocks", blocks))


def splitlines() -> ExitStack:
    """Lines end where `str.splitlines` says, and a part of a line is taken for a line."""
    real = wire.read_line

    def lines_of(text: bytes) -> list[bytes]:
        lines = text.decode("utf-8", "surrogateescape").splitlines()
        return [line.encode("utf-8", "surrogateescape") for line in lines if line]

    def read_line(raw: bytes) -> Any:
        seen = real(raw)
        return wire.Seen(*seen) if isinstance(seen, wire.Torn) else seen

    return _patched((wire, "lines_of", lines_of), (wire, "read_line", read_line))


def tries_forgotten() -> ExitStack:
    """A passing error is retried without end."""
    real = LineSifter._is_retryable

    def is_retryable(self: Any, line: Any) -> bool:
        trial = self._shard.planned.trial
        self._drainer.tries += trial
        try:
            return real(self, line)
        finally:
            self._drainer.tries -= trial

    return _patched((LineSifter, "_is_retryable", is_retryable))


def key_in_the_log() -> ExitStack:
    """The API key is told to the log."""
    real = ShardRecorder.record

    async def record(self: ShardRecorder, *facts: Any) -> None:
        await real(self, *facts)
        log.info("shard_recorded", key=self.context.manager.client.fixed_key)

    return _patched((ShardRecorder, "record", record))


def spool_is_left() -> ExitStack:
    """The bodies of what is drained stay on disk."""
    return _patched((abatch.engine.driver, "remove", lambda _path: None))


def whole_batch_in_memory() -> ExitStack:
    """A batch's results are read to their end before the first is written."""

    async def blocks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if whole := b"".join([chunk async for chunk in chunks]):
            yield whole

    return _patched((abatch.engine.drain, "_blocks", blocks))


def sealed_without_end() -> ExitStack:
    """An input is planned as fast as it can be read, whatever waits to be sent."""

    async def room(_self: Any) -> bool:
        return True

    return _patched((JobPlanning, "_room_for_shards", room))


def scope_forgotten() -> ExitStack:
    """Every batch goes to the key's own workspace, whatever the job's."""
    real = abatch.engine.client.Client.create

    async def create(self: Any, headers: Any, size: int, body: Any) -> Any:
        return await real(self, msgspec.structs.replace(headers, workspace_id=None), size, body)

    return _patched((abatch.engine.client.Client, "create", create))


def cancel_of_all() -> ExitStack:
    """A wish to cancel one job cancels them all."""
    real = BatchWatcher._cancel_when_wished

    async def cancel(self: BatchWatcher, batch_id: str) -> None:
        while not any(job.cancel_wished for job in self.context.manager.ledger.jobs.values()):
            await anyio.sleep(1)
        self.context.job.cancel_wished = True
        await real(self, batch_id)

    return _patched((BatchWatcher, "_cancel_when_wished", cancel))


def parked_without_a_fact() -> ExitStack:
    """A parked batch is cancelled, and nothing on record says why."""

    async def parked_for_good(self: BatchWatcher, batch_id: str) -> None:
        await self.context.scope.parking.until_parked(batch_id)
        await self._cancel(batch_id)
        await anyio.sleep_forever()

    return _patched((BatchWatcher, "_parked_for_good", parked_for_good))


def duplicates_unreported() -> ExitStack:
    """What is paid twice is not said."""

    async def look_for_duplicates(_self: Any, _batches: Any, _date: float) -> None:
        return

    return _patched((Audit, "_look_for_duplicates", look_for_duplicates))


def presence_forgotten() -> ExitStack:
    """A batch that may be ours is forgotten once a list lacks it."""
    real = reconcile.settle

    def settle(doubt: Any, listing: Any, known: Any, **policy: Any) -> Any:
        shown = tuple(each for each in doubt.committed.candidates if listing.visible(each.batch_id) is not None)
        return real(committed_with(doubt, candidates=shown), listing, known, **policy)

    return _patched((reconcile, "settle", settle), *_never_open())


def odd_entries_are_ignored() -> ExitStack:
    """What a list shows in a form that cannot be read is no batch."""
    return _patched((abatch.engine.answers.Page, "odd", ()))


def hidden_is_foreign() -> ExitStack:
    """A 404 by its id says that a batch is not ours."""
    real = PendingDoubts.hidden_candidates

    async def hidden_candidates(self: PendingDoubts, pending: Any, shown: Any) -> Any:
        visible = await real(self, pending, shown)
        every = {each.batch_id for doubt in pending for each in reconcile.still_open(doubt.doubt, self._known)}
        self._known.foreign |= every - shown.keys() - visible.keys()
        return visible

    return _patched((PendingDoubts, "hidden_candidates", hidden_candidates))


def partial_list_is_complete() -> ExitStack:
    """A list proves absence whatever it lacks."""
    return _patched((reconcile, "missing_in", lambda _listing, _known: None))


def date_alone() -> ExitStack:
    """What the server's `Date` says has passed, has passed."""

    def elapsed(earlier: Any, later: Any) -> float:
        return max(0.0, later.date - earlier.date)

    return _patched((abatch.engine.pending, "elapsed", elapsed), (abatch.protocol.absence, "elapsed", elapsed))


def own_clock_alone() -> ExitStack:
    """What this machine's clock says has passed, has passed."""
    real = abatch.protocol.clocks.elapsed

    def elapsed(earlier: Any, later: Any) -> float:
        return real(earlier, msgspec.structs.replace(later, date=earlier.date + 10.0**9))

    return _patched((abatch.engine.pending, "elapsed", elapsed), (abatch.protocol.absence, "elapsed", elapsed))


def too_old_by_date() -> ExitStack:
    """A batch is too old if `Date` at the commit point says so; no other witness is asked."""
    real = reconcile.oldest

    def oldest(doubt: Any, known: Any) -> float:
        return real(committed_with(doubt, newest=None), known)

    return _patched((reconcile, "oldest", oldest), (abatch.engine.scope, "oldest", oldest))


def never_closed() -> ExitStack:
    """Whatever batch of a doubt's size is made, however late, keeps the doubt open."""
    return _patched((reconcile, "closing", lambda *_, **__: None))


def closed_by_another_key() -> ExitStack:
    """A list of another workspace closes the candidates for good."""
    real = reconcile.closing

    def closing(doubt: Any, *what: Any, **more: Any) -> Any:
        change = real(doubt, *what, **more)
        if change is not None:
            object.__setattr__(doubt, "guarded", True)
        return change

    return _patched((reconcile, "closing", closing))


def short_look_is_foreign() -> ExitStack:
    """Results that are empty, or end early, prove that a batch is not ours."""
    return _patched((abatch.engine.proof, "SHORT_LOOKS", 0))


def lost_too_early() -> ExitStack:
    """A batch is given up after an hour."""
    return _patched((abatch.protocol.absence, "LOST_AFTER", 3600.0))


def lost_without_guard() -> ExitStack:
    """A batch is given up whatever the key sees."""

    async def may_see(_self: Any, _fingerprint: Any) -> bool:
        return True

    return _patched((KeyGuard, "may_see", may_see))


def lost_never() -> ExitStack:
    """A batch that somebody deleted is waited for without end."""
    real = Absence.missed

    def missed(self: Absence, now: Any, vanished: Any) -> Any:
        news = real(self, now, vanished)
        return None if isinstance(news, Lost) else news

    return _patched((Absence, "missed", missed))


def list_not_asked_while_draining() -> ExitStack:
    """A batch is given up although lists show it, because its results and its id are a 404."""

    async def lists(_self: Any, _batch_id: str, _created_at: float) -> bool:
        return False

    return _patched((Scope, "lists", lists), (Scope, "listed_since", lambda *_: False))


def lost_is_not_created() -> ExitStack:
    """An operator's word that a batch is lost is taken for the word that none was made."""

    async def lose(self: OperatorWishes) -> None:
        await self.recorder.record(Withdrawn(why="an operator says that it is lost"))

    return _patched((OperatorWishes, "lose", lose))


def doubt_is_lost_unasked() -> ExitStack:
    """An operator's word that what a doubt made is lost counts although the API shows a batch that may be it."""

    async def lose(self: OperatorWishes) -> None:
        await self.recorder.record(Lost(why=CALLED_LOST))

    return _patched((OperatorWishes, "lose", lose))


def lost_by_word_unasked() -> ExitStack:
    """An operator's word that a batch is lost counts although the API shows the batch."""

    async def lost_by_word(_self: Any, _batch_id: str) -> Lost:
        return Lost(why=CALLED_LOST)

    return _patched((OperatorWishes, "lost_by_word", lost_by_word))


def looks_delay_polls() -> ExitStack:
    """The results of batches that resemble ours are read between two looks at the list."""
    real = Audit.look

    async def look(self: Audit, batches: Any, date: float) -> None:
        await real(self, batches, date)
        for each in list(self.examiner._looks.values())[: abatch.engine.audit.AUDITS]:
            await self.examiner._look(each)

    return _patched((Audit, "look", look))


def answer_of_a_bound_batch_is_believed() -> ExitStack:
    """A create's answer is believed although it names a batch of another shard."""
    return _patched((Uploader, "_is_of_another", lambda *_: False))


def limit_stops_one_job() -> ExitStack:
    """A limit of the account is taken for a refusal of one request: other jobs of the workspace go on."""

    def remedy_of(*_: Any) -> None:
        return None

    return _patched((reconcile, "remedy_of", remedy_of), (abatch.protocol.reads, "remedy_of", remedy_of))


def limit_forgotten() -> ExitStack:
    """A job that is handed over again is planned to its end, whatever its limit."""
    return _patched((JobRecord, "limit", property(lambda job: None if job.cuts else job.submitted.limit)))


def outage_ends_the_job() -> ExitStack:
    """The first failure of the storage ends the job, though it may pass."""

    async def wait(_self: Any, failure: BackendError) -> None:
        raise failure

    return _patched((Outage, "wait", wait))


def skew_unwatched() -> ExitStack:
    """Nobody compares `Date` with `created_at`."""

    def accepted(self: Scope, batch: Any, **_: Any) -> None:
        self.owns(batch.batch_id, batch.created_at)

    return _patched((Scope, "accepted", accepted))


def inbox_released_before_the_cut() -> ExitStack:
    """The inbox drops params that are not durable in the spool yet."""

    async def cut(self: Planner, *, last: bool = False) -> None:
        await self._ledger.facts.release(self._job.job, through=self._filled)
        await self._cut(Cut(rows=self._filled, last=last))
        self._header_sets.clear()
        self._job.wake()

    return _patched((Planner, "_cut_inbox", cut))


def put_acknowledged_too_early() -> ExitStack:
    """A put returns before its commit."""
    real = SqliteLog.put

    async def put(self: SqliteLog, job: int, requests: Any) -> int:
        task = asyncio.ensure_future(real(self, job, requests))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return len(requests)

    return _patched((SqliteLog, "put", put))


def inbox_of_a_cancelled_job_is_left() -> ExitStack:
    """A cancelled open job is finished without the requests in its inbox."""

    async def plan(self: JobPlanning, planner: Planner, source: Any) -> None:
        if not self._job.cancel_wished:
            await self._context.while_wanted(planner.run_inbox(source))

    def is_complete(self: JobRun) -> bool:
        job = self.job
        return job.finished is None and (job.cut.last or job.cancel_wished) and not job.open_shards

    return _patched((JobPlanning, "_plan_inbox", plan), (JobRun, "_is_complete", is_complete))


MUTANTS: Final[dict[str, Mutant]] = {
    each.__name__: each
    for each in (
        no_gate,
        commit_after_send,
        no_fence,
        grace_halved,
        guard_skipped,
        sdk_retries_on,
        server_error_is_refusal,
        redirect_is_refusal,
        doubted_refusal_is_believed,
        proxy_is_believed,
        resubmit_on_404,
        claim_before_proof,
        candidates_that_run_are_ignored,
        tag_not_compared,
        hold_ignored,
        unreadable_sent_again,
        absence_is_held,
        rename_before_fsync,
        seal_without_count,
        read_but_once,
        answers_mended,
        torn_line_is_taken,
        refusal_is_a_break,
        short_seal_is_taken,
        separators_dropped,
        splitlines,
        tries_forgotten,
        key_in_the_log,
        spool_is_left,
        whole_batch_in_memory,
        sealed_without_end,
        scope_forgotten,
        cancel_of_all,
        parked_without_a_fact,
        duplicates_unreported,
        presence_forgotten,
        odd_entries_are_ignored,
        hidden_is_foreign,
        partial_list_is_complete,
        date_alone,
        own_clock_alone,
        too_old_by_date,
        never_closed,
        closed_by_another_key,
        short_look_is_foreign,
        lost_too_early,
        lost_without_guard,
        lost_never,
        list_not_asked_while_draining,
        lost_is_not_created,
        doubt_is_lost_unasked,
        lost_by_word_unasked,
        looks_delay_polls,
        answer_of_a_bound_batch_is_believed,
        skew_unwatched,
        limit_stops_one_job,
        limit_forgotten,
        outage_ends_the_job,
        inbox_released_before_the_cut,
        put_acknowledged_too_early,
        inbox_of_a_cancelled_job_is_left,
    )
}

FOUND_AS: Final[dict[str, str]] = {
    "no_gate": "J1: ",
    "commit_after_send": "J1: ",
    "no_fence": "J: |J5: ",
    "grace_halved": "I1: paid twice",
    "guard_skipped": "I1: paid twice",
    "sdk_retries_on": "J5: |I1: paid twice",
    "server_error_is_refusal": "I1: paid twice",
    "redirect_is_refusal": "I1: paid twice",
    "doubted_refusal_is_believed": "I1: paid twice",
    "proxy_is_believed": "I1: paid twice",
    "resubmit_on_404": r"J: shard \d+: Withdrawn cannot follow Processing",
    "claim_before_proof": "J4: ",
    "candidates_that_run_are_ignored": "I1: paid twice",
    "tag_not_compared": "J4: ",
    "hold_ignored": "B8: .* is to be held",
    "unreadable_sent_again": "B8: .* is to be held",
    "absence_is_held": ".* ended with StillInDoubt",
    "rename_before_fsync": "J0: .* got its name before it was synced",
    "seal_without_count": "I2: the summary of|I2: lines",
    "read_but_once": "I2: .* is missing",
    "answers_mended": "I3: .* in other bytes",
    "torn_line_is_taken": "I3: .* is torn",
    "refusal_is_a_break": ".* ended with BackendError: .* was sealed with",
    "short_seal_is_taken": "I2: lines",
    "separators_dropped": "I3: .* in other bytes",
    "splitlines": "I3: ",
    "tries_forgotten": "I1: .* tries",
    "key_in_the_log": "I6: ",
    "spool_is_left": "the spool still holds",
    "whole_batch_in_memory": "I5: .* of memory",
    "sealed_without_end": "I5: .* may wait",
    "scope_forgotten": "a batch of .* is in default",
    "cancel_of_all": "J7: ",
    "parked_without_a_fact": "J7: .* was cancelled",
    "duplicates_unreported": "B10: ",
    "presence_forgotten": "I1: paid twice|B8: .* may be it",
    "odd_entries_are_ignored": "I1: paid twice|B8: .* the API had shown",
    "hidden_is_foreign": "I1: paid twice|B8: .* may be it",
    "partial_list_is_complete": "I1: paid twice",
    "date_alone": "I1: paid twice|grace: |lost: .* hours after it was seen",
    "own_clock_alone": "I1: paid twice|grace: |lost: .* hours after it was seen",
    "too_old_by_date": "I1: paid twice|B8: .* the API had shown",
    "never_closed": "liveness: not done",
    "closed_by_another_key": "I1: paid twice|B8: .* the API had shown",
    "short_look_is_foreign": "I1: paid twice",
    "lost_too_early": "lost: .* hours after it was seen",
    "lost_without_guard": "lost: .* by a key of another workspace",
    "lost_never": "liveness: ",
    "list_not_asked_while_draining": "lost: .* hours after it was seen",
    "lost_is_not_created": "I1: paid twice",
    "doubt_is_lost_unasked": "lost: .* nobody deleted it",
    "lost_by_word_unasked": "lost: .* nobody deleted it",
    "looks_delay_polls": "delay: ",
    "answer_of_a_bound_batch_is_believed": "J4: ",
    "skew_unwatched": "A6: ",
    "limit_stops_one_job": "limit: ",
    "limit_forgotten": "limit of a job: ",
    "outage_ends_the_job": r".* ended with BackendError: .*memory\.outage",
    "inbox_released_before_the_cut": r".* ended with Overtaken",
    "put_acknowledged_too_early": r"I2: .* were put into",
    "inbox_of_a_cancelled_job_is_left": r"I2: .* were put into",
}
"""What the judges say of it, as a pattern: a mutant that only breaks down is not found out."""

SHOWS_IN: Final[dict[str, Callable[[Plan], bool]]] = {
    "no_fence": lambda plan: plan.fenced,
    "refusal_is_a_break": lambda plan: any(plan.refuses),
    "short_seal_is_taken": lambda plan: any(plan.refuses),
    "read_but_once": lambda plan: any(isinstance(fault, MissingLine) for _, fault, _ in plan.faults),
    "torn_line_is_taken": lambda plan: any(
        isinstance(fault, CutInLine) and fault.newline for _, fault, _ in plan.faults
    ),
    "doubted_refusal_is_believed": lambda plan: plan.config.refusals == "doubt",
    "hold_ignored": lambda plan: plan.config.unresolved == "hold",
    "unreadable_sent_again": lambda plan: any(isinstance(fault, Garbage) for _, fault, _ in plan.faults),
    "separators_dropped": lambda plan: any(isinstance(fault, LineSeparator) for _, fault, _ in plan.faults),
    "splitlines": lambda plan: any(isinstance(fault, LineSeparator) for _, fault, _ in plan.faults),
    "whole_batch_in_memory": lambda plan: plan.weighed,
    "scope_forgotten": lambda plan: any(work.workspace_id for work in plan.jobs),
    "cancel_of_all": lambda plan: len(plan.jobs) > 1 and any(life.cancels_at for life in plan.lives),
    "parked_without_a_fact": lambda plan: plan.config.parked == "cancel-and-retry",
    "duplicates_unreported": lambda plan: plan.restores or not plan.promised,
    "presence_forgotten": lambda plan: plan.draws(Hide, site="list"),
    "odd_entries_are_ignored": lambda plan: plan.draws(OddEntry, site="list"),
    "hidden_is_foreign": lambda plan: plan.draws(Hide, site="list") and plan.draws(Hide, site="retrieve"),
    "partial_list_is_complete": lambda plan: plan.draws(KeyPool, site="list"),
    "date_alone": lambda plan: bool(plan.clocks),
    "own_clock_alone": lambda plan: not plan.tells_boot or any(life.reboots for life in plan.lives),
    "too_old_by_date": lambda plan: plan.draws(Skew),
    "never_closed": lambda plan: plan.stream_goes_on,
    "closed_by_another_key": lambda plan: bool(plan.clocks) and any(life.key == OTHER_KEY for life in plan.lives),
    "short_look_is_foreign": lambda plan: plan.draws(EmptyResults, site="results"),
    "lost_too_early": lambda plan: plan.slow_polls,
    "lost_without_guard": lambda plan: plan.slow_polls,
    "lost_never": lambda plan: plan.vanishing,
    "list_not_asked_while_draining": lambda plan: plan.slow_polls,
    "lost_is_not_created": lambda plan: plan.draws(Deleted),
    "doubt_is_lost_unasked": lambda plan: plan.draws(Deleted),
    "lost_by_word_unasked": lambda plan: plan.draws(Deleted),
    "looks_delay_polls": lambda plan: plan.slow_strangers,
    "answer_of_a_bound_batch_is_believed": lambda plan: plan.draws(StaleAnswer),
    "skew_unwatched": lambda plan: bool(plan.clocks),
    "limit_stops_one_job": lambda plan: (
        len(plan.jobs) > len({work.workspace_id for work in plan.jobs}) == 1
        and plan.config.uploads == 1
        and plan.config.requests_per_batch < 4
        and plan.draws(OutOfCredit, UsageLimit, SpendLimit, site="create")
    ),
    "limit_forgotten": lambda plan: any(life.limit for life in plan.lives),
    "outage_ends_the_job": lambda plan: bool(plan.outages),
    "inbox_released_before_the_cut": lambda plan: any(work.source == "open" for work in plan.jobs),
    "put_acknowledged_too_early": lambda plan: any(work.source == "open" for work in plan.jobs),
    "inbox_of_a_cancelled_job_is_left": lambda plan: (
        plan.jobs[0].source == "open" and any(life.cancels_at for life in plan.lives)
    ),
}
"""For those that few worlds can show: which. Time is not spent on the others."""
