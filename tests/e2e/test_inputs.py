"""Inputs of whole jobs: params are checked before they are sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from abatch import BadRequest
from abatch.sandbox import Sandbox
from tests.e2e.jobs import assert_each_answered, assert_paid_once, lines, manager, params, requests, write

pytestmark = pytest.mark.anyio


def bad(name: str = "bad", **more: Any) -> dict[str, Any]:
    return {"custom_id": name, "params": {**params(99), "messages": "hello", **more}}


async def test_a_file_with_params_that_cannot_work_makes_no_job(api: Sandbox) -> None:
    path = write([*requests(5), bad("b"), bad("c")])
    async with manager() as running:
        with pytest.raises(BadRequest) as refused:
            await running.submit(path, to="results.jsonl", key="job")
        assert running.jobs() == []
    assert [(each.line, each.custom_id) for each in refused.value.problems] == [(6, "b"), (7, "c")]
    assert str(refused.value).startswith("2 lines: messages must be a list, it is a string: line 6")
    assert api.account.requests == 0


async def test_params_of_an_iterable_are_checked_before_they_are_sealed(api: Sandbox) -> None:
    rows = requests(25)
    async with manager() as running:
        with pytest.raises(BadRequest, match="messages must be a list") as refused:
            await (await running.submit([*rows, bad()], to="results.jsonl", key="job")).wait()
        assert (refused.value.line, refused.value.custom_id) == (26, "bad")
        await (await running.submit(rows, to="results.jsonl", key="job")).wait()
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_rows_that_were_sealed_before_are_not_checked_again(api: Sandbox) -> None:
    rows = [bad(), *requests(24)]

    def broken() -> Iterator[dict[str, Any]]:
        yield from rows[:15]
        raise OSError("the source is gone")

    async with manager(params="unchecked") as running:
        with pytest.raises(OSError, match="the source is gone"):
            await (await running.submit(broken(), to="results.jsonl", key="job")).wait()
    async with manager() as running:
        summary = await (await running.submit(rows, to="results.jsonl", key="job")).wait()
    assert (summary.succeeded, summary.errored) == (24, 1)
    (refused,) = [line for line in lines("results.jsonl") if line["custom_id"] == "bad"]
    assert "messages" in json.dumps(refused)
    assert api.account.violated == 0
