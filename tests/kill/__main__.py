"""Kill real processes, and look at what they leave.

python -m tests.kill                                 ≥ 400 kills at named places, ≥ 200 at any instant, every scenario
python -m tests.kill --kills 100000 --random 20000   every place of every backend, and a night of random ones
python -m tests.kill --media s3 --seed 7             one backend, other trials

Exits 1 on any violation, and if there were fewer kills; what the failing trial left behind is kept, and named.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.harness.bench import NAMES
from tests.kill.lane import Plan, Report, is_instant, is_named, run


def main() -> int:
    """Do what the command line asks for."""
    plan = Plan()
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description="Kill real processes.")
    parser.add_argument("--media", nargs="+", choices=NAMES, default=NAMES, help="where results go (all)")
    parser.add_argument("--kills", type=int, default=plan.kills, help=f"at named places, at least ({plan.kills})")
    parser.add_argument("--random", type=int, default=plan.random, help=f"at random instants, at least ({plan.random})")
    parser.add_argument("--repeat", type=int, default=plan.repeat, help=f"times of each scenario ({plan.repeat})")
    parser.add_argument("--seed", type=int, default=plan.seed, help="what is random (0)")
    parser.add_argument("--workers", type=int, default=plan.workers, help=f"processes that try ({plan.workers})")
    asked = parser.parse_args()
    began = time.monotonic()
    report = run(Plan(**{**vars(asked), "media": tuple(asked.media)}), progress=_show)
    print(file=sys.stderr)
    print(table(report, asked.media))
    print(f"{len(report.met)} of {report.places} named places, all backends together")
    named, instants = report.kills(is_named), report.kills(is_instant)
    print(
        f"{report.trials} trials, {report.kills()} kills in {time.monotonic() - began:.0f} s: "
        f"{named} at named places, {instants} at random instants"
    )
    enough = named >= min(asked.kills, report.named) and instants >= asked.random
    if not enough:
        print(f"too few: {asked.kills} and {asked.random} were asked for")
    for violation in report.violations:
        print(f"VIOLATION {violation}")
    print(f"{len(report.violations)} violations")
    return 0 if enough and not report.violations else 1


def table(report: Report, media: list[str]) -> str:
    """Kills per place and medium, and what they did."""
    lines = [_line("place", *media, "paid twice", "lost", "duplicate")]
    for place, row in sorted(report.rows.items()):
        lines.append(_line(place, *(row.kills[name] for name in media), row.doubled, row.lost, row.repeated))
    rows = report.rows.values()
    totals = [sum(row.kills[name] for row in rows) for name in media]
    sums = [sum(getattr(row, name) for row in rows) for name in ("doubled", "lost", "repeated")]
    lines.append(_line(f"{len(rows)} places", *totals, *sums))
    return "\n".join(lines)


def _line(place: str, *cells: object) -> str:
    return f"{place:44}" + "".join(f"{cell!s:>11}" for cell in cells)


def _show(report: Report) -> None:
    if sys.stderr.isatty():
        print(f"\r{report.kills()} kills, {len(report.violations)} violations", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
