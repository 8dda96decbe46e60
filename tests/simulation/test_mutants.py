"""Each broken rule of the protocol is found out within a few hundred seeds; else the simulation proves little."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.seeds import ready, run_seed

SEEDS = 500


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name: str) -> None:
    with ready(), MUTANTS[name]():
        assert any(run_seed(seed).violations for seed in range(SEEDS)), f"{name} survives {SEEDS} seeds"
