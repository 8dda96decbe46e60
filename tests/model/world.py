"""A small world in which the submission protocol can be watched at every interleaving: clients, network, server.

The decisions are not copied: `lifecycle.after` and `next_action` replay the facts, `reconcile.judge` reads the
answers, `to_inspect` and `settle` end the doubts. Only what these decide *about* is a model: time in ticks, the
connections under way, the batches that exist. A move is one step of one party; between any two a process may be
suspended or killed, and time may pass.

What is assumed, and how it stands here (docs/reliability.md has the words; `None` is a broken bound):

| bound | in the model |
|---|---|
| A1, A4 | a complete body is accepted, refused or lost at most `decided` ticks after its tail left |
| A2 | a batch is listed at most `visible` ticks after it was made; before that, each list may show it or not |
| A3 | a body whose tail does not come is dropped after `stalls` ticks |
| A5 | no body is delivered twice, unless `repeats` says how often one may be |
| date | one clock, the server's; a list carries the tick at which it was made |
| kill | a dead process's incomplete bodies die with it, its complete ones do not |
| facts | durable once appended, and each at its position: `fence` |
| verdict | what came of an attempt is appended behind that attempt, or not at all: `pinned` |
| proof | the first line of an ended batch tells the attempt that made it, or that nobody here did |
| answer | a definite refusal comes only for a body that made no batch and will make none; all else may come for any |

Two things must never happen. *Paid twice*: a second batch of one shard is accepted. *Not ours*: a shard is bound to a
batch that another attempt, or a stranger, made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple, TypeAlias, assert_never

from abatch.driver import GATE_WITHIN
from abatch.errors import IllegalTransition
from abatch.facts import Accepted, Committing, Found, Planned, ShardFact, Unreadable, Withdrawn
from abatch.facts import Held as HeldFact
from abatch.lifecycle import InDoubt, Ready, State, Upload, after, doubt_of, next_action
from abatch.reconcile import (
    Absent,
    AbsentOnce,
    BatchSeen,
    Created,
    CreatedUnnamed,
    Doubt,
    FoundBatch,
    Hold,
    Known,
    Later,
    Listing,
    NoAnswer,
    Refused,
    Replied,
    TooLarge,
    Unknown,
    Verdict,
    Wait,
    candidates,
    judge,
    settle,
    to_inspect,
)

__all__ = ["NOT_OURS", "PAID_TWICE", "Configuration", "World", "begin", "moves"]

TICK: Final = 60.0
"""Seconds of the server's clock that one tick is: the distance of the two lists of rule B8."""
ROWS: Final = 100
"""Every batch here has this size, so that each is a candidate for every doubt."""
PAID_TWICE: Final = "paid twice"
NOT_OURS: Final = "not ours"

FIRST: Final = after(None, Planned(part=0, rows=ROWS, body_bytes=0, spool="", params_digest="", ids_digest=""))

UNFINISHED: Final = {"flows", "open"}
SAFE_ORDER: Final = ("upload", "commit", "tail", "answer")
"""The date is taken when the body stands but for its tail: later would only make the grace longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What may happen in a world, and which guards and bounds hold in it."""

    name: str
    breaks: str | None = None
    """The violation that must be found; None where none must be."""
    shards: int = 1
    processes: int = 1
    """More than one: the driver's lock does not exclude them, and only the fence is left."""
    kills: int = 1
    strangers: int = 0
    """Batches of the same size that somebody else makes."""
    horizon: int = 9
    attempts: int = 2
    from_doubt: bool = False
    """It begins with every shard past its first commit point, the tail sent and unanswered."""

    decided: int | None = 2
    visible: int | None = 1
    stalls: int | None = 1
    repeats: int = 0
    grace: int = 4
    """Ticks; the bounds above add up to this."""

    order: tuple[str, ...] = SAFE_ORDER
    """The steps of one attempt."""
    lost: bool = False
    """No create is answered, whatever became of it."""
    unreadable: bool = False
    """Every create is accepted, and answered by a 2xx that cannot be read."""
    fence: bool = True
    pinned: bool = True
    """What came of an attempt is appended behind that attempt, or not at all; else behind whatever was read since."""
    guard: bool = True
    proof: bool = True
    hold: bool = False
    sdk_retry: bool = False
    judge: Callable[[Replied | NoAnswer], Verdict] = judge
    other_key: bool = False
    """A restart may come with the key of another workspace."""
    restored: bool = False
    """A copy of the journal may be put back while its process is dead."""


