"""What one seed draws: the job, the API's habits and faults, the disk's, and the lives of the processes.

Swarm: most kinds of misfortune are left out of most seeds, so that each is also met alone, and together with few.
Everything here stays within the bounds A1 to A5 on which the promise rests, except where `promised` is False: those
seeds break a bound, and then only the report of what was paid twice is judged. `unkind.py` makes half of these worlds
less kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random
from typing import Any, Final, Literal, TypeAlias

from abatch import Config
from abatch.engine.outage import LONGEST_WAIT
from abatch.sandbox import faults as f
from abatch.sandbox.api import Settings
from abatch.sandbox.shapes import ERAS

__all__ = [
    "CANARY",
    "KEY",
    "OTHER_KEY",
    "Fault",
    "Life",
    "Make",
    "Outage",
    "Plan",
    "Work",
    "doubtful",
    "kind",
    "refusing",
    "requests",
]

Fault: TypeAlias = tuple[f.Site | Literal["every"], f.AnyFault, float]
"""A fault, where it is met and at which share of the calls."""
KEY: Final = "sk-ant-simulated-key-that-nobody-may-see"
OTHER_KEY: Final = "sk-ant-another-key-of-another-workspace"
CANARY: Final = "a-prompt-that-nobody-may-see"
DECIDED, VISIBLE, STALLED = 600.0, 300.0, 600.0
"""Bounds A1 (P), A2 (L) and A3 (B), in seconds."""
HOUR: Final = 3600.0
NEVER: Final = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What one process lives through. Numbers count from its start; 0 is never."""

    key: str = KEY
    dies_at_effect: int = 0
    dies_at_step: int = 0
    dies_at: float = 0.0
    stops_at: float = 0.0
    """Told to stop, as by SIGTERM: its main task is cancelled."""
    leaves_at: float = 0.0
    """Leaves the manager's block by itself."""
    cancels_at: float = 0.0
    """Wishes to cancel the first job."""
    breaks_after: int = 0
    """The caller's iterables raise after this many requests."""
    forgetful: bool = False
    """Hands over the first job alone."""
    pauses: dict[int, float] = field(default_factory=dict[int, float])
    """Effects at which it stands still, as by SIGSTOP, and for how many seconds."""
    skew: float = 0.0
    """Seconds by which its wall clock is wrong."""
    resume: Literal["all", "given"] = "all"
    limit: int | None = None
    """Only so many requests of each job are to be sent, the first ones."""
    failing: Literal["stop", "go-on"] = "go-on"  # batches of a few requests often fail as a whole here
    after: float = 0.0
    """Seconds between the end of the life before and its start."""
    reboots: bool = False
    """The machine is restarted before it."""
    twin: Life | None = None
    """A second process that starts beside it, `twin.after` seconds later."""
    locked: bool = True
    """False: the lock does not keep the twin out; both believe that they drive the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A job to hand over."""

    key: str
    workspace_id: str | None
    rows: list[dict[str, Any]]
    source: Literal["file", "list", "async", "open"]
    to: Literal["memory", "file", "folder"]
    tries: int
    linger: float = 0.0
    """Of an open job: seconds for which a request waits for others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The destinations in memory fail for a while."""

    at: float
    """Seconds from when a job was handed over first; it begins with the first step after them."""
    seconds: float
    carried_out: bool
    """What is asked for is done all the same, and only its answer lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One seed's world."""

    jobs: list[Work]
    config: Config
    settings: Settings
    faults: list[Fault]
    foreign: int
    """Batches of somebody else that come to be in the first minute."""
    late_tails: float
    """Share of creates whose last bytes lie in the network for a while."""
    longest_transit: float
    """Bound A4."""
    lives: list[Life]
    full_at: frozenset[int]
    broken_at: frozenset[int]
    no_room_until: float
    refuses: tuple[float, float]
    """Share of blocks that a sink refuses, of those whose stream goes on, and of those whose stream breaks; the latter
    is the share of rows that a spool of retries refuses, too."""
    slumber: float
    """Seconds that nothing runs before the calm end."""
    restores: bool
    """An old copy of the journal is put back between two lives."""
    real_sdk: bool
    """Calls go through the SDK itself, not through the thin stand-in."""
    promised: bool
    """No bound is broken: nothing may be paid twice."""
    weighed: bool
    """Its results are large, and the memory that they take is measured."""
    tells_boot: bool = True
    """The system tells which boot of the machine it is; else its wall clock stands in for the time since boot."""
    slow_strangers: bool = False
    """Nothing but results of others is slow: how soon the end of our batches is seen is judged."""
    stream_goes_on: bool = False
    """The batches that somebody else makes all the time do not end with the faults."""
    slow_polls: bool = False
    """A life takes days, and lists are far between."""
    vanishing: bool = False
    """Batches are deleted, or looked for in vain for days: the end may take as long."""
    outages: tuple[Outage, ...] = ()
    """Of the destinations in memory, until the calm end."""
    pilot: int = 0
    """First requests of each job that are sent alone."""

    @property
    def fenced(self) -> bool:
        """Two processes drive at the same time in it."""
        return not all(life.locked for life in self.lives)

    @property
    def outlasts(self) -> bool:
        """Whether the outages may take as long as a job is patient with its storage."""
        patience = self.config.storage_patience.total_seconds() - LONGEST_WAIT * len(self.outages)
        return sum(outage.seconds for outage in self.outages) >= patience

    @property
    def clocks(self) -> list[tuple[f.AnyFault, float]]:
        """What is wrong with `Date`, and at which share of the calls."""
        return [(fault, rate) for _, fault, rate in self.faults if isinstance(fault, f.Skew | f.Drift | f.Jump)]

    def ahead(self, seconds: float) -> float:
        """By how much `Date` is ahead so long after the beginning, where it is so at every call."""
        ahead = 0.0
        for fault, _ in self.clocks:
            match fault:
                case f.Skew(each):
                    ahead += each
                case f.Drift(per_hour):
                    ahead += per_hour * seconds / HOUR
                case f.Jump(at, each) if seconds >= at:
                    ahead += each
                case _:
                    pass
        return ahead

    def draws(self, *kinds: type[f.AnyFault], site: f.Site | None = None) -> bool:
        """Whether a fault of these kinds may be met, at this site if one is named."""
        return any(isinstance(fault, kinds) and site in (None, at, "every") for at, fault, _ in self.faults)


