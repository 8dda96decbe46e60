"""Tables A and B, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from abatch.protocol.facts import Candidate, CandidatesChanged, Counts
from abatch.protocol.reconcile import (
    Absent,
    AbsentOnce,
    Created,
    CreatedUnnamed,
    FoundBatch,
    Hold,
    Known,
    Later,
    NoAnswer,
    OddEntry,
    Proof,
    Refused,
    Replied,
    TooLarge,
    Unknown,
    Wait,
    closing,
    counts_of,
    judge,
    misfits,
    newly_odd,
    newly_seen,
    of_another,
    oldest,
    settle,
    still_open,
    to_inspect,
)
from abatch.protocol.refusals import SPEND_LIMIT
from tests.doubts import committed_with
from tests.unit.make import GRACE, MINUTE, NOON, batch, doubt, listing

# ---- table A --------------------------------------------------------------------------------------------------

ENVELOPE = b'{"type":"error","error":{"type":"x","message":"y"}}'


def enveloped(status: int, kind: str = "some_error", **more: object) -> Replied:
    return Replied(status=status, kind=kind, message="y", envelope=ENVELOPE, **more)


@pytest.mark.parametrize("status", [200, 201, 202])
def test_a4_a_batch_in_the_answer_was_created(status):
    assert judge(Replied(status=status, batch=batch())) == Created(rule="A4", batch=batch())


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a5_a_2xx_that_cannot_be_read_is_created_but_unnamed(status):
    assert judge(Replied(status=status)) == CreatedUnnamed(rule="A5", status=status)


@pytest.mark.parametrize(
    ("known", "before"),
    [
        (Known(bound={"msgbatch_1"}), set()),
        (Known(proven={"msgbatch_1": Proof(shard=2, attempt=1, created_at=NOON)}), set()),
        (Known(foreign={"msgbatch_1"}), set()),
        (Known(), {"msgbatch_1"}),
    ],
    ids=["bound to another", "with the tag of another", "foreign", "shown before the commit point"],
)
def test_a5_an_answer_that_names_a_batch_which_is_known_as_another_s(known, before):
    assert of_another(batch(), doubt(), known, before=before)


def test_a5_an_answer_that_names_a_batch_which_is_older_than_both_witnesses_allow():
    mine = doubt(newest=NOON - 10 * MINUTE)
    assert of_another(batch(created_at=NOON - 15 * MINUTE - 1), mine, Known(), before=())
    assert not of_another(batch(created_at=NOON - 15 * MINUTE), mine, Known(), before=())


@pytest.mark.parametrize("newest", [0.0, NOON - 9 * 3600])
def test_a4_a_batch_that_is_too_old_for_one_witness_alone_is_believed(newest):
    """`Date` may run ahead of `created_at` by any time; an empty list is no witness."""
    assert not of_another(batch(created_at=NOON - 9 * 3600), doubt(newest=newest), Known(), before=())


def test_a4_a_batch_of_this_attempt_is_believed():
    mine = doubt(candidates=(Candidate(batch_id="msgbatch_1", created_at=NOON),))
    known = Known(proven={"msgbatch_1": Proof(shard=1, attempt=1, created_at=NOON)})
    assert not of_another(batch(created_at=NOON + 1), mine, known, before={"msgbatch_2"})


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422])
def test_a6_a_refusal_in_the_api_s_own_words_created_nothing(status):
    verdict = judge(enveloped(status, "some_error"))
    assert isinstance(verdict, Refused)
    assert (verdict.rule, verdict.whole_scope) == ("A6", status in {401, 402, 403})
    assert not verdict.definite
    assert verdict.reason == f"the API answered {status} some_error: y"
    assert verdict.remedy.endswith(".")


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("kind", [None, "some_error"])
def test_a6_a_redirect_that_sends_the_same_request_elsewhere_created_nothing(status, kind):
    verdict = judge(Replied(status=status, kind=kind))
    assert isinstance(verdict, Refused)
    assert (verdict.rule, verdict.whole_scope, verdict.definite) == ("A6", True, True)
    assert str(status) in verdict.reason
    assert "base URL" in verdict.remedy


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 306, 309, 399])
@pytest.mark.parametrize("kind", [None, "some_error"])
def test_a9_any_other_redirect_may_follow_a_create_that_was_carried_out(status, kind):
    assert judge(Replied(status=status, kind=kind)) == Unknown(rule="A9", why=f"answered {status}")


@pytest.mark.parametrize("kind", [None, "request_too_large"])
def test_a7_413_splits_with_and_without_the_envelope(kind):
    assert judge(Replied(status=413, kind=kind, envelope=ENVELOPE)) == TooLarge(rule="A7", envelope=ENVELOPE)


@pytest.mark.parametrize("wait", [None, 0.0, 17.5])
def test_a8_the_api_s_429_asks_to_wait(wait):
    assert judge(enveloped(429, "rate_limit_error", retry_after=wait)) == Later(rule="A8", wait=wait)


def test_a8_a_spend_limit_stops_the_whole_scope():
    verdict = judge(enveloped(429, "rate_limit_error", error_code=SPEND_LIMIT))
    assert isinstance(verdict, Refused)
    assert (verdict.rule, verdict.whole_scope) == ("A8", True)
    assert "spend limit" in verdict.remedy


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429])
def test_a9_a_refusal_without_the_envelope_may_be_a_proxy_s(status):
    assert judge(Replied(status=status)) == Unknown(rule="A9", why=f"answered {status}")


def test_a9_a_proxy_that_speaks_of_the_spend_limit_is_not_believed():
    assert judge(Replied(status=429, error_code=SPEND_LIMIT)) == Unknown(rule="A9", why="answered 429")


@pytest.mark.parametrize("kind", [None, "some_error"])
@pytest.mark.parametrize("status", [405, 406, 408, 409, 410, 411, 418, 421, 425, 428, 431, 451, 499])
def test_a9_other_4xx_leave_the_doubt_with_and_without_the_envelope(status, kind):
    assert judge(Replied(status=status, kind=kind)) == Unknown(rule="A9", why=f"answered {status}")


@pytest.mark.parametrize("kind", [None, "api_error", "overloaded_error"])
@pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 524, 529, 599])
def test_a10_a_5xx_leaves_the_doubt_with_and_without_the_envelope(status, kind):
    assert judge(Replied(status=status, kind=kind)) == Unknown(rule="A10", why=f"answered {status}")


def test_a11_no_answer_leaves_the_doubt():
    assert judge(NoAnswer(cause="ReadTimeout")) == Unknown(rule="A11", why="ReadTimeout")


NOT_CREATED = {307, 308, 400, 401, 402, 403, 404, 413, 422, 429}


@given(
    status=st.integers(100, 599),
    kind=st.none() | st.just("some_error"),
    code=st.none() | st.just(SPEND_LIMIT),
    read=st.booleans(),
)
def test_nothing_outside_the_table_says_that_no_batch_was_created(status, kind, code, read):
    verdict = judge(Replied(status=status, kind=kind, error_code=code, batch=batch() if read else None))
    if isinstance(verdict, Refused | TooLarge | Later):
        assert status in NOT_CREATED
        assert kind is not None or status in {307, 308, 413}
    assert isinstance(verdict, Created | CreatedUnnamed) == (200 <= status < 300)


# ---- table B --------------------------------------------------------------------------------------------------

TWICE_EMPTY = doubt(empty_at=GRACE + 1)
"""A doubt for which one complete list after the grace left no candidate."""
LATE = GRACE + 1 + MINUTE
"""A minute later."""


def looked(mine, seen, known):
    """The doubt after what a list shows was remembered; the grace began at noon."""
    fresh = newly_seen(mine, seen.shown.values(), known)
    return replace(mine.after(CandidatesChanged(seen=fresh)), waited=seen.date - NOON)


def ruling(mine, seen, known=None, *, grace=GRACE, hold=False):
    known = known or Known()
    return settle(looked(mine, seen, known), seen, known, grace=grace, hold=hold)


def candidates(mine, seen, known):
    return [each.batch_id for each in still_open(looked(mine, seen, known), known)]


def proof(shard=1, attempt=1):
    return Proof(shard=shard, attempt=attempt, created_at=batch().created_at)


def candidate(seen):
    return Candidate(batch_id=seen.batch_id, created_at=seen.created_at)


@pytest.mark.parametrize("at", [1.0, GRACE / 2, 10 * GRACE])
def test_b2_a_proven_tag_is_found_at_once_and_at_any_time(at):
    seen = batch(ended=True)
    known = Known(proven={seen.batch_id: proof()})
    assert ruling(doubt(), listing(at, seen), known) == FoundBatch(rule="B2", batch=candidate(seen))


def test_b2_a_proven_batch_is_found_though_lists_hide_it_and_though_it_came_after_the_candidates_were_closed():
    known = Known(proven={"msgbatch_1": proof()})
    mine = doubt(closed_at=NOON, empty_at=GRACE + 1)
    assert ruling(mine, listing(LATE), known) == FoundBatch(rule="B2", batch=candidate(batch()))


def test_b2_found_needs_no_guard():
    seen = batch(ended=True)
    known = Known(proven={seen.batch_id: proof()})
    assert isinstance(ruling(doubt(guarded=False), listing(1, seen), known), FoundBatch)


def test_b3_two_doubts_of_equal_size_and_one_candidate_both_wait_for_its_end():
    one, other = doubt(1), doubt(2)
    seen = listing(MINUTE, batch())
    assert [ruling(each, seen).rule for each in (one, other)] == ["B6", "B6"]
    assert to_inspect([looked(each, seen, Known()) for each in (one, other)], seen, Known()) == []


def test_b3_the_tag_assigns_the_only_candidate_and_the_other_doubt_goes_on():
    one, other, seen = doubt(1), doubt(2), batch(ended=True)
    known = Known(proven={seen.batch_id: proof(shard=2)})
    assert isinstance(ruling(other, listing(MINUTE, seen), known), FoundBatch)
    assert ruling(one, listing(MINUTE, seen), known).rule == "B7"
    assert candidates(one, listing(MINUTE, seen), known) == []


def test_b3_a_tag_of_an_earlier_attempt_of_the_same_shard_is_not_this_attempt_s():
    seen = batch(ended=True)
    known = Known(proven={seen.batch_id: proof()})
    assert ruling(doubt(attempt=2), listing(MINUTE, seen), known).rule == "B7"


def test_b3_an_ended_candidate_of_two_doubts_is_looked_at_once():
    seen = listing(MINUTE, batch(ended=True))
    both = [looked(doubt(1), seen, Known()), looked(doubt(2), seen, Known())]
    assert to_inspect(both, seen, Known()) == [batch(ended=True)]


@pytest.mark.parametrize(
    "known", [Known(foreign={"msgbatch_1"}), Known()], ids=["found now", "found by an earlier run"]
)
def test_b4_what_is_foreign_is_no_candidate_ever_again(known):
    seen = batch(ended=True)
    mine = committed_with(TWICE_EMPTY, foreign=frozenset() if known.foreign else frozenset({seen.batch_id}))
    assert candidates(mine, listing(LATE, seen), known) == []
    assert ruling(mine, listing(LATE, seen), known) == Absent(rule="B8")


def test_b4_foreign_batches_of_equal_size_only_cost_waiting():
    foreign = [batch(f"msgbatch_{n}", ended=True) for n in range(50)]
    known, seen = Known(foreign={seen.batch_id for seen in foreign[1:]}), listing(LATE, *foreign)
    assert ruling(TWICE_EMPTY, seen, known).rule == "B6"
    assert to_inspect([looked(doubt(), seen, known)], seen, known) == foreign[:1]


def test_b5_a_candidate_whose_results_are_gone_is_for_the_operator():
    seen = batch(ended=True)
    verdict = ruling(doubt(), listing(MINUTE, seen), Known(gone={seen.batch_id}))
    assert isinstance(verdict, Hold)
    assert verdict.rule == "B5"
    assert seen.batch_id in verdict.reason


def test_b5_a_running_candidate_may_still_prove_to_be_it_so_nobody_is_asked_yet():
    gone, running = batch("msgbatch_gone", ended=True), batch("msgbatch_runs")
    verdict = ruling(doubt(), listing(MINUTE, gone, running), Known(gone={gone.batch_id}))
    assert (verdict.rule, type(verdict)) == ("B6", Wait)


def test_b5_a_candidate_not_yet_looked_at_may_still_prove_to_be_it_so_nobody_is_asked_yet():
    gone, ended = batch("msgbatch_gone", ended=True), batch("msgbatch_ended", ended=True)
    verdict = ruling(doubt(), listing(MINUTE, gone, ended), Known(gone={gone.batch_id}))
    assert (verdict.rule, type(verdict)) == ("B6", Wait)


def test_b5_what_is_gone_is_not_looked_at_again():
    seen, known = listing(MINUTE, batch(ended=True)), Known(gone={"msgbatch_1"})
    assert to_inspect([looked(doubt(), seen, known)], seen, known) == []


def hidden(*, ended=False):
    """A doubt whose candidate was listed once, and a run of two hours of lists without it."""
    return looked(TWICE_EMPTY, listing(6, batch(ended=ended)), Known())


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("at", [LATE, 2 * 3600.0, 47 * 3600.0])
def test_b6_a_candidate_that_was_listed_is_awaited_though_lists_lack_it(at, ended):
    verdict = ruling(hidden(ended=ended), listing(at))
    assert (verdict.rule, type(verdict)) == ("B6", Wait)


@pytest.mark.parametrize("hold", [False, True])
def test_b5_a_candidate_that_stays_invisible_is_for_the_operator_and_never_sent_again(hold):
    verdict = ruling(hidden(), listing(49 * 3600.0), hold=hold)
    assert (verdict.rule, type(verdict)) == ("B5", Hold)
    assert "msgbatch_1" in verdict.reason


def test_b4_a_hidden_candidate_that_is_visible_by_id_can_be_looked_at():
    seen = listing(LATE, by_id=(batch(ended=True),))
    assert to_inspect([hidden()], seen, Known()) == [batch(ended=True)]
    assert ruling(hidden(), seen).rule == "B6"
    assert isinstance(ruling(hidden(), seen, Known(foreign={"msgbatch_1"})), Absent)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("at", [1.0, LATE, 20 * GRACE])
def test_b6_while_a_candidate_lives_or_is_unread_nothing_is_concluded(at, ended):
    verdict = ruling(TWICE_EMPTY, listing(at, batch(ended=ended)))
    assert isinstance(verdict, Wait)
    assert verdict.rule == "B6"


@pytest.mark.parametrize("at", [0.0, 1.0, GRACE - 1, GRACE])
def test_b7_up_to_the_last_second_of_the_grace_nothing_is_concluded(at):
    verdict = ruling(doubt(), listing(at))
    assert (verdict.rule, type(verdict)) == ("B7", Wait)


def test_b7_the_grace_counts_what_has_passed_on_both_clocks_not_what_the_date_says():
    mine = doubt(waited=GRACE / 2, empty_at=GRACE + 1)
    verdict = settle(mine, listing(10 * GRACE), Known(), grace=GRACE, hold=False)
    assert (verdict.rule, type(verdict)) == ("B7", Wait)


MONTH = 30 * 24 * 3600.0


def month_ahead(after, *batches):
    """A list whose `Date` runs thirty days ahead of this machine's time."""
    seen = listing(after, *batches)
    return replace(seen, at=structs.replace(seen.at, date=seen.date + MONTH))


