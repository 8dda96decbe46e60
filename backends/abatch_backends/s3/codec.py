"""The encodings of lines in an object: unchanged, or compressed with zstd in frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from abatch.errors import BackendUnavailable
from abatch.storage import run_blocking

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator

__all__ = ["BLOCK", "RANGE", "Codec", "codec_for"]

BLOCK: Final = 2**20
"""Bytes of lines that are compressed at once."""
RANGE: Final = 4 * 2**20
"""Bytes that a reader fetches at once."""
SLICE: Final = 2**12
"""Compressed bytes that are expanded at once; expanded they may be a thousand times as many."""


class Codec:
    """The encoding that leaves lines unchanged."""

    suffix = ""
    block = 0
    """The smallest number of bytes that `shrink` gets at once."""

    async def shrink(self, block: bytes) -> bytes:
        """Return a block of lines in its stored form."""
        return block

    def expand(self, chunks: AsyncIterable[bytes]) -> AsyncIterable[bytes]:
        """Return the lines from an object's bytes, in pieces."""
        return chunks


class _Zstd(Codec):
    """The encoding that makes a separate frame of each block of whole lines; a series of frames is a valid file."""

    suffix = ".zst"
    block = BLOCK

    def __init__(self, compress: Callable[[bytes], bytes], expander: Callable[[], Callable[[bytes], bytes]]) -> None:
        self._compress = compress
        self._expander = expander

    async def shrink(self, block: bytes) -> bytes:
        frame = await run_blocking(self._compress, block)
        return bytes(memoryview(frame))  # a copy: the frame itself keeps a buffer of the block's size

    async def expand(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
        expand = self._expander()
        async for chunk in chunks:
            slices = (chunk[start : start + SLICE] for start in range(0, len(chunk), SLICE))
            while block := await run_blocking(_some, map(expand, slices)):
                yield block


def _some(pieces: Iterator[bytes]) -> bytes:
    """Return the next pieces, about a `RANGE` in total; empty if there are no more."""
    taken: list[bytes] = []
    size = 0
    while size < RANGE and (piece := next(pieces, None)) is not None:
        taken.append(piece)
        size += len(piece)
    return b"".join(taken)


def codec_for(url: str, compression: str | None) -> Codec:
    """Return the codec that a destination's URL asks for.

    Raises:
        BackendUnavailable: the package of the codec is not installed.

    """
    if compression is None:
        return Codec()
    try:
        import zstandard  # noqa: PLC0415 - only compressed destinations need it
    except ModuleNotFoundError as missing:
        raise BackendUnavailable(url, "zstd") from missing
    return _Zstd(
        lambda block: zstandard.ZstdCompressor(level=3).compress(block),
        lambda: zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress,
    )
