"""Sealed parts that are gone are read again from the API: exactly one line per request, and nothing is paid again."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import BackendError, BatchManager, ConfigError, JobStopped, Summary
from abatch.journal.kept import read_kept, write_kept
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.protocol.facts import Reopened
from abatch.sandbox import Sandbox
from abatch.sandbox.answers import Outcomes
from abatch.sandbox.faults import CutAtLine, Status
from abatch_backends import jsonl
from tests.e2e.jobs import assert_each_answered, assert_paid_once, lines, manager, requests, run, write

pytestmark = pytest.mark.anyio

MONTH = 30 * 24 * 3600.0


async def redrained(key: str = "job", **more: Any) -> tuple[list[int], Summary]:
    async with manager(**more) as running:
        shards = await running.redrain(key)
        return shards, await running.job(key).wait()


def folder_lines(folder: str = "results") -> list[dict[str, Any]]:
    return [line for part in sorted(Path(folder).glob("part-*.jsonl")) for line in lines(part)]


def assert_once(found: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    assert Counter(line["custom_id"] for line in found) == Counter(row["custom_id"] for row in rows)


def forget_ids() -> None:
    """As in a journal of an abatch that kept none."""
    for path in Path(".abatch/ids").iterdir():
        path.unlink()


async def test_finished_file_that_was_removed_is_made_again_without_paying(api: Sandbox) -> None:
    rows = requests(25)
    _, before = await run(write(rows))
    Path("results.jsonl").unlink()
    shards, after = await redrained()
    assert len(shards) == before.batches
    assert (after.succeeded, after.missing, after.batches) == (25, 0, before.batches)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
    assert not Path(".results.jsonl.abatch").exists()


async def test_removed_part_of_a_folder_is_read_again_and_the_others_stay(api: Sandbox) -> None:
    rows = requests(35)
    await run(write(rows), to="results/")
    parts = sorted(Path("results").glob("part-*.jsonl"))
    kept = {part: part.stat().st_mtime_ns for part in parts[1:]}
    parts[0].unlink()
    shards, summary = await redrained()
    assert len(shards) == 1
    assert summary.succeeded == 35
    assert_once(folder_lines(), rows)
    assert {part: part.stat().st_mtime_ns for part in kept} == kept
    assert_paid_once(api, rows)


async def test_removed_rows_of_a_database_are_read_again(api: Sandbox) -> None:
    rows = requests(25)
    await run(write(rows), to="results.db")
    with closing(sqlite3.connect("results.db")) as db, db:
        db.execute("DELETE FROM results WHERE shard = 1")
        db.execute("DELETE FROM abatch_shards WHERE shard = 1")
    shards, summary = await redrained()
    assert (shards, summary.succeeded) == ([1], 25)
    with closing(sqlite3.connect("results.db")) as db:
        found = [custom_id for (custom_id,) in db.execute("SELECT custom_id FROM results")]
    assert Counter(found) == Counter(row["custom_id"] for row in rows)
    assert_paid_once(api, rows)


async def test_job_whose_part_is_gone_before_it_is_finished_goes_on_after_a_redrain(api: Sandbox) -> None:
    rows = requests(25)
    path = write(rows)
    api.faults.clear()
    with pytest.raises(BackendError, match="removed after it was sealed"):
        async with manager() as running:
            await _without_the_first_part(running, path)
    shards, summary = await redrained()
    assert len(shards) == 1
    assert summary.succeeded == 25
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def _without_the_first_part(running: BatchManager, path: Path) -> None:
    """Run a job, and take its first part away just before it is put together."""
    job = await running.submit(path, to="results.jsonl", key="job")
    job_run = job._run
    finish = job_run._finish_now

    async def after_a_loss(cuts: int) -> None:
        for part in sorted(Path(".results.jsonl.abatch").glob("part-*.jsonl"))[:1]:
            part.unlink()
        await finish(cuts)

    job_run._finish_now = after_a_loss  # type: ignore[method-assign]
    await job.wait()


def some_expire() -> Sandbox:
    """A server that lets many requests expire, and others fail for a reason that passes."""
    return Sandbox(seed=5, outcome=Outcomes(errored=0.2, expired=0.3))


@pytest.mark.parametrize("keeps_ids", [True, False])
async def test_rows_of_a_retry_are_left_to_their_retry_shard(monkeypatch: pytest.MonkeyPatch, keeps_ids: bool) -> None:
    with some_expire() as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        rows = requests(60)
        job, before = await run(write(rows), to="results/")
        assert before.retried > 5
        first = [s for s in job._job.shards.values() if s.planned.trial == 1]
        for shard in first:
            Path(f"results/part-{shard.planned.part:05}.jsonl").unlink()
        was = {line["custom_id"]: line["result"]["type"] for line in folder_lines()}
        if not keeps_ids:
            forget_ids()
        shards, after = await redrained()
        assert sorted(shards) == sorted(shard.shard for shard in first)
        assert (after.succeeded, after.expired, after.errored, after.retried, after.missing) == (
            before.succeeded,
            before.expired,
            before.errored,
            before.retried,
            before.missing,
        )
        assert_once(folder_lines(), rows)
        assert was.items() <= {line["custom_id"]: line["result"]["type"] for line in folder_lines()}.items()


async def test_retry_shard_is_read_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with some_expire() as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        rows = requests(60)
        job, before = await run(write(rows), to="results.jsonl")
        Path("results.jsonl").unlink()
        _, after = await redrained()
        assert (after.succeeded, after.retried) == (before.succeeded, before.retried)
        assert_once(lines("results.jsonl"), rows)
        assert job.summary().batches == after.batches


async def test_part_is_read_again_while_its_retry_shard_is_still_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(seed=5, outcome=Outcomes(expired=0.4), latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        rows = requests(9)
        path = write(rows)
        async with manager() as running:
            job = await running.submit(path, to="results/", key="job")
            while job.progress().batches < 2:
                api.advance(0.0 if job.progress().in_flight < 9 else 3601.0)
                with anyio.move_on_after(0.05):
                    await job._job.change()
        (part,) = Path("results").glob("part-*.jsonl")
        part.unlink()
        async with manager() as running:
            assert await running.redrain("job") == [1]
            job = running.job("job")
            while not job.done:
                api.advance(3601.0)
                with anyio.move_on_after(0.05):
                    await job._job.change()
        assert job.summary().missing == 0
        assert_once(folder_lines(), rows)
        assert api.account.violated == 0


@pytest.mark.parametrize("name", ["input.jsonl", "input.jsonl.gz"])
async def test_older_journal_reads_the_custom_ids_from_the_unchanged_input(api: Sandbox, name: str) -> None:
    rows = [{**row, "betas": ["b-1"]} if number % 3 == 0 else row for number, row in enumerate(requests(55))]
    path = write(rows)
    if name.endswith(".gz"):
        import gzip

        with path.open("rb") as plain, gzip.open(name, "wb") as packed:
            shutil.copyfileobj(plain, packed)
    await run(Path(name), to="results/")
    forget_ids()
    for part in sorted(Path("results").glob("part-*.jsonl"))[1:4]:
        part.unlink()
    shards, summary = await redrained()
    assert len(shards) == 3
    assert (summary.succeeded, summary.missing) == (55, 0)
    assert_once(folder_lines(), rows)
    assert list(Path(".abatch/spool").iterdir()) == []


async def test_changed_input_of_an_older_journal_is_refused_and_nothing_is_reopened(api: Sandbox) -> None:
    rows = requests(25)
    path = write(rows)
    job, _ = await run(path, to="results/")
    forget_ids()
    path.write_text(path.read_text().replace("question 3", "question X"))
    for part in Path("results").glob("part-*.jsonl"):
        part.unlink()
    with pytest.raises(JobStopped, match=r"custom_ids .* not known any more"):
        await redrained()
    async with manager() as running:
        assert running.job("job").done
        assert running.job("job").summary() == job.summary()


async def test_nothing_is_read_again_where_every_part_is_in_its_place(api: Sandbox) -> None:
    rows = requests(25)
    await run(write(rows))
    before = Path("results.jsonl").read_bytes()
    shards, _ = await redrained()
    assert (shards, Path("results.jsonl").read_bytes()) == ([], before)


async def test_damaged_part_has_to_be_removed_first(api: Sandbox) -> None:
    rows = requests(15)
    await run(write(rows), to="results/")
    part = min(Path("results").glob("part-*.jsonl"))
    part.write_bytes(part.read_bytes()[:-5] + b"XX\n")
    with pytest.raises(BackendError, match=rf"{part.absolute()} \(shard 1\) is not what was sealed; remove it"):
        await redrained()
    part.unlink()
    _, summary = await redrained()
    assert summary.succeeded == 15
    assert_once(folder_lines(), rows)


async def test_results_that_the_api_keeps_no_longer_are_not_asked_for(api: Sandbox) -> None:
    await run(write(requests(15)), to="results/")
    min(Path("results").glob("part-*.jsonl")).unlink()
    api.advance(MONTH)
    with pytest.raises(JobStopped, match="keeps results for 29 days"):
        await redrained()


async def test_lines_that_were_made_here_cannot_be_read_again(api: Sandbox) -> None:
    api.faults.always("create", Status(429, "rate_limit_error", "slow down", retry_after=600))
    async with manager() as running:
        job = await running.submit(write(requests(5)), to="results/", key="job")
        await job.cancel()
        assert (await job.wait()).canceled == 5
    for part in Path("results").glob("part-*.jsonl"):
        part.unlink()
    with pytest.raises(JobStopped, match="lines were made here"):
        await redrained()
    async with manager() as running:
        assert running.job("job").done


async def test_rows_that_were_missing_and_come_now_are_missing_no_more(api: Sandbox) -> None:
    rows = requests(8)
    api.faults.always("results", CutAtLine(lines=3))
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr("abatch.engine.shard_drain.READ_AGAIN", (0.01,))
        _, before = await run(write(rows), to="results/")
    assert before.missing == 5
    api.faults.clear()
    for part in [*Path("results").glob("part-*.jsonl"), Path("results/_missing.jsonl")]:
        part.unlink()
    _, after = await redrained()
    assert (after.succeeded, after.missing) == (8, 0)
    assert_once(folder_lines(), rows)
    assert not Path("results/_missing.jsonl").exists()
    assert_paid_once(api, rows)


async def test_death_after_the_new_part_was_sealed_makes_no_line_twice(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    rows = requests(25)
    await run(write(rows), to="results/")
    for part in Path("results").glob("part-*.jsonl"):
        part.unlink()
    record = Ledger.record

    async def dying(self: Ledger, *entries: Entry) -> None:
        if not any(isinstance(entry.fact, Reopened) for entry in entries):
            raise Died
        await record(self, *entries)

    with monkeypatch.context() as dies:
        dies.setattr(Ledger, "record", dying)
        with pytest.raises(BaseException) as died:
            await redrained()
        assert isinstance(died.value, Died | BaseExceptionGroup)
    async with manager() as running:
        summary = await running.job("job").wait()
    assert (summary.succeeded, summary.missing) == (25, 0)
    assert_once(folder_lines(), rows)
    assert_paid_once(api, rows)


async def test_custom_ids_are_kept_for_29_days_and_for_their_owner_alone(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = await run(write(requests(25)))
    files = sorted(Path(".abatch/ids").iterdir())
    assert [path.name for path in files] == [f"{number:08d}" for number in range(1, job.summary().batches + 1)]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    async with manager():
        pass
    assert sorted(Path(".abatch/ids").iterdir()) == files
    monkeypatch.setattr("abatch.manager.KEPT_FOR", -10.0)
    async with manager():
        pass
    assert list(Path(".abatch/ids").iterdir()) == []


async def test_job_that_is_not_there_cannot_be_redrained(api: Sandbox) -> None:
    with pytest.raises(ConfigError, match="no job 'job'"):
        await redrained()


@pytest.mark.parametrize("change", [b"", b"x", None])
async def test_damaged_list_of_custom_ids_counts_as_none(tmp_path: Path, change: bytes | None) -> None:
    ids = [b'"a"', b'"\\u00e9"', b'"c"']
    write_kept(tmp_path, 7, ids.__getitem__, bytearray([0, 1, 0]))
    kept = read_kept(tmp_path, 7, 3)
    assert kept is not None
    assert ([kept.custom_id(row) for row in range(3)], kept.withheld) == (ids, b"\0\1\0")
    path = tmp_path / "00000007"
    path.write_bytes(path.read_bytes()[:-1] if change is None else change)
    assert read_kept(tmp_path, 7, 3) is None
    assert read_kept(tmp_path, 8, 3) is None


async def with_missing(rows: list[dict[str, Any]], api: Sandbox, to: str, **more: Any) -> Summary:
    """A job that is done, and some of whose results did not come."""
    api.faults.always("results", CutAtLine(lines=3))
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr("abatch.engine.shard_drain.READ_AGAIN", (0.01,))
        _, summary = await run(write(rows), to=to, **more)
    api.faults.clear()
    return summary


def listed_in(to: str) -> set[str]:
    """The requests that the destination's list of missing ones names."""
    if to.endswith(".db"):
        with closing(sqlite3.connect(to)) as db:
            return {custom_id for (custom_id,) in db.execute("SELECT custom_id FROM abatch_missing")}
    path = Path(f"{to}_missing.jsonl" if to.endswith("/") else f"{to}.missing.jsonl")
    return {line["custom_id"] for line in lines(path)} if path.exists() else set()