def test_b7_a_date_that_jumps_by_a_month_makes_no_live_batch_too_old_to_be_missed():
    known = Known(live={"msgbatch_ours": NOON - 600}, listed={"msgbatch_ours"})
    mine = replace(TWICE_EMPTY, waited=LATE)
    for seen in (listing(LATE), month_ahead(LATE)):
        verdict = settle(mine, seen, known, grace=GRACE, hold=False)
        assert (verdict.rule, type(verdict)) == ("B7", Wait)
        assert "msgbatch_ours" in verdict.why
        assert closing(mine, seen, known, grace=GRACE) is None
    assert isinstance(settle(mine, listing(LATE + MONTH), known, grace=GRACE, hold=False), Absent)


def test_b6_a_date_that_jumps_by_a_month_gives_no_hidden_candidate_up():
    verdict = settle(replace(hidden(), waited=2 * 3600.0), month_ahead(2 * 3600.0), Known(), grace=GRACE, hold=False)
    assert (verdict.rule, type(verdict)) == ("B6", Wait)


def test_b7_an_earlier_empty_list_does_not_shorten_the_grace():
    verdict = ruling(doubt(empty_at=0.0), listing(GRACE))
    assert (verdict.rule, type(verdict)) == ("B7", Wait)


def test_b8_the_first_empty_list_after_the_grace_is_only_noted():
    assert ruling(doubt(), listing(GRACE + 1)) == AbsentOnce(rule="B7", waited=GRACE + 1)


