"""Jobs that a process submits which does not drive the journal: the driver takes them, now or later."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import BadRequest, BatchManager, Config, ConfigError, JobConflict, JobStatus, JournalView
from abatch.protocol.facts import Resumed, Stopped, Submitted
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.e2e.jobs import (
    assert_each_answered,
    assert_paid_once,
    config,
    manager,
    recorded,
    requests,
    run,
    write,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def journal(api: Sandbox) -> None:
    """A journal that exists, and that nobody drives."""
    async with manager():
        pass


async def submitted(rows: Any, to: str = "results.jsonl", key: str | None = "job", **more: Any) -> JobStatus:
    async with JournalView() as view:
        return await view.submit(rows, to=to, key=key, **more)


async def done(key: str = "job") -> JobStatus:
    """Follow a job from outside until it is done or stopped."""
    with anyio.fail_after(30):
        async with JournalView() as view:
            while not (job := view.job(key)).taken or (not job.done and job.state != "stopped"):
                await anyio.sleep(0.05)
                await view.refresh()
            return job


async def test_the_driver_takes_a_job_of_another_process(api: Sandbox) -> None:
    rows = requests(25)
    async with manager():
        job = await submitted(write(rows))
        assert (job.key, job.state, job.progress.total) == ("job", "planning", 25)
        assert (await done()).done
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


@pytest.mark.parametrize("resume", ["all", "given"])
async def test_a_job_that_was_submitted_without_a_driver_is_sent_by_the_next_one(api: Sandbox, resume: Any) -> None:
    rows = requests(12)
    await submitted(write(rows))
    assert api.account.requests == 0
    async with BatchManager(config=config(), resume=resume) as running:
        await running.job("job").wait()
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_a_manager_that_takes_no_jobs_leaves_them_to_the_next(api: Sandbox) -> None:
    rows = requests(5)
    async with BatchManager(config=config(), resume="given", take_jobs=False):
        await submitted(write(rows))
        await anyio.sleep(1.2)
        async with JournalView() as view:
            driver = (await view.status()).driver
            assert driver is not None
            assert driver.takes_jobs is False
        assert api.account.requests == 0
    async with manager() as running:
        await running.job("job").wait()
    assert_paid_once(api, rows)


async def test_requests_without_a_file_are_kept_in_the_journal(api: Sandbox) -> None:
    rows = requests(30)

    async def coming() -> AsyncIterator[dict[str, Any]]:
        for row in rows:
            await anyio.sleep(0)
            yield row

    await submitted(coming())
    await submitted(rows)  # the same requests are the same job
    (kept,) = Path(".abatch/inputs").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    async with manager() as running:
        again = await running.submit(iter(rows), to="results.jsonl", key="job")
        await again.wait()
        with pytest.raises(JobConflict, match="other content"):
            await running.submit(rows[:-1], to="results.jsonl", key="job")
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_a_kept_input_is_removed_once_no_job_needs_it_for_29_days(api: Sandbox) -> None:
    await submitted(requests(3))
    (kept,) = Path(".abatch/inputs").iterdir()
    os.utime(kept, (0, 0))
    async with manager() as running:
        assert kept.exists()  # its job is not finished
        await running.job("job").wait()
    async with manager():
        assert not kept.exists()


@pytest.mark.parametrize("bad", [[], [{"custom_id": "x", "params": {"model": 1}}], [{"custom_id": ""}]])
async def test_requests_that_cannot_be_sent_leave_nothing(api: Sandbox, bad: Any) -> None:
    with pytest.raises((BadRequest, ConfigError)):
        await submitted(bad)
    with pytest.raises(ConfigError, match="give the job a key"):
        await submitted(requests(1), key=None)
    async with JournalView() as view:
        assert view.jobs() == []
    assert await recorded(Submitted) == []


async def test_a_submission_is_compared_with_the_job_of_its_key(api: Sandbox) -> None:
    rows = requests(5)
    await run(write(rows))
    assert (await submitted(write(rows))).done
    with pytest.raises(JobConflict, match="other content"):
        await submitted(write(requests(6), "other.jsonl"))
    with pytest.raises(JobConflict, match="destination"):
        await submitted(write(rows), to="elsewhere.jsonl")
    assert_paid_once(api, rows)


async def test_two_processes_that_submit_one_job_at_once_submit_it_once(api: Sandbox) -> None:
    rows = requests(8)
    path = write(rows)
    async with manager(), anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(submitted, path)
    async with manager() as running:
        await running.job("job").wait()
    assert len(await recorded(Submitted)) == 1
    assert_paid_once(api, rows)


async def test_the_settings_of_a_job_are_obeyed_for_that_job_alone(api: Sandbox) -> None:
    async with manager():
        await submitted(write(requests(12)), config=Config(requests_per_batch=3))
        await submitted(write(requests(12), "b.jsonl"), to="b.jsonl.out/", key="other")
        assert (await done()).progress.batches >= 4
        assert (await done("other")).progress.batches == 2


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"unresolved": "hold"}, "unresolved=hold"), ({"grace": timedelta(hours=1)}, "grace=3600.0")],
)
async def test_a_setting_that_the_driver_cannot_obey_stops_the_job_with_the_reason(
    api: Sandbox, settings: dict[str, Any], why: str
) -> None:
    rows = requests(4)
    async with manager():
        await submitted(write(rows), config=Config(**settings))
        job = await done()
        assert (job.state, why in job.reason) == ("stopped", True)
        assert api.account.requests == 0
        await submitted(write(rows))  # it is the driver's choice now
        assert (await done()).done
    assert_paid_once(api, rows)


async def test_a_job_that_was_refused_is_sent_by_a_manager_that_submits_it(api: Sandbox) -> None:
    rows = requests(4)
    async with manager():
        await submitted(write(rows), config=Config(unresolved="hold"))
        await done()
    await run(write(rows))
    assert_paid_once(api, rows)


@pytest.mark.parametrize(("name", "why"), [("API_KEY", "another API key"), ("BASE_URL", "https://other.example")])
async def test_a_job_for_another_key_or_api_is_refused(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    rows = requests(4)
    async with manager():
        with monkeypatch.context() as other:
            other.setenv(f"ANTHROPIC_{name}", "https://other.example")
            await submitted(write(rows))
        job = await done()
        assert (job.state, why in job.reason) == ("stopped", True)
        assert "https://other.example" not in Path(".abatch/driver.json").read_text()
        assert api.account.requests == 0
        with monkeypatch.context() as without:
            without.delenv(f"ANTHROPIC_{name}")
            await submitted(write(rows))
        assert (await done()).done
    assert_paid_once(api, rows)


@pytest.mark.parametrize(
    ("variables", "settings", "why"),
    [
        ({"ANTHROPIC_API_KEY": "sk-other"}, None, "another API key"),
        ({"ANTHROPIC_BASE_URL": "https://other.example"}, None, "https://other.example"),
        ({}, Config(unresolved="hold"), "unresolved=hold"),
    ],
    ids=["key", "base URL", "setting"],
)
async def test_a_running_job_is_not_stopped_by_a_submission_that_its_driver_would_refuse(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, *, variables: dict[str, str], settings: Config | None, why: str
) -> None:
    rows = requests(4)
    path = write(rows)
    api.faults.always("create", Status(429, "rate_limit_error", "slow", retry_after=0.5))
    async with manager() as running:
        job = await running.submit(path, to="results.jsonl", key="job")
        with anyio.fail_after(30):
            async with JournalView() as view:
                while not (view.driver is not None and view.driver.base_url):
                    await anyio.sleep(0.05)
                    await view.refresh()
        with monkeypatch.context() as other:
            for name, value in variables.items():
                other.setenv(name, value)
            with pytest.raises(ConfigError, match=f"job 'job' runs, and was not changed: .*{why}"):
                await submitted(path, config=settings)
        assert await recorded(Stopped) == []
        api.faults.clear()
        assert (await job.wait()).succeeded == 4
    assert_paid_once(api, rows)


async def test_a_stopped_job_continues_when_it_is_submitted_from_outside(api: Sandbox) -> None:
    rows = requests(4)
    path = write(rows)
    content = path.read_bytes()
    await submitted(path)
    path.unlink()
    async with manager():
        assert (await done()).state == "stopped"
        moved = Path("moved.jsonl")
        moved.write_bytes(content)
        await submitted(moved)
        assert (await done()).done
    assert all(each.terms is not None for each in await recorded(Resumed))
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_a_job_whose_first_results_failed_goes_on_only_if_that_is_said(api: Sandbox) -> None:
    rows = requests(20)
    for row in rows[:10]:
        row["params"]["metadata"] = {"user_id": "sandbox:errored:invalid_request_error"}
    path = write(rows)
    async with manager(sealed_unsent=1, uploads=1):
        await submitted(path, pilot=10)
        assert (await done()).failing
        await submitted(path)
        await anyio.sleep(1.2)
        assert (await done()).failing
        await submitted(path, config=Config(failing="go-on"))
        assert (await done()).done
    assert_paid_once(api, rows)


async def test_a_limit_is_raised_from_outside(api: Sandbox) -> None:
    rows = requests(20)
    path = write(rows)
    async with manager():
        await submitted(path, limit=10)
        with anyio.fail_after(30):
            async with JournalView() as view:
                while view.job("job").progress.sealed < 10:
                    await anyio.sleep(0.05)
                    await view.refresh()
        assert api.account.requests == 10
        with pytest.raises(ConfigError, match="at least 10"):
            await submitted(path, limit=5)
        await submitted(path)
        assert (await done()).done
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
