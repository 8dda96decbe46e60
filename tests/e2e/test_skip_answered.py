"""Only what an earlier job did not answer is sent: chosen once, kept in the journal, the same after any death."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from abatch import ConfigError, JobConflict, JobStopped, LimitReached
from abatch.input.params_index import ParamsIndex, opened_params_index
from abatch.input.request import Rows
from abatch.journal.kept import MARK, params_mark, read_kept, write_kept
from abatch.protocol.facts import FilePart, SelectedSource, Source, files_of
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.e2e.jobs import assert_each_answered, assert_paid_once, lines, manager, requests, run, write

pytestmark = pytest.mark.anyio


async def first(rows: list[dict[str, Any]]) -> None:
    await run(write(rows, "first.jsonl"), to="first.db", key="first")


async def skipping(path: Path, to: str = "results.jsonl", key: str = "job", **more: Any) -> Any:
    async with manager() as running:
        job = await running.submit(path, to=to, key=key, skip_answered=more.pop("by", "first"), **more)
        return job, await job.wait()


@pytest.mark.parametrize("packed", [False, True])
async def test_only_rows_that_the_job_did_not_answer_are_sent(api: Sandbox, packed: bool) -> None:
    rows = requests(60)
    await first(rows[10:35])
    path = write(rows)
    if packed:
        path = Path("input.jsonl.gz")
        path.write_bytes(gzip.compress(Path("input.jsonl").read_bytes()))
    job, summary = await skipping(path)
    assert_paid_once(api, rows)
    assert (summary.requests, summary.succeeded) == (35, 35)
    assert_each_answered("results.jsonl", [*rows[:10], *rows[35:]])
    left_out = job.left_out
    assert left_out is not None
    assert (left_out.skipped, left_out.changed, left_out.uncompared) == (25, 0, 0)


async def test_rows_that_failed_or_have_other_params_now_are_sent_again(api: Sandbox) -> None:
    rows = requests(12)
    failing = {**rows[3], "params": {**rows[3]["params"], "metadata": {"user_id": "sandbox:errored:not_found_error"}}}
    await first([*rows[:3], failing, *rows[4:]])
    changed = requests(12, temperature=0.5)[5]
    job, summary = await skipping(write([*rows[:5], changed, *rows[6:]]))
    assert summary.requests == summary.succeeded == 2
    assert_each_answered("results.jsonl", [rows[3], changed])
    assert api.account.violated == 0
    assert job.left_out.changed == 1
    assert job.left_out.skipped == 10


async def test_without_digests_of_the_params_the_custom_id_decides_and_that_is_counted(api: Sandbox) -> None:
    rows = requests(12)
    await first(rows)
    for path in Path(".abatch/ids").iterdir():
        path.unlink()
    job, summary = await skipping(write([*requests(12, temperature=0.5), *requests(13)[12:]]))
    assert summary.requests == 1
    assert (job.left_out.skipped, job.left_out.uncompared) == (12, 12)
    assert (api.account.requests, api.account.violated) == (13, 0)


async def test_the_same_rows_are_left_out_after_a_death_whatever_became_of_the_answers(api: Sandbox) -> None:
    rows = requests(45)
    await first(rows[:5])
    path = write(rows)
    async with manager() as running:
        job = await running.submit(path, to="results.jsonl", key="job", skip_answered="first")
        while job.progress().submitted < 10:  # left in the middle
            await job._job.change()
    Path("first.db").unlink()
    async with manager(requests_per_batch=7) as running:
        job = await running.submit(path, to="results.jsonl", key="job", skip_answered="first")
        summary = await job.wait()
    assert summary.requests == summary.succeeded == 40
    assert_each_answered("results.jsonl", rows[5:])
    assert_paid_once(api, rows)


async def test_what_earlier_jobs_left_out_stays_left_out_night_after_night(api: Sandbox) -> None:
    rows = requests(30)
    await first(rows[:10])
    path = write(rows[:20])
    await skipping(path, to="second.jsonl", key="second")
    _, summary = await skipping(write(rows), to="third.jsonl", key="third", by="second")
    assert summary.requests == 10
    assert_each_answered("third.jsonl", rows[20:])
    assert_paid_once(api, rows)


async def test_the_key_of_a_retry_stands_for_the_job_that_it_retries_and_what_that_left_out(api: Sandbox) -> None:
    rows = requests(30)
    await first(rows[:10])
    failing = {**rows[12], "params": {**rows[12]["params"], "metadata": {"user_id": "sandbox:errored:not_found_error"}}}
    await skipping(write([*rows[:12], failing, *rows[13:20]]), to="second.jsonl", key="second")
    await run(write([rows[12]], "again.jsonl"), to="again.jsonl.out/", key="second.retry-1")
    _, summary = await skipping(write(rows), to="third.jsonl", key="third", by="second.retry-1")
    assert summary.requests == 10
    assert_each_answered("third.jsonl", rows[20:])


async def test_a_known_key_with_another_choice_is_a_conflict(api: Sandbox) -> None:
    rows = requests(12)
    await first(rows[:10])
    path = write(rows)
    await skipping(path)
    async with manager() as running:
        with pytest.raises(
            JobConflict, match=r"the requests that job 'first' answered left out \(skip_answered='first'"
        ):
            await running.submit(path, to="results.jsonl", key="job")
        with pytest.raises(JobConflict, match="no skip_answered="):
            await running.submit("first.jsonl", to="first.db", key="first", skip_answered="job")
    assert (api.account.requests, api.account.violated) == (12, 0)


async def test_an_input_of_which_all_is_answered_and_a_job_that_is_not_finished_begin_nothing(api: Sandbox) -> None:
    rows = requests(12)
    await first(rows)
    with pytest.raises(ConfigError, match="all 12 requests were answered by job 'first'"):
        await skipping(Path("first.jsonl"))
    with pytest.raises(ConfigError, match="no job 'unknown'"):
        await skipping(Path("first.jsonl"), by="unknown")
    async with manager() as running:
        with pytest.raises(ConfigError, match="needs a file"):
            await running.submit(rows, to="x.jsonl", key="job", skip_answered="first")
        api.faults.always("create", Status(401, "authentication_error", "no"))
        other = await running.submit(write(requests(14)[12:], "other.jsonl"), to="other.db", key="other")
        with pytest.raises(ConfigError, match="job 'other' is not finished"):
            await running.submit(write(requests(15)), to="x.jsonl", key="job", skip_answered="other")
        with pytest.raises(JobStopped):
            await other.wait()
        assert [job.key for job in running.jobs()] == ["first", "other"]
    assert (api.account.requests, api.account.violated) == (12, 0)


async def test_a_lost_part_of_such_a_job_is_read_again_from_its_input(api: Sandbox) -> None:
    rows = requests(30)
    await first(rows[5:12])
    path = write(rows)
    await skipping(path, to="out/")
    for kept in Path(".abatch/ids").iterdir():
        kept.unlink()
    part, *_ = sorted(Path("out").glob("part-*.jsonl"))
    part.unlink()
    async with manager() as running:
        job = await running.submit(path, to="out/", key="job", skip_answered="first")
        assert len(await running.redrain("job")) == 1
        assert (await job.wait()).ok
    found = [line["custom_id"] for each in Path("out").glob("part-*.jsonl") for line in lines(each)]
    assert sorted(found) == sorted(row["custom_id"] for row in [*rows[:5], *rows[12:]])
    assert_paid_once(api, rows)


def test_digests_of_params_are_kept_beside_the_custom_ids_and_files_without_them_are_read(tmp_path: Path) -> None:
    ids = [b'"a"', b'"bb"', b'"c"']
    marks = [params_mark(b'{"n":%d}' % row, ("beta",) * row) for row in range(3)]
    write_kept(tmp_path, 7, ids.__getitem__, bytearray(3), b"".join(marks))
    write_kept(tmp_path, 8, ids.__getitem__, bytearray(3))
    kept, older = read_kept(tmp_path, 7, 3), read_kept(tmp_path, 8, 3)
    assert kept is not None
    assert older is not None
    assert [(kept.custom_id(row), kept.params_mark(row)) for row in range(3)] == list(zip(ids, marks, strict=True))
    assert [(older.custom_id(row), older.params_mark(row)) for row in range(3)] == [(each, b"") for each in ids]
    assert len({*marks, params_mark(b'{"n":1}', ())}) == 4
    assert all(len(mark) == MARK for mark in marks)
    assert read_kept(tmp_path, 7, 2) is read_kept(tmp_path, 7, 4) is read_kept(tmp_path, 8, 4) is None
    (tmp_path / "00000007").write_bytes((tmp_path / "00000007").read_bytes()[:-1])
    assert read_kept(tmp_path, 7, 3) is None


async def test_a_finished_job_keeps_the_choice_in_the_journal_alone(api: Sandbox) -> None:
    rows = requests(12)
    await first(rows[:5])
    path = write(rows)
    await skipping(path)
    async with manager() as running:
        record = running._context.ledger.job("job")
        assert record is not None
        assert isinstance(record.submitted.source, SelectedSource)
        assert record.submitted.source.mask == b""
        full = (await running._context.ledger.in_full(record)).submitted.source
        assert isinstance(full, SelectedSource)
        assert list(zlib.decompress(full.mask)) == [1] * 5 + [0] * 7
    assert (api.account.requests, api.account.violated) == (12, 0)


async def test_a_higher_limit_shows_only_what_is_left_of_what_was_not_answered(api: Sandbox) -> None:
    rows = requests(60)
    await first(rows[10:35])
    path = write(rows)
    with pytest.raises(LimitReached):
        await skipping(path, limit=8)
    shown: list[str] = []

    class Preview:
        def add(self, rows: Rows) -> None:
            shown.extend(json.loads(custom_id) for custom_id in rows.custom_ids)

        async def agree(self) -> None:
            shown.append("asked")

    await skipping(path, preview=Preview())
    assert shown == [row["custom_id"] for row in [*rows[8:10], *rows[35:]]] + ["asked"]
    assert_paid_once(api, rows)


@pytest.mark.parametrize("cache_kib", [1, 16_000])
async def test_the_choice_is_the_same_with_little_memory(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch, cache_kib: int
) -> None:
    monkeypatch.setattr("abatch.system.scratch.CACHE_KIB", cache_kib)
    if cache_kib == 1:
        monkeypatch.setattr("abatch.input.answered.BLOCK", 1)
    rows = requests(3000)
    await run(write(rows[:2000], "first.jsonl"), to="first.db", key="first", requests_per_batch=700)
    other = requests(3000, temperature=0.5)
    async with manager(requests_per_batch=700) as running:
        path = write([*other[:10], *rows[10:]][::-1])
        job = await running.submit(path, to="results.jsonl", key="job", skip_answered="first")
        assert (await job.wait()).requests == 1010
    left_out = job.left_out
    assert left_out is not None
    assert (left_out.skipped, left_out.changed, left_out.uncompared) == (1990, 10, 0)
    assert (api.account.requests, api.account.violated) == (3010, 0)
    assert list(Path(".abatch").glob(".seen-*")) == []


def test_what_is_known_of_many_requests_does_not_take_memory(tmp_path: Path) -> None:
    with closing(ParamsIndex(tmp_path)) as known:
        tracemalloc.start()
        for job in range(2):
            for begin in range(0, 40_000, 1000):
                ids = [b'"row-%d"' % number for number in range(begin, begin + 1000)]
                known.add(job, ((custom_id, b"") for custom_id in ids))
                known.note(job, ((custom_id, b"%08d" % job) for custom_id in ids[::2]))
                known.note(job, ((custom_id, b"") for custom_id in ids))  # kept without digests: says nothing
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert known.count == 80_000
        assert known.of(b'"row-7000"') == [b"00000000", b"00000001"]
        assert known.of(b'"row-7001"') == []
        assert known.of(b'"row-40000"') is None
        known.drop([b'"row-7000"'])
        assert (known.of(b'"row-7000"'), known.count) == (None, 79_998)
    assert peak < 2**21
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be compared with what was sent before in .*gone.*; free the disk"):
        async with opened_params_index(tmp_path / "gone"):
            pass


async def test_files_of_many_jobs_are_compared_by_index(api: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = requests(8)
    async with manager() as running:
        for number in range(4):
            path = write(rows[2 * number : 2 * number + 2], f"{number}.jsonl")
            await (await running.submit(path, to=f"{number}.db", key=f"job-{number}")).wait()
        looks: list[object] = []

        def counted(source: Source) -> tuple[FilePart, ...]:
            looks.append(source)
            return files_of(source)

        monkeypatch.setattr("abatch.input.repeats.files_of", counted)
        paths = [Path(f"{number}.jsonl") for number in range(4)]
        paths[3].write_bytes(paths[3].read_bytes() + paths[2].read_bytes())
        assert [job.key for job in await running.same_requests(paths)] == [f"job-{number}" for number in range(4)]
        assert [job.key for job in await running.same_requests(paths[1:2])] == ["job-1"]
    assert len(looks) == 2 * 4
    assert (api.account.requests, api.account.violated) == (8, 0)
