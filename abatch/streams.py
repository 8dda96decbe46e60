"""Give events to their readers: those of a running manager as they happen, and those of a journal from any number on.

Every event comes once, and a bounded number is in memory. In a running manager the facts of its process come in the
order of the journal. Facts of other processes come as soon as they are read, which may be after a later fact of it.
"""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from inspect import isawaitable
from traceback import extract_tb
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import anyio

from abatch.events import EventsMissed, event_of
from abatch.log import log

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path
    from typing import Self

    from abatch.events import Event, OnEvent
    from abatch.journal.ledger import Ledger
    from abatch.journal.log import Recorded

__all__ = ["EventStream", "Events", "events_since"]

BUFFER: Final = 1_000
"""Events that one reader may be behind before it loses some."""
AT_ONCE: Final = 5_000
"""Facts that are read from a journal in one turn."""
ON_EVENT_PATIENCE: Final = 10.0
"""Seconds that `on_event` has for the last events when the manager is left."""


class EventStream:
    """The events of a manager from the moment it was asked for them, for one reader; made by `BatchManager.events`.

    It holds a thousand events that were not read yet. This reader loses events beyond that, and gets `EventsMissed` in
    their place. The stream ends when the manager is left.
    """

    def __init__(self, limit: int = BUFFER) -> None:
        self._limit = limit
        self._waiting: deque[Event | EventsMissed] = deque()
        self._over = False
        self._news = anyio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | EventsMissed:
        while not self._waiting:
            if self._over:
                raise StopAsyncIteration
            self._news = anyio.Event()
            await self._news.wait()
        return self._waiting.popleft()

    def put(self, event: Event, /) -> None:
        """Add an event; count it as missed if the reader is too far behind."""
        if len(self._waiting) < self._limit:
            self._waiting.append(event)
        else:
            last = self._waiting[-1]
            if isinstance(last, EventsMissed):
                self._waiting[-1] = _missed(event, count=last.count + 1, since=last.since)
            else:
                self._waiting.append(_missed(event, count=1, since=event.seq))
        self._news.set()

    def end(self) -> None:
        """End the stream for its reader, after the events that are waiting."""
        self._over = True
        self._news.set()


def _missed(event: Event, *, count: int, since: int) -> EventsMissed:
    """Return what stands for missed events, of which this is the last one."""
    return EventsMissed(seq=event.seq, at=event.at, job=event.job, count=count, since=min(since, event.seq - 1))


class Events:
    """All readers of the events of one journal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams: WeakSet[EventStream] = WeakSet()
        self._over = False

    def stream(self) -> EventStream:
        """Make a stream that begins now; it is dropped when no reader refers to it."""
        stream = EventStream()
        if self._over:
            stream.end()
        self._streams.add(stream)
        return stream

    def announce(self, recorded: Recorded, key: str) -> None:
        """Give the event of a fact to every reader."""
        if self._streams:
            event = event_of(recorded, key, self._folder)
            for stream in self._streams:
                stream.put(event)

    @asynccontextmanager
    async def open(self, on_event: OnEvent | None) -> AsyncGenerator[None, None]:
        """Call `on_event` with every event of the block, then with the last ones; end every stream after the block."""
        async with anyio.create_task_group() as group:
            if on_event is not None:
                group.start_soon(call_with_events, self.stream(), on_event)
            try:
                yield
            finally:
                self.end()
                group.cancel_scope.deadline = anyio.current_time() + ON_EVENT_PATIENCE

    def end(self) -> None:
        """End every stream: no more facts will be applied."""
        self._over = True
        for stream in self._streams:
            stream.end()


async def call_with_events(stream: EventStream, call: OnEvent) -> None:
    """Call a function of the application with every event until the stream ends, and await its result.

    An exception of the function is logged as `on_event_failed`, and the next event follows: it never stops a job. Its
    text is not logged, because it may quote a prompt.
    """
    async for event in stream:
        try:
            result = call(event)
            if isawaitable(result):
                await result
        except Exception as failure:  # noqa: BLE001 - the application may raise anything
            (*_, frame) = extract_tb(failure.__traceback__)
            log.warning("on_event_failed", error=type(failure).__name__, at=f"{frame.filename}:{frame.lineno}")


async def events_since(ledger: Ledger, refresh: Callable[[], Awaitable[object]], since: int) -> AsyncGenerator[Event]:
    """Yield every event of a journal after this number, up to now.

    Args:
        ledger: the jobs of the journal.
        refresh: reads jobs that began since.
        since: the number of an event.

    Raises:
        JournalCorrupt: a fact cannot be read.

    """
    while True:
        found: list[Recorded] = []
        await ledger.facts.replay(found.append, since=since, until=since + AT_ONCE)
        if not found:
            end = await ledger.facts.replay(lambda _: None, since=since)
            if end == since:
                return
            since += AT_ONCE  # numbers may have gaps
            continue
        if any(recorded.job not in ledger.jobs for recorded in found):
            await refresh()
        for recorded in found:
            yield event_of(recorded, ledger.jobs[recorded.job].key, ledger.folder.path)
        since = found[-1].seq
