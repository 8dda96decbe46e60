"""The judges of a seed: the API's account, the sink's rows against the input, the journal, the end of each process.

None of them asks the manager. The journal is read with plain `sqlite3` and replayed by the table of `lifecycle`; what
was accepted, and what became of it, is what the API machine says.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import sqlite3
import stat
import traceback
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abatch import BackendError, ConfigError, JobConflict, JobStopped, JournalError, JournalLocked, StillInDoubt
from abatch.engine.wishes import CALLED_LOST
from abatch.errors import Overtaken
from abatch.protocol import facts as facts_
from abatch.protocol import wire
from abatch.protocol.absence import WHY
from abatch.protocol.lifecycle import Held, State, after, doubt_of
from abatch.result import OUTCOMES
from abatch.sandbox import faults as f
from abatch.sandbox.answers import CANCELED, EXPIRED, FIRST_ERROR, MARK, SUCCEEDED
from abatch.sandbox.batches import Ended
from abatch.sandbox.store import Accepted
from abatch.testing import memory
from tests.simulation.doubts import check_ended, check_monitor, check_monitors, judge_doubts, may_be_held
from tests.simulation.effects import PAGE, here
from tests.simulation.plan import CANARY, KEY, OTHER_KEY
from tests.simulation.process import InputBroke, Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abatch import Summary
    from abatch.protocol.lifecycle import InDoubt
    from abatch.sandbox.batches import Batch
    from abatch.sandbox.store import Fact
    from tests.simulation.network import Read
    from tests.simulation.plan import Work
    from tests.simulation.world import World

__all__ = [
    "AUDITED_FOR",
    "EPOCH",
    "check_created",
    "check_duplicates",
    "check_end",
    "check_read",
    "digest_of",
    "judge",
    "needed_key",
    "reached_by_log",
]

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
GONE_AFTER = 2 * 24 * 3600.0
"""Seconds after a batch's creation from which a 404 of its results is final."""
AUDITED_FOR = 36 * 3600.0
"""Seconds for which an attempt's duplicates are looked for, less those that the looking takes."""
KEYS = [KEY.encode(), OTHER_KEY.encode()]
RESULT_TYPE = re.compile(rb'"result"\s*:\s*\{\s*"type"\s*:\s*"([a-z_]+)"')
ERROR_TYPE = re.compile(rb'"error":\{"type":"error","error":\{(?:"details":(?:null|\{[^{}]*\}),)?"type":"([a-z_]+)"')


# ---- while it runs --------------------------------------------------------------------------------------------

EVENTS = {
    "create_not_sent": "A1",
    "candidate_foreign": "B4",
    "duplicate_seen": "B10",
    "shard_split": "413 split",
    "shard_overtaken": "fence held",
    "counts_disagree": "counts disagree",
    "conflicting_line_seen": "conflicting line",
    "foreign_line_seen": "foreign line",
    "torn_line_seen": "torn line",
    "torn_lines_taken": "torn line taken",
    "rows_missing": "rows missing",
    "results_incomplete": "results incomplete",
    "results_interrupted": "results interrupted",
    "bound_A1_broken": "monitor A1",
    "bound_A2_broken": "monitor A2",
    "bound_A6_broken": "monitor A6",
    "clocks_differ": "clocks differ",
    "answer_names_another_batch": "A5 names another batch",
    "batch_vanished": "batch vanished",
    "batch_reappeared": "batch reappeared",
    "resolve_refused": "operator's word refused",
    "storage_unavailable": "storage outage",
    "storage_available": "storage is back",
    "job_stopped": "job stopped",
    "shard_held": "shard held",
}


def reached_by_log(world: World, event: str, facts: dict[str, Any]) -> None:
    """Count the rows of the tables as the core names them."""
    process = here.process
    assert process is not None
    world.witness.told(event, facts)
    if event == "shard_accepted":
        process.offsets.append((world.now(), world.plan.ahead(world.now())))
    elif event == "batch_ended":
        check_ended(world, process, facts["shard"])
    if event == "duplicate_seen":
        world.alarmed.add(facts["batch_id"])
    if event in ("shard_withdrawn", "job_stopped", "shard_committing"):
        _check_limit(world, process, event, facts)
    if event == "candidate_seen" and _awaits_answer(process, facts["shard"]):
        world.hit("candidate seen in flight")
    if event in EVENTS:
        world.hit(EVENTS[event])
        check_monitor(world, process, event)
    elif event == "list_failed" and _doubts_wait(facts["workspace"]):
        world.hit("B1")
    elif event == "shard_in_doubt" and facts["rule"] == "A11" and "no answer" in facts["why"]:
        world.hit("A11")
    elif event == "shard_withdrawn" and facts["why"] == "the tail was never sent":
        world.hit("A3")


