"""What many of the seeds must meet: each row of tables A and B, each fault and status, each end of a process."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final

from tests.simulation.plan import BREAKING, DOUBTFUL, FAULTS, REFUSALS
from tests.simulation.unkind import CLOCKS, LESS_KIND

__all__ = ["MUST", "shortfall", "table"]

RULES: Final = [f"A{row}" for row in range(1, 13)] + [f"B{row}" for row in range(1, 12)]
MISFORTUNES: Final = [
    "create late tail",
    "disk full",
    "disk broken",
    "disk has no room",
    "sink refuses",
    "sink refuses at a break",
    "spool refuses",
    "spool refuses at a break",
    "storage outage",
    "storage is back",
    "storage outage outlasts patience",
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
    "limit stops a workspace",
    "limit reached",
    "limit lowered",
    "lower limit refused",
    "first results failed",
    "parked batch given up",
    "held after A5",
    "duplicate to report",
    "input held back",
    "memory weighed",
    "several jobs",
    "several workspaces",
    "A5 names another batch",
    "B5 gone",
    "B5 hidden",
    "B6 hidden",
    "B6 runs",
    "B7 partial",
    "B11 odd entry",
    "B11 without an id",
    "list OddEntry",
    "candidates closed",
    "candidate seen in flight",
    "batch deleted",
    "batch vanished",
    "batch reappeared",
    "lost after two days",
    "lost by word",
    "guard keeps what may be lost",
    "operator says lost",
    "operator says lost of what is there",
    "operator's word refused",
    "monitor A6",
    "clocks differ",
    "machine restarted",
    "list hides a batch",
    "retrieve hides a batch",
    "results hides a batch",
    "list of another workspace",
    "retrieve of another workspace",
    "results of another workspace",
    "stream goes on",
    "torn line",
    "end seen beside slow strangers",
]


def _kinds() -> list[str]:
    chance = Random(0)
    at_sites = [*FAULTS, *BREAKING, *LESS_KIND, *(("list", make) for make in CLOCKS)]
    return sorted({f"{site} {type(make(chance)).__name__}" for site, make in at_sites for _ in range(100)})


STATUSES: Final = [f"create {status}" for status in sorted((200, *REFUSALS, 413, 429, *DOUBTFUL))]
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
