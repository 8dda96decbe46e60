"""Choose one error from a group of tasks' errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from abatch.errors import AbatchError, JournalError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["first_of", "leaves"]


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield every error in a group and in its nested groups, in order."""
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from leaves(cast("BaseExceptionGroup[BaseException]", each))
        else:
            yield each


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error to raise for a group: first the journal's errors, then others of abatch, then all others."""
    every = list(leaves(group))
    for kind in (JournalError, AbatchError):
        for error in every:
            if isinstance(error, kind):
                return error
    return every[0]
