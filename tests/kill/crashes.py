"""Die at every effect of a run, and count the points: `python -m tests.kill.crashes`.

All shares of `tests/e2e/test_crash_enumeration.py`, in pytest's workers; exits as pytest does, and 1 if a medium was
left out.
"""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest

LANE = "tests/e2e/test_crash_enumeration.py"
HEAD = ("medium", "once", "twice", "of these died twice")
ROW = "{:<8}{:>8}{:>8}{:>21}"


class Tally:
    """Hears of every test that passed how many points it tried."""

    def __init__(self) -> None:
        self.tried: Counter[tuple[str, str]] = Counter()
        self.again: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            for medium, (way, tried, again) in report.user_properties:
                self.tried[medium, way] += tried
                self.again[medium] += again

    def rows(self) -> list[tuple[str, int, int, int]]:
        """Points at which a run died for the first time: alone, and as the first of two deaths."""
        from tests.harness.bench import NAMES  # not before pytest, which rewrites what is imported with it

        return [(name, self.tried[name, "once"], self.tried[name, "twice"], self.again[name]) for name in NAMES]


def main() -> int:
    """The exit status."""
    os.environ["ABATCH_NIGHTLY"] = "1"
    tally = Tally()
    status = pytest.main(["-q", LANE], plugins=[tally])
    rows = tally.rows()
    for row in (HEAD, *rows):
        print(ROW.format(*row))
    points = ", ".join(f"{name} {once:,} and {twice:,}" for name, once, twice, _ in rows)
    print(f"points with one death, and with two in a row: {points}")
    return int(status) or int(not all(once and twice for _, once, twice, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
