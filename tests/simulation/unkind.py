"""Draw the worlds that are less kind: clocks that disagree, lists that flap or are partial, batches that vanish.

What is drawn here stays within the promise, too, except in seeds whose `promised` is False. The bounds, as a promised
world keeps them (`bounds.py` sees to the first three, whatever is drawn):

A2  A created batch is in every list, and known by its id, from five minutes after its creation until it is on record:
    accepted, found, or a candidate of the doubt that made it. Once it is, it may be hidden at any place, for any time.
    Nobody deletes a batch before it is on record: a doubt whose batch was deleted unseen cannot be told from one that
    made none.
A7  A list may be answered from another workspace (a pool of keys) only while every batch of ours is on record, or
    while the list would have to show a batch of ours that it then lacks: one that this process has listed, or that
    is five minutes old by `Date`, and is not drained. Creates are always made in the key's own workspace.
    An answer of a create that names another batch names one that this process knows as ours.
A6  `Date` may run ahead or behind, drift, or jump by up to a day, at every call or at some. But where the machine's
    time since boot is no witness (it was restarted between two lives, or does not tell its boot), either `Date` keeps
    its offset or the wall clock is right: they are not wrong together.
    How old a batch is, for results that are kept for 29 days or a candidate that nobody can read for two, is told by
    `Date` and by this machine's time. Worlds whose `Date` jumps by weeks are in `test_unkind_worlds.py`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Final

from abatch.sandbox import faults as f
from tests.simulation.plan import HOUR, OTHER_KEY, VISIBLE, Life, doubtful, kind, refusing, requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.plan import Fault, Make, Plan

__all__ = ["CLOCKS", "LESS_KIND", "draw"]

POOL: Final = ("default", "other")
READS: Final[tuple[f.Site, ...]] = ("list", "retrieve", "results")
DAY: Final = 24 * HOUR
PAGE: Final = f.Status(200, envelope=False)
"""A web page: a captive portal, a gateway's own 200."""


def _redirect(chance: Random) -> f.AnyFault:
    status = chance.choice([300, 301, 302, 303, 305, 307, 308])
    return f.Redirect(status=status, accepted=status not in (307, 308) and chance.random() < 0.6)


def _hide(chance: Random) -> f.AnyFault:
    """From moments to days; once, or again and again; some batches, or all."""
    seconds = chance.choice([10.0, 300.0, 2 * HOUR, 60 * HOUR])
    every = chance.choice([None, seconds + chance.choice([20.0, 600.0, 2 * HOUR])])
    after = chance.choice([0.0, 6.0, 60.0, HOUR])
    return f.Hide(
        seconds, after=after, every=every, spread=chance.choice([0.0, 600.0]), share=chance.choice([0.5, 1.0])
    )


def _deleted(chance: Random) -> f.AnyFault:
    """In progress, just ended, half drained, or long after."""
    return f.Deleted(chance.choice([1.0, 30.0, 600.0, 2 * HOUR, 30 * HOUR]) * chance.uniform(0.2, 1))


def _limit(chance: Random) -> f.AnyFault:
    details = chance.choice([None, "a text", ["a", "list"], {"error_visibility": "user_facing"}])
    if chance.random() < 0.5:
        return f.OutOfCredit(details=details)
    return f.UsageLimit(workspace=chance.random() < 0.5, details=details)


def _stream(chance: Random) -> f.AnyFault:
    latency = chance.choice([None, 1.0, 5 * HOUR])
    return f.ForeignStream(chance.uniform(120, 900), latency=latency, seconds=chance.choice([HOUR, 4 * HOUR]))


LESS_KIND: Final[list[tuple[f.Site, Make]]] = [
    ("create", _redirect),
    ("create", doubtful),
    ("create", lambda _: f.StaleAnswer()),
    ("create", lambda chance: f.Parked(chance.choice([600.0, 4 * HOUR, 20 * HOUR]))),
    ("create", _deleted),
    ("create", _stream),
    ("create", _limit),
    ("create", lambda _: f.NullCounts()),
    ("create", lambda chance: _page(accepted=chance.random() < 0.7)),
    ("create", lambda chance: f.Revoked(chance.uniform(10, 1800))),
    ("list", _hide),
    ("list", lambda chance: f.Stale(VISIBLE * chance.uniform(0.1, 0.999))),
    ("list", lambda _: f.KeyPool(POOL)),
    ("list", lambda _: f.NullCounts()),
    ("list", _limit),
    ("list", lambda chance: f.Redirect(status=chance.choice([302, 307]))),
    ("list", lambda _: PAGE),
    ("list", lambda chance: f.Revoked(chance.uniform(10, 1800))),
    ("retrieve", _hide),
    ("retrieve", lambda chance: f.Stale(VISIBLE * chance.uniform(0.1, 0.999))),
    ("retrieve", lambda _: f.KeyPool(POOL)),
    ("retrieve", lambda _: f.NullCounts()),
    ("retrieve", lambda _: PAGE),
    ("retrieve", lambda _: f.Redirect(status=302)),
    ("results", _hide),
    ("results", lambda _: f.KeyPool(POOL)),
    ("results", lambda chance: f.Hang(chance.uniform(5, 300), only_foreign=chance.random() < 0.5)),
    ("results", lambda chance: f.EmptyResults(only_foreign=chance.random() < 0.5)),
    ("results", lambda chance: chance.choice([PAGE, f.Status(403)])),
    ("results", lambda _: f.Redirect(status=302)),
]


