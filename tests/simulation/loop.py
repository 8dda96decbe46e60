"""An event loop for a simulation: the clock jumps, chance orders what is ready, and a process can die or stand still.

Nothing waits. When no callback is ready the clock goes to the next timer, so a day of polling takes milliseconds.
Callbacks that are ready together run in an order that the seed decides.

Every callback belongs to the simulated process (`Owner`) in whose context it was scheduled, or to none: those are
the world outside, the server and the network. A dead owner's callbacks are dropped, which is a `kill -9` at an
await; those of a paused one are parked until it goes on, which is a SIGSTOP while the world's clock runs.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from contextvars import ContextVar, copy_context
from random import Random
from typing import Any, Self

import anyio._backends._asyncio as anyio_asyncio

__all__ = ["OWNER", "Owner", "Scheduled", "SimulatedLoop", "Stuck"]

OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)


class Stuck(Exception):
    """Nothing is ready and no timer is set, or the run goes round without end."""


class Owner:
    """A simulated process as the loop sees it."""

    def __init__(self) -> None:
        self.dead = self.paused = False
        self.steps = 0
        """Callbacks run so far."""
        self.dies_at_step = 0
        """Die instead of running this callback; 0 never."""
        self.parked: list[asyncio.Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def die(self) -> None:
        """Let nothing of this process run any more."""
        self.dead = True
        self.parked.clear()


class Scheduled(dict[Any, None]):
    """What anyio keeps in sets of tasks and scopes, in the order it came: a set's order changes from run to run."""

    add = dict.setdefault

    def __init__(self, items: Iterable[Any] = ()) -> None:
        super().__init__(dict.fromkeys(items))

    def remove(self, item: Any) -> None:
        del self[item]

    def discard(self, item: Any) -> None:
        self.pop(item, None)


class _Handle(asyncio.Handle):
    """asyncio's, without what it keeps for debugging."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, context: Any) -> None:  # not its own: this is most of its cost
        self._callback = callback
        self._args = args
        self._context = copy_context() if context is None else context
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = self._args = None


class _Timer(_Handle):
    """What `call_at` gives; its instant stands in the heap."""

    __slots__ = ()


class _Instant(float):
    """When a timer is due: numbers are compared by the interpreter itself."""

    __slots__ = ("timer",)
    timer: _Timer

    def __new__(cls, when: float, timer: _Timer) -> Self:
        self = float.__new__(cls, when)
        self.timer = timer
        return self


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs callbacks on a virtual clock, in the order that `chance` decides."""

    def __init__(self, chance: Random, *, most_steps: int) -> None:
        super().__init__()
        self._now, self._left = 0.0, most_steps
        self._anyhow: Callable[[object], float] = lambda _: chance.random()
        self.set_task_factory(_owned_task)
        self.set_exception_handler(lambda _loop, context: self.unhandled.append(context))
        self.unhandled: list[dict[str, Any]] = []

    def time(self) -> float:
        return self._now

    def resume(self, owner: Owner) -> None:
        """Let a paused process go on with everything that came meanwhile."""
        owner.paused = False
        self._ready.extend(owner.parked)
        owner.parked.clear()

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = _Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        timer = _Timer(callback, args, context)
        heapq.heappush(self._scheduled, _Instant(when, timer))
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """All turns until somebody stops the loop: `run_forever` need not go round for each."""
        ready, timers, anyhow = self._ready, self._scheduled, self._anyhow
        while True:
            while timers and timers[0].timer._cancelled:
                heapq.heappop(timers)
            if not ready and not self._stopping:
                if not timers:
                    raise Stuck("nothing is ready, no timer is set")
                self._now = max(self._now, float(timers[0]))
            now = self._now
            while timers and (timers[0] <= now or timers[0].timer._cancelled):
                timer = heapq.heappop(timers).timer
                if not timer._cancelled:
                    ready.append(timer)
            turn = list(ready)
            ready.clear()
            if len(turn) > 1:
                turn.sort(key=anyhow)
            self._left -= len(turn)
            if self._left < 0:
                raise Stuck("the run goes round without end")
            for handle in turn:
                if not handle._cancelled:
                    self._run(handle)
            if self._stopping:
                return

    def _run(self, handle: Any) -> None:
        context = handle._context
        owner = context.get(OWNER)
        if owner is not None:
            if owner.dead:
                return
            if owner.paused:
                owner.parked.append(handle)
                return
            owner.steps += 1
            if owner.steps == owner.dies_at_step:
                owner.die()
                return
        try:
            context.run(handle._callback, *handle._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio does; a world's judge looks at them
            self.call_exception_handler({"message": f"exception in {handle._callback}", "exception": error})

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """Real threads have no place here: they would race with a clock that jumps."""
        raise RuntimeError(f"{func} asks for a thread")

    def _process_events(self, event_list: Any) -> None:
        """There are no files to watch."""

    def _write_to_self(self) -> None:
        """Nothing sleeps, so nothing is to be woken."""


def _owned_task(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **more)
    context = more.get("context")
    owner = OWNER.get() if context is None else context.get(OWNER)
    if owner is not None:
        owner.tasks.append(task)
    return task


def order_scopes() -> None:
    """Let anyio visit tasks and scopes in the order they came; for the rest of this Python process."""
    anyio_asyncio.set = Scheduled  # type: ignore[attr-defined]
