"""`abatch estimate`, and what `run --dry-run` says: how large a file of requests is, and what it may cost."""

from __future__ import annotations

import re
import tempfile
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import msgspec
import typer

from abatch.charges import charges_of, merged
from abatch.cli.exit_codes import perform
from abatch.cli.inputs import inputs
from abatch.cli.options import JsonOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.sanitize import clean, duration, price_age, span
from abatch.cli.screen import Screen, table
from abatch.config import Config, Tier
from abatch.errors import ConfigError
from abatch.input.check import check_files
from abatch.input.files import open_input
from abatch.input.params import check_of
from abatch.input.planner import SPREAD
from abatch.input.request import from_line
from abatch.prices import BATCH_DISCOUNT, load
from abatch.protocol.pacing import LIMITS
from abatch.protocol.wire import body_size
from abatch.result import Usage

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import date

    from abatch.input.params import Check
    from abatch.input.request import Row, Rows
    from abatch.prices import PriceList

__all__ = ["Estimate", "Measure", "estimate", "estimate_file", "rows_of", "warn_of_params"]

BYTES_PER_TOKEN: Final = 4
WORTH_IT: Final = 100
"""Requests below which the synchronous API is often the better choice."""
LONGEST_BATCH: Final = 24 * 3600
"""Seconds in which the API ends a batch, one way or the other."""
UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}


_Kind: TypeAlias = tuple[str, bool, str]
"""Model, whether the prompt is long, place of inference."""


class _Asked(msgspec.Struct):
    model: Any = None
    max_tokens: int = 0
    inference_geo: Any = None


class Measure:
    """Sums requests up as they are checked, so that the input is read once for both.

    Args:
        config: how batches are cut.
        prices: what tokens cost.
        limit: how many requests are measured, the first ones; None for all.
        skip: how many of these are left out, the first ones.

    """

    def __init__(self, config: Config, prices: PriceList, *, limit: int | None = None, skip: int = 0) -> None:
        self._prices = prices
        self._limit = limit
        self._skip = skip
        self._seen = 0
        self._requests = 0
        self._sums: dict[_Kind, _Sum] = {}
        self._cutter = _Cutter(config)
        self._decode = msgspec.json.Decoder(_Asked).decode

    def add(self, rows: Rows) -> None:
        """Take in the next requests of the input; called in a worker thread."""
        count = len(rows.params)
        first = min(max(self._skip - self._seen, 0), count)
        end = count if self._limit is None else min(max(self._limit - self._seen, first), count)
        self._seen += count
        self._requests += end - first
        for params, betas in islice(zip(rows.params, rows.betas, strict=True), first, end):
            asked = self._decode(params)
            tokens = len(params) // BYTES_PER_TOKEN
            geo = ""
            if asked.inference_geo is not None:
                geo = charges_of(geo=str(asked.inference_geo)).inference_geo
            key = (str(asked.model), tokens > self._prices.long_prompt_tokens, geo)
            spent = self._sums.get(key)
            if spent is None:
                spent = self._sums[key] = _Sum()
            spent.input_tokens += tokens
            spent.output_tokens += asked.max_tokens
            self._cutter.add(betas, len(params))

    def end(self) -> Estimate:
        """What all of them come to."""
        sums, prices = self._sums, self._prices
        batches, size = self._cutter.end()
        made = Estimate(requests=self._requests, batches=batches, bytes=size, prices_of=prices.date)
        made.input_tokens = sum(spent.input_tokens for spent in sums.values())
        made.output_tokens_at_most = sum(spent.output_tokens for spent in sums.values())
        made.models = sorted({model for model, _, _ in sums})
        made.unpriced = [model for model in made.models if prices.price(model) is None]
        made.why_unpriced = merged(*(prices.why_unpriced(Usage(inference_geo=geo), model) for model, _, geo in sums))
        if not made.why_unpriced:
            low, high = (_dollars(sums, prices, with_output=wanted) for wanted in (False, True))
            made.synchronous_cost = low, high
            made.cost = low * BATCH_DISCOUNT, high * BATCH_DISCOUNT
        return made


@dataclass(slots=True)
class _Sum:
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True, kw_only=True)
class Estimate:
    """What a file comes to. Tokens are rough: a quarter of the bytes; output is anything up to `max_tokens`."""

    requests: int = 0
    batches: int = 0
    bytes: int = 0
    """Of all create bodies."""
    input_tokens: int = 0
    output_tokens_at_most: int = 0
    cost: tuple[float | None, float | None] = (None, None)
    """US dollars as batches, from no output at all to all that is allowed."""
    synchronous_cost: tuple[float | None, float | None] = (None, None)
    models: list[str] = field(default_factory=list[str])
    unpriced: list[str] = field(default_factory=list[str])
    """Models whose price is not known."""
    why_unpriced: tuple[str, ...] = ()
    """Why the costs are None."""
    prices_of: str = ""
    """The date of the price list."""


def warn_of_params(screen: Screen, params: Check | None) -> None:
    """Say what the API may refuse."""
    for doubt in [] if params is None else params.fresh_doubts():
        screen.complain(f"warning: {doubt}")


