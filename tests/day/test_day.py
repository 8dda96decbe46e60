"""A short day of the service; `make day` has a long one."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

from tests.day.day import Day


def test_a_day_with_two_deaths_loses_nothing_and_pays_for_nothing_twice(tmp_path: Path) -> None:
    with patch.dict(os.environ):
        report = Day(tmp_path, jobs=12, rows=30, seed=2).run()
    assert report.violations == []
    assert (report.deaths, report.messages) == (2, 12)
    assert report.attempts > report.messages