LIMITS = re.compile(r"the API answered \d+ .*(credit balance is too low|have reached your specified|spend limit)")


def _check_limit(world: World, process: Process, event: str, facts: dict[str, Any]) -> None:
    """A limit of the account stops every job of its workspace: what is at its gate already may pass it, no more."""
    workspace_id = next(work.workspace_id for work in world.jobs if work.key == facts["job"])
    if event == "shard_withdrawn":
        if LIMITS.match(facts["why"]):
            process.met_limit[workspace_id] = facts["job"]
        return
    if event == "job_stopped":  # other jobs of the workspace stop for the same limit later
        if LIMITS.match(facts["reason"]) and process.met_limit.pop(workspace_id, None) == facts["job"]:
            world.hit("limit stops a workspace")
            process.limited[workspace_id] = process.uploading
        return
    if workspace_id not in process.limited:
        return
    process.limited[workspace_id] -= 1
    if process.limited[workspace_id] < 0:
        world.violation(f"limit: shard {facts['shard']} of {facts['job']} was sent after a limit of the account")


def _awaits_answer(process: Process, shard: int) -> bool:
    assert process.manager is not None
    return any(shard in scope.doubts.unanswered for scope in process.manager._context.scopes.opened.values())


def _doubts_wait(workspace_id: str | None) -> bool:
    process = here.process
    assert process is not None
    assert process.manager is not None
    return bool(process.manager._context.scopes.opened[workspace_id].doubts.pending)


def check_created(world: World, fact: Fact) -> None:
    """J1: a batch comes to be, so its `Committing` was durable before; and no attempt makes two."""
    if not isinstance(fact, Accepted) or world.restored:
        return
    named = wire.parse_id(fact.requests.custom_ids.split(b"\n", 1)[0])
    if named is None:
        world.violation("a batch was created whose ids are not ours")
        return
    rows = world.read_journal("SELECT fact FROM facts WHERE shard = ?", named.shard)
    known = [facts_.decode(raw) for (raw,) in rows]
    if not any(isinstance(fact, facts_.Committing) and fact.attempt == named.attempt for fact in known):
        world.violation(f"J1: shard {named.shard} attempt {named.attempt} was created before it was committed")
    for row in range(len(fact.requests)):
        key, place = world.place_of.get(fact.requests.digest_of(row), ("", 0))
        if place > world.limits.get(key, inf):
            world.violation(f"limit of a job: request {place} of {key} was sent, and {world.limits[key]} were allowed")


def check_read(world: World, work: Work, number: int) -> None:
    """I5: an iterable is held back. Before request `number` is given, few of those before it wait to be sent."""
    config = world.plan.config
    headers = len({tuple(row.get("betas", ())) for row in work.rows})
    # sealed shards, those of one more cut, and one open shard for each set of headers
    most = config.requests_per_batch * (config.sealed_unsent - 1 + 2 * headers)
    if number <= most:
        return
    query = (
        "SELECT fact FROM facts JOIN jobs USING (job) WHERE key = ? AND n = 0"
        " AND shard IN (SELECT shard FROM facts WHERE n = 1)"
    )
    planned = [facts_.decode(raw) for (raw,) in world.read_journal(query, work.key)]
    sent = sum(fact.rows for fact in planned if fact.parent is None)
    world.hit("input held back")
    if number - 1 - sent > most:
        world.violation(f"I5: {number - 1} requests were read, {sent} sent; at most {most} may wait")


CLASHES = (
    "has changed since it was sealed",
    "is cut short",
    "is gone",
    "is not the file that was sealed",
    "was changed or removed after it was sealed",
)
"""What stops a job after two drivers wrote one file: the lock is against that, the fence keeps the money."""


