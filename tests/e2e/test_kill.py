"""kill -9, signals, and runs that meet, through the real command line: a small part of `python -m tests.kill`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def lane(module: str, *arguments: str) -> str:
    """Run a lane in a process of its own, which has no threads and may fork; what it printed."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def kills_into(*media: str) -> int:
    said = lane("tests.kill", "--media", *media, "--kills", "14", "--random", "6", "--repeat", "0", "--workers", "2")
    (kills,) = re.findall(r"^\d+ trials, (\d+) kills in", said, re.MULTILINE)
    return int(kills)


def test_kill_into_jsonl() -> None:
    assert kills_into("jsonl", "folder") >= 20


def test_kill_into_sqlite() -> None:
    assert kills_into("sqlite") >= 20


def test_kill_into_s3() -> None:
    assert kills_into("s3") >= 20


def test_signals_and_runs_that_meet() -> None:
    lane("tests.kill", "--media", "jsonl", "--kills", "0", "--random", "0", "--repeat", "1", "--workers", "2")


def test_judges_find_what_is_planted() -> None:
    lane("tests.kill.planted")