def near(chance: Random, limit: float) -> float:
    """A number up to the limit, often close to it."""
    return limit * (chance.random() if chance.random() < 0.5 else chance.uniform(0.9, 0.999))


# ---- the API's faults -----------------------------------------------------------------------------------------

Make = Callable[[Random], f.AnyFault]
REFUSALS: Final = (400, 401, 402, 403, 404, 422)
DOUBTFUL: Final = (302, 303, 408, 409, 425, 499, 500, 502, 503, 529)


def _any(*kinds: f.AnyFault) -> Make:
    return lambda chance: chance.choice(kinds)


def doubtful(chance: Random) -> f.AnyFault:
    """An answer from which nothing follows, to a create that was carried out, or not."""
    envelope = chance.random() < 0.6
    return f.Status(chance.choice(DOUBTFUL), envelope=envelope, accepted=chance.random() < 0.5)


def _proxy_page(chance: Random) -> f.AnyFault:
    return f.Status(chance.choice((*REFUSALS, 429)), envelope=False, accepted=chance.random() < 0.5)


def _late(chance: Random) -> f.AnyFault:
    return f.LateAccept(near(chance, DECIDED), chance.choice([None, 500, 504]))


def _rate_limit(chance: Random) -> f.AnyFault:
    return f.Status(429, retry_after=chance.choice([None, 1, 60]), early=chance.random() < 0.2)


