"""Run the sandbox as a process: `python -m abatch.sandbox`. It prints one line, its URL."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from abatch.sandbox.answers import Outcomes
from abatch.sandbox.server import Sandbox, serve
from abatch.sandbox.shapes import ERAS


def seconds_range(text: str) -> float | tuple[float, float]:
    """Read `2` or `0.5,2`."""
    match [float(number) for number in text.split(",")]:
        case [one]:
            return one
        case [shortest, longest]:
            return shortest, longest
        case _:
            raise ValueError(text)


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m abatch.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--state", type=Path, help="directory for the record of accepted batches")
    parser.add_argument("--latency", type=seconds_range, default=0.0, help="seconds to the end of a batch, or LOW,HIGH")
    parser.add_argument("--cancel-latency", type=float, default=0.0, help="seconds from a cancel to the end")
    parser.add_argument("--answer-bytes", type=int, default=0, help="size of an answer's text")
    parser.add_argument("--errored", type=float, default=0.0, help="share of requests that error")
    parser.add_argument("--expired", type=float, default=0.0, help="share of requests that expire")
    parser.add_argument("--queue-limit", type=int, help="requests that may wait")
    parser.add_argument("--requests-per-minute", type=int, help="calls of the batch endpoints")
    parser.add_argument("--era", choices=ERAS, default="2026-09", help="the year and month whose answers are imitated")
    parser.add_argument("--results-host", help="what results_url begins with, if not this server")
    parser.add_argument("--seed", type=int, help="the same seed gives the same random numbers")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input ends")
    options = parser.parse_args()
    sandbox = Sandbox(
        port=options.port,
        state=options.state,
        seed=options.seed,
        latency=options.latency,
        cancel_latency=options.cancel_latency,
        outcome=Outcomes(errored=options.errored, expired=options.expired),
        answer_bytes=options.answer_bytes,
        queue_limit=options.queue_limit,
        requests_per_minute=options.requests_per_minute,
        era=options.era,
        results_host=options.results_host,
    )
    serve(sandbox, bound=announce, exit_when_stdin_closes=options.exit_with_parent)


def announce(url: str) -> None:
    """Report the URL to the parent process."""
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