class Body(NamedTuple):
    """One create on the network."""

    shard: int
    attempt: int
    process: int
    key: str
    status: str
    """`flows`: it is being sent; `open`: all but the tail is there; `whole`; `made`: a batch; `refused`; `dead`."""
    since: int
    """When the status began, where a bound depends on it."""


class Batch(NamedTuple):
    """A batch on the server."""

    shard: int
    """0: a stranger's."""
    attempt: int
    key: str
    created: int
    ended: bool

    def __str__(self) -> str:
        return f"the batch of shard {self.shard}, attempt {self.attempt}" if self.shard else "the stranger's batch"

    @property
    def owner(self) -> tuple[int, int] | None:
        return (self.shard, self.attempt) if self.shard else None

    @property
    def batch_id(self) -> str:
        return f"msgbatch_{self.shard}_{self.attempt}"


class Shard(NamedTuple):
    """A shard as a process sees it, or as the journal holds it."""

    state: State
    length: int


class Task(NamedTuple):
    """What one process does about one shard, besides what the facts tell."""

    attempt: int = 0
    """The attempt under way; 0 for none."""
    step: int = 0
    """How many steps of the attempt's order are done."""
    date: int = 0
    position: int = 0
    """Of the fact that it will append next; 0 where it has not looked yet."""
    since: int | None = None
    """Where the grace begins; None until the first list after a doubt that began in this process."""
    empty_since: int | None = None


IDLE: Final = Task()


class Process(NamedTuple):
    """One process: its key, its view of the journal, and a task per shard."""

    up: bool
    key: str
    view: tuple[Shard, ...]
    tasks: tuple[Task, ...]


class World(NamedTuple):
    """Everything there is, at one moment."""

    now: int
    journal: tuple[Shard, ...]
    processes: tuple[Process, ...]
    bodies: tuple[Body, ...]
    batches: tuple[Batch, ...]
    kills: int
    strangers: int
    repeats: int
    copy: tuple[Shard, ...] | None


class Move(NamedTuple):
    """One step, in words; what it led to; the rules of tables A and B that it went by; what it violated."""

    words: str
    world: World
    rules: tuple[str, ...] = ()
    violation: str | None = None


Moves: TypeAlias = Iterator[Move]


def begin(configuration: Configuration) -> World:
    """The world before the first step."""
    journal = (Shard(FIRST, 1),) * configuration.shards
    tasks, bodies = (IDLE,) * configuration.shards, ()
    if configuration.from_doubt:
        doubt = after(FIRST, Committing(attempt=1, date=0.0, fingerprint="key A"))
        journal = (Shard(doubt, 2),) * configuration.shards
        tasks = (Task(attempt=1, step=SAFE_ORDER.index("answer"), position=2),) * configuration.shards
        bodies = tuple(Body(at + 1, 1, 0, "key A", "whole", 0) for at in range(configuration.shards))
    first = Process(True, "key A", journal, tasks)
    other = Process(True, "key A", journal, tuple(map(_found, journal)))
    return World(
        now=0,
        journal=journal,
        processes=(first, *[other] * (configuration.processes - 1)),
        bodies=bodies,
        batches=(),
        kills=configuration.kills,
        strangers=configuration.strangers,
        repeats=configuration.repeats,
        copy=None,
    )