FAULTS: Final[list[tuple[f.Site, Make]]] = [
    ("create", _any(f.Refuse())),
    ("create", lambda chance: f.Stall(chance.uniform(10, 1200))),
    ("create", _any(f.ResetBeforeAccept())),
    ("create", _any(f.ResetAfterAccept())),
    ("create", lambda chance: f.Status(chance.choice(REFUSALS), early=chance.random() < 0.2)),
    ("create", _proxy_page),
    ("create", doubtful),
    ("create", _any(f.Status(413), f.Status(413, envelope=False))),
    ("create", _rate_limit),
    ("create", _any(f.SpendLimit())),
    ("create", _any(f.Redirect())),
    ("create", _any(f.Garbage(), f.CutBody())),
    ("create", _late),
    ("create", _any(f.SameInstant())),
    ("create", _any(f.Foreign(1), f.Foreign(2))),
    ("list", _any(f.Refuse(), f.ResetBeforeAccept(), f.ResetAfterAccept())),
    ("list", lambda chance: f.Stall(chance.uniform(30, 200))),
    ("list", _any(f.Status(500), f.Status(529), f.Status(503, envelope=False), f.Status(429, retry_after=30))),
    ("list", _any(f.Status(401), f.Status(403), f.Status(404))),
    ("list", _any(f.Garbage(), f.CutBody())),
    ("list", _any(f.NoDate())),
    ("list", lambda chance: f.Lag(near(chance, VISIBLE))),
    ("list", _any(f.PageError())),
    ("list", _any(f.Flap())),
    ("list", _any(f.CountsLag())),
    ("list", _any(f.Slow(2000.0))),
    ("retrieve", _any(f.Status(404))),
    ("retrieve", _any(f.Status(500), f.Refuse(), f.ResetAfterAccept(), f.Garbage())),
    ("retrieve", _any(f.Flap())),
    ("retrieve", _any(f.CountsLag())),
    ("cancel", _any(f.Status(500), f.Status(429, retry_after=5), f.ResetAfterAccept(), f.Refuse())),
    ("results", _any(f.Status(500), f.Status(404), f.Refuse(), f.ResetAfterAccept(), f.Garbage())),
    ("results", lambda chance: f.Stall(chance.uniform(30, 200))),
    ("results", lambda chance: f.NotYet(near(chance, HOUR))),
    ("results", _any(f.Archived())),
    ("results", lambda chance: f.ResetAt(chance.randrange(2000))),
    ("results", lambda chance: f.CutBody(chance.randrange(2000))),
    ("results", _any(f.Reshuffle())),
    ("results", _any(f.MissingLine())),
    ("results", _any(f.DuplicateLine(), f.DuplicateLine(2))),
    ("results", _any(f.ConflictingLine())),
    ("results", _any(f.ForeignLine())),
    ("results", _any(f.UnparsableLine())),
    ("results", _any(f.BlankLine())),
    ("results", _any(f.LineSeparator())),
    ("results", _any(f.LoneSurrogate())),
    ("results", _any(f.DeepJson(3000))),
    ("results", lambda chance: f.HugeLine(chance.randrange(400_000, 900_000), 3)),
    ("results", _any(f.Crlf())),
    ("results", _any(f.CutAtLine(clean=True), f.CutAtLine(clean=False))),
    ("results", _any(*(f.CutInLine(clean=clean, newline=ended) for clean in (True, False) for ended in (True, False)))),
    ("results", _any(f.Slow(3000.0))),
    ("results", _any(f.GzipBomb(20_000))),
]
"""In an order that lets the first line of a row stay the true one: lines go missing before others contradict."""

CANCELS: Final = [(site, make) for site, make in FAULTS if site == "cancel"]

