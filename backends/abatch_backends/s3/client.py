"""One S3 client per endpoint and credentials, shared by all jobs of an event loop."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import aioboto3
import anyio
from aiobotocore.config import AioConfig
from anyio.lowlevel import RunVar

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from abatch_backends.s3.address import Place

__all__ = ["CONNECTIONS", "SharedClient", "client_key", "clients_of_this_loop", "new_client"]

CONNECTIONS: Final = 32
"""The connections of one client: enough for the calls of eight drains. Further calls wait for a connection."""


def new_client(place: Place) -> AbstractAsyncContextManager[Any]:
    """Make a client; the rest of the package calls S3's operations by name, and does not depend on the library."""
    config = AioConfig(
        request_checksum_calculation=place.checksums,  # None: use the setting of the environment
        response_checksum_validation=place.checksums,
        signature_version="s3v4",
        retries={"mode": "standard"},
        max_pool_connections=CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
    )
    session: Any = aioboto3.Session()  # Any, here and below: these libraries have no types
    client: AbstractAsyncContextManager[Any] = session.client(
        "s3", endpoint_url=place.endpoint_url, region_name=place.region, config=config
    )
    return client


class SharedClient:
    """The client of one endpoint and one set of credentials, which is made on first use."""

    def __init__(self) -> None:
        self.users = 0
        self._open = AsyncExitStack()
        self._turn = anyio.Lock()
        self._client: Any = None

    async def client(self, place: Place) -> Any:  # noqa: ANN401 - these libraries have no types
        """Return the client, which the first call makes."""
        async with self._turn:
            if self._client is None:
                self._client = await self._open.enter_async_context(new_client(place))
            return self._client

    async def aclose(self) -> None:
        """Close its connections."""
        async with self._turn:
            self._client = None
            await self._open.aclose()


ClientKey = tuple[str | None, str | None, str | None, bytes]
_clients: RunVar[dict[ClientKey, SharedClient]] = RunVar("abatch_backends.s3")


def clients_of_this_loop() -> dict[ClientKey, SharedClient]:
    """Return the clients of this event loop."""
    try:
        return _clients.get()
    except LookupError:
        made: dict[ClientKey, SharedClient] = {}
        _clients.set(made)
        return made


def client_key(place: Place) -> ClientKey:
    """Return the key of a shared client: its place, and a digest of the environment variables of its credentials."""
    names = blake2b(digest_size=16)
    for name, value in sorted(os.environ.items()):
        if name.startswith("AWS_") or name == "HOME":
            names.update(os.fsencode(f"{name}={value}\0"))
    return place.endpoint_url, place.region, place.checksums, names.digest()
