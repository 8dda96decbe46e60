"""Prices of tokens: the dated list in `prices.json`, which a user's file of the same form can override."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from abatch.charges import merged
from abatch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.protocol.facts import Spend
    from abatch.result import Usage

__all__ = ["BATCH_DISCOUNT", "OLD_AFTER", "Bill", "Price", "PriceList", "days_old", "load"]

BATCH_DISCOUNT: Final = 0.5
MILLION: Final = 1_000_000
OLD_AFTER: Final = 90
"""Days after which a price list is reported as old."""
MOST_SPENDS: Final = 64
"""The most sums of tokens kept apart, by model, price step, place of inference and missing price."""
OTHER_MODELS: Final = "other models"
"""Models beyond `MOST_SPENDS` are summed under this name, which has no price."""
TOO_MANY: Final = f"more than {MOST_SPENDS} kinds of usage"
NO_USAGE: Final = "a result names no usage"
LONGEST: Final = 60
"""Characters of a model's name in a message."""
_PROVIDER: Final = re.compile(r"^(?:[a-z0-9-]+\.)*anthropic\.")  # anthropic., us.anthropic., global.anthropic.
_REVISION: Final = re.compile(r"-v\d+(?::\d+)?$")
_DATED: Final = re.compile(r"-(\d{8}|latest)$")
_OLD_ORDER: Final = re.compile(r"(\d(?:-\d)?)-(haiku|opus|sonnet)")


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens without batching; `long_*` applies to prompts above `long_prompt_tokens`."""

    input: float
    output: float
    long_input: float | None = None
    long_output: float | None = None
    cache_write_5m: float | None = None
    cache_write_1h: float | None = None
    cache_read: float | None = None
    """Factors on the input price of this model; None: the factors of the list."""


class PriceList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices by model name, as of a date."""

    date: str
    long_prompt_tokens: int = 100_000
    """A request with more prompt tokens costs `long_*`, if its model has these prices."""
    cache_write_5m: float = 1.25
    cache_write_1h: float = 2.0
    cache_read: float = 0.1
    """Factors on the input price, for models without their own."""
    web_search: float = 10.0
    """US dollars per 1,000 searches; batches have no discount on them."""
    inference_geo: dict[str, float] = msgspec.field(default_factory=lambda: {"us": 1.1})
    """Factor on the price of all tokens, by place of inference."""
    models: dict[str, Price]
    unpriced: dict[str, str] = {}
    """Models without a price, and the reason."""

    def price(self, model: str) -> Price | None:
        """Return the price of a model by any of its names, or None.

        `claude-haiku-4-5-20251001`, `anthropic/claude-haiku-4.5`, `us.anthropic.claude-haiku-4-5-20251001-v1:0`,
        `claude-haiku-4-5@20251001` and the same in upper case are names of one model.
        """
        return self.models.get(model) or self.models.get(_family(model))

    def cost(self, usage: Usage, model: str, *, long: bool) -> float | None:
        """Return the US dollars of this usage without batching, or None if a part has no price (see `why_unpriced`)."""
        return self._bill(usage, model, long=long).synchronous

    def why_unpriced(self, usage: Usage, model: str) -> tuple[str, ...]:
        """Return the reasons why the cost of this usage is unknown; empty if it is known."""
        reasons: list[str] = []
        if model == OTHER_MODELS:
            return merged(usage.unpriced)
        if self.price(model) is None:
            reasons.append(self.why_no_price(model))
        if usage.inference_geo and usage.inference_geo not in self.inference_geo:
            reasons.append(f"inference_geo {usage.inference_geo!r} has no price")
        return merged(reasons, usage.unpriced)

    def why_no_price(self, model: str) -> str:
        """Return the reason why a model has no price."""
        if not model:
            return "a result names no model"
        stated = self.unpriced.get(_family(model))
        return f"no price for {model[:LONGEST]!r}" + (f": {stated}" if stated else "")

    def total(self, spends: Iterable[Spend]) -> float | None:
        """Return the US dollars of all of these without batching, or None if a part has no price."""
        return self.bill(spends).synchronous

    def bill(self, spends: Iterable[Spend]) -> Bill:
        """Add up the cost of all of these."""
        total = Bill()
        for spend in spends:
            total += self._bill(spend.usage, spend.model, long=spend.long)
        return total

    def _bill(self, usage: Usage, model: str, *, long: bool) -> Bill:
        price, unpriced = self.price(model), self.why_unpriced(usage, model)
        if price is None or unpriced:
            return Bill(unpriced=unpriced)
        into = price.long_input if long and price.long_input is not None else price.input
        out = price.long_output if long and price.long_output is not None else price.output
        short_lived = usage.cache_creation_tokens - usage.cache_creation_1h_tokens
        weighted = (
            usage.input_tokens
            + short_lived * _or(price.cache_write_5m, self.cache_write_5m)
            + usage.cache_creation_1h_tokens * _or(price.cache_write_1h, self.cache_write_1h)
            + usage.cache_read_tokens * _or(price.cache_read, self.cache_read)
        )
        factor = self.inference_geo[usage.inference_geo] if usage.inference_geo else 1.0
        return Bill(
            tokens=factor * (weighted * into + usage.output_tokens * out) / MILLION,
            searches=usage.web_search_requests * self.web_search / 1_000,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """The cost of usage, in US dollars without batching."""

    tokens: float = 0.0
    searches: float = 0.0
    """Web searches; batches have no discount on them."""
    unpriced: tuple[str, ...] = ()
    """Reasons why a part has no known cost; the sums then leave that part out."""

    def __add__(self, more: Bill) -> Bill:
        return Bill(
            tokens=self.tokens + more.tokens,
            searches=self.searches + more.searches,
            unpriced=merged(self.unpriced, more.unpriced),
        )

    @property
    def synchronous(self) -> float | None:
        """US dollars without batching; None if a part is unknown."""
        return None if self.unpriced else self.tokens + self.searches

    @property
    def batch(self) -> float | None:
        """US dollars in batches; None if a part is unknown."""
        return None if self.unpriced else self.tokens * BATCH_DISCOUNT + self.searches


def days_old(dated: str, today: date) -> int | None:
    """Return the age of a price list in days, or None if its date is not an ISO date."""
    try:
        return (today - date.fromisoformat(dated)).days
    except ValueError:
        return None


def _or(own: float | None, lists: float) -> float:
    return lists if own is None else own


def _family(model: str) -> str:
    """Return a model's name as the price list spells it."""
    name = model.strip().lower().rpartition("/")[2].partition("@")[0]
    name = _REVISION.sub("", _PROVIDER.sub("", name)).replace(".", "-").removeprefix("claude-")
    name = _DATED.sub("", name)
    if old := _OLD_ORDER.fullmatch(name):  # 3-5-haiku
        name = f"{old[2]}-{old[1]}"
    return name.removesuffix("-0")


@lru_cache
def load(path: str | None = None) -> PriceList:
    """Return the shipped list, with the models of a user's file on top of it.

    Where the file leaves out a cache factor of a model, the shipped factor applies.

    Raises:
        ConfigError: the file cannot be read or is not a price list.

    """
    shipped = msgspec.json.decode(files("abatch").joinpath("prices.json").read_bytes(), type=PriceList)
    if path is None:
        return shipped
    try:
        own = msgspec.json.decode(Path(path).read_bytes(), type=PriceList)
    except (OSError, msgspec.MsgspecError) as unusable:
        raise ConfigError(f"price file {path} cannot be used: {unusable}") from unusable
    models = {name: _over(shipped.models.get(name), price) for name, price in own.models.items()}
    return msgspec.structs.replace(
        own, models={**shipped.models, **models}, unpriced={**shipped.unpriced, **own.unpriced}
    )


def _over(shipped: Price | None, own: Price) -> Price:
    if shipped is None:
        return own
    return msgspec.structs.replace(
        own,
        cache_write_5m=shipped.cache_write_5m if own.cache_write_5m is None else own.cache_write_5m,
        cache_write_1h=shipped.cache_write_1h if own.cache_write_1h is None else own.cache_write_1h,
        cache_read=shipped.cache_read if own.cache_read is None else own.cache_read,
    )