@pytest.mark.parametrize(
    ("later", "absent"), [(0.0, False), (59.0, False), (59.9, False), (60.0, True), (3600.0, True)]
)
def test_b8_the_two_lists_stand_a_minute_apart(later, absent):
    verdict = ruling(TWICE_EMPTY, listing(GRACE + 1 + later))
    assert isinstance(verdict, Absent if absent else Wait)
    assert verdict.rule == ("B8" if absent else "B7")


@pytest.mark.parametrize(("later", "absent"), [(9.0, False), (10.0, True)])
def test_b8_a_grace_of_less_than_a_minute_is_the_distance_of_the_lists(later, absent):
    mine = doubt(empty_at=11.0)
    assert isinstance(ruling(mine, listing(11 + later), grace=10.0), Absent if absent else Wait)


def test_b8_a_grace_of_zero_still_takes_two_lists():
    first = ruling(doubt(), listing(1), grace=0.0)
    assert isinstance(first, AbsentOnce)
    assert isinstance(ruling(doubt(empty_at=first.waited), listing(1), grace=0.0), Absent)


def test_b8_policy_hold_asks_the_operator():
    assert isinstance(ruling(TWICE_EMPTY, listing(LATE), hold=True), Hold)


@pytest.mark.parametrize("hold", [False, True])
def test_b8_what_the_api_said_it_made_is_never_sent_again(hold):
    mine = committed_with(TWICE_EMPTY, certain=True)
    verdict = ruling(mine, listing(100 * GRACE), hold=hold)
    assert isinstance(verdict, Hold)