def remove_results(to: str) -> None:
    """As somebody does who wants them read again; the list of missing requests stays."""
    if to.endswith("/"):
        for part in Path(to).glob("part-*.jsonl"):
            part.unlink()
    elif to.endswith(".db"):
        with closing(sqlite3.connect(to)) as db, db:
            db.execute("DELETE FROM abatch_shards")
    else:
        Path(to).unlink()


@pytest.mark.parametrize("to", ["results.jsonl", "results/", "results.db"])
async def test_list_of_missing_requests_is_written_anew_from_what_is_missing_now(api: Sandbox, to: str) -> None:
    rows = requests(8)
    before = await with_missing(rows, api, to)
    assert (before.missing, len(listed_in(to))) == (5, 5)
    remove_results(to)
    _, after = await redrained()
    assert (after.succeeded, after.missing) == (8, 0)
    assert listed_in(to) == set()
    assert_paid_once(api, rows)


async def test_list_that_becomes_shorter_names_only_what_is_still_missing(api: Sandbox) -> None:
    rows = requests(18)
    before = await with_missing(rows, api, "results/")
    first = min(Path("results").glob("part-*.jsonl"))
    first.unlink()
    _, after = await redrained()
    assert 0 < after.missing < before.missing
    assert len(listed_in("results/")) == after.missing
    assert_paid_once(api, rows)


