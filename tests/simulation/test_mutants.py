"""Each broken rule of the protocol is found out within a few hundred seeds; else the simulation proves little."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, SHOWS_IN
from tests.simulation.plan import draw
from tests.simulation.seeds import ready, run_seed

SEEDS = 500


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name: str) -> None:
    shows = SHOWS_IN.get(name, lambda _: True)
    with ready(), MUTANTS[name]():
        plans = ((seed, draw(seed)) for seed in range(SEEDS))
        found = any(run_seed(seed, plan=plan).violations for seed, plan in plans if shows(plan))
    assert found, f"{name} survives {SEEDS} seeds"
