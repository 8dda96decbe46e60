"""Reading requests: files are checked from end to end, iterables as they come; no custom_id stands twice."""

from __future__ import annotations

import gzip
import hashlib
import os
import sqlite3
import tracemalloc
import zlib
from contextlib import closing

import anyio
import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from abatch import BadRequest, ConfigError, Request
from abatch.input import intake
from abatch.input.intake import (
    IDS_IN_MEMORY,
    DuplicateIndex,
    FileInput,
    HashPartitions,
    IterableInput,
    Numbered,
    check_file,
)
from abatch.input.request import from_object
from abatch.protocol.facts import FileSource
from abatch.protocol.wire import body_size
from tests.unit.make import names, request_line

pytestmark = pytest.mark.anyio

ROOM = 1_000_000
BOM = b"\xef\xbb\xbf"


def lines(*custom_ids: str) -> bytes:
    return b"".join(request_line(custom_id) for custom_id in custom_ids)


def packed(name: str, raw: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(raw, mtime=0)
    return zstandard.compress(raw) if name.endswith(".zst") else raw


@pytest.fixture
def check(tmp_path):
    """Check these bytes as a file."""
    folder = tmp_path / "journal"
    folder.mkdir()

    async def check(raw: bytes, name: str = "requests.jsonl", room: int = ROOM) -> FileSource:
        path = tmp_path / name
        path.write_bytes(raw)
        try:
            return await check_file(path, folder, bytes_per_batch=room)
        finally:
            assert names(folder) == []

    return check


async def problems_of(checking) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        await checking
    return refused.value


# ---- good files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requests.jsonl", "requests.jsonl.gz", "requests.jsonl.zst", "requests"])
async def test_a_good_file_is_described(check, tmp_path, name):
    raw = packed(name, lines("a", "b", "c"))
    source = await check(raw, name)
    stat = (tmp_path / name).stat()
    digest = hashlib.sha256(raw).hexdigest()
    assert source == FileSource(
        path=str(tmp_path / name), size=len(raw), mtime_ns=stat.st_mtime_ns, sha256=digest, rows=3
    )


@pytest.mark.parametrize(
    "raw",
    [
        lines("a", "b").rstrip(b"\n"),
        lines("a", "b").replace(b"\n", b"\r\n"),
        BOM + lines("a", "b"),
        b"\n\r\n  \n" + lines("a") + b"\n\t\n" + lines("b") + b"\n\n",
        b"  " + lines("a") + b"\t" + lines("b").rstrip(b"\n") + b"  \n",
        lines("a\u2028\u0085", "b"),
    ],
    ids=["no last newline", "CRLF", "BOM", "blank lines", "spaces around", "line separators in ids"],
)
async def test_the_forms_that_editors_leave_are_good_files(check, raw):
    assert (await check(raw)).rows == 2


async def test_a_compressed_file_of_several_members_is_read_whole(check):
    gz = packed("x.gz", lines("a")) + packed("x.gz", lines("b"))
    zst = packed("x.zst", lines("a")) + packed("x.zst", lines("b"))
    assert (await check(gz, "x.gz")).rows == (await check(zst, "x.zst")).rows == 2


async def test_a_file_of_many_blocks_is_read_whole(check):
    raw = b"".join(request_line(f"id-{n}", system="x" * 3_000) for n in range(1_500))
    assert len(raw) > 4 * 2**20
    assert (await check(raw)).rows == 1_500


# ---- bad files ------------------------------------------------------------------------------------------------


async def test_a_problem_is_told_with_line_and_custom_id(check):
    raw = b"\n" + lines("a") + request_line("b", max_tokens=0) + lines("c")
    error = await problems_of(check(raw))
    assert (error.line, error.custom_id, error.total) == (3, "b", 1)
    assert "at least 1" in error.why


async def test_up_to_twenty_problems_are_told_and_all_are_counted(check):
    raw = b"".join(b"bad\n" if n % 2 else lines(f"id-{n}") for n in range(60))
    error = await problems_of(check(raw))
    assert [problem.line for problem in error.problems] == list(range(2, 42, 2))
    assert error.total == 30
    assert str(error).startswith("30 lines: not JSON")
    assert "line 2, line 4, line 6, …" in str(error)


async def test_problems_are_told_in_the_order_of_the_file_whatever_their_kind(check):
    large = request_line("c", system="x" * ROOM)
    raw = lines("a") + b"bad\n" + lines("a") + large + request_line("d", stream=True)
    error = await problems_of(check(raw))
    assert [problem.line for problem in error.problems] == [2, 3, 4, 5]
    assert error.total == 4


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\n\n"])
async def test_between_good_lines_of_any_ending_a_problem_names_its_line(check, ends):
    good = [request_line(f"id-{n}", system="x" * 1_000)[:-1] for n in range(300)]
    error = await problems_of(check(ends.join([*good[:200], request_line("b", max_tokens=0)[:-1], *good[200:]])))
    assert (error.line, error.custom_id, error.total) == (201 if ends != b"\n\n" else 401, "b", 1)


async def test_problems_of_later_blocks_are_counted_too(check):
    filler = b"".join(request_line(f"id-{n}", system="x" * 3_000) for n in range(1_000))
    error = await problems_of(check(b"bad\n" + filler + b"bad\n"))
    assert ([problem.line for problem in error.problems], error.total) == ([1, 1_002], 2)


async def test_a_duplicate_names_both_lines(check):
    error = await problems_of(check(lines("a", "b") + b"\n" + lines("a")))
    assert (error.line, error.custom_id) == (4, "a")
    assert "line 1" in error.why


async def test_every_repetition_names_the_first(check):
    error = await problems_of(check(lines("a", "a", "b", "a")))
    assert [(problem.line, problem.why) for problem in error.problems] == [
        (2, "custom_id stands on line 1 already"),
        (4, "custom_id stands on line 1 already"),
    ]


async def test_ids_that_are_written_differently_are_the_same_id(check):
    raw = b'{"custom_id":"\\u00e9","params":{"max_tokens":1}}\n' + lines("é")
    assert (await problems_of(check(raw))).line == 2


async def test_duplicates_far_apart_are_found(check):
    filler = b"".join(request_line(f"id-{n}", system="x" * 3_000) for n in range(1_000))
    error = await problems_of(check(lines("twice") + filler + lines("twice", "id-500")))
    assert [(problem.line, problem.why) for problem in error.problems] == [
        (1_002, "custom_id stands on line 1 already"),
        (1_003, "custom_id stands on line 502 already"),
    ]


async def test_a_request_that_no_batch_holds_is_refused(check):
    error = await problems_of(check(lines("a") + request_line("b", system="x" * 1_000), room=1_000))
    assert (error.line, error.custom_id) == (2, "b")
    assert "a batch holds 1000" in error.why


async def test_a_request_that_just_fits_a_batch_is_good(check):
    bare = len(request_line("b", system="")) - len(request_line("b"))
    params = len(msgspec.json.encode({"model": "m", "max_tokens": 8})) + bare
    fitting = 1_000 - body_size(1, params)
    assert (await check(request_line("b", system="x" * fitting), room=1_000)).rows == 1
    assert (await problems_of(check(request_line("b", system="x" * (fitting + 1)), room=1_000))).line == 1


async def test_a_line_longer_than_any_batch_ends_the_reading(check):
    error = await problems_of(check(b"bad\n" + lines("a") + b"x" * 10_000_000, room=1_000))
    assert (error.problems[-1].line, "longer than" in error.problems[-1].why) == (3, True)


async def test_problems_before_a_line_that_ends_the_reading_are_told_too(check):
    error = await problems_of(check(b"bad\n" + lines("a") + b"x" * 10_000_000, room=1_000))
    assert [problem.line for problem in error.problems] == [1, 3]


@pytest.mark.parametrize("raw", [b"", b"\n\n", BOM, b"  \r\n"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.gz", "x.zst"])
async def test_a_file_without_a_request_is_refused(check, name, raw):
    with pytest.raises(ConfigError, match="holds no request"):
        await check(packed(name, raw), name)


INCOMPRESSIBLE = b"".join(request_line(f"id-{n}", system=os.urandom(500).hex()) for n in range(500))


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.9999])
async def test_a_truncated_compressed_file_is_refused(check, name, part):
    raw = packed(name, INCOMPRESSIBLE)
    with pytest.raises((BadRequest, ConfigError)):
        await check(raw[: int(len(raw) * part)], name)


async def test_a_zst_file_that_was_cut_between_two_lines_is_refused(check):
    packer = zstandard.ZstdCompressor().compressobj()
    raw = packer.compress(lines("a", "b")) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    error = await problems_of(check(raw, "x.zst"))
    assert "decompress" in error.why


async def test_a_gz_file_that_was_cut_between_two_lines_is_refused(check):
    packer = zlib.compressobj(wbits=31)
    raw = packer.compress(lines("a", "b")) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert "decompress" in (await problems_of(check(raw, "x.gz"))).why


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
async def test_a_compressed_file_with_any_flipped_bit_is_refused(check, name):
    raw = gzip.compress(lines("a", "b", "c"), mtime=0)
    if name == "x.zst":
        raw = zstandard.ZstdCompressor(write_checksum=True).compress(lines("a", "b", "c"))
    for at in range(12, len(raw)):
        with pytest.raises((BadRequest, ConfigError)):
            await check(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :], name)


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
async def test_a_file_that_is_not_compressed_as_its_name_says_is_refused(check, name):
    assert "decompress" in (await problems_of(check(lines("a"), name))).why


