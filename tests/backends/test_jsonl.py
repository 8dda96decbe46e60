"""JSONL keeps the contract as file and as folder, clobbers nothing, and finishes after a crash anywhere."""

from __future__ import annotations

import errno
import itertools
import json
import os
import resource
import stat
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from anyio import from_thread

from abatch import result
from abatch.backend import Backend, JobRef, Sealed, connect, normalize
from abatch.errors import BackendError, ConfigError
from abatch.result import Block, joined
from abatch.system import disk
from abatch.testing import OutageContract
from abatch.testing.contract import make_line, make_lines, raw, read
from abatch_backends import jsonl

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


def lines_of(path: Path) -> list[bytes]:
    content = path.read_bytes()
    assert content.endswith(b"\n") or not content
    return content.split(b"\n")[:-1]


def pairs_of(path: Path) -> list[tuple[str, str]]:
    return [(pair["custom_id"], pair["reason"]) for pair in map(json.loads, lines_of(path))]


def modes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): oct(path.lstat().st_mode & 0o777) for path in folder.rglob("*")}


class _Jsonl(OutageContract):
    target: Path
    url: str

    async def connect(self, job: JobRef, /) -> Backend:
        return await connect(self.url, job)

    @asynccontextmanager
    async def outage(self, backend):
        """This process has no descriptor left."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def finished(self) -> None:
        """A whole job, from claim to the acknowledgement that its end is recorded."""
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, make_lines(5))]
            await backend.finish(self.job, sealed)
            await backend.finish(replace(self.job, finished=True), sealed)

    async def test_another_key_is_another_job(self):
        async with self.opened():
            with pytest.raises(BackendError, match="another job; move it away, or choose another"):
                await self.connect(replace(self.job, key="another"))

    async def test_a_symlink_at_the_destination_is_refused(self, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.symlink_to(elsewhere)
        with pytest.raises(BackendError, match="move it away"):
            await self.connect(self.job)
        elsewhere.mkdir()
        with pytest.raises(BackendError, match="move it away"):
            await self.connect(self.job)
        assert not any(elsewhere.iterdir())

    async def test_a_parent_that_is_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(BackendError, match="Not a directory"):
            await connect(f"jsonl:///{tmp_path}/file/results.jsonl", self.job)

    async def test_a_failed_write_is_a_backend_error_and_is_not_sealed(self, monkeypatch):
        lines = make_lines(10)
        async with self.opened() as backend:
            sink = await self.sink(backend)
            await sink.write(lines[:5])

            def full(descriptor: int, block: bytes) -> int:
                write(descriptor, block[:7])
                raise OSError(28, "No space left on device")

            write = os.write
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", full)
                with pytest.raises(BackendError, match="No space left on device"):
                    await sink.write(lines[5:])
            with pytest.raises(BackendError, match="drain it again"):
                await sink.seal()
            await sink.discard()
            assert await read(backend, await self.sealed(backend, 0, lines)) == raw(lines)

    async def test_a_long_line_that_comes_in_pieces_is_written_whole(self, monkeypatch):
        monkeypatch.setattr(result, "LONG", 1)
        lines = make_lines(3)
        block, text = Block(lambda line: lines[raw(lines).index(line)]), joined(lines)
        block.add([text[:5], memoryview(text)[5:-1], text[-1:]], 3, {})
        async with self.opened() as backend:
            sink = await self.sink(backend)
            await sink.write(block)
            assert await read(backend, await sink.seal()) == raw(lines)

    async def test_the_kernel_is_given_a_part_in_pieces_and_asked_to_begin_with_the_disk(self, monkeypatch):
        pieces, begun, write = list[int](), list[tuple[int, int]](), os.write

        def counted(descriptor: int, data: bytes | memoryview) -> int:
            pieces.append(len(data))
            return write(descriptor, data)

        def begin(_descriptor: int, start: int, size: int, _option: int) -> None:
            begun.append((start, size))

        monkeypatch.setattr(disk, "_sync_file_range", lambda: begin)
        lines = [make_line(f"{number}", b'{"type":"succeeded","x":"%b"}' % (b"x" * 2**20)) for number in range(5)]
        async with self.opened() as backend:
            sink = await self.sink(backend)
            monkeypatch.setattr(os, "write", counted)
            for line in lines:
                await sink.write([line])
            monkeypatch.undo()
            sealed = await sink.seal()
            assert await read(backend, sealed) == raw(lines)
        size = len(lines[0].raw) + 1
        assert max(pieces) == jsonl.CHUNK
        assert begun == [(0, 2 * size), (2 * size, 2 * size)]

    async def test_a_part_is_only_said_to_be_sealed_when_its_name_is_durable(self, monkeypatch):
        async with self.opened() as backend:
            await self.sealed(backend, 0, make_lines(5))
        async with self.opened() as backend:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", _broken)
                with pytest.raises(BackendError, match="Input/output error"):
                    await backend.open(self.shard(0))
            assert isinstance(await backend.open(self.shard(0)), Sealed)


class TestFile(_Jsonl):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path):
        self.target = tmp_path / "a" / "b" / "results.jsonl"
        self.parts = tmp_path / "a" / "b" / ".results.jsonl.abatch"
        self.url = normalize(str(self.target))

    async def stored(self) -> list[bytes]:
        return lines_of(self.target)

    async def stored_missing(self) -> list[tuple[str, str]]:
        return pairs_of(self.target.with_name("results.jsonl.missing.jsonl"))

    async def test_the_file_appears_when_the_job_is_complete_and_alone(self, tmp_path):
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, part, make_lines(5, start=part)) for part in range(2)]
            assert not self.target.exists()
            assert modes(tmp_path / "a" / "b") == {
                ".results.jsonl.abatch": "0o700",
                ".results.jsonl.abatch/claim.json": "0o600",
                ".results.jsonl.abatch/part-00000.jsonl": "0o600",
                ".results.jsonl.abatch/part-00001.jsonl": "0o600",
            }
            assert await backend.finish(self.job, sealed) == str(self.target)
            assert [path.name for path in self.parts.iterdir()] == ["claim.json"]
            await backend.finish(replace(self.job, finished=True), sealed)
        assert modes(tmp_path) == {"a": "0o700", "a/b": "0o700", "a/b/results.jsonl": "0o600"}

    async def test_an_existing_file_is_refused_and_left_alone(self):
        self.target.parent.mkdir(parents=True)
        for name in (self.target, self.target.with_name("results.jsonl.missing.jsonl")):
            name.write_text("precious")
            with pytest.raises(BackendError, match="exists and is not this job's; move it away, or choose another"):
                await self.connect(self.job)
            assert [path.name for path in self.target.parent.iterdir()] == [name.name]
            assert name.read_text() == "precious"
            name.unlink()

    async def test_a_finished_file_is_refused_to_the_same_key_begun_anew(self):
        await self.finished()
        with pytest.raises(BackendError, match="move it away"):
            await self.connect(self.job)

    async def test_a_file_that_came_meanwhile_is_never_clobbered(self):
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, make_lines(5))]
            for stranger in ("precious", "x" * int(sealed[0].detail["bytes"])):
                self.target.write_text(stranger)
                with pytest.raises(BackendError, match="is not what this job wrote; move it away"):
                    await backend.finish(self.job, sealed)
                assert self.target.read_text() == stranger
            self.target.unlink()
            await backend.finish(self.job, sealed)
        assert await self.stored() == raw(make_lines(5))

    @pytest.mark.parametrize("parts", [1, 2])
    async def test_a_file_that_comes_while_ours_is_assembled_is_never_clobbered(self, monkeypatch, parts):
        link = os.link

        def late(source, target):
            if target == self.target:
                self.target.write_text("precious")
            link(source, target)

        async with self.opened() as backend:
            sealed = [await self.sealed(backend, part, make_lines(5)) for part in range(parts)]
            monkeypatch.setattr(os, "link", late)
            with pytest.raises(BackendError, match="exists and is not this job's; move it away"):
                await backend.finish(self.job, sealed)
            assert self.target.read_text() == "precious"
            monkeypatch.undo()
            self.target.unlink()
            await backend.finish(self.job, sealed)
        assert await self.stored() == raw(make_lines(5) * parts)

    @pytest.mark.parametrize("parts", [1, 2])
    async def test_parts_stay_until_the_name_of_the_file_is_durable(self, monkeypatch, parts):
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, part, make_lines(5)) for part in range(parts)]
            with monkeypatch.context() as patch:
                patch.setattr(jsonl, "durable_names", lambda _: nullcontext())  # as if the run had died before
                patch.setattr(backend, "_tidy", lambda **_: None)
                await backend.finish(self.job, sealed)
        async with self.opened() as backend:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", _broken)
                with pytest.raises(BackendError, match="Input/output error"):
                    await backend.finish(self.job, sealed)
            assert len(list(self.parts.glob("part-*"))) == parts
            await backend.finish(self.job, sealed)
        assert await self.stored() == raw(make_lines(5) * parts)

    async def test_a_changed_part_is_not_assembled(self):
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, make_lines(5))]
            with (self.parts / "part-00000.jsonl").open("ab") as part:
                part.write(b"more\n")
            with pytest.raises(BackendError, match="changed or removed after it was sealed"):
                await backend.finish(self.job, sealed)
            assert not self.target.exists()

    async def test_a_finished_file_that_was_taken_away_is_missed(self):
        await self.finished()
        self.target.unlink()
        finished = replace(self.job, finished=True)
        async with self.opened(finished) as backend:
            with pytest.raises(BackendError, match="moved or removed"):
                await backend.finish(finished, [])

    async def test_bytes_are_copied_where_the_kernel_does_not(self, monkeypatch):
        def refuse(*_: int) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse)
        await self.finished()
        assert await self.stored() == raw(make_lines(5))

    async def test_a_reader_whose_part_goes_while_it_looks_finds_its_lines_in_the_file(self, monkeypatch):
        lines = make_lines(5)
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, lines)
            read_at, moved = jsonl._read_at, []

            def late(path, start, size):
                if not moved:
                    moved.append(from_thread.run(backend.finish, self.job, [sealed]))
                return read_at(path, start, size)

            monkeypatch.setattr(jsonl, "_read_at", late)
            assert await read(backend, sealed) == raw(lines)
        assert moved == [str(self.target)]

    async def test_a_reader_goes_on_while_finish_moves_its_lines(self):
        lines = [make_lines(30_000, start=40_000 * part) for part in range(2)]
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, part, lines[part]) for part in range(2)]
            reader = backend.read(sealed[1])
            seen = [await anext(reader)]
            await backend.finish(self.job, sealed)
            seen += [line async for line in reader]
        assert seen == raw(lines[1])

    async def test_a_crash_anywhere_is_repaired_by_the_next_run(self, tmp_path, monkeypatch):
        lost = tmp_path / "lost.jsonl"
        lost.write_text('{"custom_id":"gone","reason":"archived"}\n')
        for last in itertools.count(1):
            self.target = tmp_path / str(last) / "results.jsonl"
            self.url = f"jsonl:///{self.target}"
            with monkeypatch.context() as patch:
                dead = await self._run_until_effect(last, patch, lost)
            assert await self._run(lost) == raw(make_lines(9))
            assert {path.name for path in self.target.parent.iterdir()} == {
                "results.jsonl",
                "results.jsonl.missing.jsonl",
            }
            if not dead:
                break
        assert last >= 55, last  # or the effects are no longer seen

    async def _run_until_effect(self, last: int, patch: pytest.MonkeyPatch, lost: Path) -> bool:
        """Whether the run died at its `last` effect on the disk."""
        effects = itertools.count(1)

        def dying(effect):
            def instead(*args, **kwargs):
                if next(effects) >= last:  # the dead do nothing more
                    raise Died
                return effect(*args, **kwargs)

            return instead

        for name in ("mkdir", "link", "unlink", "fsync", "rmdir", "write", "copy_file_range"):
            patch.setattr(os, name, dying(getattr(os, name)))
        patch.setattr(disk, "AHEAD", 1)
        patch.setattr(disk, "_sync_file_range", lambda: dying(lambda *_: 0))
        patch.setattr(jsonl, "CHUNK", 100)  # or all lines of a part are one write
        try:
            await self._run(lost)
        except Died:
            return True
        return False

    async def _run(self, lost: Path) -> list[bytes]:
        """One process of a job, with a journal of its own beside the destination."""
        journal = self.target.parent.with_suffix(".journal")
        kept = json.loads(journal.read_text()) if journal.exists() else {"sealed": {}, "finished": False}
        job = replace(self.job, missing=(lost,), finished=kept["finished"])
        backend = await self.connect(job)
        for part in range(3):
            if str(part) not in kept["sealed"]:
                found = await backend.open(self.shard(part))
                if not isinstance(found, Sealed):
                    await found.write(make_lines(3, start=3 * part))
                    found = await found.seal()
                kept["sealed"][str(part)] = dict(found.detail)
                journal.write_text(json.dumps(kept))
        sealed = [Sealed(part=part, lines=3, detail=kept["sealed"][str(part)]) for part in range(3)]
        await backend.finish(job, sealed)
        kept["finished"] = True
        journal.write_text(json.dumps(kept))
        await backend.finish(replace(job, finished=True), sealed)
        await backend.aclose()
        return lines_of(self.target)


def _broken(_descriptor: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


class Died(BaseException):
    """The process ended here."""


class TestFolder(_Jsonl):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path):
        self.target = tmp_path / "results"
        self.url = normalize(f"{self.target}/")

    async def stored(self) -> list[bytes]:
        assert (self.target / "_SUCCESS").read_bytes() == b""
        return [line for part in sorted(self.target.glob("part-*.jsonl")) for line in lines_of(part)]

    async def stored_missing(self) -> list[tuple[str, str]]:
        return pairs_of(self.target / "_missing.jsonl")

    async def test_parts_appear_as_they_are_sealed(self, tmp_path):
        async with self.opened() as backend:
            await (await self.sink(backend, 1)).write(make_lines(5))
            sealed = [await self.sealed(backend, 0, make_lines(5))]
            assert modes(tmp_path) == {
                "results": "0o700",
                "results/.abatch-claim.json": "0o600",
                "results/.part-00001.jsonl.tmp": "0o600",
                "results/part-00000.jsonl": "0o600",
            }
            assert await backend.finish(self.job, sealed) == f"{self.target}/"

    async def test_an_empty_folder_is_taken_as_it_is(self):
        self.target.mkdir(mode=0o755)
        self.url = f"jsonl:///{self.target}"
        await self.finished()
        assert await self.stored() == raw(make_lines(5))
        assert stat.S_IMODE(self.target.stat().st_mode) == 0o755

    async def test_a_folder_with_anything_in_it_is_refused(self):
        self.target.mkdir()
        (self.target / "precious").touch()
        with pytest.raises(BackendError, match="it holds 'precious'; move it away, or choose another"):
            await self.connect(self.job)
        assert [path.name for path in self.target.iterdir()] == ["precious"]

    async def test_a_finished_folder_stays_claimed(self):
        await self.finished()
        async with self.opened() as backend:
            assert (await backend.open(self.shard(0))).lines == 5
        with pytest.raises(BackendError, match="another job"):
            await self.connect(self.other)

    async def test_a_part_that_came_meanwhile_is_never_clobbered(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            await sink.write(make_lines(5))
            (self.target / "part-00000.jsonl").write_text("precious")
            with pytest.raises(BackendError, match="is not this run's"):
                await sink.seal()
        assert (self.target / "part-00000.jsonl").read_text() == "precious"


@pytest.mark.parametrize(
    "url",
    [
        "jsonl:results.jsonl",
        "jsonl://host/results.jsonl",
        "jsonl:///",
        "jsonl:///results.jsonl?mode=w",
        "jsonl:///a\0b",
    ],
)
async def test_other_forms_are_refused(url):
    with pytest.raises(ConfigError, match="write one of: jsonl:///results"):
        await connect(url, OutageContract.job)


async def test_a_relative_destination_stays_where_it_was_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backend = await connect("jsonl:///results.jsonl", OutageContract.job)
    monkeypatch.chdir("/")
    assert await backend.finish(OutageContract.job, []) == str(tmp_path / "results.jsonl")
    await backend.aclose()