BREAKING: Final[list[tuple[f.Site, Make]]] = [
    ("create", _any(f.Replay())),
    ("create", lambda chance: f.LateAccept(chance.uniform(1, 4) * HOUR)),
    ("create", lambda chance: f.LateAccept(chance.uniform(1700, 2600))),
    ("list", lambda chance: f.Lag(chance.uniform(1, 4) * HOUR)),
    ("list", _any(f.OtherWorkspace())),
]
"""What breaks a bound of the promise: A5, A1, A2, and a list of another workspace under the same key."""


def _faults(chance: Random, kinds: list[tuple[f.Site, Make]], share: float) -> list[Fault]:
    return [(site, make(chance), chance.choice([0.05, 0.2, 0.5])) for site, make in kinds if chance.random() < share]


# ---- lives ----------------------------------------------------------------------------------------------------


def _life(chance: Random, *, misfortune: float) -> Life:
    drawn: dict[str, Any] = {"after": chance.choice([0.0, 1.0, 30.0, 600.0, 2400.0, 4 * HOUR])}
    match chance.choice(["effect", "effect", "effect", "step", "time", "stop", "leave", "end"]):
        case "effect":
            drawn["dies_at_effect"] = chance.randrange(1, chance.choice([40, 120, 250]))
        case "step":
            drawn["dies_at_step"] = chance.randrange(1, chance.choice([200, 1500]))
        case "time":
            drawn["dies_at"] = chance.choice([1.0, 60.0, HOUR, 5 * HOUR]) * chance.random()
        case "stop":
            drawn["stops_at"] = chance.choice([1.0, 60.0, HOUR]) * chance.random()
        case "leave":
            drawn["leaves_at"] = chance.choice([1.0, 60.0, HOUR]) * chance.random()
        case _:
            drawn["stops_at"] = 40 * HOUR
    if chance.random() < misfortune:
        effects = [chance.randrange(1, 120) for _ in range(chance.randrange(1, 4))]
        drawn["pauses"] = {effect: chance.choice([5.0, 61.0, 300.0, 590.0, HOUR]) for effect in effects}
    if chance.random() < misfortune:
        drawn["skew"] = chance.uniform(-HOUR, HOUR)
    if chance.random() < misfortune:
        drawn["cancels_at"] = chance.choice([1.0, 60.0, HOUR]) * chance.random()
    if chance.random() < misfortune:
        drawn["breaks_after"] = chance.randrange(1, 10)
    if chance.random() < misfortune:
        drawn["resume"] = "given"
    drawn["forgetful"] = chance.random() < 0.2
    return Life(**drawn)


def _lives(chance: Random) -> list[Life]:
    misfortune = chance.choice([0.0, 0.1, 0.3])
    lives = [_life(chance, misfortune=misfortune) for _ in range(chance.choice([0, 1, 1, 2, 2, 3, 5]))]
    if lives and chance.random() < 0.08:
        lives = [Life(dies_at=chance.uniform(1.0, 20.0)), Life(key=OTHER_KEY, after=chance.uniform(0, 60)), *lives[1:]]
    if lives and chance.random() < 0.12:
        both = chance.randrange(len(lives))
        after = chance.choice([0.1, 1.0, 60.0, HOUR]) * chance.random()
        twin = replace(_life(chance, misfortune=misfortune), after=after, key=lives[both].key)
        lives[both] = replace(lives[both], twin=twin, locked=chance.random() < 0.2)
    return lives


# ---- the job --------------------------------------------------------------------------------------------------

WISHES: Final = (
    "sandbox:errored-once:overloaded_error",
    "sandbox:errored-once:api_error",
    "sandbox:errored:invalid_request_error",
    "sandbox:errored:rate_limit_error",
    "sandbox:expired",
    "sandbox:canceled",
)


