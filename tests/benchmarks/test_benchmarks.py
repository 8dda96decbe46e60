"""The benchmarks keep working, and README.md claims what they measure; how much that is, `make bench` measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import readme
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
    rows = [cells(readme.row(name, claim)) for claim in table.claims]
    assert claimed(name) == [[benchmark, claim, *bounds] for benchmark, claim, _, *bounds in rows]


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
