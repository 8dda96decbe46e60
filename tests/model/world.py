"""A small world where the submission protocol can be watched at every interleaving: clients, network, server, clocks.

The decisions are not copied: `lifecycle.after` and `next_action` replay the facts, `reconcile.judge` reads the
answers, `newly_seen`, `closing`, `to_inspect` and `settle` end the doubts, `clocks.elapsed` counts the grace, and
`Absence` gives up a batch of ours. Only what these decide *about* is a model: time in ticks, the connections under
way, the batches that exist. A move is one step of one party; between any two a process may be suspended or killed,
and time may pass. A look at the list is one step, with all that is recorded of it.

What is assumed, and how it stands here (docs/reliability.md has the words; `None` is a broken bound):

| bound | in the model |
|---|---|
| A1, A4 | a complete body is accepted, refused or lost at most `decided` ticks after its tail left |
| A2 | a batch is listed at most `visible` ticks after it was made; before that, each list may show it or not |
| A3 | a body whose tail does not come is dropped after `stalls` ticks |
| A5 | no body is delivered twice, unless `repeats` says how often one may be |
| A6 | of the server's `Date` and this machine's clock at most one jumps (`date_jump`, `wall_jump`) |
| A7 | every part of a list that is drawn from `parts` holds a batch of ours that is live: `companions` |
| kill | a dead process's incomplete bodies die with it, its complete ones do not |
| facts | durable once appended, and each at its position: `fence` |
| verdict | what came of an attempt is appended behind that attempt, or not at all: `pinned` |
| proof | the first line of an ended batch tells the attempt that made it, or that nobody here did |
| answer | a definite refusal comes only for a body that made no batch and will make none; all else may come for any |

Less kind worlds are switched on one at a time: a list that hides what it has shown (`flaps`), a list that lacks
anything for one tick (`hiccups`), a list whose entries cannot be read (`odd`), a list drawn from one of several parts
(`parts`), a `Date` that differs from `created_at` (`offset`) or jumps, a machine restarted with another time, old
batches with odd stamps (`old_batches`), somebody who deletes batches (`deletions`), a batch of somebody else's in every
tick (`stream`), a gateway that speaks like the API (`imitated`), an operator who gives up (`gives_up`).

Four things must never happen. *Paid twice*: a second batch of one shard is accepted. *Not ours*: a shard is bound to
a batch that another attempt, or a stranger, made. *Given up*: a batch that the server has is lost, and no operator
said so. *Still open*: where every process looks in every tick (`ends`), a doubt or a batch that was deleted is still
waited for at the horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, NamedTuple, TypeAlias, assert_never

from msgspec import structs

from abatch.errors import IllegalTransition
from abatch.protocol import clocks
from abatch.protocol.absence import Absence
from abatch.protocol.clocks import Moment
from abatch.protocol.durations import GATE_WITHIN
from abatch.protocol.facts import (
    Accepted,
    Candidate,
    CandidatesChanged,
    Committing,
    Found,
    Planned,
    Reappeared,
    ShardFact,
    Unreadable,
    Vanished,
    Withdrawn,
)
from abatch.protocol.facts import Held as HeldFact
from abatch.protocol.facts import Lost as LostFact
from abatch.protocol.lifecycle import Held, InDoubt, Processing, Ready, State, Upload, after, doubt_of, next_action
from abatch.protocol.reconcile import (
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
    OddEntry,
    Proof,
    Refused,
    Replied,
    Ruling,
    TooLarge,
    Unknown,
    Verdict,
    Wait,
    closing,
    judge,
    misfits,
    newly_odd,
    newly_seen,
    settle,
    still_open,
    to_inspect,
)

__all__ = ["GIVEN_UP", "NOT_OURS", "PAID_TWICE", "STILL_OPEN", "Configuration", "World", "begin", "moves"]

MINUTE: Final = 60.0
DAY: Final = 24 * 60 * MINUTE
EPOCH: Final = 1_000 * DAY
"""The first tick by every clock that counts from the epoch, in seconds."""
LONG_AGO: Final = 30
"""Ticks before the first one at which companions and other old batches were made."""
ROWS: Final = 100
"""Every batch here has this size, so that each is a candidate for every doubt."""
PAID_TWICE: Final = "paid twice"
NOT_OURS: Final = "not ours"
GIVEN_UP: Final = "given up"
STILL_OPEN: Final = "still open"

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
    tick: float = MINUTE
    """Seconds; a minute is the distance of the two lists of rule B8."""

    decided: int | None = 2
    visible: int | None = 1
    stalls: int | None = 1
    repeats: int = 0
    grace: int = 4
    """Ticks; the bounds above add up to this."""

    flaps: str = ""
    """What was shown once may be hidden, for ever: `lists` lack it, or `all`, what asks for it by id as well."""
    hiccups: int = 0
    """Ticks in which a list may lack anything."""
    odd: str = ""
    """A list may show every batch in a form that cannot be read: `named`, with its id, or `unnamed`, without one.

    Batches of strangers then have another size.
    """
    parts: int = 1
    """A list is drawn from one of so many parts; a batch is in one of them."""
    companions: tuple[int, ...] = ()
    """A batch of ours that runs in each of these parts, since long ago: a shard of its own, after the others."""
    old_batches: tuple[int, ...] = ()
    """Ended batches of somebody else's that exist from the beginning: in which tick each says that it was made."""
    offset: int = 0
    """Ticks by which `Date` is ahead of `created_at`."""
    date_jump: int = 0
    """Ticks by which `Date` jumps, at any moment, once."""
    wall_jump: int = 0
    """Ticks by which this machine's time is set ahead while no process runs; the machine is started again for it."""
    deletions: int = 0
    """Batches that somebody deletes."""
    deletes_unseen: bool = False
    """Also one that no look has shown."""
    deletes_until: int = 1_000
    """The last tick in which one is deleted."""
    stream: bool = False
    """Somebody else makes a batch of the same size in every tick."""
    runs: int | None = None
    """Ticks within which every batch ends."""
    ends: bool = False
    """Every process looks in every tick, and nothing that is under way is left alone; then all must be settled."""
    prompt: bool = False
    """No time passes between the commit point and the tail: only what is before it may be slow."""
    imitated: bool = False
    """A gateway gives the API's own refusals for creates that it passed on."""
    gives_up: bool = False
    """An operator may say of any shard that what it made is lost."""

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
    doubted: bool = False
    """The policy `refusals="doubt"`."""
    sdk_retry: bool = False
    gate: float = GATE_WITHIN
    """Seconds from the `Date` within which the tail may leave."""
    durable: bool = True
    """What a look changed is recorded; else only remembered by the process."""
    other_key: bool = False
    """A restart may come with the key of another workspace."""
    restored: bool = False
    """A copy of the journal may be put back while its process is dead."""

    keeps_overtaken: bool = True
    """What a look showed is recorded also where another process was first."""
    judge: Callable[[Replied | NoAnswer], Verdict] = judge
    newly_seen: Callable[..., tuple[Candidate, ...]] = newly_seen
    newly_odd: Callable[..., tuple[Candidate, ...]] = newly_odd
    closing: Callable[..., CandidatesChanged | None] = closing
    settle: Callable[..., Ruling] = settle
    elapsed: Callable[[Moment, Moment], float] = clocks.elapsed
    missed: Callable[[Absence, Moment, Moment | None], Vanished | LostFact | None] = Absence.missed
    after: Callable[[State | None, ShardFact], State] = after

    @property
    def counts_facts(self) -> bool:
        """Whether positions in the journal matter: one process that nobody puts back is never overtaken."""
        return self.processes > 1 or self.restored

    @property
    def counts_looks(self) -> bool:
        """Whether the grace depends on when the looks were: where no clock jumps, it does not."""
        return bool(self.date_jump or self.wall_jump)

    @property
    def marks_seen(self) -> bool:
        """Whether it matters which batches a look has shown."""
        return bool(self.flaps or self.deletions)


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
    """Of a stranger's: its number."""
    key: str
    created: int
    ended: bool
    part: int = 0
    seen: bool = False
    """A look has shown it."""
    deleted: bool = False
    old: bool = False
    """It was there from the beginning: lists show it, and it stays as it is."""

    def __str__(self) -> str:
        if self.shard:
            return f"the batch of shard {self.shard}, attempt {self.attempt}"
        return f"the stranger's batch {self.attempt}" if self.attempt else "the stranger's batch"

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
    gate: Moment | None = None
    """When the `Date` was asked for."""
    newest: float | None = None
    """What the list showed then."""
    position: int = 0
    """Of the fact that it will append next; 0 where it has not looked yet."""
    last: Moment | None = None
    """Where the rest of the grace begins; None until the first list after a doubt that began in this process."""
    waited: float = 0.0
    """What had passed of the grace before."""
    empty_at: float | None = None
    missed: Moment | None = None
    """When its batch was first looked for in vain."""
    missed_last: Moment | None = None
    """And when last."""


