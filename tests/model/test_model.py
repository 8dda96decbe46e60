"""Safe worlds are safe at every interleaving; a world that lacks a guard or a bound shows what it is there for."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.model.configurations import BROKEN, LONG, SAFE, WAITING
from tests.model.search import explore
from tests.model.world import PAID_TWICE, STILL_OPEN, Configuration, begin, moves

SEARCHED = {**SAFE, **LONG} if os.environ.get("ABATCH_LONG") == "1" else SAFE


def named(configuration: Configuration) -> str:
    return configuration.name


@pytest.mark.parametrize("configuration", SEARCHED, ids=named)
def test_a_safe_world_has_no_violation_at_any_interleaving(configuration):
    found = explore(configuration)
    assert found.violation is None, found.told()
    assert found.states >= SEARCHED[configuration].states
    assert set(found.rules) == SEARCHED[configuration].rules
    assert found.settled > 0
    assert found.held > 0 or configuration not in WAITING, "no shard waits for an operator, and some must"


@pytest.mark.parametrize("configuration", BROKEN, ids=named)
def test_a_world_without_a_guard_or_bound_has_a_counterexample(configuration):
    found = explore(configuration)
    assert found.violation == configuration.breaks, found.told()


@pytest.mark.parametrize("configuration", [each for each in BROKEN if each.breaks == STILL_OPEN], ids=named)
def test_what_never_ends_does_not_end_later_either(configuration):
    found = explore(replace(configuration, horizon=2 * configuration.horizon))
    assert found.violation == STILL_OPEN, found.told()


def test_a_counterexample_can_be_followed_move_by_move():
    configuration = next(each for each in BROKEN if each.name == "the commit point after the tail")
    found = explore(configuration)
    world = begin(configuration)
    for tick, words in found.trace[:-1]:
        world = next(move.world for move in moves(world, configuration) if move.words == words)
        assert world.now == tick
    last = [move for move in moves(world, configuration) if move.words == found.trace[-1][1]]
    assert [move.violation for move in last] == [PAID_TWICE]
    assert [batch.shard for batch in last[0].world.batches] == [1, 1]