async def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.jsonl cannot be read"):
        await check_file(tmp_path / "none.jsonl", tmp_path, bytes_per_batch=ROOM)


async def test_a_folder_is_no_input(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        await check_file(tmp_path, tmp_path, bytes_per_batch=ROOM)


async def test_a_file_that_changes_while_it_is_checked_is_refused(check, tmp_path):
    raw = b"".join(request_line(f"id-{n}", system="x" * 3_000) for n in range(1_500))

    async def touch() -> None:
        at = 1
        while True:
            await anyio.lowlevel.checkpoint()
            path = tmp_path / "requests.jsonl"
            if path.exists():
                os.utime(path, ns=(at, at))
                at += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(touch)
        with pytest.raises(ConfigError, match="changed while it was checked"):
            await check(raw)
        tasks.cancel_scope.cancel()


# ---- reading a file -------------------------------------------------------------------------------------------


def read(file: FileInput) -> list[tuple[bytes, int, int]]:
    told: list[tuple[bytes, int, int]] = []
    while (block := file.block()) is not None:
        told += block.requests()
    return told


def test_every_line_tells_its_number_and_the_offset_after_it(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(BOM + b"one\r\n\n  two  \nthree")
    with closing(FileInput(path, longest=100)) as file:
        assert read(file) == [(b"one", 1, 8), (b"two", 3, 17), (b"three", 4, 22)]


@pytest.mark.parametrize("name", ["x.jsonl", "x.gz", "x.zst"])
@pytest.mark.parametrize("skipped", range(6))
def test_after_a_skip_the_lines_behind_it_are_read(tmp_path, name, skipped):
    path = tmp_path / name
    path.write_bytes(packed(name, b"\n".join([BOM + b"1", b"", b"2", b"3", b"\r", b"4", b"5"])))
    with closing(FileInput(path, longest=100)) as file:
        whole = read(file)
    with closing(FileInput(path, longest=100)) as file:
        assert file.skip(offset=whole[skipped - 1][2] if skipped else 0, rows=skipped) == 0
        assert [line for line, _, _ in read(file)] == [line for line, _, _ in whole[skipped:]]


def test_rows_of_a_compressed_file_are_passed_in_turns(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(packed("x.gz", b"".join(b"%0999d\n" % number for number in range(5_000))))
    with closing(FileInput(path, longest=1_000)) as file:
        turns = [left := 4_321]
        while left := file.skip(offset=0, rows=left):
            turns.append(left)
        assert len(turns) >= 4
        assert turns == sorted(turns, reverse=True)
        assert [int(line) for line, _, _ in read(file)] == list(range(4_321, 5_000))


@pytest.mark.parametrize("size", [0, 1, intake.BLOCK, 2 * intake.BLOCK, 5 * intake.BLOCK + 1])
async def test_a_file_is_hashed_to_its_end_in_turns(tmp_path, size):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    assert await intake.file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


# ---- seen ids -------------------------------------------------------------------------------------------------


def numbered(*custom_ids: str, first: int = 1) -> tuple[list[bytes], range]:
    return [msgspec.json.encode(custom_id) for custom_id in custom_ids], range(first, first + len(custom_ids))


def test_ids_are_noted_across_calls(tmp_path):
    with closing(DuplicateIndex(tmp_path)) as seen:
        assert seen.add(*numbered("a", "b")) == []
        assert seen.add(*numbered("c", first=3)) == []
        (problem,) = seen.add(*numbered("d", "b", first=4))
    assert (problem.line, problem.custom_id, problem.why) == (5, "b", "custom_id stands on line 2 already")


def test_many_ids_are_told_apart(tmp_path):
    with closing(DuplicateIndex(tmp_path)) as seen:
        assert seen.add(*numbered(*map(str, range(20_000)))) == []
        assert len(seen.add(*numbered(*map(str, range(19_990, 20_010)), first=20_001))) == 10


@pytest.mark.parametrize("room", [0, 2_000, IDS_IN_MEMORY])
@given(st.lists(st.lists(st.integers(0, 60).map(str), max_size=20), max_size=8))
def test_in_memory_or_on_disk_each_repetition_names_the_first(tmp_path, room, blocks):
    first: dict[str, int] = {}
    number = 1
    with pytest.MonkeyPatch.context() as less, closing(DuplicateIndex(tmp_path)) as seen:
        less.setattr(intake, "IDS_IN_MEMORY", room)
        for block in blocks:
            expected = [n for n, text in enumerate(block, number) if first.setdefault(text, n) != n]
            problems = seen.add(*numbered(*block, first=number))
            assert [problem.line for problem in problems] == expected
            assert all(f"line {first[str(problem.custom_id)]} " in problem.why for problem in problems)
            number += len(block)


def test_nothing_of_it_has_a_name_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "IDS_IN_MEMORY", 1_000)
    with closing(DuplicateIndex(tmp_path)) as seen:
        seen.add(*numbered(*map(str, range(5_000))))
        assert names(tmp_path) == []
        (problem,) = seen.add(*numbered("7", first=5_001))
        assert problem.why == "custom_id stands on line 8 already"


def test_nothing_of_it_stays_where_the_disk_takes_no_table(tmp_path, monkeypatch):
    class Full(sqlite3.Connection):
        def execute(self, statement, *values):
            if statement.startswith("CREATE"):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Full))
    monkeypatch.setattr(intake, "IDS_IN_MEMORY", 0)
    with (
        closing(DuplicateIndex(tmp_path)) as seen,
        pytest.raises(OSError, match="cannot be noted: database or disk is full"),
    ):
        seen.add(*numbered("a"))
    assert names(tmp_path) == []


