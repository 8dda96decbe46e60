"""What must hold of files whatever their bytes: the input of a job, plain or compressed, and its spool."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest
import zstandard

from abatch.errors import BadRequest, ConfigError, SpoolDamaged
from abatch.input import files, spool
from abatch.input.check import HEADER_SETS, check_file
from abatch.input.files import FileInput
from abatch.input.request import BOM, Row, Rows, check_lines, from_checked_lines, from_line
from abatch.input.spool import SpoolReader, SpoolWriter, Written, examine
from abatch.protocol import facts, wire
from tests.hostile.properties import PREFIX, folder_until_exit, roomy

__all__ = [
    "SUFFIXES",
    "file_is_planned_as_it_was_checked",
    "lines_found_good_are_what_each_of_them_is",
    "sealed",
    "spool_file_is_what_was_sealed_or_damaged",
]

SUFFIXES = ("", ".gz", ".zst")
LARGEST = 20_000
"""Bytes of a batch."""


# ---- input ----------------------------------------------------------------------------------------------------


def lines_found_good_are_what_each_of_them_is(text: bytes) -> None:
    """Lines that are checked and taken apart all at once are what each is by itself."""
    checked = check_lines(text)
    if checked is None:
        return
    rows = from_checked_lines(text)
    each = [from_line(line, number) for number, line in enumerate(text.removesuffix(b"\n").split(b"\n"), 1)]
    assert _one_by_one(rows) == each
    assert checked == (rows.custom_ids, set(rows.betas))


def file_is_planned_as_it_was_checked(content: bytes, suffix: str, *, part: int, cut: int) -> None:
    """A file that is accepted is planned without an error, from any cut on: its requests, each once, in their order.

    What is refused has a line that is refused.
    """
    with tempfile.TemporaryDirectory(dir=roomy()) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PART", part)
        path = Path(folder, f"input.jsonl{suffix}")
        path.write_bytes(content)
        try:
            source = anyio.run(partial(check_file, path, Path(folder), bytes_per_batch=LARGEST))
        except (BadRequest, ConfigError) as refused:
            _is_rightly(refused, content if not suffix else None)
            return
        wanted = [from_line(line, number) for number, line in enumerate(_requests(_unpacked(content, suffix)), 1)]
        assert source.rows == len(wanted)
        planned = list(_planned(path, offset=0, rows=0))
        assert [row for row, _ in planned] == wanted
        rows = 1 + cut % len(planned)
        assert [row for row, _ in _planned(path, offset=planned[rows - 1][1], rows=rows)] == wanted[rows:]


def _is_rightly(refused: BadRequest | ConfigError, text: bytes | None) -> None:
    assert str(refused)
    assert text is None or not _is_good(text)


def _planned(path: Path, *, offset: int, rows: int) -> Iterator[tuple[Row, int]]:
    """The rows from a cut on, as the planner takes them, each with the offset after it."""
    with closing(FileInput(path, longest=2 * LARGEST)) as file:
        file.skip(offset=offset, rows=rows)
        while (block := file.block()) is not None:
            found = _one_by_one(from_checked_lines(block.text))
            yield from zip(found, (end for _, _, end in block.requests()), strict=True)


def _one_by_one(rows: Rows) -> list[Row]:
    return [Row(*row) for row in zip(rows.custom_ids, map(bytes, rows.params), rows.betas, strict=True)]


def _requests(text: bytes) -> list[bytes]:
    """Its lines without the spaces of JSON around them; blank ones are none."""
    lines = (line.strip(b" \t\r") for line in text.removeprefix(BOM).split(b"\n"))
    return [line for line in lines if line]


def _is_good(text: bytes) -> bool:
    """Whether every line is taken by itself, and nothing is wrong with all of them together."""
    if any(len(line) > LARGEST for line in text.split(b"\n")):
        return False
    try:
        rows = [from_line(line, number) for number, line in enumerate(_requests(text), 1)]
    except BadRequest:
        return False
    few_headers = len({frozenset(row.betas) for row in rows}) <= HEADER_SETS
    small = all(wire.body_size(1, len(row.params)) <= LARGEST for row in rows)
    return bool(rows) and few_headers and small and len({row.custom_id for row in rows}) == len(rows)


def _unpacked(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.decompress(content)
    if suffix == ".zst":
        text = b""
        while content:
            frame = zstandard.ZstdDecompressor().decompressobj()
            text += frame.decompress(content)
            assert frame.eof
            content = frame.unused_data
        return text
    return content


# ---- the spool ------------------------------------------------------------------------------------------------

SMALL = 100
"""Bytes of a piece of a body, so that a small one has several."""
ROWS = [
    (b'"row %d \xc3\xa9"' % number, b'{"max_tokens":%d,"x":"%s"}' % (number, b"x" * 40 * number)) for number in range(5)
]
FALLBACKS = (b"", b'{"custom_id":"row 1","result":{}}', b"", b"f" * 300, b"")


class Sealed(NamedTuple):
    """A shard as it was sealed."""

    folder: Path
    planned: facts.Planned
    written: Written
    content: bytes
    fallbacks: tuple[bytes, ...]
    pieces: tuple[bytes, ...]
    """Of its body."""

    @property
    def path(self) -> Path:
        return self.folder / self.planned.spool


def spool_file_is_what_was_sealed_or_damaged(content: bytes, shard: Sealed) -> None:
    """Nothing comes from a spool file but what was sealed, or SpoolDamaged, and that before a body is complete."""
    shard.path.write_bytes(content)
    as_it_was = content == shard.content
    try:
        assert (examine(shard.path) == shard.written) == as_it_was
    except SpoolDamaged:
        assert not as_it_was
    pieces: list[bytes] = []
    try:
        with pytest.MonkeyPatch.context() as patch, closing(SpoolReader(shard.folder, shard.planned)) as reader:
            patch.setattr(spool, "PIECE", SMALL)
            assert [reader.custom_id(row) for row in range(reader.rows)] == [custom_id for custom_id, _ in ROWS]
            assert tuple(reader.own_fallback(row) for row in range(reader.rows)) == shard.fallbacks
            pieces.extend(reader.body(PREFIX))
            assert [reader.params(row) for row in range(reader.rows)] == [params for _, params in ROWS]
    except SpoolDamaged as damaged:
        _names(damaged, shard.path)
        assert not as_it_was
        assert len(pieces) < len(shard.pieces)
    else:
        assert tuple(pieces) == shard.pieces


def _names(damaged: SpoolDamaged, path: Path) -> None:
    assert str(path) in str(damaged)


@cache
def sealed(*, with_fallbacks: bool) -> Sealed:
    """A shard of five rows."""
    folder = folder_until_exit()
    fallbacks = FALLBACKS if with_fallbacks else (b"",) * len(ROWS)
    writer = SpoolWriter(folder)
    for (custom_id, params), fallback in zip(ROWS, fallbacks, strict=True):
        writer.add(custom_id, params, fallback)
    written = writer.seal("1.spool")
    planned = written.planned("1.spool", facts.Headers())
    body = wire.BODY_HEAD + b",".join(
        wire.ROW_HEAD + PREFIX + wire.row_suffix(row) + wire.ROW_MIDDLE + params + wire.ROW_END
        for row, (_, params) in zip(count(), ROWS)
    )
    with pytest.MonkeyPatch.context() as patch, closing(SpoolReader(folder, planned)) as reader:
        patch.setattr(spool, "PIECE", SMALL)
        pieces = tuple(reader.body(PREFIX))
    assert b"".join(pieces) == body
    assert len(pieces) > 2
    return Sealed(folder, planned, written, (folder / "1.spool").read_bytes(), fallbacks, pieces)
