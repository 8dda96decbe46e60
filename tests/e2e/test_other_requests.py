"""Requests that are not those of the job are refused at their first difference; no requests are no job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from abatch import ConfigError, Job, JobConflict
from abatch.sandbox import Sandbox
from tests.e2e.jobs import assert_each_answered, assert_paid_once, manager, requests, run

pytestmark = pytest.mark.anyio


async def planned(job: Job, rows: int) -> None:
    while job.progress().planned < rows:
        await job._job.change()


@pytest.mark.parametrize("row", [1, 3])
async def test_another_list_under_a_known_key_is_refused_by_submit_where_its_first_rows_differ(
    api: Sandbox, row: int
) -> None:
    rows, other = requests(40), requests(40)
    other[row - 1] = {**other[row - 1], "custom_id": "another"}
    async with manager() as running:
        job = await running.submit(rows, to="results.jsonl", key="job")
        await planned(job, 40)
        for _ in range(2):  # while it runs, and when it is finished
            with pytest.raises(JobConflict, match=rf"its row {row} is not this one's \(custom_id 'another'\)"):
                await running.submit(other, to="results.jsonl", key="job")
            await job.wait()
    async with manager() as running:
        with pytest.raises(JobConflict, match=f"its row {row} is not"):
            await running.submit(tuple(other), to="results.jsonl", key="job")
        assert (await (await running.submit(rows, to="results.jsonl", key="job")).wait()).ok
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
    assert api.account.requests == 40


@pytest.mark.parametrize(("count", "kind"), [(39, "more requests: 40, where these are 39"), (41, "fewer requests: 40")])
async def test_a_list_of_another_length_is_refused_by_submit(api: Sandbox, count: int, kind: str) -> None:
    async with manager() as running:
        await (await running.submit(requests(40), to="memory:", key="job")).wait()
        with pytest.raises(JobConflict, match=kind):
            await running.submit(requests(count), to="memory:", key="job")
    assert (api.account.requests, api.account.violated) == (40, 0)


async def test_another_iterable_is_read_no_further_than_its_first_difference(api: Sandbox) -> None:
    rows, taken = requests(40), 0

    def other() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in requests(45)[5:]:
            taken += 1
            yield row

    await run(rows)
    async with manager() as running:
        again = await running.submit(other(), to="results.jsonl", key="job")
        with pytest.raises(JobConflict, match="its row 1 is not"):
            await again.wait()
    assert taken <= 10  # of a block, which has as many rows as a batch
    assert_paid_once(api, rows)


@pytest.mark.parametrize("empty", [list, tuple, lambda: iter(()), lambda: (row for row in [])])
async def test_an_empty_iterable_is_refused_and_leaves_no_job(api: Sandbox, empty: Any) -> None:
    rows = requests(12)
    async with manager() as running:
        with pytest.raises(ConfigError, match="holds no request"):
            await running.submit(empty(), to="results.jsonl", key="job")
        assert running.jobs() == []
        assert [path.name for path in Path().iterdir()] == [".abatch"]  # the destination was not claimed either
        job = await running.submit((row for row in rows), to="other.jsonl", key="job")
        await job.wait()
    assert_each_answered("other.jsonl", rows)
    assert_paid_once(api, rows)


async def test_an_empty_async_iterable_is_an_error_and_its_key_takes_other_requests(api: Sandbox) -> None:
    rows = requests(12)

    async def empty() -> AsyncIterator[dict[str, Any]]:
        return
        yield

    with pytest.raises(ConfigError, match="has no request"):
        await run(empty())
    await run(rows)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
