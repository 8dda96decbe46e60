"""Worlds less kind than a plain sandbox, each alone and on a virtual clock: lists that flap, pools of keys, clocks that
disagree, batches that vanish, other people's batches. Nothing is paid twice in them, and everything comes to an end.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from abatch.sandbox import faults as f
from tests.simulation.plan import HOUR, KEY, Life, Plan, kind, requests
from tests.simulation.seeds import ready, run_seed

MINUTE = 60.0
DAY = 24 * HOUR
SEEDS = range(2)
LOST = ("create", f.ResetAfterAccept(), 1.0)
"""Every create is accepted, and its answer lost."""


def world(*faults: Any, rows: int = 6, latency: tuple[float, float] = (600.0, HOUR), **changes: Any) -> Plan:
    """One job in batches of one request, one process that runs for days, and these faults."""
    plan = kind(0)
    defaults: dict[str, Any] = {
        "jobs": [replace(plan.jobs[0], rows=requests(Random(0), 0, rows), workspace_id=None, source="list", tries=3)],
        "config": replace(
            plan.config,
            requests_per_batch=1,  # so that all batches have one size
            poll_interval=timedelta(seconds=15),
            poll_interval_max=timedelta(hours=1),  # a process lives for 120 times as long
            unresolved="resubmit",
            grace=None,
        ),
        "settings": replace(plan.settings, latency=latency, keys={KEY: "default"}),
        "faults": list(faults),
        "foreign": 0,
        "late_tails": 0.0,
        "lives": [Life(stops_at=3 * DAY)],
        "full_at": frozenset(),
        "broken_at": frozenset(),
        "no_room_until": 0.0,
    }
    return replace(plan, **{**defaults, **changes})


def story(plan: Plan, seed: int, *, told_as_broken: str = "no bound") -> list[str]:
    """What happened, line by line, in a world in which every promise was kept; a monitor may tell of one bound."""
    lines: list[str] = []
    with ready():
        told = run_seed(seed, plan=plan, trace=lines.append)
    assert [each for each in told.violations.get(seed, []) if not each.startswith(told_as_broken)] == []
    return lines


def times(lines: list[str], what: str) -> list[float]:
    """When something happened, in virtual seconds."""
    return [float(line.split(maxsplit=1)[0]) for line in lines if what in line]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_candidate_that_was_listed_and_then_hidden_is_never_sent_again(seed: int) -> None:
    lines = story(
        world(LOST, ("list", f.Hide(5 * DAY, after=6), 1.0), ("retrieve", f.Hide(5 * DAY, after=6), 1.0)), seed
    )
    assert times(lines, "candidate_seen")
    assert not times(lines, "no batch appeared")
    held = times(lines, "shard_held")
    assert held
    assert min(held) > 2 * DAY


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hidden_candidate_that_shows_up_again_is_found_without_a_second_batch(seed: int) -> None:
    lines = story(world(LOST, ("list", f.Hide(4 * HOUR, after=6), 1.0)), seed)
    assert times(lines, "shard_found")
    assert not times(lines, "no batch appeared")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_candidate_of_a_list_whose_later_page_failed_is_remembered(seed: int) -> None:
    """Its list is never complete, and it is hidden from all the lists that are."""
    faults = [LOST, ("list", f.Hide(5 * DAY, after=6), 1.0), ("list", f.PageError(), 1.0)]
    lines = story(world(*faults, foreign=60, latency=(5 * HOUR, 6 * HOUR)), seed)
    assert times(lines, "candidate_seen")
    assert not times(lines, "no batch appeared")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows", [3, 12])
def test_a_pool_of_keys_whose_lists_show_a_part_is_never_paid_twice(seed: int, rows: int) -> None:
    plan = world(("create", f.ResetAfterAccept(), 0.5), ("every", f.KeyPool(("default", "other")), 1.0), rows=rows)
    lines = story(plan, seed, told_as_broken="bound_A2_broken")
    assert not times(lines, "no batch appeared")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("ahead", [-3000.0, -400.0, 400.0, 3000.0])
def test_a_date_that_runs_ahead_or_behind_hides_no_candidate(seed: int, ahead: float) -> None:
    lines = story(world(LOST, ("every", f.Skew(ahead), 1.0)), seed)
    assert times(lines, "shard_found")
    assert not times(lines, "no batch appeared")


def test_a_skewed_date_is_told_by_the_first_create_that_is_answered() -> None:
    assert times(story(world(("every", f.Skew(400.0), 1.0)), 0), "clocks_differ")
    assert not times(story(world(), 0), "clocks_differ")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_date_that_jumps_ahead_does_not_shorten_the_grace(seed: int) -> None:
    """The create comes to be late, though within the bounds; the jump alone would have ended the grace before."""
    faults = [("create", f.LateAccept(590.0), 1.0), ("every", f.Jump(at=60.0, seconds=3 * HOUR), 1.0)]
    lines = story(world(*faults), seed)
    assert not times(lines, "no batch appeared")
    lines = story(world(("create", f.ResetBeforeAccept(), 1.0), faults[1], lives=[Life(stops_at=2 * HOUR)]), seed)
    assert min(times(lines, "no batch appeared")) > 30 * MINUTE


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_of_foreign_batches_of_equal_size_keeps_no_doubt_open(seed: int) -> None:
    faults = [("create", f.ForeignStream(60.0, latency=1800.0), 1.0), ("create", f.ResetBeforeAccept(), 0.5)]
    lines = story(world(*faults, lives=[Life(stops_at=8 * HOUR)]), seed)
    doubts = times(lines, "shard_in_doubt")
    assert len(times(lines, "no batch appeared")) == len(doubts) > 0
    assert len(times(lines, "candidate_foreign")) > 30
    settled = [at for at in times(lines, "no batch appeared") if at < 8 * HOUR]
    assert len(settled) >= len([at for at in doubts if at < 6 * HOUR]) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_foreign_results_that_hang_delay_no_batch_of_ours(seed: int) -> None:
    faults = [("create", f.Foreign(3), 1.0), ("results", f.Hang(240.0, only_foreign=True), 1.0)]
    lines = story(world(*faults, latency=(1.0, 1.0)), seed)
    assert max(times(lines, "batch_ended")) < 90.0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", [f.EmptyResults(only_foreign=True), f.Hang(240.0, only_foreign=True)])
def test_a_foreign_candidate_that_cannot_be_read_is_held_in_the_end(seed: int, fault: f.AnyFault) -> None:
    faults = [("create", f.Foreign(1), 1.0), ("create", f.ResetBeforeAccept(), 0.5), ("results", fault, 1.0)]
    lines = story(world(*faults, latency=(1.0, 1.0)), seed)
    assert times(lines, "candidate_never_readable")
    assert min(times(lines, "shard_held")) > 2 * DAY


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_create_that_was_carried_out_and_redirected_is_found(seed: int, status: int) -> None:
    lines = story(world(("create", f.Redirect(status=status, accepted=True), 1.0)), seed)
    assert times(lines, "shard_found")
    assert not times(lines, "shard_withdrawn")


@pytest.mark.parametrize("seed", SEEDS)
def test_young_batches_that_are_shown_as_archived_at_times_are_not_given_up(seed: int) -> None:
    faults = [("results", f.Archived(), 0.5), ("retrieve", f.ShownArchived(), 1.0), ("list", f.ShownArchived(), 0.5)]
    plan = world(*faults, latency=(1.0, 1.0))
    lines = story(replace(plan, settings=replace(plan.settings, era="2026-09")), seed)
    assert times(lines, "batch_shown_as_archived")
    assert times(lines, "rows_missing") == []


MONTH_AHEAD = ("every", f.Jump(at=60.0, seconds=30 * DAY), 1.0)
HOURS = f.Hide(5 * HOUR, after=1.0)
AWAY: dict[str, list[Any]] = {
    "candidates that are hidden": [LOST, ("list", HOURS, 1.0), ("retrieve", HOURS, 1.0)],
    "candidates that cannot be read": [LOST, ("results", f.NotYet(5 * HOUR), 1.0)],
    "batches and results that are hidden": [("list", HOURS, 1.0), ("retrieve", HOURS, 1.0), ("results", HOURS, 1.0)],
    "results that are hidden": [("results", f.NotYet(5 * HOUR), 1.0)],
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("away", AWAY.values(), ids=AWAY)
def test_a_date_that_jumps_by_a_month_gives_nothing_up(seed: int, away: list[Any]) -> None:
    """All of it is back after hours, and everything is answered."""
    plan = world(*away, MONTH_AHEAD, rows=3, latency=(200.0, 600.0))
    config = replace(plan.config, poll_interval_max=timedelta(minutes=10))
    lines = story(replace(plan, config=config, lives=[Life(stops_at=12 * HOUR)]), seed, told_as_broken="bound_A2")
    assert max(times(lines, "batch_ended")) < 12 * HOUR
    for given_up in ("shard_lost", "shard_held", "rows_missing", "never_readable", "no batch appeared"):
        assert times(lines, given_up) == []