def check_end(world: World, process: Process) -> None:
    """A process ended: in a way that its life explains, and leaving nothing behind that runs."""
    error = process.error
    check_monitors(world, process)
    if process.dead:
        _judge_files(world)
        return
    if left := [task for task in process.tasks if not task.done()]:
        world.violation(f"{process.name} left {len(left)} tasks: {left[0]!r}")
    if world.restored and not world.disturbed:
        return  # what two histories made of the job may stop it; that is seen where money is judged
    fenced = (world.plan.fenced or world.restored) and world.disturbed
    for each in [error, *process.others]:
        if world.plan.fenced and any(clash in str(each) for clash in CLASHES):
            world.clashed = True
        else:
            _check_error(world, process, each, fenced=fenced)


def _check_error(world: World, process: Process, error: Exception | None, *, fenced: bool) -> None:
    life = process.life
    match error:
        case None:
            return
        case JobStopped(failing=True):
            explained = life.failing == "stop"
            world.hit("first results failed")
        case JobStopped():
            explained = fenced or _may_stop(world, process, error.reason)
        case StillInDoubt():
            book = Book(world)
            explained = all(_may_be_held(world, book, life.key, number) for number, _ in error.held)
        case JournalLocked() | JobConflict():
            explained = life.twin is not None or process.name.endswith("'")
        case BackendError() if "memory.outage" in error.why:
            explained = world.plan.outlasts and world.disturbed
            if explained:
                world.hit("storage outage outlasts patience")
        case JournalError() | ConfigError() | BackendError():
            explained = process.disk_failed or fenced
        case Overtaken():
            explained = fenced
        case InputBroke():
            explained = life.breaks_after > 0
        case _:
            explained = False
    if not explained:
        world.violation(f"{process.name} ended with {type(error).__name__}: {error}")


def _may_stop(world: World, process: Process, reason: str) -> bool:
    """The API refused it, the key is another's, or the disk takes no more."""
    if "answered" in reason or "redirected" in reason:
        return world.disturbed
    if "API key" in reason:
        return any(life.key != KEY for life in world.plan.lives)
    return process.disk_failed or "disk has no room" in world.hits


def _may_be_held(world: World, book: Book, key: str, number: int) -> bool:
    """Only an operator can say: by policy, after A5, under another key, or where results of its size are gone (B5)."""
    shard = book.shards[number]
    doubt = None if shard.state is None else doubt_of(shard.state)
    if doubt is None or not isinstance(shard.state, Held):
        return True  # another process went on with it meanwhile
    if world.plan.config.unresolved == "hold" or doubt.certain or doubt.fingerprint != book.fingerprint(key):
        return True
    if may_be_held(world, number, doubt, shard.state.reason):
        return True
    gone = EPOCH + timedelta(seconds=world.now() + max(0.0, world.plan.ahead(world.now())) - GONE_AFTER)
    rows = shard.facts[0].rows
    return any(len(batch.requests) == rows and batch.created_at < gone for batch in world.machine.batches())


def check_duplicates(world: World, work: Work, summary: Summary) -> None:
    """A summary was made: it counts what the journal tells of batches that were paid besides."""
    query = "SELECT fact FROM facts JOIN jobs USING (job) WHERE key = ? AND shard IS NULL"
    facts = [facts_.decode(raw) for (raw,) in world.read_journal(query, work.key)]
    told = {fact.batch_id for fact in facts if isinstance(fact, facts_.DuplicateSeen)}
    if summary.duplicates != len(told) and not world.plan.fenced:  # left out: one driver hears late of the other's
        world.violation(f"B10: the summary of {work.key} counts {summary.duplicates} duplicates, told are {len(told)}")


# ---- the journal ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Shard:
    """A shard, replayed."""

    job: int
    state: State | None
    facts: list[Any]
    attempt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A doubt that ended because no batch appeared."""

    shard: int
    rows: int
    doubt: InDoubt


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A batch whose results were given up because the API does not know it, or by an operator's word."""

    shard: int
    attempt: int
    batch_id: str | None
    why: str


