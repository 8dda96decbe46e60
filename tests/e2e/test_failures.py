"""Why requests failed, and why answers stopped, of a job that runs, is done, and was done before a restart."""

from __future__ import annotations

from typing import Any

import pytest

from abatch import Failure
from abatch.sandbox import Sandbox
from tests.e2e.jobs import manager, requests

pytestmark = pytest.mark.anyio


def fated(fates: dict[int, str], count: int) -> list[dict[str, Any]]:
    rows = requests(count)
    for number, fate in fates.items():
        rows[number]["params"]["metadata"] = {"user_id": f"sandbox:{fate}"}
    return rows


async def test_failures_and_stop_reasons_of_a_job_are_the_same_after_a_restart(api: Sandbox) -> None:
    fates = dict.fromkeys(range(5, 15), "errored:invalid_request_error")  # in two batches
    rows = fated({**fates, 20: "errored:permission_error", 21: "expired", 22: "cut:99", 23: "refused"}, 25)
    async with manager() as running:
        job = await running.submit(rows, to="results.jsonl", key="job", tries=1)
        summary = await job.wait()
        found = await job.failures()
    assert api.account.violated == 0
    kinds = [(each.type, each.count, each.final) for each in found]
    assert kinds == [("invalid_request_error", 10, True), ("expired", 1, False), ("permission_error", 1, False)]
    assert [each.example for each in found[1:]] == ["row 21/é", "row 20/é"]
    assert found[0].example in {f"row {n}/é" for n in fates}
    assert all("[sandbox]" in each.message for each in found if each.type != "expired")
    assert sum(each.count for each in found) == summary.requests - summary.succeeded == 12
    assert dict(summary.stop_reasons) == {"end_turn": 11, "max_tokens": 1, "refusal": 1}
    async with manager() as later:
        again = later.job("job")
        assert (await again.failures(), again.summary()) == (found, summary)


async def test_requests_of_a_cancelled_job_are_a_group_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=1, latency=3600) as slow:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", slow.url)
        async with manager() as running:
            job = await running.submit(requests(30), to="results.jsonl", key="job")
            while not job.progress().batches_in_flight:
                await job._job.change()
            await job.cancel()
            summary = await job.wait()
            found = await job.failures()
        assert slow.account.violated == 0
    assert [(each.type, each.count) for each in found] == [("canceled", summary.requests)]
    assert summary.requests
    assert isinstance(found[0], Failure)
    assert found[0].example.startswith("row ")