def moves(world: World, rules: Configuration) -> Moves:
    """Everything that may happen next."""
    for move in _all_moves(world, rules):
        yield move._replace(world=_tidy(move.world))


def _tidy(world: World) -> World:
    """The same world in one form: what nobody can tell apart or look at again must not make states of its own."""
    waited_for = {
        (number, at + 1, task.attempt)
        for number, process in enumerate(world.processes)
        for at, task in enumerate(process.tasks)
    }
    bodies = sorted(
        body
        for body in world.bodies
        if body.status == "whole"
        or (body.process, body.shard, body.attempt) in waited_for
        or (world.repeats and body.status == "made")
    )
    return world._replace(bodies=tuple(bodies), batches=tuple(sorted(world.batches)))


def _all_moves(world: World, rules: Configuration) -> Moves:
    yield from _time(world, rules)
    for number, process in enumerate(world.processes):
        if process.up:
            yield from _Client(world, rules, number).moves()
        else:
            yield from _restarts(world, rules, number)
    yield from _network(world, rules)
    yield from _strangers(world, rules)
    if rules.restored and world.copy is None:
        yield Move("somebody copies the journal", world._replace(copy=world.journal))


# ---- time and the server --------------------------------------------------------------------------------------


def _time(world: World, rules: Configuration) -> Moves:
    """A tick, unless a bound says that something must happen before."""
    if world.now >= rules.horizon:
        return
    for body in world.bodies:
        bound = {"whole": rules.decided, "open": rules.stalls}.get(body.status)
        if bound is not None and world.now >= body.since + bound:
            return
    yield Move("a minute passes", world._replace(now=world.now + 1))


def _network(world: World, rules: Configuration) -> Moves:
    """What becomes of the bodies under way, and of the batches."""
    for number, body in enumerate(world.bodies):
        what = f"the create of shard {body.shard}, attempt {body.attempt},"
        if body.status == "whole":
            yield _accept(world, number, what)
            if rules.unreadable:
                continue
            if not rules.lost:
                yield Move(f"{what} is refused by the server", _body(world, number, "refused"))
            yield Move(f"{what} is lost", _body(world, number, "dead"))
        if body.status == "open" and rules.stalls is not None and world.now >= body.since + rules.stalls:
            yield Move(f"{what} stalls, and the server drops it", _body(world, number, "dead"))
        if world.repeats and body.status in {"whole", "made"}:
            again = body._replace(status="whole", since=world.now)
            repeated = world._replace(bodies=(*world.bodies, again), repeats=world.repeats - 1)
            yield Move(f"{what} is delivered once more by something on the way", repeated)
    for number, batch in enumerate(world.batches):
        if not batch.ended:
            yield Move(f"{batch} ends", _batch(world, number, batch._replace(ended=True)))


def _accept(world: World, number: int, what: str) -> Move:
    body = world.bodies[number]
    twice = any(batch.shard == body.shard for batch in world.batches)
    batch = Batch(body.shard, body.attempt, body.key, world.now, ended=False)
    made = _body(world, number, "made")
    made = made._replace(batches=(*world.batches, batch))
    return Move(f"{what} is accepted", made, violation=PAID_TWICE if twice else None)


def _strangers(world: World, rules: Configuration) -> Moves:
    if world.strangers:
        batch = Batch(0, 0, "key A", world.now, ended=False)
        made = world._replace(batches=(*world.batches, batch), strangers=world.strangers - 1)
        yield Move("somebody else makes a batch of the same size", made)


def _body(world: World, number: int, status: str) -> World:
    body = world.bodies[number]._replace(status=status, since=world.now if status == "whole" else 0)
    return world._replace(bodies=_put(world.bodies, number, body))


def _batch(world: World, number: int, batch: Batch) -> World:
    return world._replace(batches=_put(world.batches, number, batch))


