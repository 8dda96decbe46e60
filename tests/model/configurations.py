"""The worlds that are searched: safe ones, and for each guard, rule and bound one in which it is gone.

A world that must break differs from a safe one in the one thing that it is named for. A rule is taken away by a
function that stands in for the one that has it.

Two parts of the protocol cannot be shown to be needed where the bounds hold, so each has a world beyond them. *The gate
of 60 s*: by bound A3 a tail leaves at most `stalls` ticks after its body or finds it dropped, and the grace covers
that. Where A3 is broken, the gate covers all that is slow before the commit point is durable, and only that.
*The second list of B8*: by bound A2 the first list after the grace shows every batch. The second covers a list that
lacks something for a moment.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace as replace_moment

from abatch.protocol.absence import Absence
from abatch.protocol.durations import HIDDEN_FOR
from abatch.protocol.facts import Lost, Withdrawn
from abatch.protocol.lifecycle import after
from abatch.protocol.reconcile import NoAnswer, Refused, Replied, Verdict, closing, judge, newly_seen, settle
from tests.doubts import committed_with
from tests.model.world import DAY, GIVEN_UP, NOT_OURS, PAID_TWICE, STILL_OPEN, Configuration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.protocol.clocks import Moment
    from abatch.protocol.facts import Candidate, CandidatesChanged, ShardFact, Vanished
    from abatch.protocol.lifecycle import State
    from abatch.protocol.reconcile import BatchSeen, Doubt, Known, Listing, OddEntry, Ruling

__all__ = ["BROKEN", "LONG", "SAFE", "WAITING", "Least"]

# ---- what stands in for a rule --------------------------------------------------------------------------------


def trusts_5xx(answer: Replied | NoAnswer) -> Verdict:
    """Table A with row A10 gone: an error of the server is taken as a refusal."""
    if isinstance(answer, Replied) and answer.status >= 500:
        return Refused(rule="A10", reason="5xx", remedy="")
    return judge(answer)


def trusts_3xx(answer: Replied | NoAnswer) -> Verdict:
    """Row A6 for every redirect."""
    if isinstance(answer, Replied) and 300 <= answer.status < 400:
        return Refused(rule="A6", reason="3xx", remedy="", definite=True)
    return judge(answer)


def settles_by_the_list(doubt: Doubt, listing: Listing, known: Known, **policy: float) -> Ruling:
    """Absence forgets presence: what this list lacks is no candidate."""
    shown = tuple(each for each in doubt.committed.candidates if each.batch_id in listing.shown)
    return settle(committed_with(doubt, candidates=shown), listing, known, **policy)


def settles_by_404(doubt: Doubt, listing: Listing, known: Known, **policy: float) -> Ruling:
    """What is not visible by its id is no candidate."""
    visible = tuple(each for each in doubt.committed.candidates if listing.visible(each.batch_id) is not None)
    return settle(committed_with(doubt, candidates=visible), listing, known, **policy)


def waits_for_ever(doubt: Doubt, listing: Listing, known: Known, **policy: float) -> Ruling:
    """A hidden candidate is awaited without end."""
    return settle(replace(doubt, waited=min(doubt.waited, HIDDEN_FOR)), listing, known, **policy)


def settles_by_any_list(doubt: Doubt, listing: Listing, known: Known, **policy: float) -> Ruling:
    """Every list is taken for complete."""
    return settle(doubt, listing, replace(known, live={}), **policy)


def settles_by_one_list(doubt: Doubt, listing: Listing, known: Known, **policy: float) -> Ruling:
    """B8 without its second list."""
    return settle(replace(doubt, empty_at=-inf), listing, known, **policy)


def settles_by_named_entries(doubt: Doubt, listing: Listing, known: Known, **policy: float) -> Ruling:
    """An entry without a usable id is no batch."""
    return settle(doubt, replace(listing, unnamed=None), known, **policy)


def ignores_odd(doubt: Doubt, entries: Iterable[OddEntry], known: Known) -> tuple[Candidate, ...]:
    """An entry that cannot be read is no batch."""
    return ()


def sees_by_date(doubt: Doubt, batches: Iterable[BatchSeen], known: Known) -> tuple[Candidate, ...]:
    """Too old is what `Date` says is too old."""
    return newly_seen(committed_with(doubt, newest=None), batches, known)


def sees_by_newest(doubt: Doubt, batches: Iterable[BatchSeen], known: Known) -> tuple[Candidate, ...]:
    """Too old is what the newest batch says is too old."""
    return newly_seen(committed_with(doubt, date=inf), batches, known)


def closes_by_date(doubt: Doubt, listing: Listing, known: Known, *, grace: float) -> CandidatesChanged | None:
    """Of this machine's time, which is a second witness for too late, nothing is left."""
    at = replace_moment(listing.at, wall=0.0)
    return closing(doubt, replace(listing, at=at), known, grace=grace)


