"""The life of the service: one process and one event loop for all of its parts.

| signal | effect |
|---|---|
| first SIGTERM or SIGINT | nothing new is sent; creates under way get up to 30 seconds for their answer; streams end |
| second | the process ends at once, which is safe |
| SIGHUP | the settings file is read again |
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from uvicorn import Config as ServerConfig
from uvicorn import Server

from abatch.errors import ConfigError
from abatch.log import log
from abatch.manager import BatchManager
from abatch.service.app import application
from abatch.service.guard import host_names
from abatch.service.http1 import HEAD_BYTES, BoundedProtocol
from abatch.service.inbox_folder import InboxFolder
from abatch.service.notify import notify, watchdog
from abatch.service.settings import load, reloaded
from abatch.service.state import State
from abatch.service.tokens import Tokens
from abatch.service.webhooks import Webhooks, receivers
from abatch.system import threads
from abatch.view import JournalView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anyio.abc import TaskStatus
    from uvicorn._types import ASGIApplication

    from abatch.service.guard import Guard
    from abatch.service.settings import Listen, ServiceSettings

__all__ = ["INTERRUPTED", "serve"]

INTERRUPTED: Final = 130
CONNECTIONS: Final = 1_000
"""Connections at once; further ones are answered with 503."""
LAST_ANSWERS: Final = 5
"""Seconds that running calls have when the service ends."""


async def serve(
    journal: str | os.PathLike[str],
    settings: ServiceSettings,
    *,
    file: Path | None = None,
    ready: Callable[[str], None],
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Drive a journal and serve it over HTTP until a signal ends it.

    Args:
        journal: the folder of the journal.
        settings: where to listen, and how to run jobs.
        file: the settings file, which SIGHUP reads again.
        ready: called with the URL as soon as calls are answered.
        ending: called at the first signal.

    Raises:
        ConfigError: the address, a TLS file or the inbox folder cannot be used.
        JournalLocked: another process drives the journal.

    """
    settings.serve.check()
    async with AsyncExitStack() as opened:
        listener = _listen(settings.serve.listen)
        opened.callback(listener.close)
        manager = await opened.enter_async_context(BatchManager(journal, config=settings.config))
        view = await opened.enter_async_context(JournalView(journal))
        state = State(manager=manager, view=view, settings=settings)
        await threads.run(Tokens(state.folder).secret_of)  # the owner's token exists from now on
        inbox = None if settings.serve.inbox is None else InboxFolder(settings.serve.inbox, manager)
        if inbox is not None:
            await inbox.prepare()
        app = application(state)
        server = _Server(_config(app, settings))
        async with anyio.create_task_group() as group:
            opened.callback(state.stopping.set)
            await group.start(_send, state)
            await group.start(_signals, state, server, ending, app, file)
            group.start_soon(state.pulse.run)
            group.start_soon(state.metrics.follow, manager.events(), view.jobs())
            group.start_soon(state.activity.follow, view, manager.events())
            if inbox is not None:
                group.start_soon(inbox.run)
            await group.start(server.run_in_task, listener)
            port: int = listener.getsockname()[1]
            scheme = "http" if settings.serve.tls_certificate is None else "https"
            host = settings.serve.listen.host
            ready(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")
            notify(READY=1, STATUS=f"{len(manager.jobs())} jobs")
            group.start_soon(watchdog)
            await state.stopping.wait()
            await server.ended.wait()
            group.cancel_scope.cancel()


class _Server(Server):
    """uvicorn's server as a task: the service handles the signals."""

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self.ended = anyio.Event()

    async def run_in_task(self, listener: socket.socket, *, task_status: TaskStatus[None]) -> None:
        """Serve until `should_exit`; started as soon as connections are answered."""
        try:
            if not self.config.loaded:
                self.config.load()
            self.lifespan = self.config.lifespan_class(self.config)
            await self.startup(sockets=[listener])
            task_status.started()
            await self.main_loop()
            await self.shutdown(sockets=[listener])
        finally:
            self.ended.set()


def _config(app: Guard, settings: ServiceSettings) -> ServerConfig:
    certificate, key = settings.serve.tls_certificate, settings.serve.tls_key
    asgi: ASGIApplication = app  # type: ignore[assignment]  # Starlette's types of ASGI are mappings, uvicorn's are not
    return ServerConfig(
        asgi,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=LAST_ANSWERS,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )


def _listen(address: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=1024)
    except OSError as refused:
        raise ConfigError(
            f"cannot listen on {address}: {refused.strerror or refused}; choose another address"
        ) from refused


async def _signals(
    state: State,
    server: _Server,
    ending: Callable[[], None],
    app: Guard,
    file: Path | None,
    *,
    task_status: TaskStatus[None],
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                await _reload(state, app, file)
            elif state.stopping.is_set():
                os._exit(INTERRUPTED)
            else:
                notify(STOPPING=1)
                state.stopping.set()
                state.manager.close()
                server.should_exit = True
                ending()


async def _reload(state: State, app: Guard, file: Path | None) -> None:
    if file is None:
        log.warning("settings_not_reloaded", why="the service was started without a settings file")
        return
    try:
        read = await threads.run(load, file)
    except ConfigError as wrong:
        log.warning("settings_not_reloaded", why=str(wrong))
        return
    state.settings, waiting = reloaded(state.settings, read)
    state.sending.cancel()
    app.hosts = host_names(state.settings.serve.listen.host, state.settings.serve.hosts)
    log.info("settings_reloaded", need_a_restart=", ".join(waiting) or None)


async def _send(state: State, *, task_status: TaskStatus[None]) -> None:
    """Send webhooks and run `on_done`, with the settings in effect."""
    while True:
        settings = state.settings
        made = await threads.run(partial(receivers, settings.webhooks, settings.serve.on_done, journal=state.folder))
        sender = Webhooks(state.view, made, on_attempt=state.metrics.count_webhook)
        with anyio.CancelScope() as state.sending:
            await sender.run(task_status=task_status)
        task_status = anyio.TASK_STATUS_IGNORED
