"""One error out of a group: the journal's before others of abatch, and these before all others."""

from __future__ import annotations

import pytest

from abatch.errors import AbatchError, ConfigError, JournalError
from abatch.system.groups import first_of, leaves

PLAIN, OURS, JOURNAL = ValueError("plain"), ConfigError("ours"), JournalError("journal")


@pytest.mark.parametrize(
    ("group", "first"),
    [
        (ExceptionGroup("", [PLAIN, OURS, ExceptionGroup("", [JOURNAL])]), JOURNAL),
        (ExceptionGroup("", [PLAIN, ExceptionGroup("", [OURS])]), OURS),
        (ExceptionGroup("", [ExceptionGroup("", [PLAIN]), KeyError()]), PLAIN),
    ],
)
def test_the_first_error(group: ExceptionGroup[Exception], first: Exception) -> None:
    assert first_of(group) is first
    assert isinstance(JOURNAL, AbatchError)


def test_leaves_keep_their_order() -> None:
    nested = ExceptionGroup("", [ExceptionGroup("", [PLAIN, OURS]), JOURNAL])
    assert list(leaves(nested)) == [PLAIN, OURS, JOURNAL]