@pytest.mark.parametrize("first", [True, False], ids=["before the old list goes", "before the new list comes"])
async def test_death_while_the_list_is_written_anew_leaves_it_to_the_next_run(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    class Died(BaseException):
        pass

    write_new = jsonl._write_new

    def die(*_: Any) -> None:
        raise Died

    def die_at_the_list(path: Path, chunks: Any) -> bool:
        if path.name == ".missing.tmp":
            raise Died
        return write_new(path, chunks)

    rows = requests(18)
    before = await with_missing(rows, api, "results/")
    min(Path("results").glob("part-*.jsonl")).unlink()
    with monkeypatch.context() as dies:
        if first:
            dies.setattr(jsonl._Jsonl, "_write_missing", die)
        else:
            dies.setattr(jsonl, "_write_new", die_at_the_list)
        with pytest.raises(BaseException) as died:
            await redrained()
        assert isinstance(died.value, Died | BaseExceptionGroup)
    assert len(listed_in("results/")) == (before.missing if first else 0)
    async with manager() as running:
        after = await running.job("job").wait()
    assert 0 < after.missing < before.missing
    assert len(listed_in("results/")) == after.missing
    assert_paid_once(api, rows)


@pytest.mark.parametrize("to", ["results.jsonl", "results/"])
async def test_list_of_missing_requests_that_was_changed_is_not_replaced(api: Sandbox, to: str) -> None:
    rows = requests(8)
    await with_missing(rows, api, to)
    path = Path("results/_missing.jsonl" if to == "results/" else "results.jsonl.missing.jsonl")
    path.write_bytes(path.read_bytes() + b'{"note":"mine"}\n')
    remove_results(to)
    with pytest.raises(BackendError, match="not the list of missing requests that this job wrote; move it away"):
        await redrained()
    path.rename("kept")
    async with manager() as running:
        await running.redrain("job")
        assert (await running.job("job").wait()).missing == 0
    assert not path.exists()
    assert_paid_once(api, rows)


async def test_finished_file_that_was_changed_is_said_to_be_changed_and_written_anew_once_removed(
    api: Sandbox,
) -> None:
    rows = requests(25)
    await run(write(rows))
    Path("results.jsonl").write_bytes(b"cut\n")
    with pytest.raises(BackendError, match="was changed after this job had written it; put it back, or remove it"):
        await redrained()
    Path("results.jsonl").unlink()
    _, summary = await redrained()
    assert summary.succeeded == 25
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)


async def test_mark_of_a_whole_folder_is_put_back(api: Sandbox) -> None:
    rows = requests(25)
    await run(write(rows), to="results/")
    shutil.rmtree("results")
    _, summary = await redrained()
    assert summary.succeeded == 25
    assert Path("results/_SUCCESS").exists()
    assert_paid_once(api, rows)
