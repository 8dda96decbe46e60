"""Apply line faults to a stream of result lines."""

from __future__ import annotations

import zlib
from itertools import islice
from typing import TYPE_CHECKING, assert_never

from abatch.sandbox.answers import MARK
from abatch.sandbox.faults import (
    BlankLine,
    ConflictingLine,
    Crlf,
    CutAtLine,
    CutInLine,
    DeepJson,
    DuplicateLine,
    ForeignLine,
    HugeLine,
    LineFault,
    LineSeparator,
    LoneSurrogate,
    MissingLine,
    UnparsableLine,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["blank_lines_in_gzip", "disturbed", "in_chunks"]

CHUNK = 128 * 1024

NOT_JSON = (
    b'{"custom_id":"',
    b"\xff\xfe\x00",
    b"upstream connect error",
    b'{"custom_id":1,"result":}',
    b"null",
)


def disturbed(lines: Iterator[bytes], n: int, fault: LineFault, rng: random.Random) -> Iterator[bytes]:
    """Return the n lines with one fault among them, at places that the rng draws."""
    match fault:
        case CutAtLine():
            return islice(lines, _place(fault.lines, n, rng))
        case CutInLine():
            return _cut_inside(lines, _place(fault.lines, n, rng))
        case Crlf():
            return (line + b"\r" for line in lines)
        case MissingLine():
            return _replaced(lines, _chosen(n, fault.count, rng), lambda _: ())
        case DuplicateLine():
            return _repeated(lines, _chosen(n, fault.count, rng), lambda line: line)
        case ConflictingLine():
            return _repeated(lines, _chosen(n, fault.count, rng), _contradiction)
        case BlankLine():
            return _replaced(lines, _chosen(n, fault.count, rng), lambda line: (b"", line))
        case ForeignLine():
            foreign = b'{"custom_id":"foreign-%d","result":{"type":"canceled"}}' % rng.getrandbits(32)
            return _replaced(lines, _chosen(n, fault.count, rng), lambda line: (foreign, line))
        case UnparsableLine():
            return _replaced(lines, _chosen(n, fault.count, rng), lambda line: (rng.choice(NOT_JSON), line))
        case LineSeparator():
            return _marked(lines, _chosen(n, fault.count, rng), "[sandbox]\u2028\u0085".encode())
        case LoneSurrogate():
            return _marked(lines, _chosen(n, fault.count, rng), MARK + rb"\ud800")
        case HugeLine():
            return _marked(lines, _chosen(n, fault.count, rng), MARK + b"." * fault.size)
        case DeepJson():
            deep = b"[" * fault.depth + b"]" * fault.depth
            block = b'"content":[{"type":"tool_use","id":"toolu_01sandbox","name":"deep","input":{"deep":%b}},' % deep
            return _replaced(
                lines, _chosen(n, fault.count, rng), lambda line: (line.replace(b'"content":[', block, 1),)
            )
        case _:
            assert_never(fault)


def _place(wanted: int | None, n: int, rng: random.Random) -> int:
    return rng.randrange(n) if wanted is None else min(wanted, n)


def _chosen(n: int, count: int, rng: random.Random) -> frozenset[int]:
    return frozenset(rng.sample(range(n), min(n, count)))


def _replaced(
    lines: Iterable[bytes], chosen: frozenset[int], by: Callable[[bytes], Iterable[bytes]]
) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        if number in chosen:
            yield from by(line)
        else:
            yield line


def _marked(lines: Iterable[bytes], chosen: frozenset[int], mark: bytes) -> Iterator[bytes]:
    return _replaced(lines, chosen, lambda line: (line.replace(MARK, mark, 1),))


def _repeated(lines: Iterable[bytes], chosen: frozenset[int], as_: Callable[[bytes], bytes]) -> Iterator[bytes]:
    again: list[bytes] = []
    for number, line in enumerate(lines):
        if number in chosen:
            again.append(as_(line))
        yield line
    yield from again


def _contradiction(line: bytes) -> bytes:
    custom_id = line.split(b'"', 4)[3]
    other = b"canceled" if line.endswith(b'{"type":"expired"}}') else b"expired"
    return b'{"custom_id":"%b","result":{"type":"%b"}}' % (custom_id, other)


def _cut_inside(lines: Iterator[bytes], whole: int) -> Iterator[bytes]:
    for number, line in enumerate(lines):
        if number == whole:
            yield line[: len(line) // 2]
            return
        yield line


def in_chunks(lines: Iterator[bytes], *, last_newline: bool) -> Iterator[bytes]:
    """Yield the lines as one body in pieces of about 128 KiB."""
    first = next(lines, None)
    if first is None:
        return
    yield first
    piece, size = [b""], 0
    for line in lines:
        piece.append(line)
        size += len(line) + 1
        if size >= CHUNK:
            yield b"\n".join(piece)
            piece, size = [b""], 0
    if size:
        yield b"\n".join(piece)
    if last_newline:
        yield b"\n"


def blank_lines_in_gzip(size: int) -> Iterator[bytes]:
    """Yield a gzip stream of `size` newlines, which is made while it is read."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    step = b"\n" * 1_000_000
    for _ in range(size // len(step)):
        if piece := squeeze.compress(step):
            yield piece
    yield squeeze.compress(step[: size % len(step)]) + squeeze.flush()
