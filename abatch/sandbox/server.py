"""The machine over HTTP, on loopback only: as a block in a program, or as a separate process.

    async with Sandbox(latency=(0.5, 2)) as api:
        client = AsyncAnthropic(base_url=api.url, api_key=api.key)

The server runs on an event loop in a separate thread, so the caller's loop may be busy. One lock protects the machine.
In addition to the API, the server has these paths, which need no key:

    GET  /sandbox/account    the totals of the account
    GET  /sandbox/batches    every batch of every workspace
    POST /sandbox/faults     an order or a list of orders, see abatch.sandbox.faults
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import parse_qsl, urlsplit

import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route
from uvicorn import Config as ServerConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from abatch.config import Config
from abatch.sandbox.answers import OutcomeOf, Outcomes
from abatch.sandbox.api import Machine, Settings
from abatch.sandbox.batches import Ended
from abatch.sandbox.exchange import Cut, Lost, Reply, Request, Reset, Slow, Whole
from abatch.sandbox.faults import Order, Status
from abatch.sandbox.store import Log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from starlette.requests import Request as ControlRequest
    from starlette.types import Receive, Scope, Send

    from abatch.sandbox.account import Account
    from abatch.sandbox.faults import Faults
    from abatch.sandbox.replies import AnswerOf
    from abatch.sandbox.shapes import Era

__all__ = ["Sandbox", "serve"]

STDIN = 0


class _SandboxConfig(Config):
    """Settings for a sandbox."""

    __slots__ = ()

    def is_made_for(self, base_url: str) -> bool:
        """Return whether the API may be a sandbox, which is on this machine; nothing is late there."""
        return urlsplit(base_url).hostname in ("127.0.0.1", "localhost")


QUICK: Final = _SandboxConfig(
    poll_interval=timedelta(milliseconds=20),
    poll_interval_max=timedelta(milliseconds=200),
    grace=timedelta(seconds=2),
    storage_retry_every=timedelta(milliseconds=20),
)
LAST_WORDS = 5.0
"""The seconds that running calls may take to notice the end of their connections."""
BEFORE_RESET = 0.02
"""The seconds between the last byte and a reset, because a reset makes the peer's kernel drop all unread bytes."""