IDLE: Final = Task()


class Process(NamedTuple):
    """One process: its key, its view of the journal, and a task per shard."""

    up: bool
    key: str
    view: tuple[Shard, ...]
    tasks: tuple[Task, ...]
    listed: frozenset[str] = frozenset()
    """Live batches of ours that a list has shown to it."""
    looked: int = -1
    """The tick of its last look, where that matters."""


class Clocks(NamedTuple):
    """How often the clocks have jumped."""

    date: int = 0
    wall: int = 0
    """This machine's time was set, and it was started again."""


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
    deletions: int
    hiccups: int
    hiccup: int
    """The tick in which the list may lack anything; -1 for none."""
    clocks: Clocks
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
        at = _moment(0, Clocks(), configuration)
        newest = max((_stamp(tick, configuration) for tick in configuration.old_batches), default=0.0)
        if configuration.companions:
            newest = max(newest, _stamp(-LONG_AGO, configuration))
        fact = Committing(attempt=1, date=at.date, fingerprint="key A", at=at, newest=newest)
        journal = (Shard(after(FIRST, fact), 2),) * configuration.shards
        tasks = (Task(attempt=1, step=SAFE_ORDER.index("answer"), position=2),) * configuration.shards
        bodies = tuple(Body(at + 1, 1, 0, "key A", "whole", 0) for at in range(configuration.shards))
    batches = [
        Batch(0, number, "key A", tick, ended=True, old=True)
        for number, tick in enumerate(configuration.old_batches, 1)
    ]
    for number, part in enumerate(configuration.companions, configuration.shards + 1):
        batch = Batch(number, 1, "key A", -LONG_AGO, ended=False, part=part, seen=True, old=True)
        batches.append(batch)
        journal = (*journal, Shard(_companion(batch, configuration), 3))
        tasks = (*tasks, IDLE)
    first = Process(True, "key A", journal, tasks)
    other = Process(True, "key A", journal, tuple(map(_found, journal)))
    return World(
        now=0,
        journal=journal,
        processes=(first, *[other] * (configuration.processes - 1)),
        bodies=bodies,
        batches=tuple(sorted(batches)),
        kills=configuration.kills,
        strangers=configuration.strangers,
        repeats=configuration.repeats,
        deletions=configuration.deletions,
        hiccups=configuration.hiccups,
        hiccup=-1,
        clocks=Clocks(),
        copy=None,
    )


