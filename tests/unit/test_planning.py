"""At most one planner of a job runs; it reads as far as shards are sent, and what it sealed stays planned."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from abatch.engine.planning import JobInput, JobPlanning, SubmittedIterable
from abatch.errors import JobConflict
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished
from tests.unit.engine import Engine, engine, until
from tests.unit.make import committing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anyio.abc import TaskGroup

pytestmark = pytest.mark.anyio


class Planned:
    """The planning of one round, and what became of it."""

    def __init__(self, bench: Engine, group: TaskGroup) -> None:
        self.bench = bench
        self.group = group
        self.input = JobInput()
        self.failures: list[Exception] = []
        self.cuts = 0
        self.planning = JobPlanning(
            bench.context,
            self.input,
            driven={1},
            cut_made=self._count,
            fail=self.failures.append,
        )

    def _count(self) -> None:
        self.cuts += 1

    def add_iterable(self, requests: object) -> SubmittedIterable:
        iterable = self.input.add(requests)
        self.planning.start(self.group)
        return iterable

    @property
    def sealed(self) -> int:
        """Shards that are planned."""
        return len(self.bench.job.shards)

    async def over(self) -> None:
        await until(lambda: not self.planning._runs)


@asynccontextmanager
async def planned(folder: Path, **config: Any) -> AsyncIterator[Planned]:
    async with engine(folder, **config) as bench, anyio.create_task_group() as group:
        yield Planned(bench, group)
        group.cancel_scope.cancel()


def requests(count: int) -> list[dict[str, Any]]:
    params = {"model": "claude-haiku-4-5", "max_tokens": 16, "messages": [{"role": "user", "content": "q"}]}
    return [{"custom_id": f"row {number}", "params": params} for number in range(count)]


async def test_iterable_is_planned_to_its_end_in_cuts(tmp_path: Path) -> None:
    async with planned(tmp_path, requests_per_batch=2) as it:
        iterable = it.add_iterable(requests(4))
        await it.over()
        assert (it.bench.job.cut.rows, it.bench.job.cut.last) == (4, True)
        assert it.cuts >= it.sealed >= 2
        assert (iterable.error, iterable.cut_short, it.failures) == (None, None, [])


async def test_reading_waits_while_enough_shards_wait_to_be_sent(tmp_path: Path) -> None:
    async with planned(tmp_path, requests_per_batch=1, sealed_unsent=1) as it:
        it.add_iterable(requests(3))
        await until(lambda: it.sealed == 1)
        await anyio.wait_all_tasks_blocked()
        assert it.sealed == 1
        (shard,) = it.bench.job.shards.values()
        await it.bench.recorder(shard).record(committing())  # it is on its way
        await until(lambda: it.sealed == 2)


async def test_iterable_that_fails_keeps_what_was_sealed_and_is_the_error_of_the_run(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[dict[str, Any]]:
        yield requests(1)[0]
        raise LookupError("the database is away")

    async with planned(tmp_path, requests_per_batch=1) as it:
        iterable = it.add_iterable(broken())
        await it.over()
        assert it.bench.job.cut.rows == 1
        assert not it.bench.job.cut.last
        assert it.failures == [iterable.cut_short]
        assert isinstance(iterable.cut_short, LookupError)


async def test_iterable_that_differs_from_the_one_that_was_planned_fails_alone(tmp_path: Path) -> None:
    async with planned(tmp_path) as it:
        it.add_iterable(requests(2))
        await it.over()
        other = it.add_iterable(requests(3))
        same = it.add_iterable(requests(2))
        await it.over()
        assert isinstance(other.error, JobConflict)
        assert (same.error, it.failures, it.bench.job.cut.rows) == (None, [], 2)


async def test_reading_ends_when_the_job_is_cancelled_however_long_the_next_request_takes(tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[dict[str, Any]]:
        yield requests(1)[0]
        await anyio.sleep_forever()

    async with planned(tmp_path) as it:
        it.add_iterable(slow())
        await anyio.wait_all_tasks_blocked()
        await it.bench.ledger.record(Entry(it.bench.job.job, CancelWished()))
        await it.over()
        assert it.failures == []


async def test_iterables_that_come_together_are_read_one_after_another(tmp_path: Path) -> None:
    """Two planners would plan the same rows twice."""
    reading = 0

    async def counted() -> AsyncIterator[dict[str, Any]]:
        nonlocal reading
        reading += 1
        assert reading == 1
        for each in requests(3):
            await anyio.sleep(0)
            yield each
        reading -= 1

    async with planned(tmp_path, requests_per_batch=2) as it:
        each = [it.add_iterable(counted()) for _ in range(3)]
        await it.over()
        assert [iterable.error for iterable in each] == [None, None, None]
        assert sum(shard.planned.rows for shard in it.bench.job.shards.values()) == 3