@pytest.mark.parametrize("hold", [False, True])
def test_b8_without_the_guard_an_empty_list_proves_nothing(hold):
    mine = replace(TWICE_EMPTY, guarded=False)
    verdict = ruling(mine, listing(LATE), hold=hold)
    assert isinstance(verdict, Hold)
    assert "old key" in verdict.reason


def test_b8_an_old_batch_in_the_list_does_not_stand_in_the_way():
    old = batch(created_at=NOON - 10 * MINUTE)
    assert isinstance(ruling(TWICE_EMPTY, listing(LATE, old)), Absent)


LIVE = batch("msgbatch_live", created_at=NOON + 20 * MINUTE, total=7)


def live(**changes):
    seen = batch("msgbatch_live", **{"created_at": LIVE.created_at, **changes})
    return Known(bound={seen.batch_id}, live={seen.batch_id: seen.created_at})


@pytest.mark.parametrize("created", [NOON - 60 * MINUTE, NOON - MINUTE, NOON + 20 * MINUTE])
@pytest.mark.parametrize("by_id", [(), (LIVE,)], ids=["404", "visible by id"])
def test_b7_a_list_that_lacks_one_live_batch_of_ours_is_partial_and_proves_no_absence(created, by_id):
    verdict = ruling(TWICE_EMPTY, listing(LATE, batch(total=3), by_id=by_id), live(created_at=created))
    assert (verdict.rule, type(verdict)) == ("B7", Wait)
    assert "msgbatch_live" in verdict.why