class Book:
    """The journal of a world, read without abatch."""

    def __init__(self, world: World) -> None:
        self.shards: dict[int, Shard] = {}
        self.of_jobs: dict[int, list[Any]] = {}
        self.jobs: dict[str, int] = {}
        """Numbers by key."""
        self.bound: dict[str, tuple[int, int]] = {}
        """Batches that an answer or a tag gave to an attempt."""
        self.absences: list[Absence] = []
        self.given_up: list[GivenUp] = []
        self.lineage_key = b""
        try:
            ((self.lineage_key,),) = world.read_journal("SELECT value FROM about WHERE name = 'lineage_key'")
        except (sqlite3.Error, ValueError):  # no process came so far as to make one
            return
        self.jobs = dict(world.read_journal("SELECT key, job FROM jobs"))
        for job, number, raw in world.read_journal("SELECT job, shard, fact FROM facts ORDER BY seq"):
            self._take(world, job, number, facts_.decode(raw))

    def _take(self, world: World, job: int, number: int | None, fact: Any) -> None:
        if number is None:
            self.of_jobs.setdefault(job, []).append(fact)
            return
        shard = self.shards.setdefault(number, Shard(job, None, []))
        if shard.job != job:
            world.violation(f"J: shard {number} is of jobs {shard.job} and {job}")
        state = shard.state
        doubt = None if state is None else doubt_of(state)
        try:
            shard.state = after(shard.state, fact)
        except Exception as illegal:  # noqa: BLE001 - whatever it is, the journal is wrong
            world.violation(f"J: shard {number}: {illegal}")
        shard.facts.append(fact)
        match fact:
            case facts_.Committing():
                if fact.attempt != shard.attempt + 1:
                    world.violation(f"J5: shard {number} attempt {fact.attempt} follows {shard.attempt}")
                shard.attempt = fact.attempt
            case facts_.Accepted() | facts_.Found(by="tag"):
                mine = (number, shard.attempt)
                if self.bound.setdefault(fact.batch_id, mine) != mine:
                    world.violation(f"J4: {fact.batch_id} is bound to {self.bound[fact.batch_id]} and {mine}")
            case facts_.Withdrawn(why="no batch appeared (B8)"):
                if world.plan.config.unresolved == "hold" or doubt is None or doubt.certain:
                    world.violation(f"B8: shard {number} attempt {shard.attempt} is to be held and was given up")
                else:
                    self.absences.append(Absence(shard=number, rows=shard.facts[0].rows, doubt=doubt))
            case facts_.Lost(why=why) | facts_.Drained(gone=why) if why in (WHY, CALLED_LOST) and doubt is not None:
                batch_id = getattr(state, "batch_id", None)
                self.given_up.append(GivenUp(shard=number, attempt=shard.attempt, batch_id=batch_id, why=why))
            case facts_.Held():
                assert doubt is not None
                if world.plan.config.unresolved == "hold":
                    world.hit("held by policy")
                if doubt.certain:
                    world.hit("held after A5")
            case facts_.CancelledAsParked():
                world.hit("parked batch given up")
            case facts_.Found(by="operator") | facts_.Withdrawn(why="an operator says that it was not created"):
                world.hit("B9")
            case _:
                pass

    def gave_up(self, shard: int) -> bool:
        """Whether the batch of a shard was cancelled because it was parked, by policy."""
        return any(isinstance(fact, facts_.CancelledAsParked) for fact in self.shards[shard].facts)

    def fingerprint(self, key: str) -> str:
        """Of a key, as `Committing` holds it."""
        return hmac.digest(self.lineage_key, key.encode(), hashlib.sha256)[:8].hex()

    def facts_of(self, key: str) -> list[Any]:
        """A job's own facts."""
        return self.of_jobs.get(self.jobs.get(key, 0), [])

    def key_of(self, shard: int) -> str | None:
        """The job that a shard is of."""
        number = self.shards[shard].job if shard in self.shards else None
        return next((key for key, job in self.jobs.items() if job == number), None)

    def rejected(self, key: str) -> bool:
        """The API refused a request of this job as too large."""
        number = self.jobs.get(key)
        rejected = (shard for shard in self.shards.values() if shard.job == number)
        return any(isinstance(fact, facts_.Rejected) for shard in rejected for fact in shard.facts)

    def wished(self, key: str) -> bool:
        """Somebody wished to cancel the job."""
        return any(isinstance(fact, facts_.CancelWished) for fact in self.facts_of(key))


def needed_key(world: World) -> str:
    """The key that sees what is open: a sensible owner goes back to it."""
    book = Book(world)
    for shard in book.shards.values():
        doubt = None if shard.state is None else doubt_of(shard.state)
        if doubt is not None and doubt.fingerprint == book.fingerprint(OTHER_KEY):
            return OTHER_KEY
    return KEY


