"""The benchmarks keep working; what they claim is measured by `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.claims import CLAIMS


@pytest.mark.parametrize("name", CLAIMS)
def test_every_benchmark_runs_on_a_small_input(name: str) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", name], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "floor" in done.stdout
