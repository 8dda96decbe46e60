"""Run the command line and die by SIGKILL at a named place: `python dying.py PLACE HIT run …`.

The places are made here, by wrapping what the run calls; the code under test knows nothing of them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from abatch import client, collector, facts, journal, planner, runner, spool, threads, wire

PLACE, HIT = sys.argv[1], int(sys.argv[2])
_seen = 0


def reach(place: str) -> None:
    """Die here if this is the place, and it is reached for the wanted time."""
    global _seen  # noqa: PLW0603
    if place == PLACE:
        _seen += 1
        if _seen == HIT:
            os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: Any, name: str, *, before: str = "", after: str = "") -> None:
    """Let a plain method be a place."""
    original: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        reach(before)
        done = original(*args, **kwargs)
        reach(after)
        return done

    setattr(owner, name, wrapped)


def wrap_threads() -> None:
    original = threads.run

    async def run(work: Any, /, *args: Any, **kwargs: Any) -> Any:
        name = getattr(work, "__name__", "")
        if name == "check_block":
            reach("check")
        done = await original(work, *args, **kwargs)
        if name == "check_block":
            reach("checked")
        return done

    threads.run = run


def wrap_journal() -> None:
    original = journal.Journal._append

    def append(self: Any, entries: Any) -> Any:
        kinds = {type(entry.fact).__name__ for entry in entries}
        for kind in kinds:
            reach(f"before {kind}")
        done = original(self, entries)
        for kind in kinds:
            reach(f"after {kind}")
        return done

    journal.Journal._append = append


def wrap_client() -> None:
    create, list_, results = client.Client.create, client.Client.list, client.Client.results

    async def watched(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece
            reach("tail sent" if piece == wire.BODY_TAIL else "uploading")

    async def dying_create(self: Any, headers: Any, size: int, body: Any) -> Any:
        answer = await create(self, headers, size, watched(body))
        reach("answered")
        return answer

    async def dying_list(self: Any, *args: Any, **kwargs: Any) -> Any:
        page = await list_(self, *args, **kwargs)
        if kwargs.get("limit") != 1:
            reach("polling")
        return page

    @asynccontextmanager
    async def dying_results(self: Any, *args: Any) -> AsyncIterator[Any]:
        async with results(self, *args) as chunks:

            async def watched_chunks() -> AsyncIterator[bytes]:
                async for chunk in chunks:
                    yield chunk
                    reach("draining")

            yield watched_chunks()

    client.Client.create, client.Client.list, client.Client.results = dying_create, dying_list, dying_results


wrap_threads()
wrap_journal()
wrap_client()
wrap(spool.SpoolWriter, "seal", after="spooled")
wrap(planner.Planner, "_fill", after="planning")
wrap(collector._Drain, "_collected", before="sealed")
wrap(os, "copy_file_range", before="assembling")
wrap(os, "link", before="linking", after="linked")
wrap(runner.JobRun, "sealed", before="finishing")
assert facts

sys.argv = ["abatch", *sys.argv[3:]]
from abatch.__main__ import main  # noqa: E402

sys.exit(main())