def _put(items: tuple, number: int, item: object) -> tuple:
    return (*items[:number], item, *items[number + 1 :])


# ---- processes come and go ------------------------------------------------------------------------------------


def _dies(world: World, number: int) -> World:
    """Its incomplete bodies die with it."""
    bodies = tuple(
        body._replace(status="dead", since=0) if body.process == number and body.status in UNFINISHED else body
        for body in world.bodies
    )
    dead = Process(False, world.processes[number].key, (), ())
    return world._replace(bodies=bodies, processes=_put(world.processes, number, dead))


def _restarts(world: World, rules: Configuration, number: int) -> Moves:
    keys = ["key A", "key B"] if rules.other_key else ["key A"]
    for key in keys:
        process = Process(True, key, world.journal, tuple(map(_found, world.journal)))
        restarted = world._replace(processes=_put(world.processes, number, process))
        yield Move(f"process {number + 1} starts again, with {key}", restarted)
    if world.copy is not None and world.copy != world.journal:
        yield Move("somebody puts the copy of the journal back", world._replace(journal=world.copy))


def _found(shard: Shard) -> Task:
    """What to do about a shard read from the journal: a doubt that did not begin here is as old as its commit point."""
    if not isinstance(shard.state, InDoubt):
        return IDLE
    return Task(since=round(shard.state.date / TICK), position=shard.length)


# ---- one process ----------------------------------------------------------------------------------------------


