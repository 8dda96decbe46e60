"""Make sure that the API is there and takes the key, before time is spent on planning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from abatch.errors import ApiError, JobStopped
from abatch.protocol.reads import Reads, refusal_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["check_access"]


async def check_access(call: Callable[[], Awaitable[object]], key: str) -> None:
    """Make one cheap call; while it is refused, make it again until the refusal counts as one.

    Args:
        call: the call.
        key: the job that needs the API.

    Raises:
        ApiError: the API cannot be reached.
        JobStopped: it refuses the key, or what answers is not the API.

    """
    checks = Reads(first=1.0)
    while True:
        try:
            await call()
        except ApiError as failure:
            if failure.status is None:
                raise ApiError(
                    "the API cannot be reached",
                    message=f"{failure.message}. "
                    "Check the network and ANTHROPIC_BASE_URL, then run the same command again",
                ) from failure
            wait = checks.failed(failure, anyio.current_time())
            if (refusal := checks.refusal) is not None:
                raise JobStopped(key, refusal.reason, refusal.remedy) from failure
            if refusal_of(failure) is None:
                return  # it passes: the run waits for that
            await anyio.sleep(wait)
        else:
            return
