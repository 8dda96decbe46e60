"""When the next create may go."""

from __future__ import annotations

import pytest

from abatch.protocol.pacing import LIMITS, Backoff, Pace


@pytest.mark.parametrize("tier", LIMITS)
def test_a_minute_takes_as_many_calls_as_the_tier_allows(tier):
    pace, (per_minute, _) = Pace(tier), LIMITS[tier]
    for call in range(per_minute):
        assert pace.wait(100.0 + call / per_minute) == 0.0
        pace.called(100.0 + call / per_minute)
    assert pace.wait(101.0) == 59.0
    assert pace.wait(160.0) == 0.0


def test_a_call_frees_its_place_after_a_minute_not_all_at_once():
    pace = Pace("start")
    for call in range(1_000):
        pace.called(0.0 if call < 500 else 30.0)
    assert pace.wait(60.0) == 0.0
    for _ in range(500):
        pace.called(60.0)
    assert pace.wait(60.0) == 30.0


@pytest.mark.parametrize(("tier", "limit"), [("start", 200_000), ("build", 300_000), ("scale", 500_000)])
def test_the_queue_takes_up_to_the_tier_s_limit(tier, limit):
    pace = Pace(tier)
    pace.holds(1, limit - 10)
    assert pace.has_room(10)
    assert not pace.has_room(11)


def test_an_empty_queue_takes_any_shard():
    assert Pace("start").has_room(10**9)


def test_a_shard_counts_once_until_it_is_free():
    pace = Pace("start")
    pace.holds(1, 60)
    pace.holds(1, 60)
    pace.holds(2, 40)
    assert pace.queued == 100
    pace.frees(1)
    pace.frees(1)
    pace.frees(99)
    assert pace.queued == 40


def test_a_refusal_holds_back_as_long_as_it_asks_and_a_little_more():
    pace = Pace("start")
    assert pace.refused(100.0, 20.0, jitter=0.5) == pytest.approx(21.0)
    assert pace.wait(100.0) == pytest.approx(21.0)
    assert pace.wait(121.0) == 0.0


@pytest.mark.parametrize("jitter", [0.0, 0.3, 1.0])
def test_no_wait_is_shorter_than_asked_or_longer_by_more_than_a_tenth(jitter):
    assert 20.0 <= Pace("start").refused(0.0, 20.0, jitter) <= 22.0


def test_a_shorter_refusal_does_not_end_a_longer_one():
    pace = Pace("start")
    pace.refused(0.0, 60.0, jitter=0.0)
    pace.refused(0.0, 1.0, jitter=0.0)
    assert pace.wait(2.0) == 58.0


def test_refusals_without_a_time_double_until_one_is_accepted():
    pace = Pace("start")
    waits = [pace.refused(0.0, None, jitter=0.0) for _ in range(9)]
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 600.0, 600.0]
    pace.accepted()
    assert pace.refused(0.0, None, jitter=0.0) == 5.0


def test_backoff_doubles_to_its_most_and_begins_again():
    backoff = Backoff(first=3.0, most=10.0)
    assert [backoff.next() for _ in range(4)] == [3.0, 6.0, 10.0, 10.0]
    backoff.reset()
    assert backoff.next() == 3.0


def test_what_is_over_for_certain_leaves_the_queue():
    pace = Pace("start")
    pace.holds(1, 10, until=100.0)
    pace.holds(2, 20)
    pace.expire(100.0)
    assert pace.queued == 30
    pace.expire(100.5)
    assert pace.queued == 20