async def estimate_file(
    paths: list[Path], *, config: Config, prices: PriceList, params: Check | None = None
) -> Estimate:
    """Check files as a submission does, and measure them.

    Raises:
        BadRequest: it holds requests that cannot be sent.
        ConfigError: it cannot be read.

    """
    if any(str(path) == "-" for path in paths):
        raise ConfigError("an estimate needs a file; stdin can be read only once, by the run itself")
    with ExitStack() as opened:
        folder = None
        with suppress(OSError):  # without a temporary folder that can be written, memory does: 16 bytes a request
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="abatch-")))
        measure = Measure(config, prices)
        await check_files(paths, folder, bytes_per_batch=config.bytes_per_batch, params=params, note=measure.add)
    return measure.end()


def rows_of(*paths: Path, longest: int) -> Generator[tuple[bytes, Row], None, None]:
    """The checked rows of some files with their raw lines, a block at a time in memory."""
    with closing(open_input(paths, longest=longest)) as file:
        while (block := file.block()) is not None:
            for line, number, _ in block.requests():
                yield line, from_line(line, number)


class _Cutter:
    """Counts batches as planning will cut them, but for the few rows by which shards differ in size."""

    def __init__(self, config: Config) -> None:
        most = config.requests_per_batch
        self._rows_at_most = max(most - min(SPREAD, most - (most + 1) // 2 + 1) // 2, 1)
        self._bytes_at_most = config.bytes_per_batch
        self._open: dict[tuple[str, ...], tuple[int, int]] = {}
        self._batches = self._bytes = 0

    def add(self, betas: tuple[str, ...], params: int) -> None:
        """Put a row with so many bytes of params into the open batch of its headers; a full one closes them all."""
        rows, size = self._open.get(betas, (0, 0))
        if rows and body_size(rows + 1, size + params) > self._bytes_at_most:
            self._cut()
            rows, size = 0, 0
        self._open[betas] = rows + 1, size + params
        if rows + 1 >= self._rows_at_most:
            self._cut()

    def _cut(self) -> None:
        self._batches += len(self._open)
        self._bytes += sum(body_size(rows, size) for rows, size in self._open.values())
        self._open.clear()

    def end(self) -> tuple[int, int]:
        """How many batches, and their bytes."""
        self._cut()
        return self._batches, self._bytes


def _dollars(sums: dict[_Kind, _Sum], prices: PriceList, *, with_output: bool) -> float:
    total = 0.0
    for (model, long, geo), spent in sums.items():
        output = spent.output_tokens if with_output else 0
        usage = Usage(input_tokens=spent.input_tokens, output_tokens=output, inference_geo=geo)
        total += prices.cost(usage, model, long=long) or 0.0
    return total


def rows_to_show(made: Estimate, *, today: date | None = None) -> list[tuple[str, str]]:
    """The estimate as rows of a table."""
    age = price_age(made.prices_of, today or datetime.now().astimezone().date())
    rows = [
        ("requests", f"{made.requests:,}"),
        ("batches", f"about {made.batches:,}"),
        ("bytes", f"{made.bytes:,}"),
        ("input tokens", f"about {made.input_tokens:,} (bytes of the requests / {BYTES_PER_TOKEN})"),
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
    """Seconds between submissions, so that each request has its answer within the SLA.

    Raises:
        ConfigError: it is no length of time, or not more than the day a batch may take.

    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", sla.strip())
    if match is None:
        raise ConfigError(f"--sla must be a time such as 30h, 2d or 1800m, got {sla!r}")
    left = float(match[1]) * UNITS[match[2]] - LONGEST_BATCH
    if left <= 0:
        raise ConfigError(
            f"an SLA of {sla} cannot be kept with batches: one may take 24 h by itself; use the synchronous API"
        )
    return left


def estimate(
    sources: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Files of JSON lines (.gz, .zst) or patterns in quotes.")
    ],
    sla: Annotated[str | None, typer.Option(help="When each answer is due: 30h, 2d.")] = None,
    tier: Annotated[Tier, typer.Option(help="The usage tier of the account.")] = "start",
    prices: Annotated[Path | None, typer.Option(help="A price file of your own.")] = None,
    as_json_: JsonOption = False,
) -> None:
    """Say how large a job is and what it may cost. Nothing is sent, no key is needed.

    Example: abatch estimate requests.jsonl --sla 30h
    """
    screen = Screen()

    async def work() -> None:
        every = None if sla is None else submit_every(sla)
        list_ = load(None if prices is None else str(prices))
        params = check_of("check", betas=False)
        made = await estimate_file(inputs(sources), config=Config(tier=tier), prices=list_, params=params)
        warn_of_params(screen, params)
        _, queue = LIMITS[tier]
        advice = _advice(made, queue, every)
        if as_json_:
            screen.give({**as_json(made), "prices_of": list_.date, "queue_limit": queue, "submit_every_seconds": every})
            return
        screen.output.print(table("", "", rows=rows_to_show(made)))
        for line in advice:
            screen.output.out(line)

    perform(work)


def _advice(made: Estimate, queue: int, every: float | None) -> list[str]:
    lines: list[str] = []
    if made.requests < WORTH_IT:
        lines.append(
            f"Below {WORTH_IT} requests the synchronous API is often the better choice: it answers at once; "
            "a batch costs half and may take a day."
        )
    if made.requests > queue:
        lines.append(f"The tier's queue takes {queue:,} requests at once; the rest waits for its turn by itself.")
    if every is not None:
        lines.append(
            f"A batch may take 24 h: submit what has gathered at least every {duration(every)} to keep the SLA."
        )
    return lines
