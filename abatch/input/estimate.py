"""Estimate the number of batches, the number of tokens and the cost of files of requests."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import msgspec

from abatch.charges import charges_of, merged
from abatch.config import Config
from abatch.errors import ConfigError
from abatch.input.check import check_files
from abatch.input.params import check_of
from abatch.input.planner import SPREAD
from abatch.input.request import paths_of
from abatch.prices import BATCH_DISCOUNT, load
from abatch.protocol.pacing import LIMITS
from abatch.protocol.wire import body_size
from abatch.result import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abatch.input.request import RequestSource, Rows
    from abatch.prices import PriceList

__all__ = ["Estimate", "Estimator"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimate of the batches, tokens and cost of files of requests.

    Input tokens are a rough estimate: a quarter of the bytes. Output may be anything up to `max_tokens`.
    """

    BYTES_PER_TOKEN: ClassVar[int] = 4
    """Bytes of params per token, which `input_tokens` assumes."""

    requests: int = 0
    batches: int = 0
    bytes: int = 0
    """Size of all create bodies together."""
    input_tokens: int = 0
    output_tokens_at_most: int = 0
    cost: tuple[float | None, float | None] = (None, None)
    """US dollars if sent as batches: with no output at all, and with all output that `max_tokens` allows."""
    synchronous_cost: tuple[float | None, float | None] = (None, None)
    models: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    """Models whose price is unknown."""
    why_unpriced: tuple[str, ...] = ()
    """Reasons why the costs are None."""
    prices_of: str = ""
    """The date of the price list."""
    queue_limit: int = 0
    """The number of requests that may be in the queue at once, by the account's tier."""
    doubts: tuple[str, ...] = ()
    """Descriptions of params that the API may refuse."""

    @classmethod
    async def of(
        cls,
        requests: RequestSource,
        /,
        *,
        config: Config | None = None,
        prices: str | None = None,
        betas: Sequence[str] = (),
    ) -> Estimate:
        """Check files as a submission does, and estimate their totals. Nothing is sent, and no key is needed.

        Args:
            requests: a path to JSON lines (`.gz`, `.zst`), or a list or tuple of such paths.
            config: how batches are cut and params are checked.
            prices: the path of a price file, whose prices take precedence over the shipped ones.
            betas: values of `anthropic-beta` for every request.

        Raises:
            BadRequest: a file holds requests that cannot be sent.
            ConfigError: a path cannot be read, or it is not a file.

        """
        paths = paths_of(requests)
        if any(str(path) == "-" for path in paths):
            raise ConfigError("an estimate needs a file; stdin can be read only once, by the run itself")
        if not paths:
            raise ConfigError("an estimate needs a file; write the requests of an iterable to one first")
        config = config or Config()
        params = check_of(config.params, betas=bool(betas))
        estimator = Estimator(config, prices=prices)
        with ExitStack() as opened:
            folder = None
            with suppress(OSError):  # Without a writable temporary folder, memory suffices: 16 bytes a request.
                folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="abatch-")))
            await check_files(paths, folder, bytes_per_batch=config.bytes_per_batch, params=params, note=estimator.add)
        doubts = () if params is None else tuple(map(str, params.fresh_doubts()))
        return replace(estimator.end(), doubts=doubts)


_Kind: TypeAlias = tuple[str, bool, str]
"""The model, whether the prompt is long, and the inference geography."""


class _Asked(msgspec.Struct):
    model: Any = None
    max_tokens: int = 0
    inference_geo: Any = None


class Estimator:
    """Add up requests while `submit` checks them, so that their file is read only once; `add` is that of a `Preview`.

    Args:
        config: how batches are cut.
        prices: the path of a price file, whose prices take precedence over the shipped ones.
        limit: how many requests are counted, from the first one; None for all.

    Raises:
        ConfigError: the price file cannot be used.

    """

    def __init__(self, config: Config | None = None, *, prices: str | None = None, limit: int | None = None) -> None:
        config = config or Config()
        self._prices = load(prices)
        self._limit = limit
        self._requests = 0
        self._sums: dict[_Kind, _Sum] = {}
        self._cutter = _Cutter(config)
        _, self._queue_limit = LIMITS[config.tier]
        self._decode = msgspec.json.Decoder(_Asked).decode

    def add(self, rows: Rows) -> None:
        """Add the next requests of the input; called in a worker thread."""
        count = len(rows.params)
        end = count if self._limit is None else min(self._limit - self._requests, count)
        self._requests += end
        for params, betas in islice(zip(rows.params, rows.betas, strict=True), end):
            asked = self._decode(params)
            tokens = len(params) // Estimate.BYTES_PER_TOKEN
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
        """Return the estimate for all requests that were added."""
        sums, prices = self._sums, self._prices
        batches, size = self._cutter.end()
        models = sorted({model for model, _, _ in sums})
        why_unpriced = merged(*(prices.why_unpriced(Usage(inference_geo=geo), model) for model, _, geo in sums))
        low = high = None
        if not why_unpriced:
            low, high = (_dollars(sums, prices, with_output=wanted) for wanted in (False, True))
        return Estimate(
            requests=self._requests,
            batches=batches,
            bytes=size,
            input_tokens=sum(spent.input_tokens for spent in sums.values()),
            output_tokens_at_most=sum(spent.output_tokens for spent in sums.values()),
            cost=(_discounted(low), _discounted(high)),
            synchronous_cost=(low, high),
            models=tuple(models),
            unpriced=tuple(model for model in models if prices.price(model) is None),
            why_unpriced=why_unpriced,
            prices_of=prices.date,
            queue_limit=self._queue_limit,
        )


@dataclass(slots=True)
class _Sum:
    input_tokens: int = 0
    output_tokens: int = 0


class _Cutter:
    """Counts batches as planning will cut them, apart from the few rows by which shards differ in size."""

    def __init__(self, config: Config) -> None:
        most = config.requests_per_batch
        self._rows_at_most = max(most - min(SPREAD, most - (most + 1) // 2 + 1) // 2, 1)
        self._bytes_at_most = config.bytes_per_batch
        self._open: dict[tuple[str, ...], tuple[int, int]] = {}
        self._batches = 0
        self._bytes = 0

    def add(self, betas: tuple[str, ...], params: int) -> None:
        """Add a row with this many bytes of params to its headers' open batch; a full batch closes all open ones."""
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
        """Return the number of batches and their bytes."""
        self._cut()
        return self._batches, self._bytes


def _dollars(sums: dict[_Kind, _Sum], prices: PriceList, *, with_output: bool) -> float:
    total = 0.0
    for (model, long, geo), spent in sums.items():
        output = spent.output_tokens if with_output else 0
        usage = Usage(input_tokens=spent.input_tokens, output_tokens=output, inference_geo=geo)
        total += prices.cost(usage, model, long=long) or 0.0
    return total


def _discounted(dollars: float | None) -> float | None:
    return None if dollars is None else dollars * BATCH_DISCOUNT
