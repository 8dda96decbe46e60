"""Open the client of the API, and make sure that the API can be reached and accepts the key."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio

from abatch.errors import ApiError, JobStopped
from abatch.protocol.reads import Reads, refusal_of
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anthropic import AsyncAnthropic

    from abatch.engine.client import Client

__all__ = ["check_access", "open_client"]


async def open_client(sdk: AsyncAnthropic | None) -> Client:
    """Make the client from the caller's SDK client, or from an SDK client that is built from the environment.

    Raises:
        ConfigError: the environment has no credentials, or they cannot be used.

    """
    module: Any = await threads.run(import_module, "abatch.engine.client")  # Any: importing the SDK takes a second
    made: Client = module.Client.from_environment() if sdk is None else module.Client(sdk, own=False)
    return made


async def check_access(call: Callable[[], Awaitable[object]], key: str) -> None:
    """Make one cheap call; if it is refused, repeat it until the refusal counts as definite.

    Args:
        call: the call.
        key: the key of the job that needs the API.

    Raises:
        ApiError: the API cannot be reached.
        JobStopped: the API refuses the API key, or the server that answers is not the API.

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
                return  # The failure is temporary, and the run waits until it is over.
            await anyio.sleep(wait)
        else:
            return