class _Connection(HttpToolsProtocol):
    """uvicorn's connection, which shows its transport to the application and counts the body."""

    received = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.received = 0
        self.scope["sandbox.connection"] = self  # type: ignore[typeddict-unknown-key]

    def on_body(self, body: bytes) -> None:
        self.received += len(body)
        super().on_body(body)

    def reset(self) -> None:
        """End the connection so that the peer sees a reset."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Sandbox:
    """A Batches API on a free loopback port for the duration of a block.

    `state` is a directory for the record of accepted batches. The same `seed` gives the same random numbers; without a
    seed they differ each time. The other options are those of `Settings`.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        state: Path | None = None,
        seed: int | None = None,
        clock: Callable[[], datetime] | None = None,
        latency: float | tuple[float, float] = 0.0,
        cancel_latency: float = 0.0,
        outcome: OutcomeOf | None = None,
        answer: AnswerOf | None = None,
        answer_bytes: int = 0,
        keys: Mapping[str, str] | None = None,
        queue_limit: int | None = None,
        requests_per_minute: int | None = None,
        retry_after_seconds: int | None = None,
        era: Era = "2026-09",
        gzip: bool = True,
        results_host: str | None = None,
    ) -> None:
        self._port = port
        self._state = state
        self._seed = seed
        self._settings = Settings(
            latency=latency,
            cancel_latency=cancel_latency,
            outcome=Outcomes() if outcome is None else outcome,
            answer=answer,
            answer_bytes=answer_bytes,
            keys=keys,
            queue_limit=queue_limit,
            requests_per_minute=requests_per_minute,
            retry_after_seconds=retry_after_seconds,
            era=era,
            gzip=gzip,
            results_host=results_host,
        )
        self._wall = clock or (lambda: datetime.now(UTC))
        self._ahead = timedelta(0)
        self._lock = threading.Lock()
        self._open = ExitStack()
        self.key = "sandbox-key" if keys is None else next(iter(keys))
        """A key that it accepts."""
        self.url = ""
        """The URL on which it listens; known inside the block."""
        self.machine: Machine
        """The API itself. Other threads may read it, and must change it only through the methods of this class."""

    @staticmethod
    def config(**changes: Any) -> Config:  # noqa: ANN401 - the fields differ in type, and Config checks them
        """Make the settings of a manager for tests against a sandbox: it polls every few milliseconds.

        The grace and the wait for the storage are short, too, because nothing is late on this machine. Everything else
        is as in `Config()`.

        Args:
            changes: fields of `Config` that get another value.

        """
        if "poll_interval" in changes:  # The longest interval follows it, as in `Config()`.
            changes = {"poll_interval_max": None, **changes}
        return replace(QUICK, **changes)

    @property
    def account(self) -> Account:
        """The account of what it accepted."""
        return self.machine.account

    @property
    def faults(self) -> Faults:
        """The faults that it has to show."""
        return self.machine.faults

    def now(self) -> datetime:
        """Return the time on its clock."""
        return self._wall() + self._ahead

    def advance(self, seconds: float, /) -> None:
        """Move its clock forward."""
        self._ahead += timedelta(seconds=seconds)

    def add_foreign(
        self,
        n_requests: int,
        *,
        count: int = 1,
        created: datetime | None = None,
        latency: float | None = None,
        workspace: str = "default",
    ) -> list[str]:
        """Create batches of another user, which the account does not count, and return their ids."""
        with self._lock:
            return self.machine.add_foreign(
                n_requests, count=count, created=created, latency=latency, workspace=workspace
            )

    def delete(self, batch_id: str, /) -> None:
        """Delete a batch in any state.

        Raises:
            LookupError: there is no such batch.

        """
        with self._lock:
            self.machine.delete(batch_id)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._open.close)

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            listener = self._listen(opened)
            loop = asyncio.new_event_loop()
            over = asyncio.Event()
            thread = threading.Thread(target=self._run, args=(loop, over, listener), daemon=True)
            thread.start()
            opened.callback(thread.join)
            opened.callback(loop.call_soon_threadsafe, over.set)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _listen(self, opened: ExitStack) -> socket.socket:
        """Load the state and open the port; from here on clients may connect."""
        rng = Random(self._seed)  # noqa: S311 - chance, not a secret
        if self._state is None:
            self.machine = Machine(clock=self.now, rng=rng, settings=self._settings)
        else:
            log = opened.enter_context(Log(self._state))
            self.machine = Machine(clock=self.now, rng=rng, settings=self._settings, record=log.append)
            self.machine.replay(log.facts())
        listener = opened.enter_context(socket.create_server(("127.0.0.1", self._port), backlog=1024))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return listener

    def _run(self, loop: asyncio.AbstractEventLoop, over: asyncio.Event, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._serve(over, listener))

    async def _serve(self, over: asyncio.Event, listener: socket.socket) -> None:
        config = ServerConfig(self._application(), http=_Connection, log_config=None, access_log=False, ws="none")
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(config, state, {}), sock=listener)
        await over.wait()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=LAST_WORDS)

    def _application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/sandbox/account", self._show_account, methods=["GET"]),
                Route("/sandbox/batches", self._show_batches, methods=["GET"]),
                Route("/sandbox/faults", self._take_faults, methods=["POST"]),
                Mount("", app=self._api),
            ]
        )

    async def _api(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: _Connection = scope["sandbox.connection"]
        request = Request(
            scope["method"],
            scope["path"],
            dict(parse_qsl(scope["query_string"].decode())),
            {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        )
        with self._lock:
            visit = self.machine.open(request)
        if visit.early is not None:
            await _deliver(visit.early, connection, receive, send)
            if (status := visit.fault(Status)) is not None and status.closes:
                connection.transport.close()
            return
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                with self._lock:
                    visit.abandon(connection.received)
                return
            visit.feed(event["body"])
            more = event["more_body"]
        with self._lock:
            reply = visit.finish()
        await _deliver(reply, connection, receive, send)

    async def _show_account(self, _: ControlRequest) -> Response:
        account = self.account
        with self._lock:
            totals = {
                "batches": account.batches,
                "requests": account.requests,
                "messages": account.messages,
                "violations": account.violated,
                "aborted": account.aborted,
                "most_bytes_aborted": account.most_bytes_aborted,
                "created": account.created,
                "canceled": account.canceled,
                "deleted": account.deleted,
            }
            return _json(totals)

    async def _show_batches(self, _: ControlRequest) -> Response:
        with self._lock:
            batches = self.machine.batches()
        return _json(
            [
                {
                    "id": batch.batch_id,
                    "workspace": batch.workspace,
                    "foreign": batch.foreign,
                    "requests": len(batch.requests),
                    "created_at": batch.created_at,
                    "ended": isinstance(batch.state, Ended),
                }
                for batch in batches
            ]
        )

    async def _take_faults(self, request: ControlRequest) -> Response:
        try:
            orders = _read_orders(await request.body())
            with self._lock:
                self.machine.obey(orders)
        except (msgspec.DecodeError, LookupError) as error:
            return _json({"error": str(error)}, status=400)
        return _json({})


def _read_orders(body: bytes) -> list[Order]:
    """Read the orders in a JSON body: one order or a list of orders."""
    if body.lstrip().startswith(b"{"):
        body = b"[%b]" % body
    return msgspec.json.decode(body, type=list[Order])


def _json(answer: object, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, media_type="application/json")


async def _deliver(reply: Reply, connection: _Connection, receive: Receive, send: Send) -> None:
    """Send a reply with the faults of its transport."""
    if reply.delay:
        await _pause(reply.delay, receive)
    if isinstance(reply.transport, Lost):
        connection.reset()
        await _gone(receive)
        return
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    for piece in _pieces(reply):
        if connection.transport.is_closing():
            break
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        if isinstance(reply.transport, Slow):
            await _pause(len(piece) / reply.transport.bytes_per_second, receive)
    match reply.transport:
        case Reset():
            await _pause(BEFORE_RESET, receive)
            connection.reset()
            await _gone(receive)
        case Cut():
            connection.transport.close()
            await _gone(receive)
        case Whole() | Slow():
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pause(seconds: float, receive: Receive) -> None:
    """Wait for this time, or until the connection ends."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _gone(receive)


async def _gone(receive: Receive) -> None:
    """Wait for the end of the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _pieces(reply: Reply) -> Iterator[bytes]:
    pieces = iter((reply.body,)) if isinstance(reply.body, bytes) else reply.body
    if not isinstance(reply.transport, Slow):
        return pieces
    step = max(1, int(reply.transport.bytes_per_second / 20))
    return (piece[at : at + step] for piece in pieces for at in range(0, len(piece), step))


def serve(
    sandbox: Sandbox,
    *,
    bound: Callable[[str], None],
    exit_when_stdin_closes: bool = False,
) -> None:
    """Run a sandbox until the process is interrupted, or until its standard input ends.

    `bound` is called with the URL once clients may connect.
    """
    with suppress(KeyboardInterrupt), sandbox:
        bound(sandbox.url)
        if exit_when_stdin_closes:
            while os.read(STDIN, 4096):
                pass
        else:
            threading.Event().wait()
