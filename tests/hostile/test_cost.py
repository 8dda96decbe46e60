"""Hostile input costs what it weighs: time grows with its length and not faster, memory stays within bounds.

Time is compared with itself: the processor time of eight times the input, over that of the input. What grows with the
square would take sixty-four times as long.
"""

from __future__ import annotations

import gc
import re
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import pairwise

import pytest
import zstandard

from abatch.cli.sanitize import clean
from abatch.errors import BadRequest, LineTooLong
from abatch.input.files import BLOCK, FileInput
from abatch.input.request import from_line
from abatch.protocol import wire
from abatch.result import Result
from tests.hostile.properties import OUR_ID

MIB = 2**20
SIZE = 10_000
"""Bytes, so few that eight times as many stay in the processor's cache."""
TIMES = 8
AT_MOST = 3 * TIMES
"""Far from `TIMES`, for a machine that does other things; farther from its square."""
HEAD = b'{"custom_id":"' + OUR_ID + b'","result":{"type":"succeeded","message":{"content":'
ASKED = b'{"custom_id":"a","params":{"max_tokens":1,"x":'


def growth(work: Callable[[bytes], object], pattern: Callable[[int], bytes]) -> float:
    """How many times longer `work` takes for a `pattern` that is eight times as long."""
    small, large = pattern(SIZE), pattern(TIMES * SIZE)
    times = 1
    while _seconds(work, small, times) < 0.003:
        times *= 4
    return _seconds(work, large, times) / _seconds(work, small, times)


def _seconds(work: Callable[[bytes], object], of: bytes, times: int) -> float:
    """For so many times; the least of three, for others can only make it longer."""
    best = float("inf")
    gc.disable()
    try:
        for _ in range(3):
            began = time.process_time()
            for _ in range(times):
                work(of)
            best = min(best, time.process_time() - began)
    finally:
        gc.enable()
    return best


def read_in_pieces(stream: bytes) -> None:
    reader = wire.LineReader()
    for at in range(0, len(stream), 16):
        reader.feed(stream[at : at + 16])
    reader.end()


def read_result(line: bytes) -> None:
    seen = wire.read_line(line)
    wire.is_whole(line)
    if seen is not None:
        delivered = wire.with_custom_id(line, seen.wire_id.encode("utf-8", "replace"), b'"theirs"')
        result = Result(delivered)
        repr((result.outcome, result.error, result.usage))


def read_request(line: bytes) -> None:
    with suppress(BadRequest):
        from_line(line, 1)


def clean_text(text: bytes) -> None:
    clean(text.decode("latin-1"))


