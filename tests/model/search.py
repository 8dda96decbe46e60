"""Search a world breadth first, so that the first violation found has the shortest trace."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from time import perf_counter

from abatch.protocol.lifecycle import Held, Lost, Processing
from tests.model.world import Configuration, World, begin, moves

__all__ = ["Findings", "explore"]


@dataclass(slots=True, kw_only=True)
class Findings:
    """What a search came to."""

    configuration: Configuration
    states: int = 0
    moves: int = 0
    settled: int = 0
    """States in which every shard has its batch, or has lost it: the world can come to a good end."""
    held: int = 0
    """States in which a shard waits for an operator."""
    rules: Counter[str] = field(default_factory=Counter[str])
    """How often each row of tables A and B decided."""
    violation: str | None = None
    trace: list[tuple[int, str]] = field(default_factory=list)
    """The way to the violation: the tick and the words of every move."""
    seconds: float = 0.0

    def told(self) -> str:
        """The trace, for people."""
        lines = [f"{self.configuration.name}: {self.violation}, after {len(self.trace)} moves"]
        return "\n".join([*lines, *(f"  tick {tick:>2}  {words}" for tick, words in self.trace)])


def explore(configuration: Configuration) -> Findings:
    """Try every interleaving, until the first violation or until all are tried."""
    found = Findings(configuration=configuration)
    began = perf_counter()
    first = begin(configuration)
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    left = deque([first])
    while left and found.violation is None:
        world = left.popleft()
        found.states += 1
        _count(found, world)
        for move in moves(world, configuration):
            found.moves += 1
            found.rules.update(move.rules)
            if move.violation is not None:
                found.violation = move.violation
                found.trace = [*_way_to(world, came_from), (world.now, move.words)]
                break
            if move.world not in came_from:
                came_from[move.world] = (world, move.words)
                left.append(move.world)
    found.seconds = perf_counter() - began
    return found


def _count(found: Findings, world: World) -> None:
    states = [shard.state for shard in world.journal]
    found.settled += all(isinstance(state, Processing | Lost) for state in states)
    found.held += any(isinstance(state, Held) for state in states)


def _way_to(world: World, came_from: dict[World, tuple[World, str] | None]) -> list[tuple[int, str]]:
    way: list[tuple[int, str]] = []
    while (step := came_from[world]) is not None:
        world, words = step
        way.append((world.now, words))
    return way[::-1]
