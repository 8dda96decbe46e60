"""Call abatch from code without an event loop: each function opens a journal, does one thing, and closes it.

Where an event loop runs they are refused, for they would stop it until they are done. The text names what to await.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from abatch.input.estimate import Estimate
from abatch.result import Result
from abatch.view import JournalView

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

    from abatch.config import Config
    from abatch.engine.relocate import Relocation
    from abatch.input.origin import RequestOrigin
    from abatch.input.request import RequestSource
    from abatch.snapshot import JobStatus, JournalStatus, OperatorWord

__all__ = ["cancel", "estimate", "identify", "move", "refuse_in_loop", "resolve", "results", "status"]

T = TypeVar("T")
BLOCK: Final = 2**18
"""Bytes of lines that are read in one run of the event loop; one line may have more."""


def refuse_in_loop(call: str, instead: str) -> None:
    """Refuse a call that starts an event loop where one runs.

    Args:
        call: the call, as the text names it.
        instead: what is to be used in its place.

    Raises:
        RuntimeError: an event loop runs in this thread.

    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"{call} starts an event loop of its own, and one runs in this thread: use {instead} here")


def status(
    key: str | None = None, *, journal: str | os.PathLike[str] = ".abatch", shards: bool = False
) -> JournalStatus:
    """How the jobs of a journal stand: `JournalView.status` for code without an event loop."""
    return _once("status", journal, lambda view: view.status(key, shards=shards))


def results(
    key: str, *, journal: str | os.PathLike[str] = ".abatch", retries: bool = False, failed: bool = False
) -> Iterator[Result]:
    """Every result of a job that is sealed by now: `JournalView.results` for code without an event loop.

    The journal is open until the iterator is at its end or closed. About 256 KiB are held in memory at a time, or one
    longer line.
    """
    refuse_in_loop("abatch.results()", "`JournalView.results`")
    return _results(partial(JournalView.lines, key=key, retries=retries, failed=failed), journal)


def _results(
    lines_of: Callable[[JournalView], AsyncGenerator[bytes]], journal: str | os.PathLike[str]
) -> Iterator[Result]:
    async def lines() -> AsyncGenerator[bytes]:
        async with JournalView(journal) as view, aclosing(lines_of(view)) as found:
            async for line in found:
                yield line

    async def next_block(found: AsyncGenerator[bytes]) -> list[bytes]:
        block: list[bytes] = []
        weight = 0
        async for line in found:
            block.append(line)
            weight += len(line)
            if weight >= BLOCK:
                break
        return block

    with asyncio.Runner() as runner:
        found = lines()
        try:
            while block := runner.run(next_block(found)):
                yield from map(Result, block)
        finally:
            runner.run(found.aclose())


def cancel(key: str, *, journal: str | os.PathLike[str] = ".abatch") -> JobStatus:
    """Record that a job is to be cancelled: `JournalView.cancel` for code without an event loop."""
    return _once("cancel", journal, lambda view: view.cancel(key))


def resolve(
    shard: int,
    *,
    journal: str | os.PathLike[str] = ".abatch",
    adopt: str | None = None,
    not_created: bool = False,
    lost: bool = False,
    any_key: bool = False,
) -> OperatorWord:
    """Record what became of a shard: `JournalView.resolve` for code without an event loop."""
    return _once(
        "resolve",
        journal,
        lambda view: view.resolve(shard, adopt=adopt, not_created=not_created, lost=lost, any_key=any_key),
    )


def identify(wire_id: str, *, journal: str | os.PathLike[str] = ".abatch") -> RequestOrigin:
    """The request that a custom_id on the wire stands for: `JournalView.identify` for code without an event loop."""
    return _once("identify", journal, lambda view: view.identify(wire_id))


def move(key: str, *, to: str | os.PathLike[str], journal: str | os.PathLike[str] = ".abatch") -> Relocation:
    """Take an unfinished job to another destination: `JournalView.move` for code without an event loop."""
    return _once("move", journal, lambda view: view.move(key, to=to))


def estimate(
    requests: RequestSource, /, *, config: Config | None = None, prices: str | None = None, betas: Sequence[str] = ()
) -> Estimate:
    """What files of requests come to: `Estimate.of` for code without an event loop."""
    refuse_in_loop("abatch.estimate()", "`await Estimate.of(...)`")
    return anyio.run(partial(Estimate.of, requests, config=config, prices=prices, betas=betas))


def _once(name: str, journal: str | os.PathLike[str], work: Callable[[JournalView], Awaitable[T]]) -> T:
    refuse_in_loop(f"abatch.{name}()", f"`await JournalView.{name}(...)`")

    async def do() -> T:
        async with JournalView(journal) as view:
            return await work(view)

    return anyio.run(do)
