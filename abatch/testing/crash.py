"""Crash points: let a run die at its n-th effect, for every n until it survives.

    for point in count(1):
        crash = CrashPoints(point)
        with crash:
            await run()             # raises Crash at the point
        if not crash.happened:
            break                   # the run survived: every point was tried
        await run()                 # an undisturbed run must complete the work

An effect is a unit of blocking work (a journal transaction, a spool write, an fsync), a step of a backend (open,
write, seal, finish), a call to the API, a piece of its body, or a piece of its answer. A point is just before or just
after an effect. After its death a run has no more effects: Python still runs its cleanup, but the cleanup reaches
neither disk nor network, as with `kill -9`. Only resources that a kernel would close are closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from abatch import backend as backends
from abatch.backend import Sealed
from abatch.journal.lock import forget_locks
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    import httpx2

    from abatch.backend import Backend, BackendFactory, JobRef, ShardRef, Sink
    from abatch.result import Line

__all__ = ["Crash", "CrashPoints", "died"]

P = ParamSpec("P")
T = TypeVar("T")


class Crash(BaseException):
    """The process is dead."""


class CrashPoints:
    """Die at the `point`-th point before or after an effect, counted from 1; 0 never dies.

    Blocking work and backends named by URL are covered automatically. For calls to the API, give the SDK a client whose
    transport was wrapped by `wrap`. Wrap a backend object of your own with `wrap_backend`.
    """

    def __init__(self, point: int) -> None:
        self._left = point
        self.passed = 0
        """The number of points that the run passed alive."""
        self.happened = False
        """Whether the run died."""
        self.where = ""
        """The point of the death: before or after which effect."""

    def __enter__(self) -> Self:
        self._run = threads.run
        self._load = backends.load

        async def run(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            name = getattr(work, "__qualname__", type(work).__name__)
            self.reach(f"before {name}")
            done = await self._run(work, *args, **kwargs)
            self.reach(f"after {name}")
            return done

        def load(url: str, /) -> BackendFactory:
            return self._watch(self._load(url))

        threads.run, backends.load = run, load
        return self

    def __exit__(self, *_: object) -> None:
        threads.run, backends.load = self._run, self._load
        if self.happened:
            forget_locks()  # the kernel does the same when a process dies

    def reach(self, where: str) -> None:
        """Pass a point: die here if it is the chosen one, or if the run is already dead."""
        if self.happened:
            raise Crash
        self._left -= 1
        if self._left == 0:
            self.happened = True
            self.where = where
            raise Crash
        self.passed += 1

    def wrap(self, transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
        """Return a transport with a point before and after each exchange, and before each piece sent or received."""
        import httpx2  # noqa: PLC0415 - only tests of calls need it

        reach = self.reach

        class Pieces(httpx2.AsyncByteStream):
            def __init__(self, stream: httpx2.AsyncByteStream, what: str) -> None:
                self._stream = stream
                self._what = what

            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for piece in self._stream:
                    reach(f"before a piece of {self._what}")
                    yield piece

            async def aclose(self) -> None:
                await self._stream.aclose()

        class Watched(httpx2.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
                what = f"{request.method} {request.url.path}"
                reach(f"before {what}")
                if isinstance(request.stream, httpx2.AsyncByteStream):
                    request.stream = Pieces(request.stream, what)
                answer = await transport.handle_async_request(request)
                reach(f"after {what}")
                if isinstance(answer.stream, httpx2.AsyncByteStream):
                    answer.stream = Pieces(answer.stream, f"the answer to {what}")
                return answer

        return Watched()

    def wrap_backend(self, backend: Backend) -> Backend:
        """Return a backend with a point before and after each of its steps and those of its sinks."""
        return _WatchedBackend(self, backend)

    def _watch(self, factory: BackendFactory) -> BackendFactory:
        async def open_(url: str, job: JobRef, /) -> Backend:
            self.reach("before claim")
            backend = await factory(url, job)
            try:
                self.reach("after claim")
            except Crash:
                await backend.aclose()
                raise
            return self.wrap_backend(backend)

        return open_


class _WatchedBackend:
    def __init__(self, points: CrashPoints, backend: Backend) -> None:
        self._points = points
        self._backend = backend

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        self._points.reach("before open")
        opened = await self._backend.open(shard)
        self._points.reach("after open")
        return opened if isinstance(opened, Sealed) else _WatchedSink(self._points, opened)

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        self._points.reach("before read")
        async for line in self._backend.read(sealed):
            self._points.reach("after a line was read")
            yield line

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        self._points.reach("before finish")
        location = await self._backend.finish(job, sealed)
        self._points.reach("after finish")
        return location

    async def aclose(self) -> None:
        await self._backend.aclose()  # a dead run closes it, too, because a kernel closes open descriptors


class _WatchedSink:
    def __init__(self, points: CrashPoints, sink: Sink) -> None:
        self._points = points
        self._sink = sink

    async def write(self, lines: Sequence[Line], /) -> None:
        self._points.reach("before write")
        await self._sink.write(lines)
        self._points.reach("after write")

    async def seal(self) -> Sealed:
        self._points.reach("before seal")
        sealed = await self._sink.seal()
        self._points.reach("after seal")
        return sealed

    async def discard(self) -> None:
        self._points.reach("before discard")
        await self._sink.discard()


def died(error: BaseException) -> bool:
    """Return whether an error is a crash point, or a group of errors that contains one."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return isinstance(error, Crash) or any(map(died, inner))
