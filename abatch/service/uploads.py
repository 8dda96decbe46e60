"""Bodies of requests: NDJSON kept in the journal as it arrives, the lines of one call, and JSON that is small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from abatch.config import BATCH_BYTES
from abatch.errors import LineTooLong
from abatch.input.queued import kept_input
from abatch.protocol.wire import LineReader
from abatch.service.replies import Refusal

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from abatch.journal.folder import JournalFolder

__all__ = ["MOST", "SMALL", "body_of", "is_json", "lines_of", "stored"]

SMALL: Final = 64 * 1024
"""Bytes of a JSON body at most."""
UPLOAD: Final = 64 * 2**30
"""Bytes of an uploaded file at most."""
MOST: Final = 10_000
"""Lines of one call at most."""

T = TypeVar("T")


async def body_of(request: Request, type_: type[T]) -> T:
    """Read a small JSON body; an empty body is an empty object.

    Raises:
        Refusal: it is too large, or does not have this form.

    """
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > SMALL:
            raise Refusal(413, f"this body may have {SMALL:,} bytes")
    try:
        return msgspec.json.decode(content or b"{}", type=type_)
    except msgspec.MsgspecError as invalid:
        raise Refusal(400, f"the body cannot be used: {invalid}") from invalid


async def stored(request: Request, folder: JournalFolder) -> Path:
    """Write a body to a file of the journal, durably; the same content is the same file.

    Raises:
        Refusal: it is empty or too large.
        JournalError: the file cannot be written.

    """
    async with kept_input(folder) as kept:
        async for part in request.stream():
            if kept.size + len(part) > UPLOAD:
                raise Refusal(413, f"an upload may have {UPLOAD:,} bytes")
            await kept.write(part)
    if not kept.size:
        raise Refusal(400, "the body holds no request; nothing was submitted")
    return kept.path


async def lines_of(request: Request) -> list[bytes]:
    """Read the lines of an NDJSON body, without blank ones.

    Raises:
        Refusal: the body is too large, or a line is too long, or there are too many.

    """
    reader, lines, size = LineReader(), list[bytes](), 0

    def add(read: list[bytes]) -> None:
        lines.extend(line for line in read if line.strip())
        if len(lines) > MOST:
            raise Refusal(413, f"one call takes {MOST:,} requests; none of these was put. Send several calls")

    try:
        async for part in request.stream():
            size += len(part)
            if size > BATCH_BYTES:
                raise Refusal(
                    413, f"one call takes {BATCH_BYTES:,} bytes; none of its requests was put. Send several calls"
                )
            add(reader.feed(part))
        add(reader.end())
    except LineTooLong as long:
        raise Refusal(413, f"{long.reason}; none of the requests was put") from long
    return lines


def is_json(request: Request) -> bool:
    """Return whether a body is a JSON object, by its content type."""
    kind: str = request.headers.get("content-type", "")
    return kind.partition(";")[0].strip().lower() == "application/json"