# ---- at the end -----------------------------------------------------------------------------------------------


def judge(world: World, *, ended: bool) -> None:
    """Everything that must be true of a history: of any the money, of one that came to an end the rest, too."""
    book = Book(world)
    batches = world.batches_by_tag()
    _judge_money(world, book, batches, ended=ended)
    judge_doubts(world, book)
    if not ended:
        return
    for trouble in world.loop.unhandled:
        world.violation(f"nobody handled {trouble.get('message')}: {trouble.get('exception')!r}")
    if not world.restored:
        _judge_places(world, book, batches)
    if not world.violations and not world.restored and not world.clashed:
        said = _answers(world)
        for work in world.plan.jobs:
            _judge_answers(world, book, work, said)
    _judge_leftovers(world)


def _judge_money(world: World, book: Book, batches: dict[tuple[int, int], list[Batch]], *, ended: bool) -> None:
    account = world.machine.account
    own = {batch.batch_id: tag for tag, several in batches.items() for batch in several}
    if strangers := [batch_id for batch_id in account.canceled + account.deleted if batch_id not in own]:
        world.violation(f"J7: foreign batches were cancelled or deleted: {strangers}")
    for batch_id, tag in book.bound.items():
        if own.get(batch_id) != tag:
            world.violation(f"J4: {batch_id} is bound to {tag} and carries {own.get(batch_id)}")
    recorded = {fact.batch_id for facts in book.of_jobs.values() for fact in facts if _tells_of_duplicate(fact)}
    given_up = {(each.shard, each.attempt) for each in book.given_up}
    lost = {batch_id for batch_id in world.witness.removed if own.get(batch_id) in given_up}
    made = own.keys() - book.bound.keys() - _adopted(book) - lost
    if (false := recorded - made) and not world.plan.fenced:  # left out: one driver's alarm at the other's new batch
        world.violation(f"B10: reported as duplicates and are none: {sorted(false)}")
    if world.audited_from:
        _judge_reports(world, book, [world.machine.batch(batch_id) for batch_id in made], recorded)
    if world.plan.promised and not world.restored:
        if ended and made and not world.clashed:
            world.violation(f"I1: paid and bound to nothing: {sorted(made)}")
        if account.violated:
            world.violation(f"I1: paid twice: {account.violations[:3]}")
        if twice := {tag: len(several) for tag, several in batches.items() if len(several) > 1}:
            world.violation(f"J5: attempts with several batches: {twice}")


def _judge_places(world: World, book: Book, batches: dict[tuple[int, int], list[Batch]]) -> None:
    """Each batch is in its job's workspace, and is cancelled only with its job."""
    workspaces = {work.key: work.workspace_id for work in world.jobs}
    cancelled = set(world.machine.account.canceled)
    for (shard, _), several in batches.items():
        key = book.key_of(shard)
        if key is None:
            world.violation(f"J1: no fact tells of shard {shard}, which was sent")
            continue
        named = workspaces[key]
        for batch in several:
            if batch.workspace.partition("/")[2] != (named or ""):
                world.violation(f"a batch of {key} is in {batch.workspace}, not in {named}")
            if batch.batch_id in cancelled and not book.wished(key) and not book.gave_up(shard):
                world.violation(f"J7: {batch.batch_id} was cancelled, its job {key} was not")


def _tells_of_duplicate(fact: Any) -> bool:
    return isinstance(fact, facts_.DuplicateSeen)


def _judge_reports(world: World, book: Book, made: list[Batch], recorded: set[str]) -> None:
    """B10: of what was paid twice, all is reported that an attempt of that size and of late may have made."""
    sizes = {
        shard.facts[0].rows
        for shard in book.shards.values()
        if any(isinstance(fact, facts_.Committing) for fact in shard.facts)
    }
    for batch in made:
        world.hit("duplicate made")
        old = (batch.created_at - EPOCH).total_seconds() < world.audited_from - AUDITED_FOR
        elsewhere = not batch.workspace.startswith("default")
        younger = sum(
            other.workspace == batch.workspace and other.age_key > batch.age_key for other in world.machine.batches()
        )
        gone = batch.batch_id in world.witness.removed
        if (
            old or gone or elsewhere or younger >= PAGE or len(batch.requests) not in sizes
        ):  # nobody looks so far back for it
            continue
        world.hit("duplicate to report")
        # of a shard that the restored journal does not know there is only the log
        if batch.batch_id not in (world.alarmed if world.restored else recorded):
            world.violation(f"B10: {batch.batch_id} was paid besides and is not reported")


