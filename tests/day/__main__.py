"""`make day`: forty jobs, and a report."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.day.day import Day


def main() -> None:
    """Live through one day, and print how it went; the exit status is 1 if anything was lost or paid for twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.day")
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Day(Path(folder), jobs=options.jobs, rows=options.rows, seed=options.seed).run()
    print(
        f"{report.jobs} jobs of {report.requests:,} requests from six sources into three backends, "
        f"{report.deaths} deaths, {report.messages} messages in {report.attempts} attempts, "
        f"{time.monotonic() - began:.0f} s; {len(report.violations)} violations"
    )
    for violation in report.violations:
        print(violation)
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
