"""Run one job from a program without an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from abatch.manager import BatchManager

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anthropic import AsyncAnthropic

    from abatch.backend import Backend
    from abatch.config import Config
    from abatch.input.request import RequestSource
    from abatch.result import Summary

__all__ = ["run"]


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
        journal: the folder of the journal; as for `BatchManager`, like the arguments behind it.
        client: an `anthropic.AsyncAnthropic` of your own, which no other event loop has used.
        config: limits, polling and policy.
        prices: a price file of your own.

    Raises:
        RuntimeError: an event loop runs in this thread, as in a notebook or a web server.
        AbatchError: what entering and leaving a `BatchManager`, `submit` and `Job.wait` raise.

    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            "abatch.run() starts an event loop, and one runs in this thread already (as in a notebook); write "
            "`async with abatch.BatchManager() as manager:`, `job = await manager.submit(requests, to=...)` and "
            "`summary = await job.wait()`"
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

    return asyncio.run(work())