def _page(*, accepted: bool) -> f.AnyFault:
    """The web page, for a create that was carried out, or not."""
    return f.Status(200, envelope=False, accepted=accepted)


def _offset(chance: Random) -> float:
    return chance.choice([-1, 1]) * chance.choice([30.0, 400.0, 4000.0, DAY]) * chance.uniform(0.5, 1)


CLOCKS: Final[list[Make]] = [
    lambda chance: f.Skew(_offset(chance)),
    lambda chance: f.Drift(chance.choice([-1, 1]) * chance.choice([3.0, 60.0, 900.0])),
    lambda chance: f.Jump(chance.choice([60.0, 600.0, 2 * HOUR]) * chance.uniform(0.1, 1), _offset(chance)),
]


def draw(seed: int) -> Plan:
    """The world of this seed."""
    return _odd_entries(Random(f"{seed} odd entries"), _unkind(Random(f"{seed} unkind"), kind(seed)))


def _unkind(chance: Random, plan: Plan) -> Plan:
    """The same world; in half of them, less kind."""
    if plan.weighed or chance.random() < 0.5:
        return plan
    share = chance.choice([0.0, 0.06, 0.12, 0.25])
    faults = [
        (site, make(chance), chance.choice([0.05, 0.3, 1.0])) for site, make in LESS_KIND if chance.random() < share
    ]
    plan = replace(plan, faults=[*plan.faults, *map(_bounded, faults)])
    (make,) = chance.choices([make for make, _ in SPECIAL], weights=[weight for _, weight in SPECIAL])
    plan = make(chance, plan)
    if not plan.slow_strangers:
        plan = _stands_still(chance, refusing(chance, plan))
    return _patient(plan)


def _odd_entries(chance: Random, plan: Plan) -> Plan:
    """The same world; in some, answers are lost, and lists show batches in a form that cannot be read."""
    if plan.weighed or plan.slow_strangers or chance.random() > 0.06:
        return plan
    field = chance.choice(["request_counts", "request_counts", "processing_status", "created_at", "id", "id"])
    odd = f.OddEntry(field, share=chance.choice([0.5, 1.0]))
    faults = [_lost_answer(chance.choice([0.3, 0.7])), ("list", odd, chance.choice([0.5, 1.0, 1.0]))]
    return replace(plan, faults=[*plan.faults, *faults], lives=plan.lives or [Life(stops_at=8 * HOUR)])


def _bounded(fault: Fault) -> Fault:
    """Not so often that a job is stopped in all of its lives, or nothing is ever made."""
    site, what, rate = fault
    if isinstance(what, f.OutOfCredit | f.UsageLimit | f.Revoked | f.NullCounts | f.Redirect | f.Status | f.Deleted):
        return site, what, min(rate, 0.3)
    if isinstance(what, f.StaleAnswer):
        return site, what, max(rate, 0.3)
    return fault


def _stands_still(chance: Random, plan: Plan) -> Plan:
    """In a few, the processes stand still at many of their first effects: also between the gate and the tail."""
    if not plan.lives or chance.random() > 0.08:
        return plan
    pauses = dict.fromkeys(chance.sample(range(4, 60), 8), 61.0)
    return replace(plan, lives=[replace(plan.lives[0], pauses=pauses), *plan.lives[1:]])


