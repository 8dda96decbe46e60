"""The index of commit points says what a scan would, at a cost that grows with their number and not its square."""

from __future__ import annotations

import random

import anyio
import pytest

from abatch.engine.audit import Audit
from abatch.protocol.commits import CommitTimes
from abatch.protocol.durations import AUDITED_FOR, CLOCK_SLACK
from abatch.protocol.reconcile import Known
from tests.unit.make import NOON, batch

pytestmark = pytest.mark.anyio


class Counted(float):
    """A time that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return super().__lt__(other)

    def __gt__(self, other: float) -> bool:
        Counted.compared += 1
        return super().__gt__(other)


def audit_of(commits: CommitTimes) -> Audit:
    """An audit that asks nothing of the API."""

    async def no_duplicate(*_: object) -> bool:
        return False

    return Audit(
        None,  # type: ignore[arg-type]  # it is never called
        None,
        Known(),
        commits=commits,
        prove=lambda _: None,
        duplicate=no_duplicate,
        wake=lambda: None,
        chance=random.Random(1),
    )


async def test_commit_points_of_one_size_are_taken_in_without_a_look_at_all_others() -> None:
    audit = audit_of(CommitTimes())
    count = 3_000
    Counted.compared = 0
    for number in range(count):
        audit.committed(100, Counted(NOON + number))
    await anyio.lowlevel.checkpoint()
    assert Counted.compared <= 2 * count  # a list made anew for each compares four million times
    assert audit.resembles_ours(batch(created_at=NOON))


@pytest.mark.parametrize("seed", range(20))
def test_the_index_of_commit_points_says_what_a_scan_of_all_would(seed: int) -> None:
    chance = random.Random(seed)
    times, dates = CommitTimes(), []
    for _ in range(chance.randrange(1, 3_000)):
        dates.append(NOON + chance.randrange(int(AUDITED_FOR / 2)))
        times.add(100, dates[-1])
        created = NOON + chance.randrange(-int(AUDITED_FOR), 2 * int(AUDITED_FOR))
        since, until = created - AUDITED_FOR, created + CLOCK_SLACK
        assert times.any_between(100, since, until) == any(since <= date <= until for date in dates)
    assert not times.any_between(99, 0.0, 2 * NOON)


def test_commit_points_older_than_the_audit_looks_back_are_dropped_in_the_end() -> None:
    times = CommitTimes(keep=100.0)
    for second in range(100_000):
        times.add(7, NOON + second)
    assert len(times._times[7]) < 2_000
    assert times.any_between(7, NOON + 99_900, NOON + 99_901)
