"""Collect the problems of an input in bounded memory, and group equal ones.

The first twenty problems are kept individually; of each kind, the count and the first three are kept. Two problems are
of one kind if their texts differ only in numbers, such as the line of the first duplicate or an index in a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from abatch.errors import Alike, BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Problems"]

KEPT: Final = 20
"""The number of problems that are kept individually."""
KINDS: Final = 20
"""The number of kinds that are distinguished; the problems of further kinds are only counted."""
EXAMPLES: Final = 3
_NUMBER: Final = re.compile(r"(?<![\w`'.-])\d+(?![\w`'-])")


@dataclass(slots=True)
class _Kind:
    count: int = 0
    examples: list[BadRequest] = field(default_factory=list[BadRequest])


class Problems:
    """The problems of one input, in its order.

    Args:
        place: maps a line number of the whole input to the file and its line number there, if there are several files.

    """

    def __init__(self, place: Callable[[int], tuple[str | None, int]] | None = None) -> None:
        self._place = place
        self.total = 0
        """The number of problems."""
        self._first: list[BadRequest] = []
        self._kinds: dict[str, _Kind] = {}

    def add(self, problems: Iterable[BadRequest]) -> None:
        """Add problems; their lines must come after those of the problems added before."""
        for each in sorted(problems, key=lambda bad: bad.line):
            problem = each if self._place is None else _placed(each, *self._place(each.line))
            self.total += 1
            if len(self._first) < KEPT:
                self._first.append(problem)
            key = _NUMBER.sub("N", problem.why)
            if key in self._kinds or len(self._kinds) < KINDS:
                kind = self._kinds.setdefault(key, _Kind())
                kind.count += 1
                if len(kind.examples) < EXAMPLES:
                    kind.examples.append(problem)

    def alike(self) -> list[Alike]:
        """Return each kind with its count and its first three problems."""
        return [Alike(kind.count, tuple(kind.examples)) for kind in self._kinds.values()]

    def error(self) -> BadRequest | None:
        """Return all problems as one error; None if there is no problem."""
        if not self._first:
            return None
        first, *more = self._first
        return BadRequest(
            first.line,
            first.custom_id,
            first.why,
            more=more,
            total=self.total,
            alike=self.alike(),
            file=first.file,
        )


def _placed(problem: BadRequest, file: str | None, line: int) -> BadRequest:
    return BadRequest(line, problem.custom_id, problem.why, file=file)
