"""The life of a shard: every fact in every state, against the table of the module's docstring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from abatch.errors import IllegalTransition
from abatch.protocol import facts, lifecycle
from abatch.protocol.clocks import Moment
from abatch.protocol.facts import Counts, SealedRecord
from abatch.protocol.lifecycle import (
    Abandon,
    Dead,
    Done,
    Drain,
    Draining,
    GiveUp,
    Held,
    InDoubt,
    Lost,
    Processing,
    Ready,
    Rejected,
    Settle,
    Upload,
    Watch,
    after,
    next_action,
)
from tests.unit.make import NOON, committing, drained, planned

THEN = Moment(date=NOON, boot=5.0, boot_id="b", wall=NOON)
ONE, OTHER = (facts.Candidate(batch_id=f"msgbatch_{n}", created_at=NOON + n) for n in (1, 2))
FACTS = {
    "Planned": planned(),
    "Committing": facts.Committing(attempt=3, date=NOON, fingerprint="f"),
    "Candidates": facts.CandidatesChanged(seen=(ONE, OTHER), foreign=("msgbatch_2",), closed_at=NOON + 9),
    "Unreadable": facts.Unreadable(status=200),
    "Accepted": facts.Accepted(batch_id="msgbatch_a", created_at=NOON + 1),
    "Found": facts.Found(batch_id="msgbatch_f", created_at=NOON + 2, by="tag"),
    "CancelledAsParked": facts.CancelledAsParked(why="has not moved for 9 h"),
    "Withdrawn": facts.Withdrawn(why="429"),
    "Rejected": facts.Rejected(error="{}"),
    "Vanished": facts.Vanished(since=THEN),
    "Reappeared": facts.Reappeared(),
    "Lost": facts.Lost(why="w"),
    "Ended": facts.Ended(counts=Counts(succeeded=10)),
    "Drained": drained(),
    "Reopened": facts.Reopened(why="w"),
    "Split": facts.Split(into=(8, 9)),
    "Unplanned": facts.Unplanned(),
    "Abandoned": facts.Abandoned(why="canceled", counts=Counts(canceled=10), sealed=SealedRecord(part=0, lines=10)),
    "Held": facts.Held(reason="who knows"),
}
BY_OPERATOR = facts.Found(batch_id="msgbatch_o", created_at=NOON + 3, by="operator")

DOUBT = InDoubt(attempt=2, date=NOON, fingerprint="f")
CERTAIN = InDoubt(attempt=2, date=NOON, fingerprint="f", certain=True)
WITH_CANDIDATES = InDoubt(
    attempt=2,
    date=NOON,
    fingerprint="f",
    candidates=(ONE,),
    foreign=frozenset({"msgbatch_2"}),
    closed_at=NOON + 9,
)
PROCESSING = Processing(doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=True)
PARKED = Processing(doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=True, parked=True)
NAMED = Processing(doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=False)
DRAINING = Draining(doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=True, counts=Counts(succeeded=10))
DRAINING_PARKED = Draining(
    doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=True, counts=Counts(succeeded=10), parked=True
)
DRAINING_NAMED = Draining(
    doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=False, counts=Counts(succeeded=10)
)
VANISHED = Processing(doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=True, vanished=THEN)
DRAINING_VANISHED = Draining(
    doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=True, counts=Counts(succeeded=10), vanished=THEN
)
DONE_PARKED = Done(drained=drained(), doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, parked=True)
DONE = Done(drained=drained(), doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON)
NEVER_KNOWN = Lost(doubt=DOUBT, batch_id=None, created_at=NOON, why="w")
LOST = Lost(doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, why="w")
STATES = {
    "nothing": None,
    "Ready": Ready(attempt=2),
    "InDoubt": DOUBT,
    "InDoubt, certain": CERTAIN,
    "Held": Held(doubt=DOUBT, reason="r"),
    "Held, certain": Held(doubt=CERTAIN, reason="r"),
    "Processing": PROCESSING,
    "Processing, named by an operator": NAMED,
    "Processing, cancelled as parked": PARKED,
    "Draining": DRAINING,
    "Draining, cancelled as parked": DRAINING_PARKED,
    "Draining, named by an operator": DRAINING_NAMED,
    "Processing, vanished": VANISHED,
    "Draining, vanished": DRAINING_VANISHED,
    "Lost": LOST,
    "Lost, never known": NEVER_KNOWN,
    "Rejected": Rejected(error="{}"),
    "Done": DONE,
    "Done, cancelled as parked": DONE_PARKED,
    "Done, never known": Done(drained=drained(gone="w"), doubt=DOUBT, batch_id=None, created_at=NOON),
    "Dead, split": Dead(end=facts.Split(into=(8, 9))),
    "Dead, planned once more": Dead(end=facts.Unplanned()),
    "Dead, abandoned": Dead(end=FACTS["Abandoned"]),
}


def processing(doubt: InDoubt, batch_id: str, created_at: float) -> Processing:
    return Processing(doubt=doubt, batch_id=batch_id, created_at=created_at, proven=True)


LEGAL = {
    ("nothing", "Planned"): Ready(attempt=0),
    ("Ready", "Committing"): InDoubt(attempt=3, date=NOON, fingerprint="f"),
    ("Ready", "Split"): Dead(end=FACTS["Split"]),
    ("Ready", "Unplanned"): Dead(end=FACTS["Unplanned"]),
    ("Ready", "Abandoned"): Dead(end=FACTS["Abandoned"]),
    ("Ready", "Rejected"): Rejected(error="{}"),
    ("Rejected", "Abandoned"): Dead(end=FACTS["Abandoned"]),
    ("InDoubt", "Rejected"): Rejected(error="{}"),
    ("InDoubt", "Candidates"): WITH_CANDIDATES,
    ("InDoubt, certain", "Candidates"): replace(WITH_CANDIDATES, certain=True),
    ("Held", "Candidates"): Held(doubt=WITH_CANDIDATES, reason="r"),
    ("Held, certain", "Candidates"): Held(doubt=replace(WITH_CANDIDATES, certain=True), reason="r"),
    ("InDoubt", "Unreadable"): CERTAIN,
    ("InDoubt", "Accepted"): processing(DOUBT, "msgbatch_a", NOON + 1),
    ("InDoubt", "Found"): processing(DOUBT, "msgbatch_f", NOON + 2),
    ("InDoubt", "Withdrawn"): Ready(attempt=2),
    ("InDoubt", "Held"): Held(doubt=DOUBT, reason="who knows"),
    ("InDoubt, certain", "Rejected"): Rejected(error="{}"),
    ("InDoubt, certain", "Unreadable"): CERTAIN,
    ("InDoubt, certain", "Accepted"): processing(CERTAIN, "msgbatch_a", NOON + 1),
    ("InDoubt, certain", "Found"): processing(CERTAIN, "msgbatch_f", NOON + 2),
    ("InDoubt, certain", "Withdrawn"): Ready(attempt=2),
    ("InDoubt, certain", "Held"): Held(doubt=CERTAIN, reason="who knows"),
    ("Held", "Found"): processing(DOUBT, "msgbatch_f", NOON + 2),
    ("Held", "Withdrawn"): Ready(attempt=2),
    ("Held, certain", "Found"): processing(CERTAIN, "msgbatch_f", NOON + 2),
    ("Held, certain", "Withdrawn"): Ready(attempt=2),
    ("Processing", "CancelledAsParked"): PARKED,
    ("Processing", "Ended"): DRAINING,
    ("Processing, cancelled as parked", "Ended"): DRAINING_PARKED,
    ("Processing, named by an operator", "Ended"): DRAINING_NAMED,
    ("Processing, named by an operator", "Held"): Held(doubt=DOUBT, reason="who knows"),
    ("Draining", "Drained"): DONE,
    ("Draining, named by an operator", "Drained"): DONE,
    ("Draining, cancelled as parked", "Drained"): DONE_PARKED,
    ("Draining, named by an operator", "Held"): Held(doubt=DOUBT, reason="who knows"),
    ("InDoubt", "Lost"): NEVER_KNOWN,
    ("InDoubt, certain", "Lost"): Lost(doubt=CERTAIN, batch_id=None, created_at=NOON, why="w"),
    ("Held", "Lost"): NEVER_KNOWN,
    ("Held, certain", "Lost"): Lost(doubt=CERTAIN, batch_id=None, created_at=NOON, why="w"),
    ("Processing", "Lost"): replace(LOST, proven=True),
    ("Processing, named by an operator", "Lost"): LOST,
    ("Processing, vanished", "Lost"): replace(LOST, proven=True),
    ("Processing", "Vanished"): VANISHED,
    ("Processing, named by an operator", "Vanished"): Processing(
        doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=False, vanished=THEN
    ),
    ("Processing, vanished", "Reappeared"): PROCESSING,
    ("Processing, vanished", "Ended"): DRAINING,
    ("Draining", "Vanished"): DRAINING_VANISHED,
    ("Draining, named by an operator", "Vanished"): Draining(
        doubt=DOUBT, batch_id="msgbatch_p", created_at=NOON, proven=False, counts=Counts(succeeded=10), vanished=THEN
    ),
    ("Draining, vanished", "Reappeared"): DRAINING,
    ("Draining, vanished", "Drained"): DONE,
    ("Lost", "Drained"): DONE,
    ("Lost, never known", "Drained"): Done(drained=drained(), doubt=DOUBT, batch_id=None, created_at=NOON),
    ("Done, never known", "Reopened"): NEVER_KNOWN,
    ("Processing, cancelled as parked", "Vanished"): replace(PARKED, vanished=THEN),
    ("Processing, cancelled as parked", "Lost"): replace(LOST, proven=True),
    ("Draining, cancelled as parked", "Vanished"): replace(DRAINING_PARKED, vanished=THEN),
    ("Processing, vanished", "CancelledAsParked"): replace(VANISHED, parked=True),
    ("Done, cancelled as parked", "Reopened"): replace(DRAINING_PARKED, earlier=drained()),
    ("Done", "Reopened"): Draining(
        doubt=DOUBT,
        batch_id="msgbatch_p",
        created_at=NOON,
        proven=True,
        counts=Counts(succeeded=10),
        earlier=drained(),
    ),
}
EVERY = [(state, fact) for state in STATES for fact in FACTS]


@pytest.mark.parametrize(("state", "fact"), [pair for pair in EVERY if pair in LEGAL])
def test_a_legal_move_gives_the_state_of_the_table(state, fact):
    assert after(STATES[state], FACTS[fact]) == LEGAL[state, fact]


@pytest.mark.parametrize(("state", "fact"), [pair for pair in EVERY if pair not in LEGAL])
def test_every_other_move_is_illegal(state, fact):
    with pytest.raises(IllegalTransition) as refused:
        after(STATES[state], FACTS[fact])
    assert (refused.value.state, refused.value.fact) == (STATES[state], FACTS[fact])


def test_the_docstring_holds_the_same_table():
    table = [line for line in (lifecycle.__doc__ or "").splitlines() if line.startswith("|")]
    head, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    stated = {
        (state, fact): move.rstrip("¹²³")
        for names, *moves in body
        for state in names.split(", ")
        for fact, move in zip(head[1:], moves, strict=True)
        if move
    }
    tried = {
        (state.partition(",")[0], fact): type(to).__name__
        for (state, fact), to in LEGAL.items()
        if fact != "Planned" and (state, fact) != ("Done, never known", "Reopened")
    }
    assert stated == tried


def test_the_facts_of_this_test_are_all_facts_of_a_shard():
    assert {type(fact) for fact in FACTS.values()} == set(facts.ShardFact.__args__)


@pytest.mark.parametrize("attempt", [0, 1, 2, 4, 1000])
def test_only_the_next_attempt_number_can_be_committed(attempt):
    with pytest.raises(IllegalTransition):
        after(Ready(attempt=2), facts.Committing(attempt=attempt, date=NOON, fingerprint=None))


@pytest.mark.parametrize("state", [DOUBT, Held(doubt=DOUBT, reason="r")])
def test_a_batch_that_an_operator_named_is_not_proven(state):
    assert after(state, BY_OPERATOR) == Processing(
        doubt=DOUBT, batch_id="msgbatch_o", created_at=NOON + 3, proven=False
    )


@pytest.mark.parametrize(
    ("state", "action"),
    [
        ("Ready", Upload(3)),
        ("InDoubt", Settle()),
        ("InDoubt, certain", Settle()),
        ("Held", Settle()),
        ("Held, certain", Settle()),
        ("Processing", Watch("msgbatch_p")),
        ("Processing, named by an operator", Watch("msgbatch_p")),
        ("Processing, cancelled as parked", Watch("msgbatch_p")),
        ("Draining, cancelled as parked", Drain("msgbatch_p")),
        ("Draining", Drain("msgbatch_p")),
        ("Draining, named by an operator", Drain("msgbatch_p")),
        ("Processing, vanished", Watch("msgbatch_p")),
        ("Draining, vanished", Drain("msgbatch_p")),
        ("Lost", GiveUp("w")),
        ("Lost, never known", GiveUp("w")),
        ("Rejected", Abandon("{}")),
        ("Done", None),
        ("Done, cancelled as parked", None),
        ("Done, never known", None),
        ("Dead, split", None),
        ("Dead, abandoned", None),
    ],
)
def test_every_state_says_the_one_thing_to_do(state, action):
    assert next_action(STATES[state]) == action


def replay(*steps: facts.ShardFact) -> object:
    state = None
    for fact in steps:
        state = after(state, fact)
    return state


def test_a_first_attempt_that_is_accepted_ends_done():
    state = replay(FACTS["Planned"], committing(1), FACTS["Accepted"], FACTS["Ended"], FACTS["Drained"])
    committed = InDoubt(attempt=1, date=NOON, fingerprint="f")
    assert state == Done(drained=drained(), doubt=committed, batch_id="msgbatch_a", created_at=NOON + 1)


def test_the_attempt_number_outlives_withdrawals_and_holds():
    state = replay(
        FACTS["Planned"],
        committing(1),
        FACTS["Withdrawn"],
        committing(2),
        FACTS["Unreadable"],
        FACTS["Held"],
        FACTS["Withdrawn"],
    )
    assert next_action(state) == Upload(3)


def test_a_batch_named_wrongly_returns_to_the_operator_and_can_be_named_again():
    state = replay(
        FACTS["Planned"],
        committing(1),
        FACTS["Held"],
        BY_OPERATOR,
        FACTS["Ended"],
        FACTS["Held"],
        FACTS["Found"],
    )
    assert state.proven
    assert state.doubt.attempt == 1


def facts_of_any_kind() -> st.SearchStrategy[facts.ShardFact]:
    return st.one_of(st.sampled_from([*FACTS.values(), BY_OPERATOR]), st.integers(1, 6).map(committing))


@given(st.lists(facts_of_any_kind(), max_size=40))
def test_whatever_comes_an_attempt_number_is_committed_once_and_they_grow(coming):
    state, committed = after(None, planned()), []
    for fact in coming:
        try:
            state = after(state, fact)
        except IllegalTransition:
            continue
        if isinstance(fact, facts.Committing):
            committed.append(fact.attempt)
    assert committed == list(range(1, len(committed) + 1))


@given(st.lists(facts_of_any_kind(), max_size=40))
def test_a_refused_fact_leaves_the_state_as_it_was(coming):
    state = after(None, planned())
    for fact in coming:
        before = repr(state)
        try:
            state = after(state, fact)
        except IllegalTransition:
            assert repr(state) == before


def test_candidates_add_up_and_stay_through_a_hold_until_the_attempt_is_over():
    def seen(*candidates, **more):
        return facts.CandidatesChanged(seen=candidates, **more)

    third = facts.Candidate(batch_id="msgbatch_3", created_at=NOON)
    state = DOUBT
    for fact in (seen(ONE), seen(ONE, third), facts.Held(reason="r"), seen(OTHER), seen(foreign=("msgbatch_1",))):
        state = after(state, fact)
    assert state.doubt.candidates == (third, OTHER)
    assert after(state, seen(ONE)).doubt.candidates == (third, OTHER)  # foreign for ever
    assert after(state, FACTS["Withdrawn"]) == Ready(attempt=2)


@pytest.mark.parametrize("state", [state for state in STATES.values() if state is not None])
def test_a_doubt_is_kept_until_the_shard_is_drained_or_free_to_be_sent(state):
    doubt = lifecycle.doubt_of(state)
    assert (doubt is None) == isinstance(state, Ready | Rejected | Lost | Done | Dead)


@pytest.mark.parametrize("state", [state for state in STATES.values() if state is not None])
def test_only_what_is_sealed_can_be_sealed_at_another_destination(state):
    elsewhere = SealedRecord(part=7, lines=10)
    sealed = state.drained if isinstance(state, Done) else state.end if isinstance(state, Dead) else None
    if isinstance(sealed, facts.Drained | facts.Abandoned):
        moved = lifecycle.resealed(state, elsewhere)
        assert (moved.drained if isinstance(moved, Done) else moved.end).sealed == elsewhere
    else:
        with pytest.raises(IllegalTransition):
            lifecycle.resealed(state, elsewhere)


def test_what_only_a_doubt_needs_is_forgotten_once_it_is_settled():
    doubtful = after(DOUBT, facts.CandidatesChanged(seen=(ONE,), foreign=("msgbatch_9",)))
    settled = after(doubtful, FACTS["Accepted"])
    assert settled.doubt == DOUBT
