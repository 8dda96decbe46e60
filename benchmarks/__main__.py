"""`python -m benchmarks [NAME …]`: measure the claims, print a table for each, exit 1 if one is below its floor.

Every client runs in a process of its own, and so does the server, whose own speed stands in the tables. Runs of
the clients alternate; each counts with its best round. `--quick` takes small inputs and looks at no floor;
`--large` goes up to ten million results.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.claims import CLAIMS
from benchmarks.measure import Size


def main() -> int:
    options = argparse.ArgumentParser(prog="benchmarks")
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CLAIMS))
    options.add_argument("--quick", action="store_true")
    options.add_argument("--large", action="store_true")
    options.add_argument("--rounds", type=int)
    chosen = options.parse_args()
    if unknown := set(chosen.names) - CLAIMS.keys():
        options.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    size = Size(quick=chosen.quick, large=chosen.large, rounds=chosen.rounds or (1 if chosen.quick else 5))
    missed = 0
    for name in chosen.names or CLAIMS:
        with tempfile.TemporaryDirectory(prefix="abatch-bench-") as folder:
            missed += CLAIMS[name](Path(folder), size).print(strict=not size.quick)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
