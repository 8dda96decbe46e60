"""Reading files: lines with their places, from any cut on; hashes."""

from __future__ import annotations

import hashlib
from contextlib import closing

import pytest

from abatch.input import files
from abatch.input.files import FileInput
from tests.unit.make import packed

pytestmark = pytest.mark.anyio

BOM = b"\xef\xbb\xbf"


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


@pytest.mark.parametrize("size", [0, 1, files.BLOCK, 2 * files.BLOCK, 5 * files.BLOCK + 1])
async def test_a_file_is_hashed_to_its_end_in_turns(tmp_path, size):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    assert await files.file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
