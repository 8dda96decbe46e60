"""The fuzzer's targets work from their seeds; what it finds goes on from there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.hostile.targets import SEEDS, TARGETS


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name in TARGETS for seed in SEEDS[name]])
def test_a_seed_holds(name, seed):
    TARGETS[name](seed)


def test_without_atheris_it_says_what_brings_it():
    code = "import sys; sys.modules['atheris'] = None; from tests.hostile.fuzz import main; sys.exit(main())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, "make fuzz" in ended.stdout) == (2, True), ended.stderr
