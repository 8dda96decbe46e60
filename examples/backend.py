"""Results as one gzip file per shard: `gzip:///folder`, three slashes for a relative path, four for an absolute one."""

from __future__ import annotations

import gzip
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from anyio import to_thread

from abatch import BackendError, Sealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from abatch import JobRef, Line, ShardRef, Sink

P = ParamSpec("P")
T = TypeVar("T")


async def open_(url: str, job: JobRef, /) -> GzipFolder:
    """Claim the folder for this job. This is what the entry point names."""
    backend = GzipFolder(url)
    if not job.finished:  # a finished job is opened only to read
        await backend.run(backend.claim, job)
    return backend


class GzipFolder:
    """A folder of `part-00000.jsonl.gz`, one per shard."""

    def __init__(self, url: str) -> None:
        self.url, self.folder = url, Path(url.removeprefix("gzip:///")).absolute()
        self.sinks: set[GzipSink] = set()

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a thread; what the system refuses becomes a BackendError."""
        try:
            return await to_thread.run_sync(lambda: work(*args, **kwargs))
        except (OSError, EOFError) as refused:
            raise BackendError(self.url, f"{refused}") from refused

    def claim(self, job: JobRef) -> None:
        """Write whose folder this is; of two jobs at once, the one whose link came first has it."""
        ours, claim = f"{job.lineage} {job.key}", self.folder / ".claim"
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not claim.exists() and any(not entry.name.startswith(".claim") for entry in self.folder.iterdir()):
            raise BackendError(self.url, "exists and is not this job's; choose another folder")
        draft = self.folder / f".claim-{secrets.token_hex(8)}"
        write_durably(draft, ours.encode())
        with suppress(FileExistsError):
            os.link(draft, claim)
        draft.unlink()
        if claim.read_text() != ours:
            raise BackendError(self.url, "belongs to another job; choose another folder")

    def part(self, number: int) -> Path:
        """The file of a shard."""
        return self.folder / f"part-{number:05}.jsonl.gz"

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        """A sink; or, if a run that died has sealed this shard already, what it came to."""
        if not self.part(shard.part).exists():
            sink = GzipSink(self, shard.part)
            await self.run(sink.begin)
            return sink
        lines = 0
        async for _ in self.read(Sealed(part=shard.part, lines=0)):
            lines += 1
        return self.sealed(shard.part, lines)

    def sealed(self, part: int, lines: int) -> Sealed:
        """What the journal keeps; `detail` is ours, any small JSON."""
        return Sealed(part=part, lines=lines, detail={"bytes": self.part(part).stat().st_size})

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        """The lines, about a megabyte at a time in memory."""
        with await self.run(gzip.open, self.part(sealed.part)) as file:
            while lines := await self.run(file.readlines, 2**20):
                for line in lines:
                    yield line.removesuffix(b"\n")

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        """Check that everything is there, list what is missing, mark it complete; repeatable."""
        await self.run(self.complete, job, sealed)
        return f"{self.folder}/"

    def complete(self, job: JobRef, sealed: Sequence[Sealed]) -> None:
        """The blocking part of `finish`."""
        for each in sealed:
            if self.sealed(each.part, each.lines) != each:
                raise BackendError(self.url, f"{self.part(each.part)} is not what was sealed; put it back")
        if not job.finished:
            if job.missing:
                write_durably(self.folder / "_missing.jsonl", b"".join(path.read_bytes() for path in job.missing))
            write_durably(self.folder / "_SUCCESS", json.dumps({"parts": len(sealed)}).encode())

    async def aclose(self) -> None:
        """Close what is open. Nothing that was sealed depends on it."""
        for sink in tuple(self.sinks):
            sink.close()


class GzipSink:
    """The part of one shard, under a draft's name until it is sealed."""

    def __init__(self, backend: GzipFolder, part: int) -> None:
        self.backend, self.number, self.lines = backend, part, 0
        self.draft = backend.folder / f".part-{part:05}.draft"

    def begin(self) -> None:
        """Begin anew: what a run that died left under this name is dropped."""
        self.raw = self.draft.open("wb")
        self.file = gzip.GzipFile(fileobj=self.raw, mode="wb", compresslevel=3)
        self.backend.sinks.add(self)

    def close(self) -> None:
        """Close the file; the draft stays a draft."""
        self.backend.sinks.discard(self)
        self.file.close()
        self.raw.close()

    async def write(self, lines: Sequence[Line], /) -> None:
        """Append these lines."""
        self.lines += len(lines)
        await self.backend.run(self.file.write, b"".join(line.raw + b"\n" for line in lines))

    async def seal(self) -> Sealed:
        """Make the lines durable, then visible, in this order."""
        return await self.backend.run(self.publish)

    def publish(self) -> Sealed:
        """The blocking part of `seal`."""
        self.file.close()
        self.raw.flush()
        os.fsync(self.raw.fileno())
        self.close()
        os.link(self.draft, self.backend.part(self.number))  # never replaces anything
        self.draft.unlink()
        sync(self.backend.folder)
        return self.backend.sealed(self.number, self.lines)

    async def discard(self) -> None:
        """Give the draft up."""
        self.close()
        await self.backend.run(self.draft.unlink, missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Put a whole file in its place, or leave what was there."""
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