def test_b7_one_live_batch_in_the_list_does_not_stand_for_another():
    known = live()
    known.live["msgbatch_other"] = NOON + 10 * MINUTE
    assert isinstance(ruling(TWICE_EMPTY, listing(LATE, LIVE), known), Wait)


def test_b8_a_list_that_shows_every_live_batch_allows_the_absence():
    assert isinstance(ruling(TWICE_EMPTY, listing(LATE, LIVE), live()), Absent)


@pytest.mark.parametrize(
    "created", [NOON + LATE - 4 * MINUTE, NOON - 30 * 24 * 3600.0], ids=["too fresh to show", "archived"]
)
def test_b8_a_live_batch_need_not_be_listed_where_it_cannot_be(created):
    assert isinstance(ruling(TWICE_EMPTY, listing(LATE), live(created_at=created)), Absent)


def test_b7_a_fresh_batch_that_was_listed_once_must_be_listed_again():
    known = live(created_at=NOON + LATE - 4 * MINUTE)
    known.listed.add("msgbatch_live")
    assert isinstance(ruling(TWICE_EMPTY, listing(LATE), known), Wait)


@pytest.mark.parametrize(
    ("seen", "may_be_it"),
    [
        (batch(), True),
        (batch(total=99), False),
        (batch(total=101), False),
        (batch(created_at=NOON - 300), True),
        (batch(created_at=NOON - 300.001), False),
        (batch(created_at=NOON - 299), True),
        (batch(created_at=NOON + 24 * 3600), True),
        (batch(ended=True), True),
        (batch(status="canceling"), True),
    ],
)
def test_a_candidate_has_the_size_of_the_doubt_and_is_at_most_five_minutes_older(seen, may_be_it):
    assert candidates(doubt(), listing(LATE, seen), Known()) == ([seen.batch_id] if may_be_it else [])


