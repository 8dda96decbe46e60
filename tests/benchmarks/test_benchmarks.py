"""The benchmarks keep working; what they claim is measured by `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_benchmark_runs_on_a_small_input() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok  ") == 2
