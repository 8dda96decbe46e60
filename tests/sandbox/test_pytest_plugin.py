"""The fixture `abatch_sandbox`, in pytest runs of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "pytest"

AFTERWARDS = """
import os
from datetime import timedelta

import pytest
from abatch import Config


@pytest.mark.abatch_sandbox(latency=3)
class TestOfOneClass:
    @pytest.mark.abatch_sandbox(queue_limit=7)
    def test_first(self, abatch_sandbox):
        settings = abatch_sandbox.machine.settings
        assert (settings.latency, settings.queue_limit) == (3, 7)
        assert os.environ["ANTHROPIC_BASE_URL"] == abatch_sandbox.url
        assert Config().poll_interval == abatch_sandbox.config().poll_interval
        assert Config(grace=timedelta(0)).longest_poll_interval < timedelta(seconds=1)
        assert Config(poll_interval=timedelta(seconds=9)).poll_interval == timedelta(seconds=9)


def test_second():
    assert "ANTHROPIC_BASE_URL" not in os.environ
    assert os.environ["ANTHROPIC_AUTH_TOKEN"] == "token of the developer"
    assert Config().poll_interval == timedelta(seconds=15)


@pytest.mark.abatch_sandbox(latence=3)
def test_third(abatch_sandbox):
    pass
"""


def pytest_in(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "anyio", "-c", os.devnull, "--rootdir", str(folder)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    env["ANTHROPIC_AUTH_TOKEN"] = "token of the developer"
    return subprocess.run(
        [*command, "--strict-markers", "--durations=3", str(folder)],
        cwd=folder,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_example_passes(tmp_path):
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    ran = pytest_in(tmp_path)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert " passed" in ran.stdout
    assert not (tmp_path / ".abatch").exists()


def test_options_come_from_markers_and_everything_is_restored(tmp_path):
    (tmp_path / "conftest.py").write_text((EXAMPLE / "conftest.py").read_text())
    (tmp_path / "test_afterwards.py").write_text(AFTERWARDS)
    ran = pytest_in(tmp_path)
    assert "2 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    assert "unexpected keyword argument 'latence'" in ran.stdout
