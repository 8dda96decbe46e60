"""Simulate the whole manager.

python -m tests.simulation --seeds 20000        many seeds; fails on a violation, or if something was not reached
python -m tests.simulation --seed 123           one seed, with its trace
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.reach import shortfall, table
from tests.simulation.seeds import Told, ready, regressions, run_many, run_seed


def main() -> int:
    """Run what the command line asks for; 1 if something was not kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate the whole manager.")
    parser.add_argument("--seed", type=int, help="one seed, with its trace")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds (1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first of them (0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many seconds")
    parser.add_argument("--workers", type=int, default=2, help="Python processes (2)")
    parser.add_argument("--reach", type=int, default=0, help="fail if a rule or fault is met in fewer seeds (0)")
    asked = parser.parse_args()
    return trace(asked.seed) if asked.seed is not None else sweep(asked)


def trace(seed: int) -> int:
    """One seed with its trace."""
    with ready():
        told = run_seed(seed, trace=print)
    print(f"seed {seed}: trace {told.digests[seed]}")
    return report_violations(told)


def sweep(asked: argparse.Namespace) -> int:
    """Many seeds, those that once failed before all others."""
    began = time.monotonic()
    seeds = regressions() + list(range(asked.first, asked.first + asked.seeds))
    told = Told()
    for some in run_many(seeds, workers=asked.workers, until=began + asked.seconds):
        told.add(some)
        report_violations(some)
        print(f"\r{told.seeds} seeds, {len(told.violations)} failed", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(table(told.hits))
    elapsed = time.monotonic() - began
    print(
        f"{told.seeds} seeds in {elapsed:.0f} s, {told.seeds / told.seconds:.0f} seeds per second of a core; "
        f"{len(told.violations)} failed"
    )
    missed = shortfall(told.hits, asked.reach)
    if missed:
        print(f"met in less than {asked.reach} seeds: {missed}")
    return 1 if told.violations or missed else 0


def report_violations(told: Told) -> int:
    """Say which seeds failed, and how to see them."""
    for seed, violations in sorted(told.violations.items()):
        print(f"seed {seed} failed; --seed {seed} shows its trace", flush=True)
        for violation in violations[:5]:
            print(f"    {violation}")
    return 1 if told.violations else 0


if __name__ == "__main__":
    sys.exit(main())