def never_closes(doubt: Doubt, listing: Listing, known: Known, *, grace: float) -> None:
    """A batch is a candidate, however late it was made."""


def elapsed_by_date(earlier: Moment, later: Moment) -> float:
    """The grace by the server's clock."""
    return max(0.0, later.date - earlier.date)


def elapsed_here(earlier: Moment, later: Moment) -> float:
    """The grace by this machine's clock."""
    return later.boot - earlier.boot if earlier.boot_id == later.boot_id else later.wall - earlier.wall


def never_misses(absence: Absence, now: Moment, vanished: Moment | None) -> None:
    """A batch of ours is waited for without end."""


def misses_once(absence: Absence, now: Moment, vanished: Moment | None) -> Lost:
    """A batch of ours is lost at its first 404."""
    return Lost(why="404")


def misses_by_record(absence: Absence, now: Moment, vanished: Moment | None) -> Vanished | Lost | None:
    """Of the hour in which this process, too, must have missed the batch, nothing is left."""
    if vanished is not None:
        absence._first = vanished
        absence._last = now
    return absence.missed(now, vanished)


def lost_is_not_created(state: State | None, fact: ShardFact) -> State:
    """What an operator gives up is taken for never created."""
    return after(state, Withdrawn(why=fact.why) if isinstance(fact, Lost) else fact)


# ---- the protocol and its bounds ------------------------------------------------------------------------------

ONE: Final = Configuration(name="one shard, two kills", kills=2, horizon=7)
"""Every answer and loss of one shard's creates, with kills at every point; the bounds add up to the grace."""

PROMPT: Final = Configuration(name="", kills=0, decided=1, visible=0, stalls=0, grace=1, horizon=4)
"""Small bounds, so that worlds of more shards or processes stay small."""

EQUALS: Final = replace(
    PROMPT,
    name="two shards of equal size in doubt, a stranger's batch",
    shards=2,
    strangers=1,
    attempts=1,
    horizon=3,
    lost=True,
    from_doubt=True,
)
KILLED: Final = replace(EQUALS, name="two shards of equal size in doubt, a kill", strangers=0, kills=1)
AGAIN: Final = replace(KILLED, name="two shards of equal size in doubt, both sent again", kills=0, attempts=2)
RIVALS: Final = replace(
    PROMPT, name="two processes without the lock, only the fence", processes=2, horizon=3, lost=True
)
LATE: Final = replace(
    PROMPT,
    name="two processes without the lock, late answers",
    processes=2,
    horizon=3,
    attempts=3,
    from_doubt=True,
)
OTHER_KEY: Final = replace(ONE, name="a restart with the key of another workspace", kills=1, other_key=True, horizon=6)
HOLD: Final = replace(
    ONE,
    name="unresolved=hold, no bound of time holds",
    kills=1,
    hold=True,
    decided=None,
    visible=None,
    stalls=None,
    horizon=6,
)

UNNAMED: Final = replace(
    ONE,
    name="every answer a 2xx that cannot be read, no bound of time holds",
    kills=0,
    unreadable=True,
    decided=None,
    visible=None,
)

# ---- worlds less kind -----------------------------------------------------------------------------------------

DOUBT: Final = replace(PROMPT, name="one shard in doubt, a kill", from_doubt=True, lost=True, kills=1, horizon=5)
"""One shard whose create is on its way and never answered."""

