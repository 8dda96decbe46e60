"""An outage of the storage that may pass does not end the job, and nothing is paid for again."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import BackendError, Job
from abatch.engine.driver_status import status_of
from abatch.journal import status
from abatch.journal.folder import JournalFolder
from abatch.sandbox import Sandbox
from abatch.system.disk import passes
from abatch.testing import memory
from abatch_backends import jsonl, sqlite
from tests.e2e.jobs import (
    assert_each_answered,
    assert_paid_once,
    manager,
    requests,
    run,
    write,
)

pytestmark = pytest.mark.anyio

QUICK: dict[str, Any] = {"storage_retry_every": timedelta(milliseconds=5)}
IMPATIENT: dict[str, Any] = {**QUICK, "storage_patience": timedelta(milliseconds=60)}


@pytest.fixture(autouse=True)
def places() -> Iterator[None]:
    memory.clear()
    yield
    memory.clear()


async def sealed(job: Job, rows: int) -> None:
    while job.progress().sealed < rows:
        await job._job.change()


@pytest.mark.parametrize("carried_out", [False, True], ids=["refused", "answer_lost"])
async def test_an_outage_of_the_storage_that_passes_does_not_end_the_job(api: Sandbox, *, carried_out: bool) -> None:
    rows = requests(40)
    memory.outage("answers", seconds=0.3, carried_out=carried_out)
    async with manager(**QUICK) as running:
        memory.restore("answers")  # the claim is made, and all that follows fails for a while
        job = await running.submit(rows, to="memory:answers", key="job")
        memory.outage("answers", seconds=0.3, carried_out=carried_out)
        summary = await job.wait()
    assert summary.succeeded == len(memory.lines("answers")) == 40
    assert_paid_once(api, rows)


async def test_each_step_of_the_storage_may_fail_once_and_rows_are_retried_once(api: Sandbox) -> None:
    """Rows that failed for a passing reason go into one retry shard, however often their shard is drained."""
    rows = requests(10)
    rows[3]["params"]["metadata"] = {"user_id": "sandbox:errored-once:overloaded_error"}
    for steps in range(1, 9):
        key = f"job-{steps}"
        renamed = [{**row, "params": {**row["params"], "system": key}} for row in rows]
        async with manager(**QUICK) as running:
            job = await running.submit(renamed, to=f"memory:{key}", key=key)
            memory.outage(key, steps=steps, carried_out=steps % 2 == 0)
            summary = await job.wait()
        assert (summary.succeeded, summary.retried, len(memory.lines(key))) == (10, 1, 10), steps
    assert api.account.violated == 0


async def test_other_shards_go_on_while_one_cannot_be_sealed(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, stuck = jsonl._publish, [True]

    def stale(draft: Path, name: Path) -> None:
        if stuck[0] and name.name == "part-00000.jsonl":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(name))
        publish(draft, name)

    monkeypatch.setattr(jsonl, "_publish", stale)
    rows = requests(40)
    async with manager(**QUICK) as running:
        job = await running.submit(rows, to="results/", key="job")
        await sealed(job, 30)
        assert not job.done
        stuck[0] = False
        assert (await job.wait()).succeeded == 40
    assert_paid_once(api, rows)
    assert sum(len(part.read_bytes().splitlines()) for part in Path("results").glob("part-*.jsonl")) == 40


async def test_the_destination_is_connected_again_when_it_is_away_at_the_start(api: Sandbox) -> None:
    rows = requests(12)
    memory.outage("answers", passes=False)
    async with manager(**QUICK) as running:
        memory.restore("answers")
        job = await running.submit(write(rows), to="memory:answers", key="job")
        memory.outage("answers", passes=False)
        with pytest.raises(BackendError, match="restore it"):
            await job.wait()
    memory.outage("answers", seconds=0.1)
    async with manager(**QUICK) as running:  # connects to what is away
        assert (await running.job("job").wait()).succeeded == 12
    assert_paid_once(api, rows)


async def test_a_new_job_whose_destination_is_away_is_refused_at_once(api: Sandbox) -> None:
    memory.outage("answers")
    with pytest.raises(BackendError, match="unavailable for a while"):
        await run(requests(3), to="memory:answers", **QUICK)
    assert api.account.batches == 0


async def test_the_job_ends_when_the_outage_is_longer_than_its_patience_and_the_next_run_goes_on(
    api: Sandbox,
) -> None:
    rows = requests(20)
    async with manager(**IMPATIENT) as running:
        job = await running.submit(rows, to="memory:answers", key="job")
        memory.outage("answers")
        with pytest.raises(BackendError, match=r"has failed for \d+ seconds; run again when it is available"):
            await job.wait()
        again = await running.submit(rows, to="memory:answers", key="job")  # with all of its patience
        memory.restore("answers")
        assert (await again.wait()).succeeded == 20
    assert_paid_once(api, rows)


async def test_patience_begins_anew_with_each_success(api: Sandbox) -> None:
    """Each shard meets an outage of its own, together longer than the patience."""
    rows = requests(60)
    async with manager(**{**QUICK, "storage_patience": timedelta(seconds=1)}, drains=1) as running:
        job = await running.submit(rows, to="memory:answers", key="job")
        for number in range(1, 7):
            memory.outage("answers", seconds=0.25)
            await sealed(job, 10 * number)
        assert (await job.wait()).succeeded == 60
    assert_paid_once(api, rows)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
async def test_full_disk_and_refused_permission_end_the_job_at_once(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    tried: list[int] = []

    def refuse(*_: object) -> None:
        tried.append(code)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(jsonl, "_write_all", refuse)
    monkeypatch.setattr(jsonl, "_write_new", lambda path, _chunks: path.write_bytes(_chunks[0]))
    rows = requests(5)
    with pytest.raises(BackendError, match=os.strerror(code)):
        await run(rows, to="results/")
    assert len(tried) == 1
    assert_paid_once(api, rows)


async def test_an_unknown_failure_of_a_third_partys_backend_ends_the_job(api: Sandbox) -> None:
    opened: list[int] = []

    class Broken:
        async def open(self, shard: Any, /) -> Any:
            opened.append(shard.part)
            raise ConnectionResetError("an exception in words of its own")

        def read(self, sealed: Any, /) -> Any:
            raise NotImplementedError

        async def finish(self, job: Any, sealed: Any, /) -> str:
            raise NotImplementedError

        async def aclose(self) -> None:
            return

    with pytest.raises(ConnectionResetError):
        await run(requests(5), to=Broken(), **QUICK)  # type: ignore[arg-type]
    assert opened == [0]


async def test_fallback_lines_are_sealed_after_the_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=3, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        async with manager(**QUICK, sealed_unsent=4) as running:
            job = await running.submit(requests(5), to="memory:answers", key="job")
            await job.cancel()
            memory.outage("answers", seconds=0.1)
            api.advance(7200)
            summary = await job.wait()
        assert api.account.violated == 0
    assert summary.requests == summary.canceled + summary.succeeded == len(memory.lines("answers"))


async def test_the_driver_status_says_that_the_storage_is_down_and_since_when(api: Sandbox) -> None:
    async with manager(**QUICK) as running:
        job = await running.submit(requests(5), to="memory:answers", key="job")
        memory.outage("answers")
        while not (told := status.read(JournalFolder(Path(".abatch")))) or not told.storage_down:
            await anyio.sleep(0.02)
        (down,) = told.storage_down
        assert (down.job, down.why) == ("job", "the place is unavailable for a while, by memory.outage")
        assert down.since > job._job.started_at
        memory.restore("answers")
        await job.wait()
        assert status_of(running._context.scopes, running._runs.kept(), takes_jobs=True, seq=0).storage_down == []


async def test_locked_database_is_shown_as_an_outage_soon_and_ends_the_job_after_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sqlite.connections.PATIENCE <= 5.0  # seconds until `abatch status` can show it
    monkeypatch.setattr(sqlite.connections, "PATIENCE", 0.02)
    rows = requests(5)
    with Sandbox(seed=7, latency=3600) as api, closing(sqlite3.connect("results.db", isolation_level=None)) as other:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        async with manager(**QUICK, storage_patience=timedelta(seconds=0.5)) as running:
            job = await running.submit(rows, to="results.db", key="job")
            while not job.progress().batches_in_flight:
                await job._job.change()
            other.execute("BEGIN EXCLUSIVE")
            api.advance(3601)
            while (down := job._run.outage.down) is None:
                await anyio.sleep(0.01)
            assert (down.why, round(down.until - down.since, 3)) == ("SQLite reports: database is locked", 0.5)
            with pytest.raises(BackendError, match=r"It has failed for \d seconds"):
                await job.wait()
            with pytest.raises(BackendError, match="database is locked"):
                await running.submit(rows, to="results.db", key="new")
            other.execute("ROLLBACK")
            job = await running.submit(rows, to="results.db", key="job")
            assert (await job.wait()).succeeded == 5
        assert_paid_once(api, rows)


def test_the_table_of_what_passes() -> None:
    wanted = {errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EBUSY}
    never = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT}
    assert {code for code in wanted | never if passes(OSError(code, "x"))} == wanted


def test_answers_are_in_the_file_that_was_away(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSONL, a process that is out of descriptors at each step in turn."""
    failing = [0]
    create = jsonl._create

    def refuse(path: Path) -> int:
        if failing[0]:
            failing[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return create(path)

    monkeypatch.setattr(jsonl, "_create", refuse)

    async def work() -> None:
        rows = requests(20)
        async with manager(**QUICK) as running:
            job = await running.submit(rows, to="results.jsonl", key="job")
            failing[0] = 5
            assert (await job.wait()).succeeded == 20
        assert_each_answered("results.jsonl", rows)
        assert_paid_once(api, rows)

    anyio.run(work)
