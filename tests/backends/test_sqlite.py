"""SQLite keeps the contract; rows stream in, each once, whoever else writes and whatever dies."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from abatch.backend import Backend, JobRef, Sealed, ShardRef, connect, normalize
from abatch.errors import BackendError, ConfigError
from abatch.result import LONG, Line, Usage
from abatch.testing import LookupContract, OutageContract
from abatch.testing.contract import make_line, make_lines, raw, read
from abatch_backends import sqlite

pytestmark = pytest.mark.anyio


def answer(custom_id: str, ok: bool, by: str) -> Line:
    outcome = "succeeded" if ok else "errored"
    text = json.dumps({"custom_id": custom_id, "result": {"type": outcome, "by": by}})
    return Line(text.encode(), custom_id, outcome)


class TestSqlite(OutageContract, LookupContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path):
        self.path = tmp_path / "a" / "results.db"
        self.url = normalize(str(self.path))

    async def connect(self, job: JobRef, /) -> Backend:
        return await connect(self.url, job)

    @asynccontextmanager
    async def outage(self, backend):
        """Another program writes for longer than anybody waits."""
        with pytest.MonkeyPatch.context() as patch, closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            patch.setattr(sqlite.connections, "PATIENCE", 0.1)
            other.execute("BEGIN IMMEDIATE")
            yield

    async def stored(self) -> list[bytes]:
        rows = self.query("SELECT custom_id, result FROM results ORDER BY shard, rowid")
        return [
            b'{"custom_id":%b,"result":%b}' % (json.dumps(custom_id, ensure_ascii=False).encode(), result.encode())
            for custom_id, result in rows
        ]

    async def stored_missing(self) -> list[tuple[str, str]]:
        return self.query("SELECT custom_id, reason FROM abatch_missing")

    def elsewhere(self, sealed: Sealed) -> dict[str, str | int]:
        return {"shard": 41}

    def query(self, statement: str) -> list[tuple]:
        with closing(sqlite3.connect(self.path)) as database:
            return database.execute(statement).fetchall()

    async def test_columns_hold_what_the_line_says(self):
        lines = [
            Line(
                b'{"custom_id":"a", "result": {"type":"succeeded", "n": 1.50} , "new": 0}',
                "a",
                "succeeded",
                None,
                "claude-x",
                Usage(input_tokens=1, output_tokens=2, cache_read_tokens=3, cache_creation_tokens=4),
            ),
            make_line("b", b'{"type":"errored","error":{"type":"error","error":{"type":"t","message":"m"}}}'),
        ]
        async with self.opened() as backend:
            await backend.finish(self.job, [await self.sealed(backend, 0, lines)])
        columns = (
            "job, custom_id, outcome, result, batch_id, model, "
            "input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens"
        )
        first, second = self.query(f"SELECT {columns} FROM results ORDER BY custom_id")
        result = '{"type":"succeeded", "n": 1.50}'
        assert first == ("contract", "a", "succeeded", result, "msgbatch_0", "claude-x", 1, 2, 3, 4)
        assert second[5:] == (None, None, None, None, None)
        assert self.query("SELECT custom_id, error_type, message FROM results_failed") == [("b", "t", "m")]
        assert self.query("SELECT shard, part, batch_id, lines FROM abatch_shards") == [(40, 0, "msgbatch_0", 2)]
        assert self.query("SELECT job, lineage, finished_at IS NOT NULL FROM abatch_jobs") == [
            ("contract", self.job.lineage, 1)
        ]

    async def test_the_merged_view_has_one_row_per_id_of_a_job_and_its_retries(self):
        """A success counts before a failure, and a later job before an earlier one."""
        said = {
            "nightly": {"a": True, "b": False, "c": False, "d": True, "e": False},
            "nightly.retry-1": {"b": True, "c": False, "d": False},
            "nightly.retry-2": {"c": False, "new": True},
            "nightly.retry-10": {"b": False, "d": True},
            "lone.retry-1": {"a": True},
            "nightly.retry-": {"a": True},
        }
        for number, (key, rows) in enumerate(said.items()):
            job = replace(self.job, key=key)
            backend = await self.connect(job)
            sink = await backend.open(ShardRef(job=job, shard=number, part=0, rows=9, batch_id="b"))
            await sink.write([answer(custom_id, ok, key) for custom_id, ok in rows.items()])
            await sink.seal()
            await backend.aclose()
        rows = self.query("SELECT job, custom_id, outcome, answered_by, result ->> '$.by' FROM results_merged")
        assert all(by == told for *_, by, told in rows)
        assert sorted(row[:4] for row in rows) == [
            ("lone.retry-1", "a", "succeeded", "lone.retry-1"),
            ("nightly", "a", "succeeded", "nightly"),
            ("nightly", "b", "succeeded", "nightly.retry-1"),
            ("nightly", "c", "errored", "nightly.retry-2"),
            ("nightly", "d", "succeeded", "nightly.retry-10"),
            ("nightly", "e", "errored", "nightly"),
            ("nightly", "new", "succeeded", "nightly.retry-2"),
            ("nightly.retry-", "a", "succeeded", "nightly.retry-"),
        ]

    async def test_a_database_without_the_merged_view_gets_it(self):
        backend = await self.connect(self.job)
        await backend.aclose()
        with closing(sqlite3.connect(self.path)) as database:
            database.execute("DROP VIEW results_merged")
        backend = await self.connect(self.job)
        await backend.aclose()
        assert self.query("SELECT count(*) FROM results_merged") == [(0,)]

    async def test_lines_nobody_can_parse_are_kept_and_can_be_fetched(self):
        odd = [
            Line(b'{"custom_id":"invalid","result":{"x":"\xff\xfe"}}', "invalid", "succeeded"),
            Line(b'{"custom_id":"control","result":{"x":"\x00\x01"}}', "control", "succeeded", None, "\ud800"),
            Line(b'{"custom_id":"cut \\" off","result":{"x":"\\ud800', 'cut " off', "unreadable"),
            Line(rb'{"result":{"x":"\ud800"},"custom_id":"turned"}', "turned", "\udfff"),
            make_line("nul\0inside"),
            Line(b'{"custom_id":"empty","result":}', "empty", "unreadable"),
            Line('{"custom_id":"wide","result":{"x":"\u00e4\u20ac\U0001f600"}}'.encode(), "wide", "succeeded"),
        ]
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, odd)
            assert (await read(backend, sealed))[:2] == raw(odd[:2])
        kept = dict(self.query("SELECT custom_id, result FROM results"))
        assert kept["invalid"] == b'{"x":"\xff\xfe"}'
        assert kept['cut " off'] == odd[2].raw.decode()
        assert kept["turned"] == odd[3].raw.decode()
        assert "nul\0inside" in kept
        assert kept["empty"] == ""
        assert kept["wide"] == '{"x":"\u00e4\u20ac\U0001f600"}'
        types = dict(self.query("SELECT custom_id, typeof(result) FROM results"))
        assert [name for name, kind in types.items() if kind != "text"] == ["invalid"]

    async def test_long_lines_are_text_unless_they_are_no_utf8(self):
        """They are looked at in pieces, whose borders are inside of characters."""
        good = "x" + "\u00e4\u20ac\U0001f600" * (LONG // 4)
        results = {
            "good": good.encode(),
            "late": good.encode() + b"\xff",
            "cut": good.encode() + "\u20ac".encode()[:2],
        }
        lines = [
            Line(b'{"custom_id":"%b","result":{"x":"%b"}}' % (name.encode(), text), name, "succeeded")
            for name, text in results.items()
        ]
        async with self.opened() as backend:
            assert await read(backend, await self.sealed(backend, 0, lines)) == raw(lines)
        kept = dict(self.query("SELECT custom_id, result FROM results"))
        assert kept["good"] == f'{{"x":"{good}"}}'
        assert kept["late"] == b'{"x":"%b"}' % results["late"]
        assert kept["cut"] == b'{"x":"%b"}' % results["cut"]

    async def test_rows_are_visible_before_the_seal(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            lines = make_lines(2500)
            for begin in range(0, 2500, 500):
                await sink.write(lines[begin : begin + 500])
            assert self.query("SELECT count(*) FROM results") == [(2000,)]
            assert self.query("SELECT count(*) FROM abatch_shards") == [(0,)]
            await sink.discard()

    async def test_everything_it_makes_is_private(self, tmp_path):
        async with self.opened() as backend:
            await self.sealed(backend, 0, make_lines(5))
            modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}
        assert modes == {
            "a": "0o700",
            "results.db": "0o600",
            "results.db-wal": "0o600",
            "results.db-shm": "0o600",
        }
        assert [path.name for path in self.path.parent.iterdir()] == ["results.db"]

    async def test_jobs_and_other_tables_share_a_database(self):
        self.path.parent.mkdir()
        with closing(sqlite3.connect(self.path)) as database:
            database.execute("CREATE TABLE mine (x)")
        another = replace(self.job, key="another")
        async with self.opened() as one, self.opened(another) as two:
            sealed = await self.sealed(one, 0, make_lines(1500))
            sink = await two.open(replace(self.shard(0), job=another))
            await sink.write(make_lines(1500))
            await sink.seal()
            assert await read(one, sealed) == raw(make_lines(1500))
        assert self.query("SELECT job, count(*) FROM results GROUP BY job") == [
            ("another", 1500),
            ("contract", 1500),
        ]
        assert self.query("SELECT * FROM mine") == []

    async def test_many_backends_open_a_new_database_at_once(self):
        async def use(number: int) -> None:
            job = replace(self.job, key=f"job-{number}")
            async with self.opened(job) as backend:
                sink = await backend.open(replace(self.shard(), job=job))
                for _ in range(4):
                    await sink.write(make_lines(1000))
                await sink.seal()

        async with anyio.create_task_group() as jobs:
            for number in range(6):
                jobs.start_soon(use, number)
        assert self.query("SELECT count(*), count(DISTINCT job) FROM results") == [(6000, 6)]

    async def test_a_new_database_that_several_open_at_once_is_locked_for_none(self):
        async def claim(number: int) -> None:
            async with self.opened(replace(self.job, key=f"job-{number}")):
                pass

        for _ in range(40):  # without patience one in twelve fails
            async with anyio.create_task_group() as jobs:
                for number in range(6):
                    jobs.start_soon(claim, number)
            assert self.query("SELECT count(*) FROM abatch_jobs") == [(6,)]
            for path in self.path.parent.iterdir():
                path.unlink()

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TABLE results (x)",
            "CREATE VIEW abatch_jobs AS SELECT 1",
            "CREATE TABLE t (x); CREATE INDEX results_failed ON t (x)",
            "PRAGMA encoding = 'UTF-16'; CREATE TABLE t (x)",
        ],
    )
    async def test_a_database_that_uses_our_names_is_refused_and_left_alone(self, statement):
        self.path.parent.mkdir()
        with closing(sqlite3.connect(self.path)) as database:
            database.executescript(statement)
        before = self.query("SELECT name, sql FROM sqlite_master")
        with pytest.raises(BackendError, match="choose another destination"):
            await self.connect(self.job)
        assert self.query("SELECT name, sql FROM sqlite_master") == before

    async def test_a_file_that_is_no_database_is_refused_and_left_alone(self):
        self.path.parent.mkdir()
        self.path.write_text("precious, and longer than the header of a database" * 10)
        with pytest.raises(BackendError, match="not a database"):
            await self.connect(self.job)
        assert self.path.read_text().startswith("precious")
        self.path.unlink()
        self.path.mkdir()
        with pytest.raises(BackendError, match="not a regular file"):
            await self.connect(self.job)

    async def test_a_symlink_at_the_destination_is_refused(self, tmp_path):
        self.path.parent.mkdir()
        self.path.symlink_to(tmp_path / "elsewhere.db")
        with pytest.raises(BackendError, match="not a regular file; choose another destination"):
            await self.connect(self.job)
        assert not (tmp_path / "elsewhere.db").exists()

    async def test_a_refused_statement_is_a_backend_error_and_the_backend_lives_on(self):
        lines = make_lines(1200)
        async with self.opened() as backend:
            sink = await self.sink(backend)
            with closing(sqlite3.connect(self.path)) as database:
                database.execute("CREATE TRIGGER full BEFORE INSERT ON results BEGIN SELECT RAISE(FAIL, 'full'); END")
                with pytest.raises(BackendError, match="SQLite reports: full"):
                    await sink.write(lines)
                database.execute("DROP TRIGGER full")
            await sink.discard()
            assert await read(backend, await self.sealed(backend, 0, lines)) == raw(lines)

    async def test_removed_rows_are_missed(self):
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, make_lines(5))]
            with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
                database.execute("DELETE FROM results WHERE custom_id = 'row-000003'")
            with pytest.raises(BackendError, match="rows of shard 40 were changed or removed"):
                await backend.finish(self.job, sealed)
            with pytest.raises(BackendError, match="rows of shard 40 were changed or removed"):
                await read(backend, sealed[0])

    async def test_a_cancelled_write_leaves_whole_transactions(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await sink.write(make_lines(5000))
            assert self.query("SELECT count(*) % 5000 FROM results") == [(0,)]
            await sink.discard()
            sealed = await self.sealed(backend, 0, make_lines(5000))
            assert sealed.lines == 5000

    async def test_a_killed_process_leaves_rows_that_are_not_written_twice(self, tmp_path):
        program = Path(__file__).with_name("killed_writer.py")
        process = await anyio.to_thread.run_sync(
            lambda: subprocess.run([sys.executable, program, self.url], env={**os.environ}, check=False)
        )
        assert process.returncode == -9
        assert self.query("SELECT count(*) FROM results") == [(2000,)]
        lines = make_lines(2500)
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, lines)
            assert await read(backend, sealed) == raw(lines)


@pytest.mark.parametrize(
    "url",
    ["sqlite:results.db", "sqlite:///", "sqlite:///a/", "sqlite:///results.db?mode=ro", "sqlite:///a\0b"],
)
async def test_other_forms_are_refused(url):
    with pytest.raises(ConfigError, match="write one of: sqlite:///results"):
        await connect(url, OutageContract.job)


def test_a_process_that_failed_to_connect_ends(tmp_path):
    """An aiosqlite connection that stays open keeps its process alive."""
    (tmp_path / "results.db").write_text("not a database, and longer than the header of one" * 10)
    program = (
        "import asyncio\n"
        "from abatch.backend import connect\n"
        "from abatch.testing import OutageContract\n"
        f"asyncio.run(connect('sqlite:///{tmp_path}/results.db', OutageContract.job))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert b"BackendError" in ended.stderr