def _adopted(book: Book) -> set[str]:
    return {fact.batch_id for shard in book.shards.values() for fact in shard.facts if isinstance(fact, facts_.Found)}


def _lines(world: World, work: Work) -> tuple[list[bytes], list[bytes]]:
    """The sink's lines, and those that say what is missing."""
    place = Path(world.to(work))
    match work.to:
        case "memory":
            return memory.lines(work.key), memory.missing(work.key).splitlines()
        case "file":
            missing = place.with_name(f"{place.name}.missing.jsonl")
            lines = place.read_bytes().split(b"\n")[:-1]
        case "folder":
            missing = place / "_missing.jsonl"
            parts = sorted(place.glob("part-*.jsonl"))
            lines = [line for part in parts for line in part.read_bytes().split(b"\n")[:-1]]
            if not (place / "_SUCCESS").exists():
                world.violation("I2: the folder has no _SUCCESS")
    return lines, missing.read_bytes().splitlines() if missing.exists() else []


def _judge_answers(world: World, book: Book, work: Work, said: dict[bytes, list[tuple[str, bytes]]]) -> None:
    """I2 and I3: each planned row has one line, and it is what the API said of that request."""
    lines, missing = _lines(world, work)
    rows = {row["custom_id"]: row for row in work.rows}
    planned = max((fact.rows for fact in book.facts_of(work.key) if isinstance(fact, facts_.Cut)), default=0)
    wished = book.wished(work.key)
    if not wished and planned != len(rows):
        world.violation(f"I2: {planned} of {len(rows)} rows were planned")
    expected = Counter(row["custom_id"] for row in work.rows[:planned])
    if lacking := world.acknowledged.get(work.key, set()) - expected.keys():
        world.violation(f"I2: {sorted(lacking)} were put into {work.key}, and not planned")
    found = Counter(_custom_id(line) for line in lines)
    absent = Counter(json.loads(line)["custom_id"] for line in missing)
    if found + absent != expected:
        world.violation(f"I2: lines {dict(found)} and missing {dict(absent)}, not {dict(expected)}")
        return
    _judge_summary(world, work, lines, missing)
    for line in missing:
        _judge_missing(world, work, rows[json.loads(line)["custom_id"]], json.loads(line)["reason"])
    if any(secret.encode() in line for secret in (KEY, OTHER_KEY, CANARY) for line in lines):
        world.violation(f"I6: a secret is in the results of {work.key}")
    for line in lines:
        digest = digest_of(work, rows[_custom_id(line)])
        answers = said.get(digest, [])
        if _is_torn(line, answers):
            _judge_torn(world, digest, line)
        else:
            _judge_line(world, book, work, line, answers)


def _judge_summary(world: World, work: Work, lines: list[bytes], missing: list[bytes]) -> None:
    """What the manager says at the end is what the sink holds."""
    outcomes = Counter(_outcome(line)[0] for line in lines)
    true = {each: outcomes.pop(each, 0) for each in OUTCOMES} | {"other": outcomes.total(), "missing": len(missing)}
    true["requests"] = len(lines) + len(missing)
    said = {each: getattr(world.summaries[work.key], each) for each in true}
    if said != true:
        world.violation(f"I2: the summary of {work.key} counts {said}, not {true}")


def _custom_id(line: bytes) -> str:
    named = re.match(rb'\{"custom_id":\s*("(?:[^"\\]|\\.)*")', line)
    return "" if named is None else str(json.loads(named[1]))


def _outcome(line: bytes) -> tuple[str, str]:
    """What a line says: its outcome, and the type of its error or the outcome again."""
    kind, error = RESULT_TYPE.search(line), ERROR_TYPE.search(line)
    outcome = kind[1].decode() if kind else "?"
    return outcome, error[1].decode() if outcome == "errored" and error else outcome


