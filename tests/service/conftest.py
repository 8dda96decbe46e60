"""A service against a sandbox, in the event loop of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from abatch.sandbox import Sandbox
from abatch.service import daemon
from abatch.service.settings import Listen, Serve, ServiceSettings
from abatch.service.tokens import Tokens

ANYWHERE = Listen(host="127.0.0.1", port=0)
Starts = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(seed=7) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", sandbox.key)
        yield sandbox


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / ".abatch"


@pytest.fixture
def served(api: Sandbox, journal: Path) -> Starts:
    """Start the service, with these names of `[serve]`; the block gets a client with the owner's token."""

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[httpx2.AsyncClient]:
        settings = ServiceSettings(config=api.config(), serve=replace(Serve(listen=ANYWHERE), **changes))
        urls: list[str] = []
        is_ready = anyio.Event()

        def ready(url: str) -> None:
            urls.append(url)
            is_ready.set()

        async with anyio.create_task_group() as group:

            async def run() -> None:
                await daemon.serve(journal, settings, ready=ready)

            group.start_soon(run)
            await is_ready.wait()
            headers = {"authorization": f"Bearer {Tokens(journal).secret_of()}"}
            async with httpx2.AsyncClient(base_url=urls[0], headers=headers, timeout=60, trust_env=False) as client:
                yield client
            group.cancel_scope.cancel()

    return start
