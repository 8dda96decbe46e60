"""The places at which a run may die: made here by wrapping what it calls, so that the code under test knows of none.

A place has a name and is reached once or often. Most are a `before` and an `after` of one effect:

    before Committing       … a fact is appended to the journal (`before COMMIT`: its rows are in, not yet durable)
    before SpoolWriter.seal … a unit of blocking work begins, whatever it is
    before rename N.spool   … one call of the operating system on a file (also fsync, link, unlink, copy)
    before claim            … a step of the backend: claim, open, write, seal, finish
    before sqlite COMMIT    … a statement of the SQLite backend; `before s3 put_object` a call of the S3 one
    uploading, gate, tail sent, answered, polling, draining     stages of a batch on the wire
    before send, after send     bytes on their way to the kernel
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import aiosqlite

from abatch.engine import client, drain, fallbacks
from abatch.journal.sqlite import SqliteLog, _Transaction
from abatch.protocol import wire
from abatch.testing.crash import CrashPoints
from abatch_backends import s3, sqlite

Reach = Callable[[str], None]
Patch = Callable[[Any, str, Any], None]
"""`setattr`, or one that is undone at the end of a test."""

MUST = (
    "before Submitted",
    "before Cut",
    "before Committing",
    "before COMMIT",
    "after Committing",
    "after Accepted",
    "after Ended",
    "before Drained",
    "before Finished",
    "before SpoolWriter.seal",
    "before fsync",
    "before rename N.spool",
    "before rename retry-N.spool",
    "before unlink N.spool",
    "before claim",
    "before write",
    "before seal",
    "after seal",
    "before finish",
    "uploading",
    "gate",
    "tail sent",
    "answered",
    "polling",
    "draining",
    "before send",
)
"""Places that every survey must find; else a wrapper has come loose from what it wrapped."""
MUST_OF = {
    "jsonl": ("before link part-N.jsonl", "before copy_file_range", "after link results.jsonl"),
    "folder": ("before link part-N.jsonl", "after unlink .part-N.jsonl.tmp"),
    "sqlite": ("before sqlite INSERT", "before sqlite COMMIT", "after sqlite COMMIT"),
    "s3": ("before s3 put_object", "before s3 upload_part", "after s3 complete_multipart_upload"),
}


def loose(name: str, reached: Mapping[str, int]) -> list[str]:
    """What a survey of this medium must have found, and has not."""
    return [place for place in (*MUST, *MUST_OF[name]) if not reached.get(place)]


class Reached(CrashPoints):
    """Crash points that tell where they are, and leave the dying to whoever is told."""

    def __init__(self, reach: Reach) -> None:
        super().__init__(0)
        self._tell = reach

    def reach(self, where: str) -> None:
        self._tell(where)


SMALL_PART = 1_200
"""Bytes of an object from which on it is uploaded in parts."""


def make_all(reach: Reach) -> None:
    """Make every place, for the rest of this process's life."""
    Reached(reach).__enter__()
    make_small_steps(setattr)
    make_in_backends(reach, setattr)
    _make_in_journal(reach)
    _make_on_wire(reach)
    for name in ("fsync", "rename", "link", "unlink", "copy_file_range"):
        _make_in_system(name, reach)
    for name in ("send", "sendmsg"):
        _around(setattr, socket.socket, name, reach, lambda *_: "send")


def make_small_steps(patch: Patch) -> None:
    """Let a few lines be enough for many writes and transactions, and for an upload in parts."""
    patch(drain, "READ_BYTES", 600)
    patch(drain, "WRITE_BYTES", 600)
    patch(fallbacks, "WRITE_BYTES", 600)
    patch(sqlite.backend, "ROWS", 2)
    patch(s3.upload.Upload, "add", _in_one_part)
    patch(s3.codec.Codec, "block", s3.codec.BLOCK)  # all lines come at once


async def _in_one_part(upload: s3.upload.Upload, block: bytes) -> None:
    """Send a few lines in parts all the same: in one, since a server takes a small part only as the last."""
    upload._held.write(block)
    upload.size += len(block)
    if upload._held.tell() >= SMALL_PART:
        await upload._begin_part()


