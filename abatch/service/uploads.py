"""Bodies of requests: NDJSON that is written to a file as it arrives, and JSON that is small."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import msgspec

from abatch.service.replies import Refusal
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.requests import Request

__all__ = ["SMALL", "body_of", "lines_of", "stored"]

SMALL: Final = 64 * 1024
"""Bytes of a JSON body at most."""
UPLOAD: Final = 64 * 2**30
"""Bytes of an uploaded file at most."""
LINE: Final = 256_000_000
"""Bytes of a line of NDJSON at most: what the API accepts in one batch."""

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


async def stored(request: Request, folder: Path, key: str) -> Path:
    """Write a body to a file, durably; the same content under the same key is the same file.

    Raises:
        Refusal: it is too large.

    """
    await threads.run(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
    draft = folder / f".{secrets.token_hex(8)}"
    digest, size = hashlib.sha256(), 0
    file: BinaryIO = await threads.run(_create, draft)
    try:
        async for part in request.stream():
            size += len(part)
            if size > UPLOAD:
                raise Refusal(413, f"an upload may have {UPLOAD:,} bytes")
            digest.update(part)
            await threads.run(file.write, part)
        await threads.run(_sync, file)
        path = folder / f"{key}.{digest.hexdigest()[:32]}.jsonl"
        await threads.run(_put, draft, path)
    finally:
        await threads.run(_close, file, draft)
    return path


async def lines_of(request: Request) -> AsyncIterator[bytes]:
    """Yield the lines of an NDJSON body as they arrive, without blank ones.

    Raises:
        Refusal: a line is too long.

    """
    rest = b""
    async for part in request.stream():
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > LINE:
            raise Refusal(413, f"a line may have {LINE:,} bytes")
        for line in lines:
            if line.strip():
                yield line
    if rest.strip():
        yield rest


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _put(draft: Path, path: Path) -> None:
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _close(file: BinaryIO, draft: Path) -> None:
    file.close()
    draft.unlink(missing_ok=True)


def is_json(request: Request) -> bool:
    """Return whether a body is a JSON object, by its content type."""
    kind: Any = request.headers.get("content-type", "")
    return bool(kind.partition(";")[0].strip().lower() == "application/json")