def requests(chance: Random, job: int, count: int) -> list[dict[str, Any]]:
    """So many requests of a job, each with params of its own."""
    odd = chance.choice([0.0, 0.2])
    betas = chance.random() < 0.1
    rows: list[dict[str, Any]] = []
    for number in range(count):
        content = f"{CANARY} {job} {number}"
        params: dict[str, Any] = {
            "model": "claude-haiku-4-5",
            "max_tokens": 16,
            "messages": [{"role": "user", "content": content}],
        }
        if chance.random() < odd:
            params["metadata"] = {"user_id": chance.choice(WISHES)}
        row: dict[str, Any] = {"custom_id": f"row {number}/é", "params": params}
        if betas and chance.random() < 0.5:
            row["betas"] = [chance.choice(["one-2026", "two-2026"])]
        rows.append(row)
    return rows


def _jobs(chance: Random, tries: int) -> list[Work]:
    several = chance.random() < 0.2
    count = chance.choice([2, 2, 3]) if several else 1
    workspaces = chance.choice([[None], [None, "one"], ["one", "two"]]) if several or chance.random() < 0.05 else [None]
    return [
        Work(
            key=f"job{number}",
            workspace_id=chance.choice(workspaces),
            rows=requests(chance, number, chance.randrange(1, 13 if count == 1 else 7)),
            source=chance.choice(["file", "file", "list", "async"]),
            to=chance.choice(["memory", "memory", "memory", "file", "folder"]),
            tries=tries if number == 0 else chance.choice([1, 2, 3]),
        )
        for number in range(count)
    ]


WEIGHED_ROWS: Final = 48
ANSWER_BYTES: Final = 400_000


def _weighed(chance: Random, plan: Plan) -> Plan:
    """The same world with large results that nobody's death leaves in memory."""
    to: list[Literal["file", "folder"]] = ["file", "folder"]
    job = replace(plan.jobs[0], rows=requests(chance, 0, WEIGHED_ROWS), to=chance.choice(to), workspace_id=None)
    return replace(
        plan,
        jobs=[job],
        config=replace(plan.config, requests_per_batch=chance.choice([12, WEIGHED_ROWS]), drains=chance.choice([1, 2])),
        settings=replace(plan.settings, latency=(0.0, 60.0), answer_bytes=ANSWER_BYTES),
        faults=[each for each in plan.faults if not isinstance(each[1], f.HugeLine)],
        lives=[Life(stops_at=40 * HOUR)],
        restores=False,
        promised=True,
        weighed=True,
    )