def _companion(batch: Batch, configuration: Configuration) -> State:
    """A shard that was accepted long ago."""
    at = _moment(-LONG_AGO, Clocks(), configuration)
    state = after(FIRST, Committing(attempt=1, date=at.date, fingerprint="key A", at=at, newest=0.0))
    return after(state, Accepted(batch_id=batch.batch_id, created_at=_stamp(batch.created, configuration)))


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
    yield from _somebody(world, rules)
    if rules.restored and world.copy is None:
        yield Move("somebody copies the journal", world._replace(copy=world.journal))


# ---- time and the server --------------------------------------------------------------------------------------


def _time(world: World, rules: Configuration) -> Moves:
    """A tick, unless a bound says that something must happen before."""
    if rules.ends and not all(_is_looked_after(world, process) for process in world.processes):
        return
    if rules.stream and not any(batch.owner is None and batch.created == world.now for batch in world.batches):
        return
    if world.now >= rules.horizon:
        if rules.ends and any(_is_open(world, shard.state) for shard in world.journal):
            yield Move("there it ends", world, violation=STILL_OPEN)
        return
    if rules.prompt and any(_is_about_to_send(task, rules) for each in world.processes for task in each.tasks):
        return
    for body in world.bodies:
        bound = {"whole": rules.decided, "open": rules.stalls}.get(body.status)
        if bound is not None and world.now >= body.since + bound:
            return
    if any(_is_overdue(batch, world, rules) for batch in world.batches):
        return
    words = "a minute passes" if rules.tick == MINUTE else f"{rules.tick / 3600:g} hours pass"
    yield Move(words, world._replace(now=world.now + 1))


def _is_looked_after(world: World, process: Process) -> bool:
    """Whether a process that does what it should has done so in this tick."""
    if not process.up or any(task.step for task in process.tasks):
        return False
    waits = any(isinstance(shard.state, InDoubt | Processing) for shard in process.view)
    return process.looked == world.now or not waits


