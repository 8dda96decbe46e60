"""Count the outcomes and tokens of result lines while they are drained."""

from __future__ import annotations

from collections import Counter
from operator import add
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from abatch.prices import MOST_SPENDS, NO_USAGE, OTHER_MODELS, TOO_MANY
from abatch.protocol.facts import Counts, Spend
from abatch.protocol.failures import MOST_OF_SHARD, Failures, failure_of
from abatch.protocol.stops import UNKNOWN, add_stops
from abatch.result import OUTCOMES, Failure, Line, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from abatch.protocol import wire

__all__ = ["UsageTotals"]

_Bucket: TypeAlias = tuple[str, bool, str, tuple[str, ...]]
"""The model, whether the prompt is long, the inference geography, and the charges without a price."""
_NONE: Final = (0, 0, 0, 0, 0, 0)


class UsageTotals:
    """The counts and tokens of the lines so far; a prompt of more than `step` tokens has the price of a long one."""

    def __init__(self, *, step: int) -> None:
        self._step = step
        self._outcomes: dict[str, int] = {}
        self._succeeded = 0
        self._tokens: dict[_Bucket, tuple[int, ...]] = {}
        self._stops: dict[str, int] = {}
        self._failures = Failures(MOST_OF_SHARD)

    def note(self, outcome: str) -> None:
        """Count an outcome."""
        self._outcomes[outcome] = self._outcomes.get(outcome, 0) + 1

    def add(self, line: Line) -> None:
        """Count a line, and its tokens."""
        self.note(line.outcome)
        if line.outcome == "succeeded":
            add_stops(self._stops, {line.stop_reason or UNKNOWN: 1})
            usage = line.usage or Usage(unpriced=(NO_USAGE,))
        else:
            self._failures.add(failure_of(line))
            if line.usage is None:
                return
            usage = line.usage
        *numbers, geo, unpriced = msgspec.structs.astuple(usage)
        self._add_tokens((line.model or "", usage.prompt_tokens > self._step, geo, unpriced), numbers)

    def add_succeeded(self, messages: Sequence[wire.Message]) -> None:
        """Count the lines of rows that succeeded with these messages."""
        self._succeeded += len(messages)
        told: dict[_Bucket, list[tuple[int, ...]]] = {}
        add_stops(self._stops, Counter([message.stop_reason or UNKNOWN for message in messages]))
        for message in messages:
            usage, model = message.usage, message.model or ""
            if usage is None:
                self._add_tokens((model, False, "", (NO_USAGE,)), _NONE)
                continue
            fresh, _, read, written, _ = numbers = usage.numbers()
            searches, geo, unpriced = usage.charges()
            bucket = (model, fresh + read + written > self._step, geo, unpriced)
            told.setdefault(bucket, []).append(numbers)
            if searches:
                self._add_tokens(bucket, (0, 0, 0, 0, 0, searches))
        for bucket, of_each in told.items():
            self._add_tokens(bucket, (*map(sum, zip(*of_each, strict=True)), 0))

    def _add_tokens(self, bucket: _Bucket, numbers: Iterable[int]) -> None:
        if bucket not in self._tokens and len(self._tokens) >= MOST_SPENDS:
            bucket = (OTHER_MODELS, False, "", (TOO_MANY,))
        sums = self._tokens.get(bucket, _NONE)
        self._tokens[bucket] = tuple(map(add, sums, numbers))

    @property
    def counts(self) -> Counts:
        """The number of lines per outcome."""
        known = {outcome: self._outcomes.get(outcome, 0) for outcome in OUTCOMES}
        other = sum(self._outcomes.values()) - sum(known.values())
        known["succeeded"] += self._succeeded
        return Counts(**known, other=other)

    @property
    def spend(self) -> tuple[Spend, ...]:
        """Tokens per model."""
        return tuple(
            Spend(
                model=model,
                long=long,
                usage=Usage(
                    input_tokens=fresh,
                    output_tokens=output,
                    cache_read_tokens=read,
                    cache_creation_tokens=written,
                    cache_creation_1h_tokens=hour,
                    web_search_requests=searches,
                    inference_geo=geo,
                    unpriced=unpriced,
                ),
            )
            for (model, long, geo, unpriced), (fresh, output, read, written, hour, searches) in self._tokens.items()
        )

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The lines that did not succeed, in a few groups."""
        return self._failures.groups

    @property
    def stops(self) -> dict[str, int]:
        """Answers per stop reason."""
        return dict(self._stops)