def repeated(piece: bytes, *, head: bytes = b"", tail: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: head + piece * -(-size // len(piece)) + tail


CASES = {
    "one long line, in pieces": (read_in_pieces, repeated(b"x")),
    "newlines, in pieces": (read_in_pieces, repeated(b"\n")),
    "returns, in pieces": (read_in_pieces, repeated(b"\r")),
    "a long answer": (read_result, repeated(b"x", head=HEAD + b'"', tail=b'"}}}')),
    "a long answer that is cut": (read_result, repeated(b"x", head=HEAD + b'"')),
    "escapes": (read_result, repeated(b'\\"', head=HEAD + b'"', tail=b'"}}}')),
    "escapes that are cut": (read_result, repeated(b"\\", head=HEAD + b'"')),
    "half surrogates": (read_result, repeated(b"\\ud800", head=HEAD + b'"', tail=b'"}}}')),
    "invalid UTF-8": (read_result, repeated(b"\xff", head=HEAD + b'"', tail=b'"}}}')),
    "deep nesting": (read_result, repeated(b"[", head=HEAD)),
    "deep objects": (read_result, repeated(b'{"a":', head=HEAD)),
    "ids below deep nesting": (
        read_result,
        repeated(
            b'{"custom_id":"' + OUR_ID + b'"},',
            head=b'{"a":' + b"[" * 2_000 + b"]" * 2_000 + b',"b":[',
            tail=b"0]}",
        ),
    ),
    "long numbers": (read_result, repeated(b"1", head=HEAD, tail=b"}}}")),
    "long fractions": (read_result, repeated(b"1", head=HEAD + b"0.", tail=b"}}}")),
    "ids that are nearly ours": (read_result, repeated(b"a1-00000001-01-", head=b"x")),
    "our id, again and again, not in JSON": (read_result, repeated(OUR_ID + b" ", head=b"x")),
    "names of ids": (read_result, repeated(b'"custom_id":', head=b"{", tail=OUR_ID)),
    "ids that do not end": (read_result, repeated(b'"custom_id":"', head=OUR_ID)),
    "names and spaces": (read_result, repeated(b'"custom_id"' + b" " * 100, head=OUR_ID)),
    "spaces before an id": (read_result, repeated(b" ", head=b'{"custom_id"', tail=b'"' + OUR_ID + b'"')),
    "names of results": (read_result, repeated(b'"result": {', head=OUR_ID)),
    "ids with escapes": (
        read_result,
        repeated(b'"custom_id":"\\u0061",', head=b"{", tail=b'"custom_id":"' + OUR_ID + b'","result":{"type":"x"}}'),
    ),
    "a long prompt": (read_request, repeated(b"x", head=ASKED + b'"', tail=b'"}}')),
    "a prompt of invalid UTF-8": (read_request, repeated(b"\xff", head=ASKED + b'"', tail=b'"}}')),
    "a prompt of escapes that is cut": (read_request, repeated(b'\\"', head=ASKED + b'"')),
    "digits": (read_request, repeated(b"1", head=ASKED, tail=b"}}")),
    "digits in text": (read_request, repeated(b"1" * 308 + b"x", head=ASKED + b'"', tail=b'"}}')),
    "exponents": (read_request, repeated(b"1e9,", head=ASKED + b"[", tail=b"1e999]}}")),
    "not numbers": (read_request, repeated(b":  Na", head=ASKED)),
    "spaces and not a number": (read_request, repeated(b" ", head=ASKED, tail=b"NaNo")),
    "deep requests": (read_request, repeated(b"[", head=ASKED)),
    "names of ids in a bad request": (read_request, repeated(b'"custom_id":"', head=b"{")),
    "ids without end in a bad request": (read_request, repeated(b'"custom_id":"' + b"x" * 599)),
    "unknown fields": (read_request, repeated(b'"a":1,', head=b"{", tail=b'"b":1}')),
    "escape sequences": (clean_text, repeated(b"\x1b[0;1m")),
    "sequences without end": (clean_text, repeated(b"\x1b[0;1")),
    "a sequence without end": (clean_text, repeated(b"0;", head=b"\x1b[")),
    "titles without end": (clean_text, repeated(b"\x1b]0;")),
    "a title without end": (clean_text, repeated(b"x", head=b"\x1b]")),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_time_grows_with_the_length_and_not_with_its_square(case):
    work, pattern = CASES[case]
    assert growth(work, pattern) < AT_MOST


def test_what_is_quadratic_would_be_found():
    assert growth(partial(re.search, rb"x*y"), lambda size: b"x" * (size // 10)) > AT_MOST


# ---- files ----------------------------------------------------------------------------------------------------


def packed(name: str, piece: bytes, times: int) -> bytes:
    packer = (
        zstandard.ZstdCompressor(level=19).compressobj() if name.endswith(".zst") else zlib.compressobj(9, wbits=31)
    )
    return b"".join([*(packer.compress(piece) for _ in range(times)), packer.flush()])


BLOCKS = 3


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
@pytest.mark.parametrize(
    "piece", [b"\n", b"\r\n", b" " * 1023 + b"\n", b"x\n"], ids=["newlines", "CRLF", "spaces", "x"]
)
def test_one_turn_reads_no_more_than_a_block_and_a_line(tmp_path, name, piece):
    path = tmp_path / name
    path.write_bytes(packed(name, piece * (BLOCK // len(piece)), BLOCKS))
    with closing(FileInput(path, longest=10_000)) as file:
        ends = [0]
        while file.block() is not None:
            ends.append(file._offset)
        ends.append(file._offset)
    assert ends[-1] == BLOCK // len(piece) * len(piece) * BLOCKS
    assert max(end - begin for begin, end in pairwise(ends)) <= 2 * BLOCK


@pytest.mark.parametrize("name", ["x.gz", "x.zst"])
@pytest.mark.parametrize("piece", [b"\0", b"\n", b"x" * 999 + b"\n"], ids=["one line", "newlines", "lines"])
def test_a_bomb_goes_off_in_small_parts(tmp_path, name, piece):
    path = tmp_path / name
    path.write_bytes(packed(name, piece * (MIB // len(piece)), 256))
    assert path.stat().st_size < 2 * MIB
    with closing(FileInput(path, longest=10_000)) as file:
        file._file.peek()  # what reading takes anyway is there
        with taking(32 * MIB), suppress(BadRequest):  # a line is longer than any batch
            for _ in range(3):
                file.block()


def test_a_line_that_never_ends_is_held_once():
    reader, fed = wire.LineReader(), 0
    with taking(wire.MAX_LINE + 2 * MIB), suppress(LineTooLong):
        while True:
            reader.feed(bytearray(65_536).replace(b"\0", b"x"))
            fed += 65_536
    assert fed == wire.MAX_LINE


@contextmanager
def taking(most: int) -> Iterator[None]:
    """The block may take so much memory at once."""
    tracemalloc.start()
    try:
        yield
        _, taken = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < most
