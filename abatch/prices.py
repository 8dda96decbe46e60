"""What tokens cost: the dated price list in `prices.json`, which a user's own file of the same form can override."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from abatch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.facts import Spend
    from abatch.result import Usage

__all__ = ["BATCH_DISCOUNT", "Price", "PriceList", "load"]

BATCH_DISCOUNT: Final = 0.5
MILLION: Final = 1_000_000
_DATED: Final = re.compile(r"-(\d{8}|latest)$")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens, synchronous; `long_*` for prompts above the list's step."""

    input: float
    output: float
    long_input: float | None = None
    long_output: float | None = None


class PriceList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices at a date, by model name."""

    date: str
    long_prompt_tokens: int = 100_000
    """Above this many prompt tokens a request costs `long_*`, where a model has them."""
    cache_write_5m: float = 1.25
    cache_write_1h: float = 2.0
    cache_read: float = 0.1
    """These three times the input price."""
    models: dict[str, Price]

    def price(self, model: str) -> Price | None:
        """The price of a model; a dated name (`claude-haiku-4-5-20251001`) has the price of its family."""
        return self.models.get(_DATED.sub("", model.removeprefix("claude-")))

    def cost(self, usage: Usage, model: str, *, long: bool) -> float | None:
        """Synchronous US dollars of these tokens; None if the model is not listed."""
        price = self.price(model)
        if price is None:
            return None
        into = price.long_input if long and price.long_input is not None else price.input
        out = price.long_output if long and price.long_output is not None else price.output
        short_lived = usage.cache_creation_tokens - usage.cache_creation_1h_tokens
        weighted = (
            usage.input_tokens
            + short_lived * self.cache_write_5m
            + usage.cache_creation_1h_tokens * self.cache_write_1h
            + usage.cache_read_tokens * self.cache_read
        )
        return (weighted * into + usage.output_tokens * out) / MILLION

    def total(self, spends: Iterable[Spend]) -> float | None:
        """Synchronous US dollars of all of these; None if a model among them is not listed."""
        total = 0.0
        for spend in spends:
            cost = self.cost(spend.usage, spend.model, long=spend.long)
            if cost is None:
                return None
            total += cost
        return total


@lru_cache
def load(path: str | None = None) -> PriceList:
    """The list that comes with abatch, or a user's own file, whose models are put over it.

    Raises:
        ConfigError: the file is not such a list.

    """
    shipped = msgspec.json.decode(files("abatch").joinpath("prices.json").read_bytes(), type=PriceList)
    if path is None:
        return shipped
    try:
        own = msgspec.json.decode(Path(path).read_bytes(), type=PriceList)
    except (OSError, msgspec.MsgspecError) as unusable:
        raise ConfigError(f"price file {path} cannot be used: {unusable}") from unusable
    return msgspec.structs.replace(own, models={**shipped.models, **own.models})