@pytest.mark.parametrize(
    ("witnesses", "first"),
    [
        ({"newest": NOON}, NOON - 300),
        ({"newest": NOON - 400}, NOON - 700),  # `Date` runs 400 s ahead of `created_at`
        ({"newest": NOON + 400}, NOON - 300),  # `Date` runs behind
        ({"newest": NOON, "ahead": 400.0}, NOON - 700),
        ({"newest": 0.0}, 0.0),  # an empty list is no witness
        ({"newest": None}, NOON - 300),
    ],
)
def test_a_batch_is_too_old_only_if_two_witnesses_say_so(witnesses, first):
    mine = doubt(**witnesses)
    assert oldest(mine, Known()) == first
    assert candidates(mine, listing(LATE, batch(created_at=first)), Known()) == ["msgbatch_1"]


def test_a_batch_bound_by_an_answer_is_no_candidate():
    assert candidates(doubt(), listing(LATE, batch()), Known(bound={"msgbatch_1"})) == []


def test_the_first_complete_list_after_the_grace_closes_the_candidates():
    seen = listing(GRACE + 1, batch(ended=True))
    mine = looked(doubt(), seen, Known())
    assert closing(mine, seen, Known(), grace=GRACE) == CandidatesChanged(closed_at=seen.date + 300)
    assert closing(committed_with(mine, closed_at=NOON), seen, Known(), grace=GRACE) is None


def test_neither_a_list_within_the_grace_nor_a_partial_one_closes_the_candidates():
    early, late = listing(GRACE), listing(GRACE + 1)
    assert closing(looked(doubt(), early, Known()), early, Known(), grace=GRACE) is None
    assert closing(looked(doubt(), late, live()), late, live(), grace=GRACE) is None


def test_the_candidates_close_behind_the_newest_batch_though_the_date_lags():
    seen = listing(GRACE + 1, batch(created_at=NOON + 2 * GRACE))
    assert closing(looked(doubt(), seen, Known()), seen, Known(), grace=GRACE) == CandidatesChanged(
        closed_at=NOON + 2 * GRACE + 300
    )


def test_a_batch_is_not_too_late_by_a_date_that_lags_alone():
    seen = listing(GRACE + 1)
    lagging = replace(seen, at=structs.replace(seen.at, date=NOON - 2 * GRACE))
    waited = doubt(waited=GRACE + 1)
    assert closing(waited, lagging, Known(), grace=GRACE) == CandidatesChanged(closed_at=NOON + GRACE + 301)


