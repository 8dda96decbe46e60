"""Inputs of whole jobs: params are checked before they are sent, several files are one job."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import BackendError, BadRequest, JobConflict, JobStopped
from abatch.input.planner import Planner
from abatch.protocol.facts import Cut
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
        assert (refused.value.line, refused.value.custom_id, refused.value.job) == (26, "bad", "job")
        assert str(refused.value).startswith("request 26 (custom_id 'bad'): messages must be a list")
        assert "job 'job' has begun, and keeps its destination" in str(refused.value)
        with pytest.raises(BackendError, match="belongs to another job"):
            await running.submit(rows, to="results.jsonl", key="other")
        await (await running.submit(rows, to="results.jsonl", key="job")).wait()
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_a_repeated_id_of_an_iterable_names_the_requests_and_lines_of_bytes_are_lines(api: Sandbox) -> None:
    rows = requests(3)
    rows[2]["custom_id"] = rows[0]["custom_id"]
    encoded = [json.dumps(row).encode() for row in rows]
    async with manager() as running:
        for given, unit in ((rows, "request"), (encoded, "line")):
            job = await running.submit(iter(given), to=f"{unit}.jsonl", key=unit)
            with pytest.raises(BadRequest, match=rf"^{unit} 3 .*: custom_id stands on {unit} 1 already\njob '{unit}'"):
                await job.wait()


async def test_a_job_whose_bad_request_is_given_up_keeps_its_destination(api: Sandbox) -> None:
    async with manager() as running:
        job = await running.submit([bad()], to="results.jsonl", key="job")
        with pytest.raises(BadRequest, match="Another key needs another destination"):
            await job.wait()
        await job.cancel()
        assert (await job.wait()).requests == 0
        assert repr(job) == "<Job 'job' done: 0 requests done>"
        with pytest.raises(BackendError, match="choose another destination"):
            await running.submit(requests(2), to="results.jsonl", key="other")
        assert (await (await running.submit(requests(2), to="other.jsonl", key="other")).wait()).succeeded == 2


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


class Text(str):
    """A string of another class, such as numpy's."""

    __slots__ = ()


async def test_ids_keys_betas_and_models_may_be_strings_of_any_class(api: Sandbox) -> None:
    rows = [
        {"custom_id": Text(f"row {number}/é"), "params": params(number, model=Text("claude-haiku-4-5"))}
        for number in range(25)
    ]
    for _ in range(2):
        async with manager() as running:
            job = await running.submit(
                rows, to=Text("results.jsonl"), key=Text("job"), betas=[Text("b-1")], workspace_id=Text("w")
            )
            assert (await job.wait()).succeeded == 25
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


# ---- several files --------------------------------------------------------------------------------------------


def three(rows: list[dict[str, Any]]) -> list[Path]:
    """The rows in three files, one of them compressed, one without a newline at its end."""
    first, last = write(rows[:12], "a.jsonl"), write(rows[13:], "c.jsonl")
    first.write_bytes(first.read_bytes().rstrip(b"\n"))
    middle = Path("b.jsonl.gz")
    middle.write_bytes(gzip.compress(json.dumps(rows[12], separators=(",", ":"), ensure_ascii=False).encode()))
    return [first, middle, last]


async def test_several_files_are_one_job_in_their_order(api: Sandbox) -> None:
    rows = requests(40)
    paths = three(rows)
    async with manager() as running:
        job = await running.submit([str(path) for path in paths], to="results.jsonl")
        assert job.key.startswith("a-")
        assert job.progress().total == 40
        await job.wait()
    async with manager() as running:
        again = await running.submit(tuple(paths), to="results.jsonl")
        assert (again.key, again.done) == (job.key, True)
        with pytest.raises(JobConflict, match="more or fewer files"):
            await running.submit(paths[:2], to="results.jsonl", key=job.key)
        with pytest.raises(JobConflict, match="other content"):
            await running.submit([paths[2], paths[1], paths[0]], to="results.jsonl", key=job.key)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


@pytest.mark.parametrize("planned", [10, 20, 30])
async def test_several_files_go_on_where_planning_ended(api: Sandbox, monkeypatch: Any, planned: int) -> None:
    rows = requests(40)
    paths = three(rows)
    cut = Planner._cut

    async def ends(self: Planner, made: Cut) -> bool:
        return await cut(self, made) and made.rows < planned - 9

    with monkeypatch.context() as patched:
        patched.setattr(Planner, "_cut", ends)
        async with manager() as running:
            job = await running.submit(paths, to="results.jsonl", key="job")
            while job.progress().planned < planned - 9:
                await anyio.sleep(0)
    assert 0 < job.progress().planned < 40
    async with manager() as running:  # by itself, from what the journal knows of the files
        assert (await running.job("job").wait()).succeeded == 40
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_a_problem_of_several_files_names_its_file_and_the_line_in_it(api: Sandbox) -> None:
    rows = requests(40)
    paths = three(rows)
    paths[2].write_text(paths[2].read_text() + json.dumps(bad()) + "\nnonsense\n" + json.dumps(rows[3]) + "\n")
    async with manager() as running:
        with pytest.raises(BadRequest) as refused:
            await running.submit(paths, to="results.jsonl")
        assert running.jobs() == []
    told = [each.describe() for each in refused.value.problems]
    assert told[0].startswith("c.jsonl line 28 (custom_id 'bad'): messages must be a list")
    assert told[1].startswith("c.jsonl line 29: not JSON")
    assert told[2] == "c.jsonl line 30 (custom_id 'row 3/é'): custom_id stands on line 4 of a.jsonl already"
    assert refused.value.problems[2].file == "c.jsonl"
    assert api.account.requests == 0


async def test_one_of_several_files_that_changed_stops_what_is_not_planned(api: Sandbox, monkeypatch: Any) -> None:
    rows = requests(40)
    paths = three(rows)
    cut = Planner._cut

    async def ends(self: Planner, made: Cut) -> bool:
        return await cut(self, made) and False

    with monkeypatch.context() as patched:
        patched.setattr(Planner, "_cut", ends)
        async with manager() as running:
            job = await running.submit(paths, to="results.jsonl", key="job")
            while not job.progress().planned:
                await anyio.sleep(0)
    paths[2].write_text(paths[2].read_text() + "\n")
    async with manager() as running:
        with pytest.raises(JobStopped, match=r"c\.jsonl changed since the job was started"):
            await running.job("job").wait()
    assert api.account.violated == 0