def make_in_backends(reach: Reach, patch: Patch) -> None:
    """Places inside the backends that no unit of blocking work shows."""

    def statement(_: object, sql: str, *__: object) -> str:
        return f"sqlite {sql.split(maxsplit=1)[0]}"

    _around_async(patch, aiosqlite.Connection, "execute", reach, statement)
    _around_async(patch, aiosqlite.Connection, "executemany", reach, statement)
    _around_async(patch, s3.backend.S3Backend, "call", reach, lambda _, operation: f"s3 {operation}")


def _make_in_journal(reach: Reach) -> None:
    append, add_job, leave = SqliteLog._append, SqliteLog._add_job, _Transaction.__exit__

    @wraps(append)
    def appending(self: Any, entries: Any) -> Any:
        kinds = {type(entry.fact).__name__: None for entry in entries}
        for kind in kinds:
            reach(f"before {kind}")
        done = append(self, entries)
        for kind in kinds:
            reach(f"after {kind}")
        return done

    @wraps(add_job)
    def adding(self: Any, fact: Any) -> Any:
        reach("before Submitted")
        done = add_job(self, fact)
        reach("after Submitted")
        return done

    @wraps(leave)
    def leaving(self: Any, kind: Any, *rest: Any) -> None:
        reach("before COMMIT" if kind is None else "before ROLLBACK")
        leave(self, kind, *rest)

    SqliteLog._append, SqliteLog._add_job = appending, adding  # type: ignore[method-assign]
    _Transaction.__exit__ = leaving  # type: ignore[method-assign]


def _make_on_wire(reach: Reach) -> None:
    create, list_, results = client.Client.create, client.Client.list, client.Client.results

    async def watched(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece
            reach("tail sent" if piece == wire.BODY_TAIL else "uploading")

    async def creating(self: Any, headers: Any, size: int, body: Any) -> Any:
        answer = await create(self, headers, size, watched(body))
        reach("answered")
        return answer

    async def listing(self: Any, *args: Any, **kwargs: Any) -> Any:
        page = await list_(self, *args, **kwargs)
        reach("gate" if kwargs.get("limit") == 1 else "polling")
        return page

    @asynccontextmanager
    async def reading(self: Any, *args: Any) -> AsyncIterator[Any]:
        async with results(self, *args) as chunks:

            async def watched_chunks() -> AsyncIterator[bytes]:
                async for chunk in chunks:
                    reach("draining")
                    yield chunk

            yield watched_chunks()

    client.Client.create, client.Client.list = creating, listing  # type: ignore[method-assign]
    client.Client.results = reading  # type: ignore[method-assign]


def _make_in_system(name: str, reach: Reach) -> None:
    def named(*args: Any) -> str:
        path = next((each for each in reversed(args) if isinstance(each, str | Path)), None)
        return name if path is None else f"{name} {_kind_of(Path(path).name)}"

    _around(setattr, os, name, reach, named)


def _kind_of(name: str) -> str:
    """A file's name without what differs from run to run."""
    if temporary := re.fullmatch(r"\.(seen-|driver-|)[a-z0-9_]{8}\.tmp", name, re.IGNORECASE):
        return f".{temporary[1]}N.tmp"
    return re.sub(r"-[0-9a-f]{8,}|\d+", lambda found: "-N" if found[0].startswith("-") else "N", name)


def _around(patch: Patch, owner: Any, name: str, reach: Reach, named: Callable[..., str]) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        place = named(*args)
        reach(f"before {place}")
        done = original(*args, **kwargs)
        reach(f"after {place}")
        return done

    patch(owner, name, wrapped)


def _around_async(patch: Patch, owner: Any, name: str, reach: Reach, named: Callable[..., str]) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        place = named(*args)
        reach(f"before {place}")
        done = await original(*args, **kwargs)
        reach(f"after {place}")
        return done

    patch(owner, name, wrapped)