def test_a_stream_of_foreign_batches_keeps_no_doubt_open():
    mine = committed_with(TWICE_EMPTY, closed_at=NOON + GRACE + 300)
    stream = batch(created_at=NOON + GRACE + 301)
    assert isinstance(ruling(mine, listing(2 * GRACE, stream)), Absent)
    before = batch(created_at=NOON + GRACE + 300)
    assert ruling(mine, listing(2 * GRACE, before)).rule == "B6"


def test_the_counts_of_an_ended_batch_are_the_api_s():
    seen = batch(ended=True, counts=(90, 5, 3, 2))
    assert counts_of(seen) == Counts(succeeded=90, errored=5, canceled=3, expired=2)


ANY_BATCH = st.builds(
    batch,
    st.sampled_from([f"msgbatch_{n}" for n in range(4)]),
    total=st.sampled_from([99, 100]),
    created_at=st.sampled_from([NOON - 301, NOON - 300, NOON, NOON + MINUTE]),
    ended=st.booleans(),
)
SOME_IDS = st.sets(st.sampled_from([f"msgbatch_{n}" for n in range(4)]))
BATCHES = st.lists(ANY_BATCH, max_size=4, unique_by=lambda seen: seen.batch_id)


@given(
    before=BATCHES,
    batches=BATCHES,
    by_id=BATCHES,
    foreign=SOME_IDS,
    bound=SOME_IDS,
    gone=SOME_IDS,
    live=SOME_IDS,
    at=st.sampled_from([0.0, GRACE, GRACE + 1, LATE, 2 * GRACE, 49 * 3600.0]),
    empty_at=st.sampled_from([None, 0.0, GRACE + 1]),
    certain=st.booleans(),
    guarded=st.booleans(),
    hold=st.booleans(),
)
def test_absence_is_never_concluded_while_anything_speaks_against_it(  # noqa: PLR0917 - drawn by name
    before, batches, by_id, foreign, bound, gone, live, at, empty_at, certain, guarded, hold
):
    known = Known(foreign=foreign, bound=bound | live, gone=gone, live=dict.fromkeys(live, NOON))
    mine = looked(doubt(certain=certain, guarded=guarded, empty_at=empty_at), listing(1, *before), known)
    seen = listing(at, *batches, by_id=tuple(by_id))
    if isinstance(ruling(mine, seen, known, hold=hold), Absent):
        assert at > GRACE
        assert empty_at is not None
        assert not certain
        assert guarded
        assert not hold
        assert live <= seen.shown.keys()
        left = {each.batch_id for each in (*before, *batches) if each.total == 100 and each.created_at >= NOON - 300}
        assert left <= foreign | bound | live


# ---- B11: odd entries -------------------------------------------------------------------------------------------


def odd(batch_id="msgbatch_1", created_at=NOON + MINUTE):
    return OddEntry(batch_id=batch_id, created_at=created_at, why="the batch has no request_counts")


def with_odd(after, *entries, by_id=()):
    """A list that shows these odd entries, and what is read by id."""
    named = {each.batch_id: each for each in entries if each.batch_id is not None}
    unnamed = next((each for each in entries if each.batch_id is None), None)
    return replace(listing(after, by_id=by_id), odd=named, unnamed=unnamed)


def saw_odd(mine, seen, known=None):
    """The doubt after the odd entries of a list were remembered, and what was read by id."""
    known = known or Known()
    mine = replace(
        mine.after(CandidatesChanged(seen=newly_odd(mine, seen.odd.values(), known))), waited=seen.date - NOON
    )
    return mine.after(CandidatesChanged(foreign=misfits(mine, seen.by_id.values(), known)))


def ruling_with_odd(mine, seen, known=None):
    known = known or Known()
    return settle(saw_odd(mine, seen, known), seen, known, grace=GRACE, hold=False)


