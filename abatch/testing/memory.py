"""The backend for tests: it keeps results in this process, and `lines` returns them.

`memory:NAME` is a place like any other: one job claims it, and it outlives the backend, so that a test can submit the
job again. `memory:` alone is a separate place for each job.

`outage` makes a place fail for a while, as a busy server or a broken connection does; `restore` ends the outage.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

import anyio

from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink
from abatch.errors import BackendError, ConfigError
from abatch.result import Result
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from abatch.result import Line

__all__ = ["clear", "lines", "missing", "open_", "outage", "restore"]


@dataclass(slots=True)
class _Place:
    job: JobRef
    parts: dict[int, tuple[bytes, ...]] = field(default_factory=dict[int, tuple[bytes, ...]])
    order: tuple[int, ...] | None = None
    """The parts of the finished job; None until then."""
    missing: bytes = b""


@dataclass(slots=True)
class _Outage:
    """The refusals of a place: how long they last, and what they report."""

    seconds: float
    steps: float
    passes: bool
    carried_out: bool
    until: float | None = None
    """When the outage ends, by the clock of the event loop; known once a step was refused."""

    def refuses(self) -> bool:
        """Return whether the next step is refused, and count it."""
        now = anyio.current_time()
        if self.until is None:
            self.until = now + self.seconds
        if not self.steps or now >= self.until:
            return False
        self.steps -= 1
        return True


# These two outlive a backend, because they represent the disk.
_places: dict[str, _Place] = {}
_outages: dict[str, _Outage] = {}


async def open_(url: str, job: JobRef, /) -> Backend:
    """Claim `memory:NAME`."""
    scheme, _, name = url.partition(":")
    if scheme != "memory" or "/" in name or "?" in name:
        raise ConfigError(f"{url!r} is not a place in memory; write memory: or memory:NAME")
    name = name or f"{job.lineage}/{job.key}"
    _refuse(url, name)
    place = _places.setdefault(name, _Place(replace(job, finished=False, missing=())))
    if (place.job.lineage, place.job.key) != (job.lineage, job.key):
        raise BackendError(url, f"is the destination of job {place.job.key!r}; choose another name")
    return _Memory(url, name, place)


def lines(name: str, /) -> list[bytes]:
    """Return every sealed line under `memory:NAME`, in the order of the finished job; by part before that."""
    place = _places[name]
    order = sorted(place.parts) if place.order is None else place.order
    return [line for part in order for line in place.parts[part]]


def missing(name: str, /) -> bytes:
    """Return the JSON lines of the requests without a result, once the job is finished."""
    return _places[name].missing


def outage(
    name: str, /, *, seconds: float = inf, steps: float = inf, passes: bool = True, carried_out: bool = False
) -> None:
    """Make every step at `memory:NAME` fail with BackendError, until it is restored.

    Args:
        name: the place; it need not be claimed yet.
        seconds: the duration, by the clock of the event loop, from the first step that fails.
        steps: the number of steps that fail.
        passes: the `passes` of the error: whether the failure may pass by itself.
        carried_out: whether a write, a seal and the final assembly are carried out, and only their answer is lost.

    """
    _outages[name] = _Outage(seconds=seconds, steps=steps, passes=passes, carried_out=carried_out)


def restore(name: str, /) -> None:
    """End the outage of `memory:NAME`, if there is one."""
    _outages.pop(name, None)


def clear() -> None:
    """Forget every place and every outage."""
    _places.clear()
    _outages.clear()


def _refuse(url: str, name: str) -> None:
    """Raise if the place has an outage."""
    out = _outages.get(name)
    if out is None:
        return
    if out.refuses():
        why = (
            "the place is unavailable for a while, by memory.outage"
            if out.passes
            else "the place is unavailable, by memory.outage; restore it"
        )
        raise BackendError(url, why, passes=out.passes)
    del _outages[name]


def _carries_out(name: str) -> bool:
    """Return whether a step that will be refused is carried out all the same."""
    out = _outages.get(name)
    return out is None or out.carried_out


class _Memory:
    def __init__(self, url: str, name: str, place: _Place) -> None:
        self.url = url
        self.name = name
        self._place = place

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        _refuse(self.url, self.name)
        written = self._place.parts.get(shard.part)
        if written is not None:
            return Sealed(part=shard.part, lines=len(written))
        return _Sink(self, self._place, shard.part)

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        _refuse(self.url, self.name)
        for line in self._sealed_lines(sealed):
            yield line

    async def find(self, custom_ids: Sequence[str], /) -> dict[str, bytes]:
        _refuse(self.url, self.name)
        wanted = set(custom_ids)
        every = ((Result(line).custom_id, line) for part in self._place.parts.values() for line in part)
        return {custom_id: line for custom_id, line in every if custom_id in wanted}

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        if not _carries_out(self.name):
            _refuse(self.url, self.name)
        for each in sealed:
            self._sealed_lines(each)
        if not job.finished:
            self._place.missing = await threads.run(_together, job.missing)
        self._place.order = tuple(each.part for each in sealed)
        _refuse(self.url, self.name)
        return self.url

    async def aclose(self) -> None:
        pass

    def _sealed_lines(self, sealed: Sealed) -> tuple[bytes, ...]:
        try:
            return self._place.parts[sealed.part]
        except KeyError:
            raise BackendError(self.url, f"part {sealed.part} is gone: memory does not outlive its process") from None


class _Sink:
    def __init__(self, backend: _Memory, place: _Place, part: int) -> None:
        self._backend = backend
        self._place = place
        self._part = part
        self._lines: list[bytes] = []

    async def write(self, lines: Sequence[Line], /) -> None:
        self._lines += [line.raw for line in lines]
        _refuse(self._backend.url, self._backend.name)

    async def seal(self) -> Sealed:
        if not _carries_out(self._backend.name):
            _refuse(self._backend.url, self._backend.name)
        self._place.parts[self._part] = tuple(self._lines)
        _refuse(self._backend.url, self._backend.name)
        return Sealed(part=self._part, lines=len(self._lines))

    async def discard(self) -> None:
        self._lines.clear()


def _together(lists: Sequence[Path]) -> bytes:
    return b"".join(path.read_bytes() for path in lists)
