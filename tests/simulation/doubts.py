"""Judge how doubts ended, what was given up as lost, and what the monitors of the clocks said.

Times are those of the world's own clock, which no process can read: what a process believed by its two clocks is
compared with what had truly passed. Two drivers at once are left out where a fact says nothing of the one who saw.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from abatch.engine.wishes import CALLED_LOST
from abatch.protocol.absence import WHY
from abatch.sandbox.batches import Ended
from abatch.sandbox.faults import Drift, Hide, Jump, KeyPool, SameInstant
from tests.simulation.plan import OTHER_KEY
from tests.simulation.witness import tag_of

if TYPE_CHECKING:
    from abatch.protocol.lifecycle import InDoubt
    from tests.simulation.oracles import Absence, Book, GivenUp
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["check_ended", "check_monitor", "check_monitors", "judge_doubts", "may_be_held"]

HOUR: Final = 3600.0
LOST_AFTER: Final = 48 * HOUR
LOOKS_TAKE: Final = 22 * HOUR
"""Seconds that the looks at a candidate's results take together."""
SLACK: Final = 5.0
"""`Date` has whole seconds, and a fact is durable a moment after it was decided."""
CREATE_TAKES: Final = 700.0
"""Seconds from the gate of a create to its answer, at most."""
TOLD: Final = 58.0
"""Seconds of difference between the clocks that are not told."""
STABLE: Final = 290.0
"""Seconds by which the difference may change and count as stable."""


# ---- while it runs --------------------------------------------------------------------------------------------


def check_ended(world: World, process: Process, shard: int) -> None:
    """The end of a batch of ours is seen soon, however slow the results of others are."""
    batch_id, since = world.witness.watched.get(shard, ("", 0.0))
    if not world.plan.slow_strangers or not batch_id:
        return
    state = world.machine.batch(batch_id).state
    assert isinstance(state, Ended)
    world.hit("end seen beside slow strangers")
    late = world.now() - max(world.at(state.at), since, process.began_at)
    limit = 1.1 * world.plan.config.longest_poll_interval.total_seconds() + 15
    if late > limit:
        world.violation(f"delay: the end of {batch_id} was seen after {late:.0f} s; {limit:.0f} s are the longest wait")


def check_monitor(world: World, process: Process, event: str) -> None:
    """A monitor was heard: its bound must be broken, or nobody can tell that it is not.

    A1 is measured by `Date` and `created_at` of a process that may have had no answer to tell how they differ: where
    `Date` is wrong it may be heard. A2 is heard where a batch is hidden again before this process has seen it.
    """
    plan = world.plan
    match event:
        case "bound_A1_broken":
            kept = plan.promised and not plan.clocks
        case "bound_A2_broken":
            kept = plan.promised and not plan.draws(Hide, KeyPool, site="list")
        case "bound_A6_broken":
            process.heard.add(event)
            (_, before), (_, now) = ([(0.0, 0.0), *process.offsets])[-2:]
            kept = not plan.clocks or (_tells(world) and len(process.offsets) > 1 and abs(now - before) < STABLE)
            one_scope = len({work.workspace_id for work in world.plan.jobs}) == 1
            kept = kept and one_scope and not _changes_within_a_create(world, process)
        case "clocks_differ":
            process.heard.add(event)
            same = all(abs(ahead) < TOLD for _, ahead in process.offsets)
            kept = _tells(world) and same and not _changes_within_a_create(world, process)
        case _:
            kept = False
    if kept:
        world.violation(f"{event}, and no bound is broken")


def check_monitors(world: World, process: Process) -> None:
    """The monitors of A6 were heard where the clocks differed by far, or changed by far, between accepted creates."""
    if not _tells(world) or len({work.workspace_id for work in world.plan.jobs}) > 1:
        return
    known = [(at, ahead) for at, ahead in process.offsets if ahead == world.plan.ahead(max(0.0, at - CREATE_TAKES))]
    if any(abs(ahead) > 2 * CREATE_TAKES for _, ahead in known) and "clocks_differ" not in process.heard:
        world.violation(f"A6: {process.name} was not told that the clocks differ by {known[0][1]:.0f} s")
    if len(known) < len(process.offsets):
        return
    for (_, one), (_, other) in pairwise(known):
        if abs(one - other) > 4 * CREATE_TAKES and "bound_A6_broken" not in process.heard:
            world.violation(f"A6: {process.name} was not told that the clocks changed by {other - one:.0f} s")


def _tells(world: World) -> bool:
    """Whether `Date` is as wrong at one call as at the next."""
    return all(rate == 1.0 for _, rate in world.plan.clocks) and not world.plan.draws(SameInstant)