def digest_of(work: Work, row: dict[str, Any]) -> bytes:
    """Of a row's params, as they were sent."""
    separators = None if work.source == "file" else (",", ":")
    return blake2b(
        json.dumps(row["params"], ensure_ascii=False, separators=separators).encode(), digest_size=16
    ).digest()


def _judge_missing(world: World, work: Work, row: dict[str, Any], reason: str) -> None:
    """A row is given up only where the API had no line of it, asked again and again for most of a day."""
    digest = digest_of(work, row)
    tried = [batch for batch in _own_ended(world) if digest in batch.requests.digests]
    if not tried:
        world.violation(f"I2: {row['custom_id']} is missing ({reason}), and was in no batch")
        return
    last = tried[-1]
    reads = world.reads.get(last.batch_id, [])
    where = f"{row['custom_id']} is missing ({reason}), and its batch {last.batch_id} was read {len(reads)} times"
    if reason in (WHY, CALLED_LOST):
        return  # `judge_doubts` has looked at the batch
    if "29 days" in reason:
        if not world.plan.slumber and not any(isinstance(fault, f.Archived) for read in reads for fault in read.faults):
            world.violation(f"I2: {where}; nothing was archived")
        return
    if "as archived" in reason:
        if len(reads) <= len(PATIENCE) or reads[-1].at - reads[0].at < sum(PATIENCE):
            world.violation(f"I2: {where}")
        return
    whole = [read for read in reads if read.complete and read.to_its_end]
    if len(whole) <= len(PATIENCE) or whole[-1].at - whole[0].at < sum(PATIENCE):
        world.violation(f"I2: {where}; {len(whole)} of them whole")
    elif not world.plan.fenced and not any(isinstance(fault, LEAVES_OUT) for fault in whole[-1].faults):
        world.violation(f"I2: {where}; the last brought every line")


def _is_torn(line: bytes, said: list[tuple[str, bytes]]) -> bool:
    """Whether it is the beginning of what the API said."""
    _, member, rest = line.partition(b'"result":')
    part = member + rest
    return bool(part) and any(tail.startswith(part) and tail != part for _, tail in said)


def _judge_torn(world: World, digest: bytes, line: bytes) -> None:
    """A torn line stands only where it came in the last of all reads, and no read before had it whole."""
    last = [batch for batch in _own_ended(world) if digest in batch.requests.digests][-1]
    reads = world.reads.get(last.batch_id, [])
    whole = [read for read in reads if read.complete and read.to_its_end][: len(PATIENCE) + 1]
    where = f"{line[:100]!r} is torn, and its batch {last.batch_id} was read {len(reads)} times"
    if len(whole) <= len(PATIENCE) or whole[-1].at - whole[0].at < sum(PATIENCE):
        world.violation(f"I3: {where}, {len(whole)} of them whole")
    elif not any(_tears(read) for read in reads[reads.index(whole[-1]) + 1 :]):
        world.violation(f"I3: {where}; in the last it was whole")


def _tears(read: Read) -> bool:
    return any(isinstance(fault, f.CutInLine) and fault.newline for fault in read.faults)


def _own_ended(world: World) -> Iterator[Batch]:
    return (batch for batch in world.machine.batches() if not batch.foreign and isinstance(batch.state, Ended))


def _answers(world: World) -> dict[bytes, list[tuple[str, bytes]]]:
    """What the API came to for each request, by digest of its params: the outcome, and the line behind its id."""
    said: dict[bytes, list[tuple[str, bytes]]] = {}
    for batch in _own_ended(world):
        assert isinstance(batch.state, Ended)
        outcome_of = batch.state.outcome_of
        lines = batch.requests.lines(outcome_of, iter(range(len(outcome_of))), world.machine.settings.answer_bytes)
        for row, (outcome, line) in enumerate(zip(outcome_of, lines, strict=True)):
            name = NAMES.get(outcome) or batch.requests.errors[outcome - FIRST_ERROR]
            said.setdefault(batch.requests.digest_of(row), []).append((name, _behind_id(line)))
    return said