def test_few_ids_need_no_file(tmp_path):
    with closing(DuplicateIndex(tmp_path / "not there")) as seen:
        assert seen.add(*numbered("a", "b")) == []
        with pytest.raises(OSError, match="not there"):
            seen.add(*numbered("b", first=3))


@given(st.lists(st.integers(0, 10_000).map(str), max_size=60), st.integers(0, 200))
def test_partitions_tell_at_the_end_whether_all_are_different(tmp_path, custom_ids, in_memory):
    with pytest.MonkeyPatch.context() as less, closing(HashPartitions(tmp_path)) as heaps:
        less.setattr(intake, "PARTITIONS_IN_MEMORY", in_memory)
        for custom_id in custom_ids:
            assert heaps.add(*numbered(custom_id)) == []
        assert anyio.run(heaps.all_different) == (len(set(custom_ids)) == len(custom_ids))
    assert names(tmp_path) == []


@pytest.mark.parametrize("in_memory", [0, 3_000, intake.PARTITIONS_IN_MEMORY])
async def test_a_repeated_id_among_many_is_named_with_its_places(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(intake, "PARTITIONS_IN_MEMORY", in_memory)
    path = tmp_path / "requests.jsonl"
    ids = [f"id-{n}" for n in range(5_000)]
    ids[4_711] = ids[7]
    path.write_bytes(lines(*ids))
    with pytest.raises(BadRequest, match="custom_id stands on line 8 already") as bad:
        await check_file(path, tmp_path, bytes_per_batch=ROOM)
    assert (bad.value.line, bad.value.custom_id, bad.value.total) == (4_712, "id-7", 1)
    assert names(tmp_path) == ["requests.jsonl"]


async def test_an_id_that_stands_everywhere_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "PARTITIONS_IN_MEMORY", 2**14)
    with closing(HashPartitions(tmp_path)) as heaps:
        for _ in range(200):
            heaps.add(*numbered(*["same"] * 1_000))
        tracemalloc.start()
        try:
            assert not await heaps.all_different()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 2**20  # its digests have three times as much


