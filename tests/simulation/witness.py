"""Note what happened in a world, on its true clock: what the API showed to whom, and when facts became durable.

The judges compare it with the journal. The API itself looks at it, too, where a bound of the promise says that
something may happen only to batches that are on record (`api.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from abatch.protocol import wire
from abatch.protocol.facts import Committing, Drained, Lost, Withdrawn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.journal.log import Entry
    from abatch.sandbox.batches import Batch
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["ABSENT", "SURVIVED", "Witness", "tag_of"]

ABSENT = "no batch appeared (B8)"
SURVIVED = 60.0
"""Seconds that a process must live after an answer, so that it certainly has made durable what follows from it."""


def tag_of(batch: Batch) -> tuple[int, int] | None:
    """The shard and attempt in a batch's ids, whoever made it."""
    named = wire.parse_id(batch.requests.custom_ids.split(b"\n", 1)[0])
    return None if named is None else (named.shard, named.attempt)


@dataclass(slots=True)
class Showings:
    """When a process was shown a batch: first, and last."""

    first: float
    last: float


@dataclass(slots=True)
class Withdrawal:
    """A doubt that ended because no batch appeared."""

    at: float
    process: Process


@dataclass(slots=True)
class Witness:
    """Of one world. Times are virtual seconds since its beginning."""

    world: World
    shown: dict[str, dict[Process, Showings]] = field(default_factory=dict[str, "dict[Process, Showings]"])
    """What lists and answers about one batch showed, to which process."""
    on_record: set[str] = field(default_factory=set[str])
    """Batches of ours that the journal knows as accepted, found, or candidates of the very attempt that made them."""
    removed: dict[str, float] = field(default_factory=dict[str, float])
    """When each batch was deleted."""
    committed: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    """When each attempt passed its commit point."""
    withdrawn: dict[tuple[int, int], Withdrawal] = field(default_factory=dict[tuple[int, int], Withdrawal])
    given_up: dict[int, tuple[float, Process]] = field(default_factory=dict[int, "tuple[float, Process]"])
    """When the batch of a shard was given up, and by whom."""
    watched: dict[int, tuple[str, float]] = field(default_factory=dict[int, tuple[str, float]])
    """The batch that each shard is known to be, and since when."""
    _attempts: dict[int, int] = field(default_factory=dict[int, int])

    def shows(self, process: Process, batches: Iterable[Batch]) -> None:
        """An answer that showed these came to a process."""
        now = self.world.now()
        for batch in batches:
            to = self.shown.setdefault(batch.batch_id, {})
            if (showings := to.get(process)) is None:
                to[process] = Showings(now, now)
            else:
                showings.last = now

    def recorded(self, process: Process, entries: Iterable[Entry]) -> None:
        """A process makes these facts durable."""
        now = self.world.now()
        for entry in entries:
            if entry.shard is None:
                continue
            match entry.fact:
                case Committing(attempt=attempt, at=at):
                    self._attempts[entry.shard] = attempt
                    # A process may stand still between the two; the tail goes within a minute of the gate.
                    gate = now if at is None else at.boot + self.world.booted_at
                    self.committed[entry.shard, attempt] = min(now, gate)
                case Withdrawn(why=why) if why == ABSENT:
                    self.withdrawn[entry.shard, self._attempts[entry.shard]] = Withdrawal(now, process)
                case Lost():
                    self.given_up[entry.shard] = now, process
                case Drained(missing=missing) if missing:
                    self.given_up.setdefault(entry.shard, (now, process))
                case _:
                    pass

    def told(self, event: str, facts: dict[str, Any]) -> None:
        """The log tells of a batch that the journal now knows."""
        batch_id: str = facts.get("batch_id", "")
        if event in ("shard_accepted", "shard_found"):
            self.on_record.add(batch_id)
            self.watched[facts["shard"]] = batch_id, self.world.now()
        elif event == "candidate_seen" and self.world.machine.tag(batch_id) == (facts["shard"], facts["attempt"]):
            self.on_record.add(batch_id)

    def last_shown(self, batch_id: str, before: float) -> float | None:
        """When a process that survived it was last shown the batch, before this time; None if none was."""
        times = [
            showings.last
            for process, showings in self.shown.get(batch_id, {}).items()
            if showings.last <= before and process.survived(showings.last)
        ]
        return max(times, default=None)

    def was_shown(self, batch_id: str, process: Process, since: float, until: float) -> bool:
        """Whether this process, or one before it that survived it, was shown the batch in between."""
        return any(
            (other is process or other.survived(showings.last)) and showings.first < until and showings.last > since
            for other, showings in self.shown.get(batch_id, {}).items()
        )