class _Client:
    """What one process may do next."""

    def __init__(self, world: World, rules: Configuration, number: int) -> None:
        self.world, self.rules, self.number = world, rules, number
        self.process = world.processes[number]
        self.who = f"process {number + 1}"

    def moves(self) -> Moves:
        if self.world.kills:
            killed = _dies(self.world, self.number)._replace(kills=self.world.kills - 1)
            yield Move(f"{self.who} is killed", killed)
        if self.process.view != self.world.journal:
            yield Move(f"{self.who} reads what was appended", self._fresh())
        for at, (shard, task) in enumerate(zip(self.process.view, self.process.tasks, strict=True)):
            action = next_action(shard.state)
            if task.step or isinstance(action, Upload):
                yield from self._attempt(at, shard, task)
        yield from self._look()

    def _with(self, **changes: object) -> World:
        process = self.process._replace(**changes)
        return self.world._replace(processes=_put(self.world.processes, self.number, process))

    def _fresh(self) -> World:
        """It knows all facts; a doubt that others began is as old as its commit point."""
        tasks = tuple(
            _found(shard) if task == IDLE and shard != seen else task
            for task, shard, seen in zip(self.process.tasks, self.world.journal, self.process.view, strict=True)
        )
        return self._with(view=self.world.journal, tasks=tasks)

    def _task(self, at: int, task: Task) -> World:
        return self._with(tasks=_put(self.process.tasks, at, task))

    # ---- an attempt -------------------------------------------------------------------------------------------

    def _attempt(self, at: int, shard: Shard, task: Task) -> Moves:
        """Its next step."""
        if not task.step:
            assert isinstance(shard.state, Ready)
            task = task._replace(attempt=shard.state.attempt + 1, position=shard.length)
            if task.attempt > self.rules.attempts or not self._may_submit():
                return
        step = self.rules.order[task.step]
        yield from getattr(self, f"_{step}")(at, shard, task._replace(step=task.step + 1))

    def _may_submit(self) -> bool:
        """Nothing is sent with a key that does not see what was sent before."""
        doubts = [doubt_of(shard.state) for shard in self.process.view]
        return not self.rules.guard or all(doubt is None or doubt.fingerprint == self.process.key for doubt in doubts)

    def _upload(self, at: int, shard: Shard, task: Task) -> Moves:
        # a body that nothing holds back flows on, however long it takes; one that waits for its tail stalls
        status = "flows" if isinstance(shard.state, InDoubt) else "open"
        body = Body(at + 1, task.attempt, self.number, self.process.key, status, self.world.now)
        sent = self._task(at, task if "date" in self.rules.order else task._replace(date=self.world.now))
        words = f"{self.who} sends shard {at + 1}, attempt {task.attempt}, all but the tail"
        yield Move(words, sent._replace(bodies=(*self.world.bodies, body)))

    def _date(self, at: int, shard: Shard, task: Task) -> Moves:
        words = f"{self.who} asks for the server's date, for shard {at + 1}"
        yield Move(words, self._task(at, task._replace(date=self.world.now)))

    def _commit(self, at: int, shard: Shard, task: Task) -> Moves:
        """The commit point; then the tail may leave, if it is not too late."""
        fact = Committing(attempt=task.attempt, date=task.date * TICK, fingerprint=self.process.key)
        words = f"{self.who} commits shard {at + 1}, attempt {task.attempt}, with date {task.date}"
        committed = task._replace(date=0, position=shard.length + 1)
        move = self._append(at, fact, committed, words)
        if move.world.processes[self.number].tasks[at : at + 1] != (committed,):  # overtaken, or ended
            yield self._abort(move, at, task)
            return
        upload, tail = map(self.rules.order.index, ("upload", "tail"))
        late = (self.world.now - task.date) * TICK > GATE_WITHIN
        if late and upload < task.step <= tail:
            client = _Client(move.world, self.rules, self.number)
            withdrawn = client._append(at, Withdrawn(why="the tail was never sent"), IDLE, move.words + ", too late")
            yield client._abort(withdrawn, at, task)
            return
        yield move

    def _abort(self, move: Move, at: int, task: Task) -> Move:
        """Its body, if it has one, will never be complete."""
        for number, body in self._bodies(at, task):
            if body.status in UNFINISHED:
                move = move._replace(world=_body(move.world, number, "dead"))
        return move

    def _bodies(self, at: int, task: Task) -> list[tuple[int, Body]]:
        """What was sent of this attempt, by this process."""
        mine = (at + 1, task.attempt, self.number)
        return [(n, body) for n, body in enumerate(self.world.bodies) if body[:3] == mine]

    def _tail(self, at: int, shard: Shard, task: Task) -> Moves:
        sent = self._task(at, task)
        for number, body in self._bodies(at, task):
            if body.status in UNFINISHED:
                sent = _body(sent, number, "whole")
        yield Move(f"{self.who} sends the tail of shard {at + 1}, attempt {task.attempt}", sent)

    def _answer(self, at: int, shard: Shard, task: Task) -> Moves:
        """Whatever may come back for a body in this state, judged by table A."""
        _, body = self._bodies(at, task)[-1]
        what = f"shard {at + 1}, attempt {task.attempt}"
        if self.rules.sdk_retry and body.status == "made":
            again = body._replace(status="whole", since=self.world.now)
            retried = self._task(at, task._replace(step=task.step - 1))
            yield Move(
                f"{self.who} hears nothing about {what}, and its SDK sends it again",
                retried._replace(bodies=(*self.world.bodies, again)),
            )
        for words, answer in _answers(body, self.world.batches, self.rules):
            verdict = self.rules.judge(answer)
            told = f"{self.who} gets {words} for {what}"
            match verdict:
                case Created(batch=batch):
                    fact: ShardFact = Accepted(batch_id=batch.batch_id, created_at=batch.created_at)
                    move = self._append(at, fact, IDLE, told)
                case CreatedUnnamed(status=status):
                    move = self._append(at, Unreadable(status=status), IDLE, told)
                case Refused() | Later() | TooLarge():
                    move = self._append(at, Withdrawn(why=verdict.rule), IDLE, told)
                case Unknown():
                    move = Move(told, self._task(at, IDLE))
                case _:
                    assert_never(verdict)
            yield move._replace(rules=(verdict.rule,))

    # ---- doubts -----------------------------------------------------------------------------------------------

    def _look(self) -> Moves:
        """One complete list, its ended candidates inspected, every doubt ruled on by table B."""
        doubtful = [
            at
            for at, (shard, task) in enumerate(zip(self.process.view, self.process.tasks, strict=True))
            if isinstance(shard.state, InDoubt) and not task.step
        ]
        if not doubtful:
            return
        for shown in self._lists():
            listing = Listing(
                date=self.world.now * TICK, batches=tuple(_seen(self.world.batches[number]) for number in shown)
            )
            titles = ", ".join(str(self.world.batches[number]) for number in shown) or "nothing"
            yield self._rule(doubtful, listing, f"{self.who} lists: {titles}")

    def _lists(self) -> Iterator[tuple[int, ...]]:
        """Every list that the server may give: what must be visible, with any of what may be."""
        world, bound = self.world, self.rules.visible
        mine = [number for number, batch in enumerate(world.batches) if batch.key == self.process.key]
        sure = [n for n in mine if bound is not None and world.now >= world.batches[n].created + bound]
        perhaps = [n for n in mine if n not in sure]
        for count in range(len(perhaps) + 1):
            for more in combinations(perhaps, count):
                yield tuple(sorted([*sure, *more]))

    def _rule(self, doubtful: list[int], listing: Listing, words: str) -> Move:
        known = self._known()
        client, move = self, Move(words, self.world)
        for at in doubtful:
            # the task of a doubt that began here has no `since` yet: its grace begins with this list
            state, task = client.process.view[at].state, client.process.tasks[at]
            if not isinstance(state, InDoubt):
                continue
            since = self.world.now if task.since is None else task.since
            client = client._at(move.world)
            task = task._replace(since=since, position=task.position or client.process.view[at].length)
            ruled = client._settle(at, task, client._doubt(at, state, task), listing, known)
            move = Move(
                f"{move.words}; shard {at + 1}: {ruled.words}",
                ruled.world,
                move.rules + ruled.rules,
                move.violation or ruled.violation,
            )
            if not move.world.processes[self.number].up:
                break
            client = client._at(move.world)
        return move

    def _at(self, world: World) -> _Client:
        return _Client(world, self.rules, self.number)

    def _known(self) -> Known:
        known = Known()
        for shard in self.process.view:
            if (batch_id := getattr(shard.state, "batch_id", None)) is not None:
                known.bound.add(batch_id)
                known.live[batch_id] = shard.state.created_at
        return known

    def _doubt(self, at: int, state: InDoubt, task: Task) -> Doubt:
        assert task.since is not None
        return Doubt(
            shard=at + 1,
            attempt=state.attempt,
            rows=ROWS,
            date=state.date,
            since=task.since * TICK,
            certain=state.certain,
            guarded=state.fingerprint == self.process.key or not self.rules.guard,
            empty_since=None if task.empty_since is None else task.empty_since * TICK,
        )

    def _inspect(self, doubt: Doubt, listing: Listing, known: Known) -> None:
        """Learn whose the ended candidates are; without proof, take the first that has the size."""
        if not self.rules.proof:
            for batch in candidates(doubt, listing, known)[:1]:
                known.proven[batch.batch_id] = (doubt.shard, doubt.attempt)
            return
        for batch in to_inspect([doubt], listing, known):
            owner = self._owner(batch.batch_id)
            if owner is None:
                known.foreign.add(batch.batch_id)
            else:
                known.proven[batch.batch_id] = owner

    def _settle(self, at: int, task: Task, doubt: Doubt, listing: Listing, known: Known) -> Move:
        self._inspect(doubt, listing, known)
        ruling = settle(doubt, listing, known, grace=self.rules.grace * TICK, hold=self.rules.hold)
        match ruling:
            case FoundBatch(batch=batch):
                fact: ShardFact = Found(batch_id=batch.batch_id, created_at=batch.created_at, by="tag")
                known.bound.add(batch.batch_id)
                move = self._append(at, fact, IDLE, f"it is {batch.batch_id}")
            case Absent():
                move = self._append(at, Withdrawn(why="B8"), IDLE, "no batch was made, it is ready again")
            case Hold(reason=reason):
                move = self._append(at, HeldFact(reason=reason), IDLE, "held for an operator")
            case AbsentOnce():
                noted = task._replace(empty_since=self.world.now)
                move = Move("absent, for the first time", self._task(at, noted))
            case Wait(rule=rule):
                kept = task._replace(empty_since=None) if rule == "B6" else task
                move = Move(f"wait ({rule})", self._task(at, kept))
            case _:
                assert_never(ruling)
        return move._replace(rules=(ruling.rule,))

    # ---- the journal ------------------------------------------------------------------------------------------

    def _append(self, at: int, fact: ShardFact, then: Task, words: str) -> Move:
        """Append a fact at the position that this process believes is next."""
        view, journal, task = self.process.view[at], self.world.journal[at], self.process.tasks[at]
        if self.rules.fence and self.rules.pinned and task.position not in {0, view.length}:
            return self._overtaken(at, words)
        try:
            grown = Shard(after(view.state, fact), view.length + 1)
        except IllegalTransition:
            return Move(f"{words}; but that cannot follow, and it ends", _dies(self.world, self.number))
        if self.rules.fence and view.length != journal.length:
            return self._overtaken(at, words)
        appended = self._with(
            view=_put(self.process.view, at, grown), tasks=_put(self.process.tasks, at, then)
        )._replace(journal=_put(self.world.journal, at, grown))
        return Move(words, appended, violation=self._misbound(at, view.state, fact))

    def _overtaken(self, at: int, words: str) -> Move:
        dropped = self._with(tasks=_put(self.process.tasks, at, IDLE))
        fresh = _Client(dropped, self.rules, self.number)._fresh()
        return Move(f"{words}; but another process was first", fresh)

    def _misbound(self, at: int, state: State, fact: ShardFact) -> str | None:
        if not isinstance(fact, Accepted | Found):
            return None
        return None if self._owner(fact.batch_id) == (at + 1, _attempt_of(state)) else NOT_OURS

    def _owner(self, batch_id: str) -> tuple[int, int] | None:
        return next(batch.owner for batch in self.world.batches if batch.batch_id == batch_id)


