"""`abatch estimate`, and the estimate of `run --dry-run`: how large files of requests are, and what they may cost."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from abatch import Estimate
from abatch.cli.exit_codes import perform
from abatch.cli.inputs import inputs
from abatch.cli.options import JsonOption, PricesOption, TierOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.sanitize import clean, duration, price_age, span
from abatch.cli.screen import Screen, table
from abatch.config import Config
from abatch.errors import ConfigError

if TYPE_CHECKING:
    from datetime import date

__all__ = ["as_json", "estimate", "rows_to_show", "submit_every", "warn_of_params"]

WORTH_IT: Final = 100
"""Requests below which the synchronous API is often the better choice."""
LONGEST_BATCH: Final = 24 * 3600
"""Seconds after which the API ends a batch in any case."""
UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}


def warn_of_params(screen: Screen, made: Estimate) -> None:
    """Warn of params that the API may refuse."""
    for doubt in made.doubts:
        screen.complain(f"warning: {doubt}")


def rows_to_show(made: Estimate, *, today: date | None = None) -> list[tuple[str, str]]:
    """The estimate as rows of a table."""
    age = price_age(made.prices_of, today or datetime.now().astimezone().date())
    rows = [
        ("requests", f"{made.requests:,}"),
        ("batches", f"about {made.batches:,}"),
        ("bytes", f"{made.bytes:,}"),
        ("input tokens", f"about {made.input_tokens:,} (bytes of the requests / {Estimate.BYTES_PER_TOKEN})"),
        ("output tokens", f"0 to {made.output_tokens_at_most:,} (the sum of max_tokens)"),
        ("cost as batches", span(*made.cost)),
        ("cost synchronous", span(*made.synchronous_cost)),
    ]
    if made.why_unpriced:
        rows.append(("cost is unknown", "; ".join(map(clean, made.why_unpriced))))
    if age:
        rows.append(("prices", age))
    return rows


def as_json(made: Estimate) -> dict[str, Any]:
    """The estimate as a JSON object."""
    return {
        "requests": made.requests,
        "batches": made.batches,
        "bytes": made.bytes,
        "input_tokens": made.input_tokens,
        "output_tokens_at_most": made.output_tokens_at_most,
        "cost": made.cost,
        "synchronous_cost": made.synchronous_cost,
        "models": made.models,
        "unpriced": made.unpriced,
        "why_unpriced": made.why_unpriced,
    }


def submit_every(sla: str) -> float:
    """Return the seconds between submissions with which each request has its answer within the SLA.

    Raises:
        ConfigError: it is no length of time, or not more than the day a batch may take.

    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", sla.strip())
    if match is None:
        raise ConfigError(f"--sla must be a time such as 30h, 2d or 1800m, got {sla!r}")
    left = float(match[1]) * UNITS[match[2]] - LONGEST_BATCH
    if left <= 0:
        raise ConfigError(
            f"an SLA of {sla} cannot be kept with batches: one batch alone may take 24 h; use the synchronous API"
        )
    return left


def estimate(
    sources: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files of JSON lines (.gz, .zst) or patterns in quotes.")
    ],
    sla: Annotated[str | None, typer.Option(help="When each answer is due: 30h, 2d.")] = None,
    tier: TierOption = "start",
    prices: PricesOption = None,
    as_json_: JsonOption = False,
) -> None:
    """Show how large a job is and what it may cost. Nothing is sent, and no key is needed.

    Example: abatch estimate requests.jsonl --sla 30h
    """
    screen = Screen()

    async def work() -> None:
        every = None if sla is None else submit_every(sla)
        price_file = None if prices is None else str(prices)
        made = await Estimate.of(inputs(sources), config=Config(tier=tier), prices=price_file)
        warn_of_params(screen, made)
        advice = _advice(made, every)
        if as_json_:
            screen.give(
                {
                    **as_json(made),
                    "prices_of": made.prices_of,
                    "queue_limit": made.queue_limit,
                    "submit_every_seconds": every,
                }
            )
            return
        screen.output.print(table("", "", rows=rows_to_show(made)))
        for line in advice:
            screen.output.out(line)

    perform(work)


def _advice(made: Estimate, every: float | None) -> list[str]:
    lines: list[str] = []
    if made.requests < WORTH_IT:
        lines.append(
            f"Below {WORTH_IT} requests the synchronous API is often the better choice: it answers at once; "
            "a batch costs half and may take a day."
        )
    if made.requests > made.queue_limit:
        lines.append(f"The tier's queue takes {made.queue_limit:,} requests at once; the rest waits automatically.")
    if every is not None:
        lines.append(f"A batch may take 24 h: submit new requests at least every {duration(every)} to keep the SLA.")
    return lines
