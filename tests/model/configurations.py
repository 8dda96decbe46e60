"""The worlds that are searched: safe ones, and for each guard and bound one in which it is gone.

A world that must break differs from a safe one in the one thing that it is named for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from abatch.reconcile import NoAnswer, Refused, Replied, Verdict, judge
from tests.model.world import NOT_OURS, PAID_TWICE, Configuration

__all__ = ["BROKEN", "HOLD", "LONG", "OTHER_KEY", "SAFE", "UNNAMED", "Least"]


def trusts_5xx(answer: Replied | NoAnswer) -> Verdict:
    """Table A with row A10 gone: an error of the server is taken as a refusal."""
    if isinstance(answer, Replied) and answer.status >= 500:
        return Refused(rule="A10", reason="5xx", remedy="")
    return judge(answer)


ONE: Final = Configuration(name="one shard, two kills", kills=2, horizon=7)
"""Every answer and loss of one shard's creates, with kills at every point; the bounds add up to the grace."""

PROMPT: Final = Configuration(name="", kills=0, decided=1, visible=0, stalls=0, grace=1, horizon=4)
"""Small bounds, so that worlds of more shards or processes stay small."""

EQUALS: Final = replace(
    PROMPT,
    name="two shards of equal size in doubt, a stranger's batch, a kill",
    shards=2,
    strangers=1,
    kills=1,
    attempts=1,
    lost=True,
    from_doubt=True,
)
AGAIN: Final = replace(
    EQUALS, name="two shards of equal size in doubt, both sent again", strangers=0, kills=0, attempts=2
)
RIVALS: Final = replace(
    PROMPT, name="two processes without the lock, only the fence", processes=2, horizon=3, lost=True
)
LATE: Final = replace(
    PROMPT,
    name="two processes without the lock, late answers",
    processes=2,
    horizon=3,
    attempts=3,
    from_doubt=True,
)
OTHER_KEY: Final = replace(ONE, name="a restart with the key of another workspace", kills=1, other_key=True)
HOLD: Final = replace(
    ONE, name="unresolved=hold, no bound of time holds", kills=1, hold=True, decided=None, visible=None, stalls=None
)

UNNAMED: Final = replace(
    ONE,
    name="every answer a 2xx that cannot be read, no bound of time holds",
    kills=0,
    unreadable=True,
    decided=None,
    visible=None,
)

ANSWERS: Final = frozenset({"A4", "A5", "A6", "A8", "A9", "A10", "A11"})
DOUBTS: Final = frozenset({"B2", "B6", "B7", "B8"})
EVERY_ROW: Final = ANSWERS | DOUBTS
"""Every row of tables A and B that the model can come to."""


class Least(NamedTuple):
    """What a search must have come to, so that one which explores nothing fails."""

    states: int
    rules: frozenset[str] = EVERY_ROW
    """Exactly these rows of the tables."""


SAFE: Final = {
    ONE: Least(20_000),
    EQUALS: Least(35_000, DOUBTS | {"A11"}),
    AGAIN: Least(8_000, DOUBTS | {"A11"}),
    RIVALS: Least(10_000, DOUBTS | {"A11"}),
    OTHER_KEY: Least(20_000),
    HOLD: Least(19_000),
    UNNAMED: Least(2_000, DOUBTS | {"A5"}),
}
"""Nothing may go wrong in these."""

LONG: Final = {
    LATE: Least(80_000),
    replace(LATE, name="two processes without the lock, late answers, longer", horizon=4): Least(190_000),
    replace(RIVALS, name="two processes without the lock, from the first step", lost=False): Least(65_000),
    replace(AGAIN, name="two shards of equal size and a stranger, longer", horizon=5, strangers=1): Least(
        150_000, DOUBTS | {"A11"}
    ),
    replace(ONE, name="one shard, three kills, longer", kills=3, horizon=9): Least(49_000),
}
"""The same, for a machine that has time."""

BROKEN: Final = (
    replace(
        ONE,
        name="no gate: the whole body flows behind the commit point",
        breaks=PAID_TWICE,
        order=("date", "commit", "upload", "tail", "answer"),
    ),
    replace(
        ONE,
        name="the commit point after the tail",
        breaks=PAID_TWICE,
        order=("upload", "tail", "commit", "answer"),
    ),
    replace(ONE, name="a grace shorter than the bounds", breaks=PAID_TWICE, grace=1),
    replace(OTHER_KEY, name="no guard of the key", breaks=PAID_TWICE, guard=False),
    replace(EQUALS, name="a claim by size, before proof", breaks=NOT_OURS, proof=False),
    replace(ONE, name="the SDK's own retries", breaks=PAID_TWICE, sdk_retry=True),
    replace(ONE, name="a 5xx taken as a refusal", breaks=PAID_TWICE, judge=trusts_5xx),
    replace(RIVALS, name="no fence", breaks=PAID_TWICE, fence=False),
    replace(LATE, name="verdicts not tied to their attempt", breaks=NOT_OURS, pinned=False),
    replace(ONE, name="bound A1 or A4 broken: a create is accepted late", breaks=PAID_TWICE, decided=None),
    replace(ONE, name="bound A2 broken: the list does not show a batch", breaks=PAID_TWICE, visible=None),
    replace(ONE, name="bound A3 broken: a stalled body lives on", breaks=PAID_TWICE, stalls=None, horizon=8),
    replace(ONE, name="bound A5 broken: something on the way repeats a POST", breaks=PAID_TWICE, repeats=1),
    replace(HOLD, name="unresolved=hold, and a POST is repeated", breaks=PAID_TWICE, repeats=1),
    replace(ONE, name="a copy of the journal is put back", breaks=PAID_TWICE, restored=True),
)
"""Each must have a counterexample."""
