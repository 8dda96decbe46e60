"""The backend for tests: results in this process, read back with `lines`.

`memory:NAME` is a place like any other: one job claims it, and it outlives the backend, so that a test can
hand the job over again. `memory:` alone is a place of the job's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from abatch import threads
from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink
from abatch.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from abatch.result import Line

__all__ = ["clear", "lines", "missing", "open_"]


@dataclass(slots=True)
class _Place:
    job: JobRef
    parts: dict[int, tuple[bytes, ...]] = field(default_factory=dict[int, tuple[bytes, ...]])
    order: tuple[int, ...] | None = None
    """The parts of the finished job; None until then."""
    missing: bytes = b""


# the one thing here that outlives a backend: it stands for the disk
_places: dict[str, _Place] = {}


async def open_(url: str, job: JobRef, /) -> Backend:
    """Claim `memory:NAME`."""
    scheme, _, name = url.partition(":")
    if scheme != "memory" or "/" in name or "?" in name:
        raise ConfigError(f"{url!r} is no place in memory; write memory: or memory:NAME")
    name = name or f"{job.lineage}/{job.key}"
    place = _places.setdefault(name, _Place(replace(job, finished=False, missing=())))
    if (place.job.lineage, place.job.key) != (job.lineage, job.key):
        raise BackendError(url, f"is the destination of job {place.job.key!r}; choose another name")
    return _Memory(url, place)


def lines(name: str, /) -> list[bytes]:
    """Every sealed line under `memory:NAME`, in the order of the finished job; by part before that."""
    place = _places[name]
    order = sorted(place.parts) if place.order is None else place.order
    return [line for part in order for line in place.parts[part]]


def missing(name: str, /) -> bytes:
    """The JSON lines of the requests that have no result, once the job is finished."""
    return _places[name].missing


def clear() -> None:
    """Forget every place."""
    _places.clear()


class _Memory:
    def __init__(self, url: str, place: _Place) -> None:
        self.url, self._place = url, place

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        written = self._place.parts.get(shard.part)
        if written is not None:
            return Sealed(part=shard.part, lines=len(written))
        return _Sink(self._place, shard.part)

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        for line in self._sealed_lines(sealed):
            yield line

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        for each in sealed:
            self._sealed_lines(each)
        if not job.finished:
            self._place.missing = await threads.run(_together, job.missing)
        self._place.order = tuple(each.part for each in sealed)
        return self.url

    async def aclose(self) -> None:
        pass

    def _sealed_lines(self, sealed: Sealed) -> tuple[bytes, ...]:
        try:
            return self._place.parts[sealed.part]
        except KeyError:
            raise BackendError(self.url, f"part {sealed.part} is gone: memory does not outlive its process") from None


class _Sink:
    def __init__(self, place: _Place, part: int) -> None:
        self._place, self._part = place, part
        self._lines: list[bytes] = []

    async def write(self, lines: Sequence[Line], /) -> None:
        self._lines += [line.raw for line in lines]

    async def seal(self) -> Sealed:
        self._place.parts[self._part] = tuple(self._lines)
        return Sealed(part=self._part, lines=len(self._lines))

    async def discard(self) -> None:
        self._lines.clear()


def _together(lists: Sequence[Path]) -> bytes:
    return b"".join(path.read_bytes() for path in lists)