@pytest.mark.parametrize("blank", [b"\x0b", b"\x0c", b"\xc2\xa0", b"\0"])
@pytest.mark.parametrize("where", ["before", "behind", "alone"])
async def test_a_byte_that_is_no_blank_in_json_is_named_before_anything_is_promised(tmp_path, blank, where):
    path = tmp_path / "requests.jsonl"
    odd = {
        "before": blank + request_line("b"),
        "behind": request_line("b")[:-1] + blank + b"\n",
        "alone": blank + b"\n",
    }
    path.write_bytes(request_line("a") + odd[where])
    with pytest.raises(BadRequest, match=r"line 2.*: not JSON") as bad:
        await check_file(path, tmp_path, bytes_per_batch=ROOM)
    assert bad.value.total == 1


async def test_a_disk_that_takes_no_digests_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "PARTITIONS_IN_MEMORY", 0)
    path = tmp_path / "requests.jsonl"
    path.write_bytes(lines("a"))
    with pytest.raises(ConfigError, match=r"cannot be checked in .*not there.*free the disk"):
        await check_file(path, tmp_path / "not there", bytes_per_batch=ROOM)


# ---- iterables ------------------------------------------------------------------------------------------------


async def all_of(requests: object) -> list[Numbered]:
    return [item async for block in IterableInput(requests).blocks(most=10**6) for item in block]


