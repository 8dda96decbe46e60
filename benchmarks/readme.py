"""The tables of README.md, which hold what was measured last: a row for each claim, and one for each neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.peers import LOST, MEASURES, OURS, PEERS, SECOND

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.measure import Claim, Table

README: Final = Path(__file__).parents[1] / "README.md"
CLAIMED: Final = "| benchmark | claim | measured | floor | goal |\n|---|---|---|---|---|\n"
BESIDE: Final = "| program | wall | CPU | peak memory | lost rows | second batches |\n|---|---|---|---|---|---|\n"


def row(name: str, claim: Claim) -> str:
    value = f"{claim.value:,.0f}" if claim.value >= 100 else f"{claim.value:.2f}"
    measured = value if claim.holds else f"**{value}**, missed"
    sign = "≤" if claim.at_most else "≥"
    return f"| {name} | {claim.text} | {measured} | {sign} {claim.floor:g} | {sign} {claim.goal:g} |"


def rows(text: str, head: str) -> list[str]:
    """The rows that stand under this head."""
    return text.partition(head)[2].partition("\n\n")[0].splitlines()


def write(name: str, claims: Iterable[Claim], *, order: list[str], path: Path = README) -> None:
    """Put a benchmark's rows in the place of those that it had."""
    kept = [line for line in rows(path.read_text(), CLAIMED) if _name(line) != name]
    kept += [row(name, claim) for claim in claims]
    _put(path, CLAIMED, sorted(kept, key=lambda line: order.index(_name(line))))


def write_peers(table: Table, *, path: Path = README) -> None:
    """Put down every neighbour's time and memory, in those of abatch."""
    lines: list[str] = []
    for name in PEERS:
        if name not in table.runs:
            lines.append(f"| {name} | could not be installed | | | | |")
            continue
        times = [f"{table.ratio(name, OURS, what):.1f}" for what in MEASURES.values()]
        counts = [f"{table.most(name, what):,.0f}" for what in (LOST, SECOND)]
        lines.append(f"| {' | '.join([name, *times, *counts])} |")
    _put(path, BESIDE, lines)


def _name(line: str) -> str:
    return line.split("|")[1].strip()


def _put(path: Path, head: str, lines: list[str]) -> None:
    before, found, after = path.read_text().partition(head)
    if not found:
        raise ValueError(f"{path} has no table with the head {head!r}")
    path.write_text(before + head + "\n".join(lines) + "".join(after.partition("\n\n")[1:]))
