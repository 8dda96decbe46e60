"""What many of the seeds must meet: each row of tables A and B, each fault and status, each end of a process."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final

from tests.simulation.plan import BREAKING, DOUBTFUL, FAULTS, REFUSALS

__all__ = ["MUST", "shortfall", "table"]

RULES: Final = [f"A{row}" for row in range(1, 13)] + [f"B{row}" for row in range(1, 11)]
MISFORTUNES: Final = [
    "create late tail",
    "disk full",
    "disk broken",
    "disk has no room",
    "sink refuses",
    "sink refuses at a break",
    "spool refuses",
    "spool refuses at a break",
    "cancel wished",
    "process SIGSTOP",
    "process twin",
    "process twin that drives",
    "process restored journal",
    "process wrong key",
    "process dies_at_effect",
    "process dies_at_step",
    "process dies_at",
    "process stops_at",
    "process leaves_at",
    "process skew",
    "process breaks_after",
    "monitor A1",
    "monitor A2",
    "fence held",
    "held by policy",
    "refusals doubted",
    "parked batch given up",
    "held after A5",
    "duplicate to report",
    "input held back",
    "memory weighed",
    "several jobs",
    "several workspaces",
]


def _kinds() -> list[str]:
    chance = Random(0)
    return sorted({f"{site} {type(make(chance)).__name__}" for site, make in [*FAULTS, *BREAKING] for _ in range(100)})


STATUSES: Final = [f"create {status}" for status in sorted((*REFUSALS, 413, 429, *DOUBTFUL))]
MUST: Final = [*RULES, *MISFORTUNES, *_kinds(), *STATUSES]


def shortfall(hits: Counter[str], least: int) -> dict[str, int]:
    """What was met in too few seeds."""
    return {what: hits[what] for what in MUST if hits[what] < least}


def table(hits: Counter[str]) -> str:
    """In how many seeds each was met, as text."""
    known = [*MUST, *sorted(hits.keys() - set(MUST))]
    cells = [f"{what:<28}{hits[what]:>9}" for what in known]
    third = -(-len(cells) // 3)
    rows = zip(cells[:third], cells[third : 2 * third], [*cells[2 * third :], *[""] * 3], strict=False)
    return "\n".join("   ".join(row).rstrip() for row in rows)
