"""Crash points: let a run die at its n-th effect, for every n until it survives.

    for point in count(1):
        crash = CrashPoints(point)
        with crash:
            await run()             # raises Crash at the point
        if not crash.happened:
            break                   # it survived: every point was tried
        await run()                 # an undisturbed run must make everything good

An effect is a unit of blocking work (a journal transaction, a spool write, a sink's write or fsync) or a call to
the API; a point is just before or just after one. From its death on, nothing the dead run does has an effect:
its cleanup runs, as Python must, but reaches neither disk nor network, as with `kill -9`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from abatch import threads
from abatch.journal import forget_locks

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

__all__ = ["Crash", "CrashPoints"]

P = ParamSpec("P")
T = TypeVar("T")


class Crash(BaseException):
    """The process is dead."""


class CrashPoints:
    """Die at the `point`-th place before or after an effect, counted from 1; 0 never.

    Blocking work is seen by itself; for calls to the API give the SDK a client whose transport is `wrap`ped.
    """

    def __init__(self, point: int) -> None:
        self._left = point
        self.passed = 0
        """Points passed while alive."""
        self.happened = False
        """Whether the run died."""
        self.where = ""
        """Before or after which effect."""

    def __enter__(self) -> Self:
        self._run = threads.run

        async def run(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            name = getattr(work, "__qualname__", repr(work))
            self._pass(f"before {name}")
            done = await self._run(work, *args, **kwargs)
            self._pass(f"after {name}")
            return done

        threads.run = run
        return self

    def __exit__(self, *_: object) -> None:
        threads.run = self._run
        if self.happened:
            forget_locks()  # as the kernel does when a process dies

    def wrap(self, transport: httpx2.AsyncBaseTransport) -> httpx2.AsyncBaseTransport:
        """A transport with a point before and after each exchange."""
        import httpx2  # noqa: PLC0415 - only who tests calls needs it

        points = self

        class Watched(httpx2.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
                what = f"{request.method} {request.url.path}"
                points._pass(f"before {what}")
                answer = await transport.handle_async_request(request)
                points._pass(f"after {what}")
                return answer

        return Watched()

    def _pass(self, where: str) -> None:
        if self.happened:
            raise Crash
        self._left -= 1
        if self._left == 0:
            self.happened, self.where = True, where
            raise Crash
        self.passed += 1


def died(error: BaseException) -> bool:
    """Whether a run ended by a crash point: alone, or among the errors of a task group."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return isinstance(error, Crash) or any(map(died, inner))