def _is_open(world: World, state: State) -> bool:
    """Whether a shard waits for what cannot come any more, or is in doubt."""
    if isinstance(state, Processing):
        return any(batch.deleted and batch.batch_id == state.batch_id for batch in world.batches)
    return isinstance(state, InDoubt)


def _is_about_to_send(task: Task, rules: Configuration) -> bool:
    return 0 < task.step == rules.order.index("tail")


def _is_overdue(batch: Batch, world: World, rules: Configuration) -> bool:
    """Whether a batch has to end before time passes."""
    return (
        rules.runs is not None
        and not (batch.ended or batch.old or batch.deleted)
        and (world.now >= batch.created + rules.runs)
    )


def _moment(now: int, jumped: Clocks, rules: Configuration) -> Moment:
    """A tick on every clock."""
    return Moment(
        date=EPOCH + (now + rules.offset + rules.date_jump * jumped.date) * rules.tick,
        boot=now * rules.tick,
        boot_id=f"start {jumped.wall + 1}",
        wall=EPOCH + (now + rules.wall_jump * jumped.wall) * rules.tick,
    )


def _stamp(tick: int, rules: Configuration) -> float:
    """The `created_at` of a batch made then."""
    return EPOCH + tick * rules.tick


def _network(world: World, rules: Configuration) -> Moves:
    """What becomes of the bodies under way, and of the batches."""
    for number, body in enumerate(world.bodies):
        what = f"the create of shard {body.shard}, attempt {body.attempt},"
        if body.status == "whole":
            for part in range(rules.parts):
                yield _accept(world, number, what, part)
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
        if not batch.ended and not batch.deleted and not batch.old:
            yield Move(f"{batch} ends", _batch(world, number, batch._replace(ended=True)))


def _accept(world: World, number: int, what: str, part: int) -> Move:
    body = world.bodies[number]
    twice = any(batch.shard == body.shard for batch in world.batches)
    batch = Batch(body.shard, body.attempt, body.key, world.now, ended=False, part=part)
    made = _body(world, number, "made")
    made = made._replace(batches=(*world.batches, batch))
    return Move(f"{what} is accepted", made, violation=PAID_TWICE if twice else None)


def _strangers(world: World, rules: Configuration) -> Moves:
    words = "somebody else makes a batch of the same size"
    if world.strangers:
        batch = Batch(0, 0, "key A", world.now, ended=False)
        made = world._replace(batches=(*world.batches, batch), strangers=world.strangers - 1)
        yield Move(words, made)
    if rules.stream and all(batch.owner or batch.created != world.now for batch in world.batches):
        batch = Batch(0, world.now + 1, "key A", world.now, ended=False)
        yield Move(words, world._replace(batches=(*world.batches, batch)))