def _clocks(chance: Random, plan: Plan) -> Plan:
    """`Date` is wrong; the machine may be restarted, or not tell its boot."""
    if plan.promised and chance.random() < 0.6:
        return _clock_on_purpose(chance, plan)
    kinds = chance.sample(CLOCKS, chance.choice([1, 1, 2, 3]))
    wrong: list[Fault] = [("every", make(chance), chance.choice([1.0, 1.0, 1.0, 0.5])) for make in kinds]
    plan = replace(plan, faults=[*plan.faults, *wrong], tells_boot=chance.random() < 0.8)
    reboots = chance.random() < 0.4
    lives = [replace(life, reboots=reboots and chance.random() < 0.7) for life in plan.lives]
    if plan.promised and (reboots or not plan.tells_boot) and chance.random() < 0.5:
        lives = [_with_wall_clock_right(life) for life in lives]
    elif plan.promised and (reboots or not plan.tells_boot):
        kept = [each for each in plan.faults if not isinstance(each[1], f.Jump | f.Drift | f.Skew)]
        plan = replace(plan, faults=[*kept, ("every", f.Skew(_offset(chance)), 1.0)])
    if chance.random() < 0.5:  # so that a doubt is there, and late
        late = f.LateAccept(chance.uniform(300, 599))
        plan = replace(plan, faults=[*plan.faults, ("create", chance.choice([late, f.ResetAfterAccept()]), 0.4)])
    return replace(plan, lives=lives)


def _clock_on_purpose(chance: Random, plan: Plan) -> Plan:
    """One clock alone would end a grace too early, or make a batch too old, and nothing else goes wrong."""
    plan = replace(_with_good_disk(plan), lives=[Life(stops_at=8 * HOUR)])
    nothing_made: Fault = ("create", f.ResetBeforeAccept(), chance.choice([0.3, 0.7]))
    match chance.randrange(4):
        case 0:
            jump = f.Jump(chance.uniform(60, 1200), chance.uniform(HOUR, DAY))
            return replace(plan, faults=[nothing_made, ("every", jump, 1.0)])
        case 1:
            first = Life(dies_at=chance.uniform(5, 120))
            second = Life(stops_at=8 * HOUR, reboots=True, skew=chance.uniform(HOUR, 3 * HOUR))
            return replace(plan, faults=[nothing_made], lives=[first, second])
        case 2:
            lives = [Life(dies_at=chance.uniform(1, 20)), Life(key=OTHER_KEY, stops_at=2 * HOUR), *plan.lives]
            behind = f.Skew(-chance.uniform(HOUR, DAY))
            return replace(plan, faults=[_lost_answer(0.8), ("every", behind, 1.0)], lives=lives)
        case _:
            skew = f.Skew(chance.uniform(700, DAY))
            return replace(plan, faults=[_lost_answer(chance.choice([0.6, 1.0])), ("every", skew, 1.0)])


def _with_wall_clock_right(life: Life) -> Life:
    twin = None if life.twin is None else replace(life.twin, skew=0.0)
    return replace(life, skew=0.0, twin=twin)


def _vanishing(chance: Random, plan: Plan) -> Plan:
    """Somebody deletes batches, at any stage, also those of which an answer was lost."""
    lost = [_lost_answer(chance.choice([0.3, 0.7]))] if chance.random() < 0.6 else []
    return replace(plan, faults=[*plan.faults, *lost, ("create", _deleted(chance), chance.choice([0.3, 0.7]))])


def _flapping(chance: Random, plan: Plan) -> Plan:
    """Answers are lost; what a list showed once is hidden from then on, everywhere, until the calm end."""
    hide = f.Hide(chance.choice([2 * HOUR, 60 * HOUR]), after=chance.choice([1.0, 20.0, 400.0]))
    lost = _lost_answer(chance.choice([0.3, 0.7, 1.0]))
    faults = [*_without(plan, f.Hide), lost, *_in_every_read(hide)]
    return replace(plan, faults=faults, lives=plan.lives or [Life(stops_at=8 * HOUR)])


def _slow_strangers(chance: Random, plan: Plan) -> Plan:
    """Results of batches that resemble ours hang; how soon the end of ours is seen is judged (`slow_strangers`)."""
    hang = f.Hang(chance.choice([60.0, 4000.0]), only_foreign=True)
    lost = [_lost_answer(0.3)] if chance.random() < 0.5 else []
    return replace(
        _with_good_disk(plan),
        config=replace(plan.config, poll_interval=timedelta(seconds=15), poll_interval_max=timedelta(seconds=60)),
        settings=replace(plan.settings, latency=(1.0, 1800.0)),
        faults=[*lost, ("results", hang, 1.0)],
        foreign=chance.choice([6, 12]),
        lives=[Life(stops_at=3 * HOUR)],
        slow_strangers=True,
    )


def _streaming(chance: Random, plan: Plan) -> Plan:
    """Somebody makes batches of our size all the time, and goes on with it to the calm end."""
    stream = f.ForeignStream(chance.uniform(1500, 2400), latency=HOUR, seconds=4 * DAY)
    lost: Fault = ("create", chance.choice([f.ResetAfterAccept(), f.ResetBeforeAccept(), f.ResetBeforeAccept()]), 0.5)
    plan = replace(_with_good_disk(plan), stream_goes_on=True)
    if not plan.promised or chance.random() < 0.3:
        faults: list[Fault] = [*_without(plan, f.ForeignStream), lost, ("create", stream, 1.0)]
        return replace(plan, faults=faults, lives=plan.lives[:2])
    return replace(
        plan,
        jobs=[replace(plan.jobs[0], rows=requests(chance, 0, 9))],
        config=replace(plan.config, requests_per_batch=3, uploads=1),
        faults=[lost, ("create", stream, 1.0)],
        lives=[Life(stops_at=HOUR / 2)],
    )


