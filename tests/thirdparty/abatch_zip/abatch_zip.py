"""Write results as one zip archive, which appears when the job is complete: `zip:////home/me/answers.zip`.

Until then the parts are next to it as JSON lines, in `.answers.zip.parts/`.
"""

from __future__ import annotations

import os
import shutil
import zipfile
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, ParamSpec, TypeVar

from anyio import to_thread

from abatch import BackendError, ConfigError, Sealed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from abatch import JobRef, Line, ShardRef, Sink

P = ParamSpec("P")
T = TypeVar("T")

REFUSED = (OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""The exceptions of the system and the archive; KeyError means that a name is not in the archive."""


async def open_(url: str, job: JobRef, /) -> ZipArchive:
    """Claim the archive for this job. The entry point names this function."""
    path = Path(url.removeprefix("zip:///"))
    if not url.startswith("zip:///") or not path.is_absolute() or path.suffix != ".zip":
        raise ConfigError(f"{url!r} names no archive; write its whole path, as in zip:////home/me/answers.zip")
    archive = ZipArchive(url, path)
    if not job.finished:  # a finished job is opened only to read
        await archive.run(archive.claim, job)
    return archive


class ZipArchive:
    """An archive of `part-00000.jsonl`, one per shard."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path
        self.parts, self.mark = path.with_name(f".{path.name}.parts"), path.with_name(f".{path.name}.job")
        self.sinks: set[ZipSink] = set()

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a thread; translate its failures to BackendError."""
        try:
            return await to_thread.run_sync(partial(work, *args, **kwargs))
        except REFUSED as refused:
            raise BackendError(self.url, f"{refused}; correct that, then submit the job again") from refused

    def claim(self, job: JobRef) -> None:
        """Record the job that owns the archive. A symlink appears with its text or not at all; the first stays."""
        if not self.mark.is_symlink() and self.path.exists():
            raise BackendError(self.url, "exists and is not this job's; move it away, or choose another name")
        with suppress(FileExistsError):
            self.mark.symlink_to(identity(job))
        if str(self.mark.readlink()) != identity(job):
            raise BackendError(self.url, "is another job's; choose another name")
        self.parts.mkdir(mode=0o700, exist_ok=True)
        sync(self.path.parent)

    def part(self, number: int) -> Path:
        """Return the file of a shard until the job is finished; its name is the name in the archive, too."""
        return self.parts / f"part-{number:05}.jsonl"

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        """Return a sink; or, if an earlier run has sealed this shard, its Sealed."""
        if await self.run(self.part(shard.part).exists):
            return await self.run(self.sealed, shard.part)
        sink = ZipSink(self, shard.part)
        await self.run(sink.begin)
        return sink

    def sealed(self, part: int) -> Sealed:
        """Return the record of a part for the journal; `detail` has the same two values as an archive's entry."""
        lines = size = crc = 0
        with self.part(part).open("rb") as file:
            while block := file.read(2**20):
                lines, size, crc = lines + block.count(b"\n"), size + len(block), zlib.crc32(block, crc)
        return Sealed(part=part, lines=lines, detail={"bytes": size, "crc": crc})

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        """Yield all lines, or raise BackendError; about a megabyte is in memory at a time."""
        lines = 0
        with await self.run(self.reader, sealed.part) as file:
            while some := await self.run(file.readlines, 2**20):
                lines += len(some)
                for line in some:
                    yield line.removesuffix(b"\n")
        if lines != sealed.lines:
            raise BackendError(self.url, f"part {sealed.part} is not what was sealed; put it back")

    def reader(self, part: int) -> IO[bytes]:
        """Open the file of a part; once the job is finished, its entry in the archive."""
        try:
            return self.part(part).open("rb")
        except FileNotFoundError:
            with zipfile.ZipFile(self.path) as archive:  # the entry stays open after the archive is closed
                return archive.open(self.part(part).name)

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        """Make the archive if it does not exist, check it, and tidy up once the end is recorded."""
        if not await self.run(self.path.exists):
            await self.run(self.pack, job, sealed)
        await self.run(self.check, self.path, sealed)
        if job.finished:
            await self.run(self.tidy, job)
        return str(self.path)

    def pack(self, job: JobRef, sealed: Sequence[Sealed]) -> None:
        """Make the archive under a draft's name; it is durable and checked before it is visible."""
        draft = self.parts / ".archive.draft"
        with create(draft) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
                for each in sealed:
                    archive.write(self.part(each.part), self.part(each.part).name)
                if job.missing:
                    with archive.open("missing.jsonl", "w", force_zip64=True) as missing:
                        for path in job.missing:
                            with path.open("rb") as one:
                                shutil.copyfileobj(one, missing)
            file.flush()
            os.fsync(file.fileno())
        self.check(draft, sealed)
        self.path.hardlink_to(draft)  # never replaces anything
        sync(self.path.parent)

    def check(self, path: Path, sealed: Sequence[Sealed]) -> None:
        """Raise unless everything that was sealed is in the archive."""
        with zipfile.ZipFile(path) as archive:
            for each in sealed:
                entry = archive.getinfo(self.part(each.part).name)
                if each.detail != {"bytes": entry.file_size, "crc": entry.CRC}:
                    raise BackendError(self.url, f"part {each.part} is not what was sealed; put it back")

    def tidy(self, job: JobRef) -> None:
        """Remove the parts, then the claim, unless that was done and the claim is already the next job's."""
        with suppress(FileNotFoundError):
            if str(self.mark.readlink()) == identity(job):
                shutil.rmtree(self.parts)
                self.mark.unlink()

    async def aclose(self) -> None:
        """Close the open sinks. Nothing that was sealed depends on it."""
        for sink in tuple(self.sinks):
            with suppress(BackendError):
                await self.run(sink.close)


class ZipSink:
    """The part of one shard, under a draft's name until it is sealed."""

    def __init__(self, backend: ZipArchive, part: int) -> None:
        self.backend, self.part = backend, part
        self.draft = backend.parts / f".part-{part:05}.draft"

    def begin(self) -> None:
        """Create the draft; one that a dead run left under this name is removed."""
        self.file = create(self.draft)
        self.backend.sinks.add(self)

    def close(self) -> None:
        """Close the file; the draft stays a draft."""
        self.backend.sinks.discard(self)
        self.file.close()

    async def write(self, lines: Sequence[Line], /) -> None:
        """Append these lines."""
        await self.backend.run(self.file.write, b"".join(line.raw + b"\n" for line in lines))

    async def seal(self) -> Sealed:
        """Make the lines durable, then visible, in this order."""
        return await self.backend.run(self.publish)

    def publish(self) -> Sealed:
        """Do the blocking part of `seal`."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.close()
        self.draft.rename(self.backend.part(self.part))
        sync(self.backend.parts)
        return self.backend.sealed(self.part)

    async def discard(self) -> None:
        """Close and remove the draft."""
        await self.backend.run(self.close)
        await self.backend.run(self.draft.unlink, missing_ok=True)


def identity(job: JobRef) -> str:
    """Return lineage and key, which together identify the job."""
    return f"{job.lineage} {job.key}"


def create(path: Path) -> IO[bytes]:
    """Create a file that only its owner may read; replace one that a dead run left."""
    path.unlink(missing_ok=True)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: PTH123 - for the mode


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