def _somebody(world: World, rules: Configuration) -> Moves:
    """What becomes of lists, clocks and batches, without anybody here."""
    if world.deletions and world.now <= rules.deletes_until:
        for number, batch in enumerate(world.batches):
            if batch.owner and not batch.deleted and (batch.seen or rules.deletes_unseen):
                deleted = _batch(world, number, batch._replace(deleted=True))
                yield Move(f"somebody deletes {batch}", deleted._replace(deletions=world.deletions - 1))
    if world.hiccups and world.now != world.hiccup:
        yield Move("the list may lack anything now", world._replace(hiccups=world.hiccups - 1, hiccup=world.now))
    if rules.date_jump and not world.clocks.date:
        yield Move("`Date` jumps", world._replace(clocks=world.clocks._replace(date=1)))
    if rules.wall_jump and not world.clocks.wall and not any(process.up for process in world.processes):
        yield Move(
            "the machine starts again, and its time is set", world._replace(clocks=world.clocks._replace(wall=1))
        )


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
    match shard.state:
        case InDoubt(at=at) | Held(doubt=InDoubt(at=at)):
            return Task(last=at, position=shard.length)
        case _:
            return IDLE


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
        if self._is_behind():
            yield Move(f"{self.who} reads what was appended", self._fresh())
        for at, (shard, task) in enumerate(zip(self.process.view, self.process.tasks, strict=True)):
            action = next_action(shard.state)
            if task.step or isinstance(action, Upload):
                yield from self._attempt(at, shard, task)
        yield from self._look()
        if self.rules.gives_up:
            yield from self._give_up()

    def _is_behind(self) -> bool:
        view, journal = self.process.view, self.world.journal
        if self.rules.durable:
            return view != journal
        return any(seen.length != shard.length for seen, shard in zip(view, journal, strict=True))

    def _now(self) -> Moment:
        return _moment(self.world.now, self.world.clocks, self.rules)

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
        words = f"{self.who} sends shard {at + 1}, attempt {task.attempt}, all but the tail"
        for dated in [task] if "date" in self.rules.order else self._dated(task):
            sent = self._task(at, dated)
            yield Move(words, sent._replace(bodies=(*self.world.bodies, body)))

    def _date(self, at: int, shard: Shard, task: Task) -> Moves:
        words = f"{self.who} asks for the server's date, for shard {at + 1}"
        for dated in self._dated(task):
            yield Move(words, self._task(at, dated))

    def _dated(self, task: Task) -> list[Task]:
        """The task with the `Date` of each list that there may be now, and the newest batch on that list."""
        stamps = [
            [_stamp(self.world.batches[number].created, self.rules) for number in shown] for shown in self._lists()
        ]
        return [
            task._replace(gate=self._now(), newest=newest)
            for newest in sorted({max(shown, default=0.0) for shown in stamps})
        ]

    def _commit(self, at: int, shard: Shard, task: Task) -> Moves:
        """The commit point; then the tail may leave, if it is not too late."""
        gate = task.gate or self._now()
        fact = Committing(
            attempt=task.attempt, date=gate.date, fingerprint=self.process.key, at=gate, newest=task.newest
        )
        words = f"{self.who} commits shard {at + 1}, attempt {task.attempt}"
        position = shard.length + self.rules.counts_facts
        committed = task._replace(gate=None, newest=None, position=position)
        move = self._append(at, fact, committed, words)
        if move.world.processes[self.number].tasks[at : at + 1] != (committed,):  # overtaken, or ended
            yield self._abort(move, at, task)
            return
        upload, tail = map(self.rules.order.index, ("upload", "tail"))
        late = self._now().boot - gate.boot > self.rules.gate
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
            doubted = self.rules.doubted and (
                isinstance(verdict, Later) or (isinstance(verdict, Refused) and not verdict.definite)
            )
            match verdict:
                case Refused() | Later() if doubted:
                    move = Move(told, self._task(at, IDLE))
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
            yield move._replace(rules=("A9" if doubted else verdict.rule,))

    # ---- looks ------------------------------------------------------------------------------------------------

    def _look(self) -> Moves:
        """One list whose pages join, what is asked for by id, candidates inspected, every doubt ruled on by table B."""
        tasks = zip(self.process.view, self.process.tasks, strict=True)
        doubtful = [
            at for at, (shard, task) in enumerate(tasks) if isinstance(shard.state, InDoubt | Held) and not task.step
        ]
        watched = [
            at
            for at, shard in enumerate(self.process.view)
            if self.rules.deletions and isinstance(shard.state, Processing)
        ]
        if not doubtful and not watched:
            return
        known = self._known()
        for shown in self._lists():
            titles = ", ".join(str(self.world.batches[number]) for number in shown) or "nothing"
            for odd, by_id in self._read([*doubtful, *watched], shown):
                listing = self._listing(shown, by_id, odd=odd)
                words = f"{self.who} lists: {titles}" + (", all in a form that cannot be read" if odd else "")
                if by_id:
                    words += f"; by id: {', '.join(str(self.world.batches[number]) for number in by_id)}"
                client = self._at(self._note_shown(listing, known))
                yield client._rule(doubtful, watched, listing, words)

    def _read(self, asking: list[int], shown: tuple[int, ...]) -> Iterator[tuple[bool, tuple[int, ...]]]:
        """Whether a list can be read, and what may be visible of what is asked for by id."""
        for odd in (False, True) if self.rules.odd and shown else (False,):
            yield from ((odd, by_id) for by_id in self._by_id(asking, () if odd else shown))

    def _listing(self, shown: tuple[int, ...], by_id: tuple[int, ...], *, odd: bool) -> Listing:
        """The list; if it is odd, none of its entries can be read."""
        if not odd:
            return Listing(at=self._now(), shown=self._seen(shown), by_id=self._seen(by_id))
        entries = [
            OddEntry(
                batch_id=batch.batch_id if self.rules.odd == "named" else None,
                created_at=_stamp(batch.created, self.rules),
                why="odd",
            )
            for batch in (self.world.batches[number] for number in shown)
        ]
        return Listing(
            at=self._now(),
            shown={},
            odd={entry.batch_id: entry for entry in entries if entry.batch_id is not None},
            unnamed=entries[0] if self.rules.odd == "unnamed" else None,
            by_id=self._seen(by_id),
        )

    def _lists(self) -> Iterator[tuple[int, ...]]:
        """Every list that the server may give: what must be visible, with any of what may be."""
        for part in range(self.rules.parts):
            mine = [
                number
                for number, batch in enumerate(self.world.batches)
                if batch.key == self.process.key and batch.part == part and not batch.deleted
            ]
            sure = [number for number in mine if self._must_show(self.world.batches[number])]
            perhaps = [n for n in mine if n not in sure]
            for count in range(len(perhaps) + 1):
                for more in combinations(perhaps, count):
                    yield tuple(sorted([*sure, *more]))

    def _must_show(self, batch: Batch) -> bool:
        """Whether a list of its part may not lack it."""
        now, bound = self.world.now, self.rules.visible
        if now == self.world.hiccup or (self.rules.flaps and batch.seen and not batch.old):
            return False
        return batch.old or (bound is not None and now >= batch.created + bound)

    def _by_id(self, asking: list[int], shown: tuple[int, ...]) -> list[tuple[int, ...]]:
        """What may be visible of the batches that are asked for because the list lacks them: all of it, or nothing."""
        wanted = set[str]()
        for at in asking:
            state = self.process.view[at].state
            if isinstance(state, Processing):
                wanted.add(state.batch_id)
            elif (doubt := doubt_of(state)) is not None:
                wanted.update(each.batch_id for each in doubt.candidates)
        exists = tuple(
            number
            for number, batch in enumerate(self.world.batches)
            if number not in shown and batch.batch_id in wanted and batch.key == self.process.key and not batch.deleted
        )
        if not exists:
            return [()]
        return [exists] if self.rules.flaps == "lists" else [exists, ()]

    def _seen(self, numbers: tuple[int, ...]) -> dict[str, BatchSeen]:
        batches = [self.world.batches[number] for number in numbers]
        return {batch.batch_id: _seen(batch, self.rules) for batch in batches}

    def _note_shown(self, listing: Listing, known: Known) -> World:
        """What a list has shown, so far as it matters later."""
        listed = self.process.listed.union(listing.ids).intersection(known.live)
        world = self._with(listed=listed, looked=self.world.now if self.rules.ends else -1)
        if not self.rules.marks_seen:
            return world
        shown = {*listing.ids, *listing.by_id}
        batches = (batch._replace(seen=batch.seen or batch.batch_id in shown) for batch in world.batches)
        return world._replace(batches=tuple(batches))

    def _rule(self, doubtful: list[int], watched: list[int], listing: Listing, words: str) -> Move:
        client, move = self, Move(words, self.world)
        known = self._known()
        for at in [*watched, *doubtful]:
            state = client.process.view[at].state
            match state:
                case Processing():
                    ruled = client._watch(at, state, listing)
                case InDoubt() | Held():
                    ruled = client._consider(at, listing, known)
                case _:
                    continue
            move = Move(
                f"{move.words}; shard {at + 1}: {ruled.words}" if ruled.words else move.words,
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
        known = Known(listed=set(self.process.listed))
        for shard in self.process.view:
            if (batch_id := getattr(shard.state, "batch_id", None)) is not None:
                known.bound.add(batch_id)
            if isinstance(shard.state, Processing):
                known.live[shard.state.batch_id] = shard.state.created_at
        return known

    # ---- batches of ours --------------------------------------------------------------------------------------

    def _watch(self, at: int, state: Processing, listing: Listing) -> Move:
        """Whether a batch of ours is still there."""
        task, absence = self.process.tasks[at], Absence(gap=1.5 * self.rules.tick)
        absence._first = task.missed
        absence._last = task.missed_last
        if listing.visible(state.batch_id) is not None or state.batch_id in listing.odd:
            news: Reappeared | Vanished | LostFact | None = absence.seen(state.vanished)
        else:
            news = self.rules.missed(absence, listing.at, state.vanished)
        if isinstance(news, LostFact) and self.rules.guard and state.doubt.fingerprint != self.process.key:
            news = None
        noted = IDLE._replace(missed=absence._first, missed_last=absence._last)
        if news is None:
            return Move("", self._task(at, noted))
        move = self._append(at, news, IDLE if isinstance(news, LostFact) else noted, type(news).__name__.lower())
        there = any(batch.batch_id == state.batch_id and not batch.deleted for batch in self.world.batches)
        return move._replace(violation=GIVEN_UP if isinstance(news, LostFact) and there else None)

    def _give_up(self) -> Moves:
        """An operator's word."""
        for at, (shard, task) in enumerate(zip(self.process.view, self.process.tasks, strict=True)):
            if isinstance(shard.state, InDoubt | Held | Processing) and not task.step:
                words = f"an operator gives up shard {at + 1}, and {self.who} records it"
                yield self._append(at, LostFact(why="an operator said so"), IDLE, words)

    # ---- doubts -----------------------------------------------------------------------------------------------

    def _consider(self, at: int, listing: Listing, known: Known) -> Move:
        """Remember what this list says of one doubt, then rule on it."""
        committed = doubt_of(self.process.view[at].state)
        assert committed is not None
        doubt, task = self._doubt(at, committed, self.process.tasks[at], listing.at)
        seen = self.rules.newly_seen(doubt, listing.shown.values(), known)
        seen += self.rules.newly_odd(doubt, listing.odd.values(), known)
        if seen:
            doubt = doubt.after(CandidatesChanged(seen=seen))
        others = misfits(doubt, [*listing.shown.values(), *listing.by_id.values()], known)
        self._inspect(doubt, listing, known)
        foreign = tuple(each.batch_id for each in doubt.committed.candidates if each.batch_id in known.foreign)
        foreign += tuple(each for each in others if each not in foreign)
        closes = self.rules.closing(doubt, listing, known, grace=self.rules.grace * self.rules.tick)
        closed_at = None if closes is None else closes.closed_at
        client = self
        if seen or foreign or closes:
            if self._is_late(at):
                return self._overtaken_look(at, seen)
            if closed_at is not None:  # later than all that can be made here: one moment is as good as another
                closed_at = min(closed_at, _stamp(self.rules.horizon, self.rules))
            change = CandidatesChanged(seen=seen, foreign=foreign, closed_at=closed_at)
            client = self._at(self._note(at, change, task))
            committed, task = doubt_of(client.process.view[at].state), client.process.tasks[at]
            assert committed is not None
            doubt = replace(doubt, committed=committed)
        return client._settle(at, task, doubt, listing, known)

    def _doubt(self, at: int, committed: InDoubt, task: Task, now: Moment) -> tuple[Doubt, Task]:
        """The doubt as of this look, and what its process then knows of the grace."""
        # the task of a doubt that began here has no `last` yet: its grace begins with this list
        last = now if task.last is None else task.last
        waited = task.waited + self.rules.elapsed(last, now)
        task = task._replace(last=last, position=task.position or self.process.view[at].length)
        if self.rules.counts_looks:
            task = task._replace(last=now, waited=waited)
        guarded = committed.fingerprint == self.process.key or not self.rules.guard
        return Doubt(
            shard=at + 1, rows=ROWS, committed=committed, waited=waited, guarded=guarded, empty_at=task.empty_at
        ), task

    def _note(self, at: int, change: CandidatesChanged, task: Task) -> World:
        """Make durable what a look changed."""
        if self.rules.durable:
            noted = task._replace(position=task.position + self.rules.counts_facts)
            return self._append(at, change, noted, "").world
        shard = self.process.view[at]
        noted = _put(self.process.view, at, shard._replace(state=after(shard.state, change)))
        return self._with(view=noted, tasks=_put(self.process.tasks, at, task))

    def _inspect(self, doubt: Doubt, listing: Listing, known: Known) -> None:
        """Learn whose the ended candidates are; without proof, take the first that has the size."""
        if not self.rules.proof:
            for each in still_open(doubt, known)[:1]:
                known.proven[each.batch_id] = Proof(
                    shard=doubt.shard, attempt=doubt.attempt, created_at=each.created_at
                )
            return
        for batch in to_inspect([doubt], listing, known):
            owner = self._owner(batch.batch_id)
            if owner is None:
                known.foreign.add(batch.batch_id)
            else:
                shard, attempt = owner
                known.proven[batch.batch_id] = Proof(shard=shard, attempt=attempt, created_at=batch.created_at)

    def _settle(self, at: int, task: Task, doubt: Doubt, listing: Listing, known: Known) -> Move:
        ruling = self.rules.settle(
            doubt, listing, known, grace=self.rules.grace * self.rules.tick, hold=self.rules.hold
        )
        held = isinstance(self.process.view[at].state, Held)
        once = held and (self.rules.hold or doubt.committed.certain or not doubt.guarded)
        match ruling:
            case FoundBatch(batch=batch):
                fact: ShardFact = Found(batch_id=batch.batch_id, created_at=batch.created_at, by="tag")
                known.bound.add(batch.batch_id)
                move = self._append(at, fact, IDLE, f"it is {batch.batch_id}")
            case _ if once:
                move = Move("still held", self._task(at, task))
            case Absent():
                move = self._append(at, Withdrawn(why="B8"), IDLE, "no batch was made, it is ready again")
            case Hold() if held:
                move = Move("still held", self._task(at, task))
            case Hold(reason=reason):
                move = self._append(at, HeldFact(reason=reason), IDLE, "held for an operator")
            case AbsentOnce(waited=waited):
                move = Move("absent, for the first time", self._task(at, task._replace(empty_at=waited)))
            case Wait(rule=rule):
                kept = task._replace(empty_at=None) if rule in {"B6", "B11"} else task
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
            state = self.rules.after(view.state, fact)
        except IllegalTransition:
            return Move(f"{words}; but that cannot follow, and it ends", _dies(self.world, self.number))
        grown = Shard(_sorted(state), view.length + self.rules.counts_facts)
        if self.rules.fence and view.length != journal.length:
            return self._overtaken(at, words)
        views, facts = _put(self.process.view, at, grown), _put(self.world.journal, at, grown)
        if isinstance(fact, Accepted | Found) and len(facts) > 1:
            views, facts = _without(fact.batch_id, views), _without(fact.batch_id, facts)
        appended = self._with(view=views, tasks=_put(self.process.tasks, at, then))._replace(journal=facts)
        return Move(words, appended, violation=self._misbound(at, view.state, fact))

    def _is_late(self, at: int) -> bool:
        """Whether another process was first."""
        view, journal, task = self.process.view[at], self.world.journal[at], self.process.tasks[at]
        unpinned = self.rules.pinned and task.position not in {0, view.length}
        return self.rules.fence and (unpinned or view.length != journal.length)

    def _overtaken(self, at: int, words: str) -> Move:
        dropped = self._with(tasks=_put(self.process.tasks, at, IDLE))
        fresh = _Client(dropped, self.rules, self.number)._fresh()
        return Move(f"{words}; but another process was first", fresh)

    def _overtaken_look(self, at: int, seen: tuple[Candidate, ...]) -> Move:
        """What the look showed is recorded all the same, if the attempt is still in doubt."""
        attempt = _attempt_of(self.process.view[at].state)
        move = self._overtaken(at, "it would note candidates")
        client = _Client(move.world, self.rules, self.number)
        state = client.process.view[at].state
        if not self.rules.keeps_overtaken or not isinstance(state, InDoubt | Held) or _attempt_of(state) != attempt:
            return move
        doubt = doubt_of(state)
        assert doubt is not None
        known = {each.batch_id for each in doubt.candidates} | doubt.foreign
        lacks = tuple(each for each in seen if each.batch_id not in known)
        if not lacks:
            return move
        noted = client._append(at, CandidatesChanged(seen=lacks), client.process.tasks[at], "")
        return move._replace(world=noted.world)

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


def _sorted(state: State) -> State:
    """The same state: the order in which its candidates were seen does not matter."""
    if isinstance(state, InDoubt) and len(state.candidates) > 1:
        return structs.replace(state, candidates=tuple(sorted(state.candidates, key=lambda each: each.batch_id)))
    return state


def _without(batch_id: str, shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
    """The same shards: a batch that is bound to one of them is no candidate of another, remembered or not."""
    return tuple(
        shard._replace(
            state=structs.replace(
                shard.state, candidates=tuple(each for each in shard.state.candidates if each.batch_id != batch_id)
            )
        )
        if isinstance(shard.state, InDoubt)
        else shard
        for shard in shards
    )


def _seen(batch: Batch, rules: Configuration) -> BatchSeen:
    return BatchSeen(
        batch_id=batch.batch_id,
        status="ended" if batch.ended else "in_progress",
        created_at=_stamp(batch.created, rules),
        total=ROWS if batch.owner or not rules.odd else ROWS + 1,
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
    yield "a 303", Replied(status=303)
    if body.status == "made":
        batch = next(batch for batch in batches if batch.owner == (body.shard, body.attempt))
        yield "its batch", Replied(status=200, batch=_seen(batch, rules))
        yield unreadable
    if body.status == "refused":
        yield "a 307", Replied(status=307)
    if body.status == "refused" or (rules.imitated and body.status == "made"):
        yield "a 429", Replied(status=429, kind="rate_limit_error", retry_after=1.0)
        yield "a 400", Replied(status=400, kind="invalid_request_error", message="no")
