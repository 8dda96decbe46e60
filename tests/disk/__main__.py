"""Let the disk fail under a job, at every effect in every way.

python -m tests.disk                every fifth effect
python -m tests.disk --every 1      all of them

Exits 1 on any violation, and if a fault ended no run into some medium; what the failing trial left behind is kept, and
named.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.disk.lane import DONE, NAMES, Report, run

ENDINGS = ("JournalError", "JobStopped", "BackendError", "ConfigError", DONE)


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.disk", description="Let the disk fail under a job.")
    parser.add_argument("--media", nargs="+", choices=NAMES, default=NAMES, help="where results go (all)")
    parser.add_argument("--every", type=int, default=5, help="let every so manyeth effect fail (5)")
    parser.add_argument("--first", type=int, default=1, help="begin with this effect (1)")
    parser.add_argument("--workers", type=int, default=4, help="processes that try (4)")
    asked = parser.parse_args()
    began = time.monotonic()
    report = run(tuple(asked.media), every=asked.every, first=asked.first, workers=asked.workers)
    print(table(report))
    print(f"{report.runs} failing disks in {time.monotonic() - began:.0f} s")
    for violation in report.violations:
        print(f"VIOLATION {violation}")
    unfelt = report.unfelt(asked.media)
    for fault, medium in unfelt:
        print(f"UNFELT {fault}: every run into {medium} went on to its end")
    print(f"{len(report.violations)} violations")
    return 1 if report.violations or unfelt else 0


def table(report: Report) -> str:
    """How runs ended, by fault and medium."""
    lines = [_line("fault", "medium", "runs", *ENDINGS)]
    for (fault, medium), endings in sorted(report.endings.items()):
        lines.append(_line(fault, medium, endings.total(), *(endings[name] for name in ENDINGS)))
    return "\n".join(lines)


def _line(fault: str, medium: str, *cells: object) -> str:
    return f"{fault:16}{medium:8}" + "".join(f"{cell!s:>14}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