def _days(chance: Random, plan: Plan) -> Plan:
    """A life of sixty hours with another workspace's key, or in which everything is hidden; seen now and then."""
    first = Life(dies_at=chance.uniform(30.0, 600.0))
    latency = chance.choice([(1.0, 30.0), (HOUR, 4 * HOUR)])
    hidden: list[Fault] = []
    second = Life(key=OTHER_KEY, stops_at=60 * HOUR)
    if chance.random() < 0.5:
        second = Life(stops_at=60 * HOUR)
        sites: tuple[f.Site, ...] = chance.choice([READS, ("retrieve", "results")])
        hours, after = (chance.choice([3, 20, 56]), chance.choice([20.0, 700.0])) if len(sites) > 2 else (56, 20.0)
        for_long = f.Hide(hours * HOUR, after=after, every=(hours + 1) * HOUR)
        first, latency = replace(first, dies_at=60.0), (HOUR, 4 * HOUR)
        hidden = [(site, for_long, 1.0) for site in sites]
    return replace(
        plan,
        settings=replace(plan.settings, latency=latency),
        faults=[*(each for each in plan.faults if each[0] == "create" and chance.random() < 0.3), *hidden],
        lives=[first, second],
        slumber=0.0,
        restores=False,
        slow_polls=True,
    )


def _pool(chance: Random, plan: Plan) -> Plan:
    """Lists come from two workspaces, while some batches run for hours and answers are lost."""
    workspaces = chance.choice([POOL, ("other", "other", "other", "default"), ("other",)])
    pool = _in_every_read(f.KeyPool(workspaces))
    lost = _lost_answer(0.4)
    settings = replace(plan.settings, latency=chance.choice([(30.0, 1800.0), (2 * HOUR, 6 * HOUR)]))
    plan = replace(plan, settings=settings, faults=[*_without(plan, f.KeyPool), lost, *pool])
    if not plan.promised or chance.random() < 0.4:
        return plan
    # the first batches run already, and lists have to show them, when later ones are made
    job = replace(plan.jobs[0], source="list", rows=requests(chance, 0, 8))
    first = Life(breaks_after=chance.randrange(2, 6), stops_at=chance.uniform(60, 300))
    second = Life(after=chance.uniform(300, 1200), stops_at=8 * HOUR)
    return replace(
        _with_good_disk(plan),
        jobs=[job],
        config=replace(plan.config, requests_per_batch=chance.choice([1, 2])),
        faults=[lost, *pool],
        lives=[first, second],
    )


SPECIAL: Final[list[tuple[Callable[[Random, Plan], Plan], int]]] = [
    (lambda _, plan: plan, 24),
    (_clocks, 30),
    (_vanishing, 8),
    (_flapping, 12),
    (_slow_strangers, 5),
    (_streaming, 8),
    (_days, 10),
    (_pool, 12),
]
"""What makes a world in which one misfortune is on purpose, and its weight."""


def _lost_answer(rate: float) -> Fault:
    """Creates of which the answer is lost, so that there are doubts."""
    return ("create", f.ResetAfterAccept(), rate)


def _in_every_read(fault: f.AnyFault) -> list[Fault]:
    return [(site, fault, 1.0) for site in READS]


def _with_good_disk(plan: Plan) -> Plan:
    none = frozenset[int]()
    return replace(
        plan, full_at=none, broken_at=none, no_room_until=0.0, refuses=(0.0, 0.0), restores=False, outages=()
    )


def _without(plan: Plan, kind: type[f.AnyFault]) -> list[Fault]:
    return [each for each in plan.faults if not isinstance(each[1], kind)]


def _patient(plan: Plan) -> Plan:
    """Where something is awaited for two days, lists are far between and batches few: each look costs as much."""
    if not (plan.draws(f.Deleted) or plan.slow_polls):
        return plan
    least = 12 if plan.slow_polls else 4
    config = replace(
        plan.config,
        requests_per_batch=max(least, plan.config.requests_per_batch),
        poll_interval=min(plan.config.poll_interval, timedelta(seconds=60)),
        poll_interval_max=timedelta(seconds=1800 if plan.slow_polls else 1200),
    )
    return replace(plan, config=config, vanishing=True)
