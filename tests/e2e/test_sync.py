"""One job from a program without an event loop."""

from __future__ import annotations

from pathlib import Path

import pytest

import abatch
from abatch.sandbox import Sandbox
from tests.e2e.jobs import assert_each_answered, assert_paid_once, config, requests, write


def test_a_job_is_run_to_its_end_and_run_again_it_does_nothing(api: Sandbox) -> None:
    rows = requests(23)
    for _ in range(2):
        summary = abatch.run(write(rows), to="results.jsonl", config=config(), check=True)
        assert (summary.succeeded, summary.ok) == (23, True)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


def test_its_options_are_those_of_submit_and_of_the_manager(api: Sandbox) -> None:
    with pytest.raises(abatch.LimitReached):
        abatch.run(requests(12), to="out.jsonl", key="job", journal="mine", config=config(), limit=5)
    assert api.account.requests == 5
    assert abatch.run(requests(12), to="out.jsonl", key="job", journal="mine", config=config()).succeeded == 12
    assert Path("mine").is_dir()
    with pytest.raises(abatch.ConfigError, match="give the job a key"):
        abatch.run(requests(1), to="other.jsonl", config=config())
    with pytest.raises(abatch.ConfigError, match="key must be a string, got 5"):
        abatch.run(requests(1), to="other.jsonl", key=5, config=config())  # type: ignore[arg-type] # it is refused


@pytest.mark.anyio
async def test_inside_of_a_running_loop_it_names_the_alternative(api: Sandbox) -> None:
    with pytest.raises(RuntimeError, match=r"async with abatch\.BatchManager\(\) as manager"):
        abatch.run(requests(1), to="out.jsonl", key="job")
    assert not Path(".abatch").exists()