def _changes_within_a_create(world: World, process: Process) -> bool:
    recent = process.offsets[-2:]
    return any(abs(ahead - world.plan.ahead(max(0.0, at - CREATE_TAKES))) > 1 for at, ahead in recent) and any(
        isinstance(fault, Drift | Jump) for fault, _ in world.plan.clocks
    )


# ---- at the end -----------------------------------------------------------------------------------------------


def judge_doubts(world: World, book: Book) -> None:
    """Of each doubt that ended in "nothing was made", and of each batch that was given up."""
    if world.restored or world.plan.fenced:
        return
    if world.plan.promised:
        for absence in book.absences:
            _judge_absence(world, book, absence)
    for given_up in book.given_up:
        _judge_given_up(world, given_up)


def _judge_absence(world: World, book: Book, absence: Absence) -> None:
    number, attempt, doubt = absence.shard, absence.doubt.attempt, absence.doubt
    where = f"shard {number} attempt {attempt} was sent again"
    withdrawal = world.witness.withdrawn[number, attempt]
    committed = world.witness.committed[number, attempt]
    grace = (world.plan.config.grace or timedelta(minutes=45)).total_seconds()
    if withdrawal.at - committed < grace - SLACK:
        world.violation(f"grace: {where} after {withdrawal.at - committed:.0f} s; the grace is {grace:.0f} s")
    for each in doubt.candidates:
        if not _is_explained(world, book, each.batch_id, withdrawal.at):
            world.violation(f"B8: {where} although {each.batch_id} may be it")
    known = {each.batch_id for each in doubt.candidates} | doubt.foreign
    job = book.key_of(number)
    named = next((work.workspace_id for work in world.jobs if work.key == job), None)
    for batch in world.machine.batches():
        created = world.at(batch.created_at)
        if (
            batch.batch_id not in known
            and len(batch.requests) == absence.rows
            and batch.workspace.partition("/")[2] == (named or "")
            and committed <= created <= committed + grace
            and world.witness.was_shown(batch.batch_id, withdrawal.process, committed, withdrawal.at - SLACK)
            and not _is_explained(world, book, batch.batch_id, withdrawal.at)
        ):
            world.violation(f"B8: {where} although the API had shown {batch.batch_id}, which may be it")


def _is_explained(world: World, book: Book, batch_id: str, until: float) -> bool:
    """Whether something says that a batch is not an attempt's: it is another one's, or its results were read."""
    return batch_id in book.bound or any(read.at < until for read in world.reads.get(batch_id, []))


def _judge_given_up(world: World, given_up: GivenUp) -> None:
    number, batch_id, why = given_up.shard, given_up.batch_id, given_up.why
    world.hit("lost by word" if why == CALLED_LOST else "lost after two days")
    at, process = world.witness.given_up[number]
    deleted = world.witness.removed.get(batch_id or "")
    where = f"shard {number} ({batch_id}) was given up: {why}"
    if why == CALLED_LOST:
        made = [batch for batch in world.machine.batches() if tag_of(batch) == (number, given_up.attempt)]
        if not any(batch.batch_id in world.witness.removed for batch in made if not batch.foreign):
            world.violation(f"lost: {where}, and nobody deleted it")
        return
    assert why == WHY
    assert batch_id is not None
    batch = world.machine.batch(batch_id)
    others_key = (process.life.key == OTHER_KEY) != batch.workspace.startswith("other")
    if others_key and not world.witness.shown.get(batch_id, {}).get(process):
        world.violation(f"lost: {where}, by a key of another workspace")
    _, known_since = world.witness.watched[number]
    last = max(world.witness.last_shown(batch_id, at) or 0.0, known_since)
    if at - last < LOST_AFTER - SLACK:
        world.violation(f"lost: {where}, {(at - last) / HOUR:.1f} hours after it was seen (deleted: {deleted})")


def may_be_held(world: World, number: int, doubt: InDoubt, reason: str) -> bool:
    """B5: a candidate was invisible to the end of the second day, or nothing could be read of it for a day."""
    age = world.now() - world.witness.committed.get((number, doubt.attempt), world.now())
    if "is not visible any more" in reason:
        return bool(doubt.candidates) and age >= LOST_AFTER - SLACK
    if "cannot be read any more" in reason:
        made = (world.at(world.machine.batch(each.batch_id).created_at) for each in doubt.candidates)
        old = any(world.now() - at > LOOKS_TAKE for at in made)
        return old and any(site in ("results", "every") for site, _, _ in world.plan.faults)
    return "sent no line that proves it ours" in reason
