"""The settings of the simulated Batches API: times, limits, keys, outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from abatch.errors import ConfigError
from abatch.sandbox.answers import OutcomeOf, Outcomes
from abatch.sandbox.shapes import ERAS, Era, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from abatch.sandbox.replies import AnswerOf

__all__ = ["Settings"]


def _usual_outcomes() -> OutcomeOf:
    return Outcomes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of the simulated API. Times are in seconds; None means no limit."""

    latency: float | tuple[float, float] = 0.0
    """The time from the creation of a batch to its end: a number, or a range to draw from."""
    cancel_latency: float = 0.0
    """The time from a cancel to the end of the batch."""
    outcome: OutcomeOf = field(default_factory=_usual_outcomes)
    answer: AnswerOf | None = None
    """The function that makes the answers. None: the usual answer, or an instance of the schema if there is one."""
    answer_bytes: int = 0
    """The text of an answer is padded to this size."""
    keys: Mapping[str, str] | None = None
    """The workspace of each key. None: every key is good; the header `anthropic-workspace-id` selects."""
    queue_limit: int | None = None
    """The number of requests that may wait in one workspace."""
    requests_per_minute: int | None = None
    """The number of calls of the batch endpoints in one workspace per minute."""
    retry_after_seconds: int | None = None
    """The `retry-after` on a batch that has not ended; the real API sends 10."""
    era: Era = "2026-09"
    """The year and month whose answers are imitated: their headers, and the last byte and content type of results."""
    gzip: bool = True
    """Whether JSON is compressed and chunked for a client that accepts gzip."""
    results_host: str | None = None
    """The beginning of `results_url`; None: this server. The real API names its own host even behind a gateway."""

    def __post_init__(self) -> None:
        if self.era not in ERAS:
            raise ConfigError(f"era must be one of {', '.join(ERAS)}, got {self.era!r}")
        shortest, longest = self.latency_range
        if not 0 <= shortest <= longest:
            raise ConfigError(f"latency must be seconds or a rising range of seconds, got {self.latency}")

    @property
    def shape(self) -> Shape:
        """The shape of answers in its era."""
        return ERAS[self.era]

    @property
    def latency_range(self) -> tuple[float, float]:
        """The shortest and the longest latency."""
        return self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)