FLAPS: Final = replace(DOUBT, name="a list that hides what it has shown, for ever", flaps="lists")
HIDDEN: Final = replace(FLAPS, name="what was shown is hidden from lists and by id, for ever", flaps="all")
AWAITED: Final = replace(
    HIDDEN,
    name="what was shown is hidden for days: the doubt ends",
    tick=DAY / 2,
    horizon=8,
    ends=True,
    runs=2,
    attempts=1,
)
STRANGE_RIVALS: Final = replace(
    HIDDEN,
    name="hidden batches, two processes, an older foreign batch",
    processes=2,
    kills=0,
    horizon=3,
    old_batches=(0,),
)
FLAPPING_RIVALS: Final = replace(HIDDEN, name="hidden batches, and two processes", processes=2, kills=0, horizon=3)
PARTS: Final = replace(DOUBT, name="lists of one part of two, with a batch of ours in each", parts=2, companions=(0, 1))
HICCUP: Final = replace(DOUBT, name="a list that lacks anything for a minute", hiccups=1)
ODD: Final = replace(
    DOUBT, name="lists in a form that cannot be read, and a stranger's batch", odd="named", strangers=1, attempts=2
)
WITHOUT_IDS: Final = replace(DOUBT, name="lists without ids", odd="unnamed", attempts=2)
DATE_JUMPS: Final = replace(DOUBT, name="`Date` jumps ahead", decided=2, grace=3, date_jump=20, horizon=7)
WALL_JUMPS: Final = replace(
    DOUBT, name="the machine starts again with its time set ahead", decided=2, grace=3, wall_jump=20, horizon=7
)
DATE_AHEAD: Final = replace(
    DOUBT, name="`Date` is ahead of created_at by twenty minutes", offset=20, old_batches=(-30,), attempts=2
)
DATE_BEHIND: Final = replace(
    DATE_AHEAD,
    name="`Date` is behind created_at, lists lack something, other keys",
    offset=-20,
    hiccups=1,
    kills=2,
    other_key=True,
)
STAMPED_AHEAD: Final = replace(
    DOUBT, name="a batch before was stamped twenty minutes ahead", old_batches=(20,), attempts=2
)
STREAM: Final = replace(
    DOUBT,
    name="foreign batches of equal size keep coming: the doubt ends",
    kills=0,
    attempts=1,
    tick=300.0,
    stream=True,
    runs=2,
    ends=True,
    horizon=9,
)
DELETED: Final = replace(
    DOUBT,
    name="somebody deletes a batch of ours: it is lost, and the doubt beside it ends",
    companions=(0,),
    tick=DAY / 2,
    deletions=1,
    deletes_until=1,
    runs=2,
    ends=True,
    horizon=10,
    attempts=1,
)
GONE_BY_KEY: Final = replace(
    PROMPT,
    name="a restart with another key loses nothing",
    shards=0,
    companions=(0,),
    tick=DAY / 2,
    deletions=1,
    kills=2,
    other_key=True,
    hiccups=1,
    horizon=7,
)
WORDS: Final = replace(
    RIVALS, name="an operator gives up what two processes are at", gives_up=True, from_doubt=True, horizon=3
)
SLOW: Final = replace(
    ONE,
    name="bound A3 broken, and all is slow but the tail",
    stalls=None,
    prompt=True,
    kills=1,
    lost=True,
    horizon=8,
)
IMITATED: Final = replace(
    ONE,
    name="a gateway refuses in the API's words what it passed on, refusals=doubt",
    imitated=True,
    doubted=True,
    kills=0,
)

WAITING: Final = (OTHER_KEY, HOLD, UNNAMED, AWAITED)
"""Where shards also wait for an operator."""

ANSWERS: Final = frozenset({"A4", "A5", "A6", "A8", "A9", "A10", "A11"})
DOUBTS: Final = frozenset({"B2", "B6", "B7", "B8"})
EVERY_ROW: Final = ANSWERS | DOUBTS
"""Every row of tables A and B that the model can come to, but B5."""


class Least(NamedTuple):
    """What a search must have come to, so that one which explores nothing fails."""

    states: int
    rules: frozenset[str] = EVERY_ROW
    """Exactly these rows of the tables."""


OF_DOUBT: Final = DOUBTS | {"A11"}
"""What a world comes to in which nothing is answered."""