def requests(n: int) -> list[Request]:
    return [Request(f"id-{i}", {"max_tokens": 1}) for i in range(n)]


async def astream(items):
    for item in items:
        yield item


@pytest.mark.parametrize("form", [list, tuple, iter, lambda items: (item for item in items), astream])
async def test_any_iterable_is_read_in_order_and_numbered_from_one(form):
    told = await all_of(form(requests(5)))
    assert [(item.number, item.row.custom_id) for item in told] == [(i + 1, b'"id-%d"' % i) for i in range(5)]


async def test_blocks_are_about_a_megabyte():
    blocks = [
        block
        async for block in IterableInput(
            Request(f"{n}", {"max_tokens": 1, "x": "y" * 100_000}) for n in range(50)
        ).blocks(most=10**6)
    ]
    assert len(blocks) > 3
    assert max(len(block) for block in blocks) <= 11


@pytest.mark.parametrize("other", [5, None, Request("a", {}), {"custom_id": "a", "params": {}}, object()])
async def test_what_is_no_iterable_of_requests_is_refused(other):
    with pytest.raises(ConfigError, match="iterable"):
        await all_of(other)


async def test_the_good_rows_before_a_bad_one_are_given_out(tmp_path):
    told = []

    async def take() -> None:
        async for block in IterableInput([*requests(3), Request("bad", {})]).blocks(most=10**6):
            told.extend(block)

    with pytest.raises(BadRequest) as refused:
        await take()
    assert len(told) == 3
    assert (refused.value.line, refused.value.custom_id) == (4, "bad")


async def test_what_the_iterable_raises_comes_out_as_it_is():
    def breaking():
        yield from requests(2)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await all_of(breaking())


@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_a_slow_iterable_does_not_hold_the_event_loop(kind):
    turns = 0

    def endless_until_others_ran():
        n = 0
        while turns < 3 and n < 300_000:
            n += 1
            yield Request(f"{n}", {"max_tokens": 1})

    async def the_same():
        for request in endless_until_others_ran():
            yield request

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await all_of(endless_until_others_ran() if kind == "generator" else the_same())
            tasks.cancel_scope.cancel()
    assert turns >= 3


def digest_of(rows) -> str:
    source = IterableInput([])
    for row in rows:
        source.note(row)
    return source.digest()


ROW = from_object(Request("a", {"max_tokens": 1}, betas=["x"]), 1)


@pytest.mark.parametrize(
    "others",
    [
        [],
        [ROW, ROW],
        [ROW._replace(custom_id=b'"b"')],
        [ROW._replace(params=b"{}")],
        [ROW._replace(betas=())],
        [ROW._replace(betas=("x", "y"))],
        [ROW._replace(custom_id=b'"a"2:{}', params=b"")],
    ],
)
async def test_the_digest_tells_other_rows_apart(others):
    assert digest_of(others) != digest_of([ROW])
    assert digest_of([ROW]) == digest_of([ROW])


async def test_the_digest_minds_the_order():
    other = ROW._replace(custom_id=b'"b"')
    assert digest_of([ROW, other]) != digest_of([other, ROW])


async def test_a_pipe_is_refused_at_once(tmp_path):
    """It could be read only once, and to open it waits for its writer."""
    path = tmp_path / "requests.jsonl"
    os.mkfifo(path)
    with anyio.fail_after(20), pytest.raises(ConfigError, match="is no file"):
        await check_file(path, tmp_path, bytes_per_batch=10**6)


async def test_a_file_is_checked_without_a_folder_to_keep_digests_in(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "PARTITIONS_IN_MEMORY", 64)
    monkeypatch.setattr(intake, "IDS_IN_MEMORY", 64)
    rows = [b'{"custom_id":"r%d","params":{"max_tokens":1}}\n' % number for number in range(500)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(rows))
    assert (await check_file(path, None, bytes_per_batch=ROOM)).rows == 500
    path.write_bytes(b"".join([*rows, rows[7]]))
    with pytest.raises(BadRequest, match=r"line 501.*line 8 already"):
        await check_file(path, None, bytes_per_batch=ROOM)
    assert [each.name for each in tmp_path.iterdir()] == ["in.jsonl"]
