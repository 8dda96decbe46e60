"""When a batch is parked: far older than usual, and not one of its requests processed."""

from __future__ import annotations

from collections import deque

import anyio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from abatch.protocol.parked import (
    ENOUGH,
    LEAST,
    LONGEST,
    REMEMBERED,
    TIMES,
    UNKNOWN,
    Parked,
    Parking,
    note,
    parked,
    patience,
)
from tests.unit.make import batch

HOUR = 3600.0
QUICK = [60.0] * ENOUGH
SLOW = [HOUR] * ENOUGH


def at(age: float) -> float:
    """The server's clock when `batch()` is so old."""
    return batch().created_at + age


def test_with_few_durations_known_a_batch_is_parked_after_twelve_hours():
    assert UNKNOWN == 12 * HOUR
    for known in range(ENOUGH):
        assert patience([1.0] * known) == UNKNOWN
        assert parked(batch(), at(UNKNOWN - 1), [1.0] * known) is None
        assert parked(batch(), at(UNKNOWN), [1.0] * known) == Parked(batch_id="msgbatch_1", age=UNKNOWN, usual=None)


def test_small_jobs_do_not_raise_an_alarm_within_three_hours():
    assert parked(batch(), at(3 * HOUR - 1), QUICK) is None
    assert parked(batch(), at(3 * HOUR), QUICK) == Parked(batch_id="msgbatch_1", age=3 * HOUR, usual=60.0)


def test_ten_times_the_median_is_far_beyond_what_is_usual():
    assert parked(batch(), at(10 * HOUR - 1), SLOW) is None
    assert parked(batch(), at(10 * HOUR), SLOW) == Parked(batch_id="msgbatch_1", age=10 * HOUR, usual=HOUR)


def test_a_few_slow_batches_do_not_change_what_is_usual():
    assert patience([*[600.0] * 30, *[20 * HOUR] * 20]) == LEAST


@given(st.lists(st.floats(0, LONGEST), max_size=REMEMBERED))
def test_patience_is_never_below_the_floor_and_at_most_ten_times_the_longest(durations):
    assert LEAST <= patience(durations) <= max(UNKNOWN, TIMES * max(durations, default=0.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"ended": True},
        {"status": "canceling"},
        {"counts": (1, 0, 0, 0)},
        {"counts": (0, 1, 0, 0)},
        {"counts": (0, 0, 1, 0)},
        {"counts": (0, 0, 0, 1)},
    ],
)
def test_a_batch_that_moved_or_is_being_cancelled_is_not_parked(changes):
    assert parked(batch(**changes), at(23 * HOUR), QUICK) is None


@pytest.mark.parametrize("seconds", [-5.0, LONGEST + 1])
def test_a_duration_that_cannot_be_one_is_not_remembered(seconds):
    durations = deque([1.0], maxlen=REMEMBERED)
    note(durations, seconds)
    assert durations == deque([1.0])


@pytest.mark.parametrize(
    ("age", "usual", "words"),
    [
        (9 * HOUR, 720.0, "has not moved for 9 h; usual 12 min"),
        (9.4 * HOUR, 59.0, "has not moved for 9 h; usual 59 s"),
        (23 * HOUR, 2 * HOUR, "has not moved for 23 h; usual 2 h"),
        (12 * HOUR, None, "has not moved for 12 h"),
    ],
)
def test_it_is_said_for_how_long_and_what_is_usual(age, usual, words):
    assert str(Parked(batch_id="msgbatch_1", age=age, usual=usual)) == words


def test_a_parked_batch_is_reported_once():
    parking = Parking(QUICK)
    with structlog.testing.capture_logs() as events:
        for hours in (1, 2, 4, 5, 9):
            parking.look(batch(), at(hours * HOUR))
    assert events == [
        {"event": "batch_parked", "batch_id": "msgbatch_1", "hours": 4.0, "usual_seconds": 60, "log_level": "warning"}
    ]
    assert parking.in_words() == {"msgbatch_1": "has not moved for 9 h; usual 1 min"}


def test_a_parked_batch_that_moves_or_ends_is_parked_no_more():
    parking = Parking(QUICK)
    for moved in (batch(counts=(1, 0, 0, 0)), batch(ended=True)):
        parking.look(batch(), at(4 * HOUR))
        assert parking.in_words()
        parking.look(moved, at(5 * HOUR))
        assert parking.in_words() == {}


@pytest.mark.anyio
async def test_who_waits_for_a_batch_hears_when_it_is_parked():
    parking, heard = Parking(), list[Parked]()

    async def wait() -> None:
        heard.append(await parking.until_parked("msgbatch_1"))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        parking.look(batch("msgbatch_2"), at(12 * HOUR))
        parking.look(batch(), at(11 * HOUR))
        await anyio.wait_all_tasks_blocked()
        assert heard == []
        parking.look(batch(), at(12 * HOUR))
    assert [each.batch_id for each in heard] == ["msgbatch_1"]


def test_nothing_is_said_of_a_batch_that_is_lost():
    parking = Parking(QUICK)
    parking.look(batch(), at(4 * HOUR))
    parking.forget("msgbatch_1")
    assert parking.in_words() == {}