SAFE: Final = {
    ONE: Least(26_000),
    DOUBT: Least(800, OF_DOUBT),
    KILLED: Least(7_000, OF_DOUBT),
    AGAIN: Least(6_100, OF_DOUBT),
    RIVALS: Least(22_000, OF_DOUBT),
    OTHER_KEY: Least(18_000),
    HOLD: Least(17_000),
    UNNAMED: Least(2_900, DOUBTS | {"A5"}),
    FLAPS: Least(800, OF_DOUBT),
    HIDDEN: Least(800, OF_DOUBT),
    FLAPPING_RIVALS: Least(5_000, OF_DOUBT),
    STRANGE_RIVALS: Least(11_000, OF_DOUBT),
    AWAITED: Least(410, OF_DOUBT | {"B5"}),
    PARTS: Least(1_300, OF_DOUBT - {"B8"}),
    HICCUP: Least(4_800, OF_DOUBT),
    ODD: Least(27_000, OF_DOUBT | {"B11"}),
    WITHOUT_IDS: Least(900, OF_DOUBT | {"B11"}),
    DATE_JUMPS: Least(5_800, OF_DOUBT),
    WALL_JUMPS: Least(2_900, OF_DOUBT),
    DATE_AHEAD: Least(910, OF_DOUBT),
    DATE_BEHIND: Least(21_000, OF_DOUBT),
    STAMPED_AHEAD: Least(910, OF_DOUBT),
    STREAM: Least(2_000, OF_DOUBT),
    DELETED: Least(3_000, OF_DOUBT | {"B5"}),
    GONE_BY_KEY: Least(10_000, frozenset()),
    WORDS: Least(9_100, OF_DOUBT),
    SLOW: Least(10_000, OF_DOUBT),
    IMITATED: Least(6_500, EVERY_ROW - {"A8"}),
}
"""Nothing may go wrong in these."""

LONG: Final = {
    EQUALS: Least(59_000, OF_DOUBT),
    LATE: Least(130_000),
    replace(LATE, name="two processes without the lock, late answers, longer", horizon=4): Least(350_000),
    replace(RIVALS, name="two processes without the lock, from the first step", lost=False): Least(110_000),
    replace(ONE, name="one shard, three kills, longer", kills=3, horizon=9): Least(64_000),
    replace(KILLED, name="two shards of equal size in doubt, a kill, longer", horizon=4): Least(10_000, OF_DOUBT),
    replace(AGAIN, name="two shards of equal size in doubt, both sent again, longer", horizon=4): Least(
        15_000, OF_DOUBT
    ),
    replace(FLAPPING_RIVALS, name="hidden batches, two processes and a kill", kills=1, horizon=4): Least(
        51_000, OF_DOUBT
    ),
    replace(HIDDEN, name="hidden batches, and a stranger's", strangers=1, horizon=6): Least(28_000, OF_DOUBT),
    replace(PARTS, name="lists of one part of two, and a stranger's batch", strangers=1): Least(
        20_000, OF_DOUBT - {"B8"}
    ),
    replace(HICCUP, name="a list that lacks anything for a minute, and a stranger's batch", strangers=1): Least(
        84_000, OF_DOUBT
    ),
    replace(DATE_JUMPS, name="`Date` jumps ahead, from the first step", from_doubt=False, lost=False): Least(82_000),
    replace(STREAM, name="foreign batches of equal size keep coming, a kill", kills=1): Least(7_300, OF_DOUBT),
}
"""The same, for a machine that has time."""