@pytest.mark.parametrize("rows", [1, 100, 7])
@pytest.mark.parametrize("created_at", [NOON + MINUTE, None])
@pytest.mark.parametrize("at", [1.0, LATE, 100 * GRACE])
def test_b11_an_odd_entry_is_a_candidate_of_every_size_and_proves_that_nothing_is_absent(rows, created_at, at):
    seen = with_odd(at, odd(created_at=created_at))
    verdict = ruling_with_odd(replace(TWICE_EMPTY, rows=rows), seen)
    assert (verdict.rule, type(verdict)) == ("B11", Wait)
    assert "msgbatch_1" in verdict.why
    assert "request_counts" in verdict.why


def test_b11_an_odd_entry_is_remembered_and_awaited_though_later_lists_lack_it():
    mine = saw_odd(TWICE_EMPTY, with_odd(6, odd()))
    assert not mine.committed.candidates[0].sized
    verdict = ruling(mine, listing(LATE))
    assert (verdict.rule, type(verdict)) == ("B6", Wait)


def test_b11_an_odd_entry_that_is_read_by_its_id_as_one_of_another_size_is_foreign_for_this_attempt_alone():
    seen = with_odd(LATE, odd(), by_id=(batch(total=3),))
    known = Known()
    assert ruling_with_odd(TWICE_EMPTY, seen, known) == Absent(rule="B8")
    assert ruling_with_odd(replace(TWICE_EMPTY, rows=3), seen, known).rule == "B6"
    assert known.foreign == set()


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("total", [100, 0])
def test_b11_an_odd_entry_that_is_read_by_its_id_as_one_of_this_size_or_of_none_is_a_candidate(ended, total):
    seen = with_odd(LATE, odd(), by_id=(batch(total=total, ended=ended),))
    mine = saw_odd(TWICE_EMPTY, seen)
    assert ruling_with_odd(TWICE_EMPTY, seen).rule == "B6"
    assert to_inspect([mine], seen, Known()) == ([batch(total=total, ended=True)] if ended else [])


def test_b11_an_odd_entry_that_is_read_as_too_old_or_as_made_after_the_close_is_not_this_attempt_s():
    old = batch(created_at=NOON - 10 * MINUTE)
    unknown_age = odd(created_at=None)
    assert ruling_with_odd(TWICE_EMPTY, with_odd(LATE, unknown_age, by_id=(old,))) == Absent(rule="B8")
    closed = committed_with(TWICE_EMPTY, closed_at=NOON)
    assert ruling_with_odd(closed, with_odd(LATE, unknown_age, by_id=(batch(),))) == Absent(rule="B8")


def test_b11_an_odd_entry_that_tells_its_age_is_no_candidate_if_it_is_too_old_or_too_late():
    assert newly_odd(doubt(), [odd(created_at=NOON - 10 * MINUTE)], Known()) == ()
    assert newly_odd(doubt(closed_at=NOON), [odd()], Known()) == ()
    assert newly_odd(doubt(), [odd(batch_id=None)], Known()) == ()
    assert newly_odd(doubt(), [odd()], Known(bound={"msgbatch_1"})) == ()
    assert newly_odd(doubt(foreign=frozenset({"msgbatch_1"})), [odd()], Known()) == ()


def test_b11_a_candidate_of_known_size_is_not_dropped_for_what_an_odd_read_says():
    mine = looked(doubt(), listing(1, batch()), Known())
    assert misfits(mine, [batch(total=7)], Known()) == ()


def test_b11_an_entry_without_an_id_proves_no_absence_and_closes_nothing():
    seen = with_odd(LATE, odd(batch_id=None))
    verdict = ruling_with_odd(TWICE_EMPTY, seen)
    assert (verdict.rule, type(verdict)) == ("B11", Wait)
    assert "without a usable id" in verdict.why
    assert closing(doubt(waited=LATE), seen, Known(), grace=GRACE) is None
    assert closing(doubt(waited=LATE), listing(LATE), Known(), grace=GRACE) is not None


def test_b11_a_batch_of_ours_that_a_list_shows_as_an_odd_entry_is_not_missing_from_it():
    known = Known(live={"ours": NOON - 3600}, bound={"ours"}, listed={"ours"})
    assert ruling_with_odd(TWICE_EMPTY, with_odd(LATE, odd("ours")), known) == Absent(rule="B8")
    assert ruling_with_odd(TWICE_EMPTY, listing(LATE), known).rule == "B7"
