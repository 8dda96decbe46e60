"""Checking files: from end to end, before anything is promised; each problem is named with its place."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib

import anyio
import msgspec
import pytest
import zstandard

from abatch import BadRequest, ConfigError
from abatch.input import duplicates
from abatch.input.check import check_file
from abatch.protocol.facts import FileSource
from abatch.protocol.wire import body_size
from tests.unit.make import names, packed, request_line, request_lines

pytestmark = pytest.mark.anyio

ROOM = 1_000_000
BOM = b"\xef\xbb\xbf"


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


# ---- good files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requests.jsonl", "requests.jsonl.gz", "requests.jsonl.zst", "requests"])
async def test_a_good_file_is_described(check, tmp_path, name):
    raw = packed(name, request_lines("a", "b", "c"))
    source = await check(raw, name)
    stat = (tmp_path / name).stat()
    digest = hashlib.sha256(raw).hexdigest()
    assert source == FileSource(
        path=str(tmp_path / name), size=len(raw), mtime_ns=stat.st_mtime_ns, sha256=digest, rows=3
    )


@pytest.mark.parametrize(
    "raw",
    [
        request_lines("a", "b").rstrip(b"\n"),
        request_lines("a", "b").replace(b"\n", b"\r\n"),
        BOM + request_lines("a", "b"),
        b"\n\r\n  \n" + request_lines("a") + b"\n\t\n" + request_lines("b") + b"\n\n",
        b"  " + request_lines("a") + b"\t" + request_lines("b").rstrip(b"\n") + b"  \n",
        request_lines("a\u2028\u0085", "b"),
    ],
    ids=["no last newline", "CRLF", "BOM", "blank lines", "spaces around", "line separators in ids"],
)
async def test_the_forms_that_editors_leave_are_good_files(check, raw):
    assert (await check(raw)).rows == 2


async def test_a_compressed_file_of_several_members_is_read_whole(check):
    gz = packed("x.gz", request_lines("a")) + packed("x.gz", request_lines("b"))
    zst = packed("x.zst", request_lines("a")) + packed("x.zst", request_lines("b"))
    assert (await check(gz, "x.gz")).rows == (await check(zst, "x.zst")).rows == 2


async def test_a_file_of_many_blocks_is_read_whole(check):
    raw = b"".join(request_line(f"id-{n}", system="x" * 3_000) for n in range(1_500))
    assert len(raw) > 4 * 2**20
    assert (await check(raw)).rows == 1_500


# ---- bad files --------------------------------------------------------------------------------------------------


async def test_a_problem_is_told_with_line_and_custom_id(check):
    raw = b"\n" + request_lines("a") + request_line("b", max_tokens=0) + request_lines("c")
    error = await problems_of(check(raw))
    assert (error.line, error.custom_id, error.total) == (3, "b", 1)
    assert "at least 1" in error.why


async def test_up_to_twenty_problems_are_told_and_all_are_counted(check):
    raw = b"".join(b"bad\n" if n % 2 else request_lines(f"id-{n}") for n in range(60))
    error = await problems_of(check(raw))
    assert [problem.line for problem in error.problems] == list(range(2, 42, 2))
    assert error.total == 30
    assert str(error).startswith("30 lines: not JSON")
    assert "line 2, line 4, line 6, …" in str(error)


async def test_problems_are_told_in_the_order_of_the_file_whatever_their_kind(check):
    large = request_line("c", system="x" * ROOM)
    raw = request_lines("a") + b"bad\n" + request_lines("a") + large + request_line("d", stream=True)
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
    error = await problems_of(check(request_lines("a", "b") + b"\n" + request_lines("a")))
    assert (error.line, error.custom_id) == (4, "a")
    assert "line 1" in error.why


async def test_every_repetition_names_the_first(check):
    error = await problems_of(check(request_lines("a", "a", "b", "a")))
    assert [(problem.line, problem.why) for problem in error.problems] == [
        (2, "custom_id stands on line 1 already"),
        (4, "custom_id stands on line 1 already"),
    ]


async def test_ids_that_are_written_differently_are_the_same_id(check):
    raw = b'{"custom_id":"\\u00e9","params":{"max_tokens":1}}\n' + request_lines("é")
    assert (await problems_of(check(raw))).line == 2


async def test_duplicates_far_apart_are_found(check):
    filler = b"".join(request_line(f"id-{n}", system="x" * 3_000) for n in range(1_000))
    error = await problems_of(check(request_lines("twice") + filler + request_lines("twice", "id-500")))
    assert [(problem.line, problem.why) for problem in error.problems] == [
        (1_002, "custom_id stands on line 1 already"),
        (1_003, "custom_id stands on line 502 already"),
    ]


async def test_a_request_that_no_batch_holds_is_refused(check):
    error = await problems_of(check(request_lines("a") + request_line("b", system="x" * 1_000), room=1_000))
    assert (error.line, error.custom_id) == (2, "b")
    assert "a batch holds 1000" in error.why


async def test_a_request_that_just_fits_a_batch_is_good(check):
    bare = len(request_line("b", system="")) - len(request_line("b"))
    params = len(msgspec.json.encode({"model": "m", "max_tokens": 8})) + bare
    fitting = 1_000 - body_size(1, params)
    assert (await check(request_line("b", system="x" * fitting), room=1_000)).rows == 1
    assert (await problems_of(check(request_line("b", system="x" * (fitting + 1)), room=1_000))).line == 1


async def test_a_line_longer_than_any_batch_ends_the_reading(check):
    error = await problems_of(check(b"bad\n" + request_lines("a") + b"x" * 10_000_000, room=1_000))
    assert (error.problems[-1].line, "longer than" in error.problems[-1].why) == (3, True)


async def test_problems_before_a_line_that_ends_the_reading_are_told_too(check):
    error = await problems_of(check(b"bad\n" + request_lines("a") + b"x" * 10_000_000, room=1_000))
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
    raw = packer.compress(request_lines("a", "b")) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    error = await problems_of(check(raw, "x.zst"))
    assert "decompress" in error.why


async def test_a_gz_file_that_was_cut_between_two_lines_is_refused(check):
    packer = zlib.compressobj(wbits=31)
    raw = packer.compress(request_lines("a", "b")) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert "decompress" in (await problems_of(check(raw, "x.gz"))).why


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
async def test_a_compressed_file_with_any_flipped_bit_is_refused(check, name):
    raw = gzip.compress(request_lines("a", "b", "c"), mtime=0)
    if name == "x.zst":
        raw = zstandard.ZstdCompressor(write_checksum=True).compress(request_lines("a", "b", "c"))
    for at in range(12, len(raw)):
        with pytest.raises((BadRequest, ConfigError)):
            await check(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :], name)


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
async def test_a_file_that_is_not_compressed_as_its_name_says_is_refused(check, name):
    assert "decompress" in (await problems_of(check(request_lines("a"), name))).why


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


@pytest.mark.parametrize("in_memory", [0, 3_000, duplicates.PARTITIONS_IN_MEMORY])
async def test_a_repeated_id_among_many_is_named_with_its_places(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(duplicates, "PARTITIONS_IN_MEMORY", in_memory)
    path = tmp_path / "requests.jsonl"
    ids = [f"id-{n}" for n in range(5_000)]
    ids[4_711] = ids[7]
    path.write_bytes(request_lines(*ids))
    with pytest.raises(BadRequest, match="custom_id stands on line 8 already") as bad:
        await check_file(path, tmp_path, bytes_per_batch=ROOM)
    assert (bad.value.line, bad.value.custom_id, bad.value.total) == (4_712, "id-7", 1)
    assert names(tmp_path) == ["requests.jsonl"]


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
    monkeypatch.setattr(duplicates, "PARTITIONS_IN_MEMORY", 0)
    path = tmp_path / "requests.jsonl"
    path.write_bytes(request_lines("a"))
    with pytest.raises(ConfigError, match=r"cannot be checked in .*not there.*free the disk"):
        await check_file(path, tmp_path / "not there", bytes_per_batch=ROOM)


async def test_a_pipe_is_refused_at_once(tmp_path):
    """It could be read only once, and to open it waits for its writer."""
    path = tmp_path / "requests.jsonl"
    os.mkfifo(path)
    with anyio.fail_after(20), pytest.raises(ConfigError, match="is no file"):
        await check_file(path, tmp_path, bytes_per_batch=10**6)


async def test_a_file_is_checked_without_a_folder_to_keep_digests_in(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "PARTITIONS_IN_MEMORY", 64)
    monkeypatch.setattr(duplicates, "IDS_IN_MEMORY", 64)
    rows = [b'{"custom_id":"r%d","params":{"max_tokens":1}}\n' % number for number in range(500)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(rows))
    assert (await check_file(path, None, bytes_per_batch=ROOM)).rows == 500
    path.write_bytes(b"".join([*rows, rows[7]]))
    with pytest.raises(BadRequest, match=r"line 501.*line 8 already"):
        await check_file(path, None, bytes_per_batch=ROOM)
    assert [each.name for each in tmp_path.iterdir()] == ["in.jsonl"]