BROKEN: Final = (
    replace(
        ONE,
        name="no gate: the whole body flows behind the commit point",
        breaks=PAID_TWICE,
        order=("date", "commit", "upload", "tail", "answer"),
    ),
    replace(
        ONE,
        name="the commit point after the tail",
        breaks=PAID_TWICE,
        order=("upload", "tail", "commit", "answer"),
    ),
    replace(SLOW, name="no gate of 60 s", breaks=PAID_TWICE, gate=inf),
    replace(DOUBT, name="a grace shorter than the bounds", breaks=PAID_TWICE, grace=0),
    replace(OTHER_KEY, name="no guard of the key", breaks=PAID_TWICE, guard=False),
    replace(EQUALS, name="a claim by size, before proof", breaks=NOT_OURS, proof=False),
    replace(ONE, name="the SDK's own retries", breaks=PAID_TWICE, sdk_retry=True),
    replace(ONE, name="a 5xx taken as a refusal", breaks=PAID_TWICE, judge=trusts_5xx),
    replace(ONE, name="a 303 taken as a refusal", breaks=PAID_TWICE, judge=trusts_3xx),
    replace(IMITATED, name="a gateway that refuses in the API's words is believed", breaks=PAID_TWICE, doubted=False),
    replace(RIVALS, name="no fence", breaks=PAID_TWICE, fence=False),
    replace(LATE, name="verdicts not tied to their attempt", breaks=NOT_OURS, pinned=False),
    replace(FLAPS, name="candidates only of the last list", breaks=PAID_TWICE, settle=settles_by_the_list),
    replace(HIDDEN, name="a 404 by id taken for not ours", breaks=PAID_TWICE, settle=settles_by_404),
    replace(HIDDEN, name="candidates remembered by the process, not recorded", breaks=PAID_TWICE, durable=False),
    replace(AWAITED, name="a hidden candidate is awaited for ever", breaks=STILL_OPEN, settle=waits_for_ever),
    replace(
        PARTS, name="a list that lacks a live batch of ours is believed", breaks=PAID_TWICE, settle=settles_by_any_list
    ),
    replace(ODD, name="odd entries are ignored", breaks=PAID_TWICE, newly_odd=ignores_odd),
    replace(
        WITHOUT_IDS,
        name="entries without ids are ignored",
        breaks=PAID_TWICE,
        settle=settles_by_named_entries,
    ),
    replace(HICCUP, name="one list instead of two", breaks=PAID_TWICE, settle=settles_by_one_list),
    replace(DATE_JUMPS, name="the grace by `Date` alone", breaks=PAID_TWICE, elapsed=elapsed_by_date),
    replace(WALL_JUMPS, name="the grace by this machine's clock alone", breaks=PAID_TWICE, elapsed=elapsed_here),
    replace(DATE_AHEAD, name="too old by `Date` alone", breaks=PAID_TWICE, newly_seen=sees_by_date),
    replace(STAMPED_AHEAD, name="too old by the newest batch alone", breaks=PAID_TWICE, newly_seen=sees_by_newest),
    replace(DATE_BEHIND, name="too late by `Date` alone", breaks=PAID_TWICE, closing=closes_by_date),
    replace(STREAM, name="candidates never close", breaks=STILL_OPEN, closing=never_closes),
    replace(DELETED, name="a deleted batch is awaited for ever", breaks=STILL_OPEN, missed=never_misses),
    replace(GONE_BY_KEY, name="a batch is lost at its first 404", breaks=GIVEN_UP, missed=misses_once),
    replace(
        GONE_BY_KEY,
        name="a batch is lost though its process missed it just now",
        breaks=GIVEN_UP,
        missed=misses_by_record,
    ),
    replace(GONE_BY_KEY, name="a batch is lost under any key", breaks=GIVEN_UP, guard=False),
    replace(WORDS, name="what is given up is sent again", breaks=PAID_TWICE, after=lost_is_not_created),
    replace(DOUBT, name="bound A1 or A4 broken: a create is accepted late", breaks=PAID_TWICE, decided=None),
    replace(DOUBT, name="bound A2 broken: the list does not show a batch", breaks=PAID_TWICE, visible=None),
    replace(SLOW, name="bound A3 broken: a stalled body lives on", breaks=PAID_TWICE, prompt=False),
    replace(ONE, name="bound A5 broken: something on the way repeats a POST", breaks=PAID_TWICE, repeats=1),
    replace(WALL_JUMPS, name="bound A6 broken: both clocks jump", breaks=PAID_TWICE, date_jump=20),
    replace(PARTS, name="bound A7 broken: a part without a batch of ours", breaks=PAID_TWICE, companions=(0,)),
    replace(
        DELETED,
        name="a batch is deleted before any look showed it",
        breaks=PAID_TWICE,
        deletes_unseen=True,
        attempts=2,
        ends=False,
        companions=(),
    ),
    replace(
        FLAPPING_RIVALS,
        name="the only look that showed a batch is not recorded where another process was first",
        breaks=PAID_TWICE,
        old_batches=(0,),
        keeps_overtaken=False,
    ),
    replace(HOLD, name="unresolved=hold, and a POST is repeated", breaks=PAID_TWICE, repeats=1),
    replace(ONE, name="a copy of the journal is put back", breaks=PAID_TWICE, restored=True),
)
"""Each must have a counterexample."""
