"""`make soak`: steady load on the service for a minute, or for as many seconds as you say."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import Soak


def main() -> None:
    """Load the service and print how it went; the exit status is 1 if anything grew, was lost or was paid for twice."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Soak(Path(folder), options.seconds).run()
    before, after = report.thirds()
    calls = ", ".join(f"{name} {number:,}" for name, number in sorted(report.calls.items()))
    print(f"{report.seconds:.0f} s, {report.jobs} jobs, {report.requests:,} requests; calls: {calls}")
    print(
        f"memory {before.memory / 1e6:.1f} -> {after.memory / 1e6:.1f} MB, files {before.files} -> {after.files}, "
        f"threads {before.threads} -> {after.threads}, event loop late {before.late:.3f} -> {after.late:.3f} s; "
        f"{len(report.violations)} violations"
    )
    for violation in report.violations:
        print(violation)
    sys.exit(bool(report.violations))


if __name__ == "__main__":
    main()
