"""Call abatch from code without an event loop: each function opens a journal, does one thing, and closes it.

A call where an event loop runs is refused, because the call would block that loop until it returns. The error names
what to await instead.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
from anyio.from_thread import start_blocking_portal

from abatch.input.estimate import Estimate
from abatch.manager import BatchManager
from abatch.result import Result
from abatch.view import JournalView

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence

    from anthropic import AsyncAnthropic

    from abatch.backend import Backend
    from abatch.config import Config
    from abatch.engine.move_undriven import Relocation
    from abatch.input.origin import RequestOrigin
    from abatch.input.request import RequestSource
    from abatch.result import Summary
    from abatch.snapshot import JobStatus, JournalStatus, Resolution

__all__ = ["cancel", "estimate", "identify", "move", "resolve", "results", "run", "status"]

T = TypeVar("T")
BLOCK: Final = 2**18
"""Bytes of lines that are read in one run of the event loop; one line may have more."""


def _refuse_in_loop(call: str, instead: str) -> None:
    """Refuse a call that starts an event loop if one runs in this thread already.

    Args:
        call: the call, as the error names it.
        instead: what the error names to write instead.

    Raises:
        RuntimeError: an event loop runs in this thread.

    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"{call} starts an event loop, and one runs in this thread already (as in a notebook); use {instead} instead"
    )


def run(
    requests: RequestSource,
    *,
    to: str | os.PathLike[str] | Backend,
    key: str | None = None,
    betas: Sequence[str] = (),
    user_profile_id: str | None = None,
    workspace_id: str | None = None,
    tries: int = 3,
    limit: int | None = None,
    pilot: int = 0,
    skip_answered: str | None = None,
    changed_input: bool = False,
    check: bool = False,
    journal: str | os.PathLike[str] = ".abatch",
    client: AsyncAnthropic | None = None,
    config: Config | None = None,
    prices: str | None = None,
) -> Summary:
    """Submit one job, wait until it is done, and return its summary. For programs without an event loop.

    The same call again resumes the job, or returns at once if it is done. Other unfinished jobs of the journal are
    polled meanwhile, and submit nothing. Ctrl-C leaves the job in the journal.

    Args:
        requests: as for `BatchManager.submit`, like all arguments up to `changed_input`.
        to: the destination's URL or path, or a Backend of your own.
        key: the job's name; for a path it may be left out.
        betas: values of `anthropic-beta` for every request.
        user_profile_id: `anthropic-user-profile-id` for every request.
        workspace_id: `anthropic-workspace-id` for every call.
        tries: how often a request is sent at most when it expires or fails for a passing reason.
        limit: send only the first so many requests.
        pilot: send so many requests, the first ones, alone.
        skip_answered: the key of a finished job whose answered requests are not sent.
        changed_input: whether an unfinished job takes files whose content changed.
        check: raise JobFailed if not every request succeeded.
        journal: the folder of the journal; as for `BatchManager`, like the arguments after it.
        client: an `anthropic.AsyncAnthropic` of your own, which no other event loop has used.
        config: limits, polling and policy.
        prices: a price file of your own.

    Raises:
        RuntimeError: an event loop runs in this thread, as in a notebook or a web server.
        AbatchError: what entering and leaving a `BatchManager`, `submit` and `Job.wait` raise.

    """
    _refuse_in_loop(
        "abatch.run()",
        "`async with abatch.BatchManager() as manager:`, `job = await manager.submit(requests, to=...)` and "
        "`summary = await job.wait()`",
    )

    async def work() -> Summary:
        async with BatchManager(journal, client=client, config=config, resume="given", prices=prices) as manager:
            job = await manager.submit(
                requests,
                to=to,
                key=key,
                betas=betas,
                user_profile_id=user_profile_id,
                workspace_id=workspace_id,
                tries=tries,
                limit=limit,
                pilot=pilot,
                skip_answered=skip_answered,
                changed_input=changed_input,
            )
            return await job.wait(check=check)

    return anyio.run(work)


def status(
    key: str | None = None, *, journal: str | os.PathLike[str] = ".abatch", shards: bool = False
) -> JournalStatus:
    """Return the state of a journal's jobs: `JournalView.status` for code without an event loop."""
    return _once("status", journal, lambda view: view.status(key, shards=shards))


def results(
    key: str, *, journal: str | os.PathLike[str] = ".abatch", retries: bool = False, failed: bool = False
) -> Generator[Result]:
    """Iterate over a job's results that are sealed by now: `JournalView.results` for code without an event loop.

    The journal stays open until the generator is exhausted or closed. About 256 KiB are held in memory at a time, or
    one longer line.

    Raises:
        ConfigError: there is no journal; raised at once.
        JobNotFound: no job has this key; raised at once.
        BackendError: as for `JournalView.lines`.

    """
    _refuse_in_loop(
        "abatch.results()",
        "`async with JournalView(journal) as view:` and `async for result in view.results(key):`",
    )

    async def find(view: JournalView) -> None:
        view.job(key)  # It raises here, and not only where the first result is read.

    _once("results", journal, find)
    return _results(partial(JournalView.lines, key=key, retries=retries, failed=failed), journal)


def _results(
    lines_of: Callable[[JournalView], AsyncGenerator[bytes]], journal: str | os.PathLike[str]
) -> Generator[Result]:
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

    # The event loop runs in a thread of its own: an iterator that was dropped half read may be closed by the garbage
    # collector in a thread in which another loop runs.
    with start_blocking_portal() as portal:
        found = lines()
        try:
            while block := portal.call(next_block, found):
                yield from map(Result, block)
        finally:
            portal.call(found.aclose)


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
) -> Resolution:
    """Record an operator's decision on a shard: `JournalView.resolve` for code without an event loop."""
    return _once(
        "resolve",
        journal,
        lambda view: view.resolve(shard, adopt=adopt, not_created=not_created, lost=lost, any_key=any_key),
    )


def identify(wire_id: str, *, journal: str | os.PathLike[str] = ".abatch") -> RequestOrigin:
    """Find the request of a custom_id on the wire: `JournalView.identify` for code without an event loop."""
    return _once("identify", journal, lambda view: view.identify(wire_id))


def move(key: str, *, to: str | os.PathLike[str], journal: str | os.PathLike[str] = ".abatch") -> Relocation:
    """Move an unfinished job to another destination: `JournalView.move` for code without an event loop."""
    return _once("move", journal, lambda view: view.move(key, to=to))


def estimate(
    requests: RequestSource, /, *, config: Config | None = None, prices: str | None = None, betas: Sequence[str] = ()
) -> Estimate:
    """Estimate the size and cost of files of requests: `Estimate.of` for code without an event loop."""
    _refuse_in_loop("abatch.estimate()", "`await Estimate.of(...)`")
    return anyio.run(partial(Estimate.of, requests, config=config, prices=prices, betas=betas))


def _once(name: str, journal: str | os.PathLike[str], work: Callable[[JournalView], Awaitable[T]]) -> T:
    _refuse_in_loop(f"abatch.{name}()", f"`async with JournalView(journal) as view:` and `await view.{name}(...)`")

    async def do() -> T:
        async with JournalView(journal) as view:
            return await work(view)

    return anyio.run(do)
