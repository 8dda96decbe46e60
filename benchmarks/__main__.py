"""`python -m benchmarks [NAME …]`: measure the claims, print a table for each, exit 1 if one is below its floor.

Every client runs in a process of its own, and so does the server, whose own speed stands in the tables. Clients run
in turn, round after round, and a ratio has its two sides from the same round. On a machine with two cores the server
takes one of them while a client runs: the faster the client, the more it waits for the server. `--quick` takes
small inputs and looks at no floor; `--readme` writes what was measured into README.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import readme
from benchmarks.claims import APART, CLAIMS
from benchmarks.measure import Size


def main() -> int:
    options = argparse.ArgumentParser(prog="benchmarks")
    options.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CLAIMS))
    options.add_argument("--quick", action="store_true")
    options.add_argument("--readme", action="store_true")
    options.add_argument("--rounds", type=int)
    chosen = options.parse_args()
    if unknown := set(chosen.names) - CLAIMS.keys():
        options.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if chosen.quick and chosen.readme:
        options.error("--quick measures nothing that may be claimed")
    size = Size(quick=chosen.quick, rounds=chosen.rounds or (1 if chosen.quick else 5))
    missed = 0
    for name in chosen.names or [name for name in CLAIMS if name not in APART]:
        with tempfile.TemporaryDirectory(prefix="abatch-bench-") as folder:
            table = CLAIMS[name](Path(folder), size)
        missed += table.print(strict=not size.quick)
        if chosen.readme:
            readme.write(name, table.claims, order=list(CLAIMS))
            if name == "peers":
                readme.write_peers(table)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
