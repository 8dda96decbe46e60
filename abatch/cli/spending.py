"""Show what a run will send and may cost before anything is sent, and ask if it may cost much."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from abatch import Estimator
from abatch.cli.confirm import can_ask, confirmed
from abatch.cli.sanitize import clean, money, price_age, span
from abatch.errors import ConfigError

if TYPE_CHECKING:
    from abatch import Estimate, Rows
    from abatch.cli.screen import Screen
    from abatch.config import Config

__all__ = ["CONFIRM_ABOVE", "Spending"]

CONFIRM_ABOVE: Final = 50.0
"""US dollars; a run that may cost more is confirmed on a terminal."""


class Spending:
    """What a run may spend: a `Preview` of its job.

    Args:
        screen: where it is said.
        config: how batches are cut.
        prices: a price file of the user's own.
        confirm_above: US dollars above which a person at a terminal is asked.
        ask: whether somebody may be asked at all.
        limit: how many requests are sent, the first ones; None for all.
        pilot: how many of them are in a batch of their own, the first ones.

    """

    def __init__(
        self,
        screen: Screen,
        config: Config,
        prices: str | None,
        *,
        confirm_above: float,
        ask: bool,
        limit: int | None = None,
        pilot: int = 0,
    ) -> None:
        self._screen = screen
        self._pilot = pilot
        self._estimator = Estimator(config, prices=prices, limit=limit)
        self._confirm_above = confirm_above
        self._ask = ask

    def add(self, rows: Rows, /) -> None:
        """Add the next requests of the input."""
        self._estimator.add(rows)

    async def agree(self) -> None:
        """Show what the requests may cost, and ask if that is much.

        Raises:
            ConfigError: the answer is no.

        """
        made = self._estimator.end()
        if 0 < self._pilot < made.requests:
            made = replace(made, batches=made.batches + 1)
        self._screen.say("\n".join(_lines(made)))
        if self._ask and (question := self._question(made)) and can_ask() and not await confirmed(question):
            raise ConfigError("you did not answer yes, so nothing was sent; --yes skips it")

    def goes_on(self) -> None:
        """Note that the job was begun before, so a pilot belongs to the run that began it."""
        self._pilot = 0

    def _question(self, made: Estimate) -> str:
        """Return the question; empty if the cost is certainly low."""
        most = made.cost[1]
        if most is None:
            return f"The cost is unknown ({'; '.join(made.why_unpriced)}). Send {made.requests:,} requests?"
        if most > self._confirm_above:
            return f"This may cost up to {money(most)}. Send {made.requests:,} requests?"
        return ""


def _lines(made: Estimate) -> list[str]:
    batches = "1 batch" if made.batches == 1 else f"about {made.batches:,} batches"
    lines = [f"requests     {made.requests:,} in {batches}"]
    if made.why_unpriced:
        lines.append(f"cost         unknown: {'; '.join(map(clean, made.why_unpriced))}")
    else:
        lines.append(f"cost         {span(*made.cost)}, by length and max_tokens")
        lines.append(f"synchronous  {span(*made.synchronous_cost)}")
    if age := price_age(made.prices_of, datetime.now().astimezone().date()):
        lines.append(f"prices       {age}")
    return lines
