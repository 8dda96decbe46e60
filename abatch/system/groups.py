"""Choose one error out of a group of tasks' errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from abatch.errors import AbatchError, JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["first_of", "leaves"]


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Every error in a group and the groups in it, in order."""
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from leaves(cast("BaseExceptionGroup[BaseException]", each))
        else:
            yield each


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to raise for a group: the journal's before others of abatch, and these before all others."""
    every = list(leaves(group))
    for kind in (JournalError, AbatchError):
        for error in every:
            if isinstance(error, kind):
                return error
    return every[0]