# ---- small words ----------------------------------------------------------------------------------------------


def _attempt_of(state: State) -> int:
    """The attempt that a shard is in doubt about."""
    doubt = doubt_of(state)
    assert doubt is not None
    return doubt.attempt


def _seen(batch: Batch) -> BatchSeen:
    return BatchSeen(
        batch_id=batch.batch_id,
        status="ended" if batch.ended else "in_progress",
        created_at=batch.created * TICK,
        total=ROWS,
        ended=batch.ended,
    )


def _answers(body: Body, batches: tuple[Batch, ...], rules: Configuration) -> Iterator[tuple[str, Replied | NoAnswer]]:
    """Whatever a client may see of a create in this state."""
    unreadable = ("a 200 that cannot be read", Replied(status=200))
    if rules.unreadable:
        if body.status == "made":
            yield unreadable
        return
    yield "no answer", NoAnswer(cause="ReadTimeout")
    if rules.lost:
        return
    yield "a 529", Replied(status=529, kind="overloaded_error")
    yield "a proxy's 429", Replied(status=429)
    if body.status == "made":
        batch = next(batch for batch in batches if batch.owner == (body.shard, body.attempt))
        yield "its batch", Replied(status=200, batch=_seen(batch))
        yield unreadable
    if body.status == "refused":
        yield "a 429", Replied(status=429, kind="rate_limit_error", retry_after=1.0)
        yield "a 400", Replied(status=400, kind="invalid_request_error", message="no")
