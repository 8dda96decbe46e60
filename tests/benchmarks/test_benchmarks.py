"""The benchmarks keep working, and README.md claims what they measure; how much that is, `make bench` measures."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from benchmarks import readme
from benchmarks.__main__ import main
from benchmarks.claims import CLAIMS
from benchmarks.measure import Claim, Size, Table
from benchmarks.peers import PEERS


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def claimed(name: str) -> list[list[str]]:
    """The claims of a benchmark in README.md, without what was measured."""
    rows = map(cells, readme.rows(readme.README.read_text(), readme.CLAIMED))
    return [[benchmark, claim, *bounds] for benchmark, claim, _, *bounds in rows if benchmark == name]


@pytest.mark.parametrize("name", CLAIMS)
def test_every_benchmark_runs_on_a_small_input_and_readme_has_its_claims(name: str, tmp_path: Path) -> None:
    table = CLAIMS[name](tmp_path, Size(quick=True, rounds=1))
    assert [claim for claim in table.claims if not roughly_holds(claim)] == []
    rows = [cells(readme.row(name, claim)) for claim in table.claims]
    assert claimed(name) == [[benchmark, claim, *bounds] for benchmark, claim, _, *bounds in rows]


def roughly_holds(claim: Claim) -> bool:
    """What a small input can say: memory, losses and second batches are as claimed; all else by a factor of 1,000."""
    if "memory in MB" in claim.text or claim.floor == 0:
        return claim.holds
    return claim.value <= 1_000 * claim.floor if claim.at_most else claim.floor / 1_000 <= claim.value < math.inf


def test_a_claim_that_makes_no_sense_does_not_even_roughly_hold() -> None:
    assert not roughly_holds(Claim(text="times less", value=0, floor=2, goal=3))
    assert not roughly_holds(Claim(text="times less", value=math.inf, floor=2, goal=3))
    assert not roughly_holds(Claim(text="times less", value=0.0019, floor=2, goal=3))
    assert not roughly_holds(Claim(text="event loop, in ms", value=20_001, floor=20, goal=10, at_most=True))
    assert not roughly_holds(Claim(text="event loop, in ms", value=math.nan, floor=20, goal=10, at_most=True))
    assert not roughly_holds(Claim(text="lost rows", value=1, floor=0, goal=0, at_most=True))
    assert not roughly_holds(Claim(text="peak memory in MB", value=151, floor=150, goal=120, at_most=True))


@pytest.mark.parametrize(("value", "status"), [(1.9, 1), (2.0, 0)])
def test_a_claim_below_its_floor_fails_the_command(monkeypatch: pytest.MonkeyPatch, value: float, status: int) -> None:
    table = Table(title="Submit", claims=[Claim(text="times less", value=value, floor=2, goal=3)])
    monkeypatch.setitem(CLAIMS, "submit", lambda _folder, _size: table)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "submit"])
    assert main() == status


def test_readme_claims_nothing_that_is_not_measured() -> None:
    rows = readme.rows(readme.README.read_text(), readme.CLAIMED)
    assert {cells(row)[0] for row in rows} == set(CLAIMS)


def test_readme_has_a_row_for_each_neighbour() -> None:
    rows = readme.rows(readme.README.read_text(), readme.BESIDE)
    assert [cells(row)[0] for row in rows] == list(PEERS)


def test_a_claim_below_its_floor_is_missed_in_the_table_and_in_readme(capsys: pytest.CaptureFixture[str]) -> None:
    claim = Claim(text="times less", value=0.5, floor=2, goal=3)
    assert readme.row("submit", claim) == "| submit | times less | **0.50**, missed | ≥ 2 | ≥ 3 |"
    table = Table(title="Submit", claims=[claim])
    assert table.print(strict=True) == 1
    assert "MISS" in capsys.readouterr().out


def test_what_was_measured_again_takes_the_place_of_what_stood_there(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n\n{readme.CLAIMED}| a | x | 1.00 | ≥ 1 | ≥ 1 |\n| c | x | 1.00 | ≥ 1 | ≥ 1 |\n\nafter\n")
    readme.write("b", [Claim(text="y", value=2, floor=1, goal=1)], order=["a", "b", "c"], path=page)
    readme.write("a", [Claim(text="z", value=3, floor=1, goal=1)], order=["a", "b", "c"], path=page)
    kept = ["| a | z | 3.00 | ≥ 1 | ≥ 1 |", "| b | y | 2.00 | ≥ 1 | ≥ 1 |", "| c | x | 1.00 | ≥ 1 | ≥ 1 |"]
    assert page.read_text() == f"before\n\n{readme.CLAIMED}" + "\n".join(kept) + "\n\nafter\n"