NAMES = {SUCCEEDED: "succeeded", CANCELED: "canceled", EXPIRED: "expired"}
PASSING = {"expired", "rate_limit_error", "timeout_error", "api_error", "overloaded_error"}
PATIENCE = (5.0, 20.0, 60.0, 300.0, 900.0, 3_600.0, 7_200.0, 14_400.0, 21_600.0, 36_000.0)
"""Seconds between two looks for lines that do not come."""
LEAVES_OUT = (
    f.MissingLine,
    f.CutAtLine,
    f.CutInLine,
    f.GzipBomb,
    f.UnparsableLine,
    f.Garbage,
    f.EmptyResults,
    f.Status,
)
ODD = re.compile(re.escape(MARK) + rb"(?:\\ud800|\xe2\x80\xa8\xc2\x85|\.+)+")
DEEP = re.compile(rb'"content":\[\{"type":"tool_use","id":"toolu_01sandbox","name":"deep","input":\{"deep":\[+\]+\}\},')


def _behind_id(line: bytes) -> bytes:
    """A line without its custom_id."""
    return line[line.index(b'"result":') :]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _as_sent(world: World, tail: bytes, told: set[bytes]) -> bool:
    """Whether it is one of these byte by byte, or what a fault that puts something odd into a text made of one."""
    if tail in told:
        return True
    unaltered = DEEP.sub(b'"content":[', ODD.sub(MARK, tail, count=1), count=1)
    return unaltered in told and hash(tail) in world.odd


def _judge_line(world: World, book: Book, work: Work, line: bytes, said: list[tuple[str, bytes]]) -> None:
    told, wished = [name for name, _ in said], book.wished(work.key)
    _, name = _outcome(line)
    where = f"the line of {_custom_id(line)} says {name}, the API said {told}"
    # one of two drivers may seal the fallback lines of a shard that the other commits at that moment
    between_two = world.plan.fenced and wished and name == "canceled"
    if "succeeded" in told and name != "succeeded" and world.plan.promised and not between_two:
        world.violation(f"I2: {where}: the answer is lost")
    elif name == "request_too_large" and name not in told:
        if "create 413" not in world.hits or not book.rejected(work.key) or not _is_json(line):
            world.violation(f"I3: {where}, and no batch was too large")
    elif name == "canceled" and name not in told and wished:
        if _behind_id(line) != b'"result":{"type":"canceled"}}':
            world.violation(f"I3: {where}, in other bytes: {line[:300]!r}")
    elif name not in told:
        world.violation(f"I3: {where}")
    elif not _as_sent(world, _behind_id(line), {tail for _, tail in said}):
        world.violation(f"I3: {where}, in other bytes: {line[:300]!r}")
    elif name in PASSING and not wished and len(told) != work.tries and world.plan.promised:
        world.violation(f"I2: {where}, and there are {work.tries} tries")
    elif len(told) > work.tries and world.plan.promised:
        world.violation(f"I1: {where}, and there are {work.tries} tries")


def _judge_files(world: World) -> None:
    """I6: nothing that was made is open to others or holds a key, and prompts are in the spool alone."""
    given = {world.input_of(work).name for work in world.plan.jobs}
    folders = [str(world.folder)]
    inboxes = any(work.source == "open" for work in world.plan.jobs)
    while folders:
        folder = folders.pop()
        looked_for = KEYS if folder.endswith("/spool") else [*KEYS, CANARY.encode()]
        for entry in os.scandir(folder):
            if entry.name in given:
                continue
            if (mode := stat.S_IMODE(entry.stat().st_mode)) & 0o077:
                world.violation(f"I6: {entry.name} has mode {mode:o}")
            if entry.is_dir():
                folders.append(entry.path)
                continue
            content = Path(entry.path).read_bytes()
            if inboxes and entry.name.startswith("journal.db"):  # Prompts wait there until they are in the spool.
                looked_for = KEYS
            if any(secret in content for secret in looked_for):
                world.violation(f"I6: a secret is in {entry.name}")


def _judge_leftovers(world: World) -> None:
    """I6: no secret in any file, nor in what a process ended with; and nothing is left in the spool."""
    _judge_files(world)
    for process in world.processes:
        for error in filter(None, [process.error, *process.others]):
            if any(secret in "".join(traceback.format_exception(error)) for secret in (KEY, OTHER_KEY, CANARY)):
                world.violation(f"I6: {process.name} ended with an error that tells a secret")
    spool = sorted(path.name for path in (world.journal / "spool").iterdir())
    if spool and not world.violations and not world.clashed and not world.restored:
        world.violation(f"the spool still holds {spool}")
