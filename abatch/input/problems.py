"""Gather the problems of an input, equal ones together, however many there are.

The first twenty are kept one by one; of each kind the number and the first three. Two problems are of one kind if their
texts differ in nothing but numbers: the line of a duplicate's twin, the place in a list.
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
"""Problems that are kept one by one."""
KINDS: Final = 20
"""Kinds that are told apart; of more only the number of problems is known."""
EXAMPLES: Final = 3
_NUMBER: Final = re.compile(r"(?<![\w`'.-])\d+(?![\w`'-])")


@dataclass(slots=True)
class _Kind:
    count: int = 0
    examples: list[BadRequest] = field(default_factory=list[BadRequest])


class Problems:
    """The problems of one input, in its order.

    Args:
        place: gives the file and the line in it of a line of the whole input, where this is several files.

    """

    def __init__(self, place: Callable[[int], tuple[str | None, int]] | None = None) -> None:
        self._place = place
        self.total = 0
        """How many there are."""
        self._first: list[BadRequest] = []
        self._kinds: dict[str, _Kind] = {}

    def add(self, problems: Iterable[BadRequest]) -> None:
        """Take some problems in; of later lines than those that were taken in before."""
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
        """Each kind with its number and its first three."""
        return [Alike(kind.count, tuple(kind.examples)) for kind in self._kinds.values()]

    def error(self) -> BadRequest | None:
        """All of it as one error; None if there is no problem."""
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