def refusing(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, sinks refuse lines, mostly just as the stream of results breaks."""
    if chance.random() > 0.1:
        return plan
    breaks = chance.choice([f.CutAtLine(clean=False), f.CutInLine(clean=False), f.ResetAt(chance.randrange(3000))])
    return replace(
        plan,
        refuses=chance.choice([(0.3, 0.3), (0.1, 0.9), (0.0, 0.7)]),
        faults=[*plan.faults, ("results", breaks, chance.choice([0.5, 0.8]))],
        lives=plan.lives or [Life(stops_at=40 * HOUR)],
    )


def _doubting(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, a gateway refuses in the API's form what it passed on, and refusals are doubted."""
    if chance.random() > 0.08:
        return plan
    refusal = f.Status(chance.choice((*REFUSALS, 429, 429)), accepted=chance.random() < 0.8)
    return replace(
        plan,
        config=replace(plan.config, refusals="doubt"),
        faults=[*plan.faults, ("create", refusal, chance.choice([0.2, 0.5]))],
    )


def _parking(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, batches do not move for most of a day, and are given up once."""
    if chance.random() > 0.04 or plan.weighed:
        return plan
    return replace(
        plan,
        jobs=[replace(work, tries=2) for work in plan.jobs],
        config=replace(
            plan.config, parked="cancel-and-retry", poll_interval_max=timedelta(hours=chance.choice([0.2, 1]))
        ),
        settings=replace(plan.settings, latency=(13 * HOUR, 22 * HOUR)),
        real_sdk=False,
    )


def _piloting(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, the first requests of each job are sent alone."""
    if chance.random() > 0.1 or plan.weighed:
        return plan
    return replace(plan, pilot=chance.randrange(1, 6))


def _limiting(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, the limit of the jobs goes up, down and away from life to life."""
    if chance.random() > 0.1 or plan.weighed or any(life.twin is not None for life in plan.lives):
        return plan
    lives = plan.lives or [Life(stops_at=40 * HOUR)] * 3
    return replace(plan, lives=[replace(life, limit=chance.choice([None, *range(1, 10)])) for life in lives])


def _opening(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, the requests of jobs are put one by one into the inbox of an open job."""
    limited = plan.pilot or any(life.limit is not None for life in plan.lives)
    if chance.random() > 0.15 or plan.weighed or limited:
        return plan
    jobs = [
        replace(work, source="open", linger=chance.choice([0.0, 1.0, 60.0, HOUR])) if chance.random() < 0.7 else work
        for work in plan.jobs
    ]
    return replace(plan, jobs=jobs, lives=plan.lives or [Life(stops_at=40 * HOUR)])


def _failing(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, jobs stop whose first results failed, until the calm end sends the rest."""
    if chance.random() > 0.1 or plan.weighed or any(life.twin is not None for life in plan.lives):
        return plan
    lives = plan.lives or [Life(stops_at=40 * HOUR)]
    first, *others = plan.jobs
    wrong = {"metadata": {"user_id": "sandbox:errored:invalid_request_error"}}
    most = chance.randrange(len(first.rows) + 1)
    rows = [row | {"params": row["params"] | wrong} if number < most else row for number, row in enumerate(first.rows)]
    return replace(
        plan, jobs=[replace(first, rows=rows), *others], lives=[replace(life, failing="stop") for life in lives]
    )


def _storage_out(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, what results go to fails for a while, mostly for less than jobs are patient."""
    if chance.random() > 0.08 or plan.weighed or all(work.to != "memory" for work in plan.jobs):
        return plan
    lengths = chance.choice([(5.0,), (60.0,), (400.0, 200.0), (700.0,), (4000.0,), (8000.0,)])
    return replace(
        plan,
        lives=plan.lives or [Life(stops_at=40 * HOUR)],
        outages=tuple(
            Outage(
                at=chance.choice([0.0, 0.0, 60.0, HOUR]) * chance.random(),
                seconds=seconds * chance.uniform(0.5, 1),
                carried_out=chance.random() < 0.4,
            )
            for seconds in lengths
        ),
    )


def _rare(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, what else would hardly be met."""
    faults = list(plan.faults)
    if chance.random() < 0.02:  # 200 to a create that never came through, in words that nobody can read
        faults += [("create", f.ResetBeforeAccept(), 0.6), ("create", f.Garbage(), 0.6)]
    if chance.random() < 0.02:
        faults += [("list", f.Lag(0.99 * VISIBLE), 1.0), ("retrieve", chance.choice([f.Refuse(), f.Garbage()]), 0.5)]
    if not plan.promised and chance.random() < 0.4:  # bounds A2 and A1, as their monitors see them broken
        faults.append(("list", f.Lag(chance.uniform(1, 4) * HOUR), 1.0))
    elif not plan.promised and chance.random() < 0.6:
        faults.append(("create", f.LateAccept(chance.uniform(1000, 1700)), 0.5))
    if chance.random() < 0.04:
        faults.append(("create", doubtful(chance), 0.4))
    if any(life.cancels_at for life in plan.lives) and chance.random() < 0.5:
        faults += _faults(chance, CANCELS, 0.4)
    return replace(plan, faults=faults)


def kind(seed: int) -> Plan:
    """The world of this seed, before `unkind.py` makes it less kind."""
    chance = Random(seed)
    tries = chance.choice([1, 2, 3, 3])
    latency = chance.choice([(0.0, 0.0), (1.0, 60.0), (30.0, 1800.0), (600.0, 4 * HOUR)])
    if tries == 1 and chance.random() < 0.1:
        latency = (20 * HOUR, 30 * HOUR)
    first, most = (15, chance.choice([60, 300, 300])) if latency[1] < HOUR else (60, latency[1] / 12)
    own_socket = chance.random() < 0.5
    promised = chance.random() > 0.04
    share = chance.choice([0.0, 0.08, 0.15, 0.3])
    faults = _faults(chance, FAULTS, share)
    if not promised:
        faults += _faults(chance, BREAKING, 0.5)
        if chance.random() < 0.3:
            faults.append(("list", f.Lag(chance.uniform(1, 4) * HOUR), 1.0))
    foreign = chance.choice([0, 0, 1, 3])
    if chance.random() < 0.02:
        foreign = chance.choice([21, 60])
        faults.append(("list", f.PageError(), 0.3))
    if slumbers := chance.random() < 0.025:
        faults.append(("create", f.ResetAfterAccept(), 0.5))
    late_tails = chance.choice([0.0, 0.0, 0.2, 0.5])
    lives = _lives(chance)
    if chance.random() < 0.06:  # all bounds stretched together, and nobody alive who saw the doubt begin
        late_tails, (first, most), latency = 0.7, (15, 60), (min(latency[0], 30.0), min(latency[1], HOUR / 2))
        faults = [("create", f.LateAccept(0.99 * DECIDED), 0.7), ("list", f.Lag(0.99 * VISIBLE), 1.0)]
        lives = [Life(dies_at=chance.uniform(0.5, 60)), Life(after=chance.uniform(0, 600))]
    if any(life.key != KEY for life in lives):  # so that everything is in doubt then
        faults = [each for each in faults if each[0] != "create"]
        faults.append(("create", f.ResetAfterAccept(), chance.choice([0.7, 1.0])))
    if any(life.cancels_at for life in lives):
        faults += _faults(chance, CANCELS * 3, 0.5)
    disk = chance.random() < 0.15
    plan = Plan(
        jobs=_jobs(chance, tries),
        config=Config(
            requests_per_batch=chance.choice([1, 2, 3, 4, 12]),
            sealed_unsent=chance.randrange(1, 5),
            uploads=chance.randrange(1, 5),
            drains=chance.randrange(1, 5),
            poll_interval=timedelta(seconds=first),
            poll_interval_max=timedelta(seconds=most),
            unresolved="hold" if chance.random() < 0.1 else "resubmit",
            grace=timedelta(minutes=30) if own_socket else None,
        ),
        settings=Settings(
            latency=latency,
            cancel_latency=chance.choice([0.0, 120.0]),
            keys={KEY: "default", OTHER_KEY: "other"},
            era=list(ERAS)[seed % len(ERAS)],
        ),
        faults=faults,
        foreign=foreign,
        late_tails=late_tails,
        longest_transit=120.0 if own_socket else 900.0,
        lives=lives,
        full_at=frozenset(chance.sample(range(1, 60), 2) if disk else ()),
        broken_at=frozenset(chance.sample(range(1, 60), 1) if disk and chance.random() < 0.5 else ()),
        no_room_until=chance.uniform(0, HOUR) if disk and chance.random() < 0.3 else 0.0,
        refuses=NEVER,
        slumber=31 * 24 * HOUR if slumbers else 0.0,
        restores=chance.random() < 0.04,
        real_sdk=chance.random() < 0.03 and latency[1] < HOUR,
        promised=promised,
        weighed=False,
    )
    plan = _weighed(chance, plan) if promised and chance.random() < 0.006 else plan
    plan = refusing(Random(f"{seed} refusals"), plan)
    plan = _doubting(Random(f"{seed} doubted refusals"), plan)
    plan = _parking(Random(f"{seed} parked"), plan)
    plan = _storage_out(Random(f"{seed} storage"), plan)
    plan = _piloting(Random(f"{seed} pilot"), plan)
    plan = _limiting(Random(f"{seed} limit"), plan)
    plan = _failing(Random(f"{seed} failing"), plan)
    plan = _rare(Random(f"{seed} rare"), plan)
    return _opening(Random(f"{seed} open"), plan)
