"""Results as JSON lines: one file that appears when the job is complete, or a folder of parts.

In both cases each shard becomes one *part*: it is written under a temporary name, fsynced, then linked to its final
name. That link is its seal. A link never replaces a file, so no existing file is ever overwritten.

A folder keeps its parts and gets `_SUCCESS` at the end. A single file is assembled from its parts, with a copy in the
kernel where possible, and linked to its name in one step. Until then the parts are next to it, in `.NAME.abatch/`.

A claim names the job that owns the destination, and is made durable before anything else. A folder keeps its claim. The
claim of a single file is removed when `finish` is called with the end on record (`JobRef.finished`). Until then the
claim proves that the file is ours, even if a run dies in between.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import sys
import zlib
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink
from abatch.errors import BackendError, ConfigError, TooManyOpenFiles
from abatch.storage import (
    Writeback,
    clean_up_blocking,
    durable_names,
    in_pieces,
    is_out_of_files,
    make_private_folders,
    may_pass,
    open_blocking,
    run_blocking,
    sync,
    sync_folder,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence

    from abatch import Line

__all__ = ["open_"]

FORMS: Final = ("jsonl:///results.jsonl", "jsonl:////absolute/results.jsonl", "jsonl:///results/")
CHUNK: Final = 2**20
"""The largest size of one read or write, in bytes: for a larger write the kernel looks for larger pieces of memory,
which may take ten times as long."""
REMEDY: Final = "move it away, or choose another destination"
CLAIM_DRAFT: Final = ".claim-"
NO_KERNEL_COPY: Final = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}

P = ParamSpec("P")
T = TypeVar("T")


async def open_(url: str, job: JobRef, /) -> Backend:
    """Claim a file, or a folder if the URL ends in a slash or names an existing folder."""
    path, is_folder = await run_blocking(_destination, url)
    backend = _Folder(url, job, path) if is_folder else _File(url, job, path)
    await backend.claim()
    return backend


def _destination(url: str) -> tuple[Path, bool]:
    name = url.removeprefix("jsonl:///")
    if name == url or not name or "\0" in name:
        raise ConfigError(f"{url!r} names no file or folder; write one of: {', '.join(FORMS)}")
    if "?" in name:
        raise ConfigError(
            f"jsonl: takes no parameters, and no '?' in a name: {url!r}; write one of: {', '.join(FORMS)}"
        )
    path = Path(os.path.abspath(name))  # noqa: PTH100 - "a/../b" must not survive, and links must not be followed
    return path, name.endswith("/") or os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises on long names


class _Jsonl:
    """The common part of a file and a folder: parts in a folder that has a claim."""

    def __init__(self, url: str, job: JobRef, target: Path, parts: Path, claim: Path) -> None:
        self.url = url
        self._job = job
        self._target = target
        self._parts = parts
        self._claim = claim
        self._ours = json.dumps({"lineage": job.lineage, "key": job.key}).encode()
        self._sinks: set[_Sink] = set()

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work."""
        with self.guarded():
            return await run_blocking(work, *args, **kwargs)

    @contextlib.contextmanager
    def guarded(self) -> Generator[None, None, None]:
        """Translate an error of the operating system in this block to a BackendError."""
        try:
            yield
        except OSError as refused:
            if is_out_of_files(refused):
                raise TooManyOpenFiles(self.url) from refused
            names = " → ".join(os.fsdecode(name) for name in (refused.filename, refused.filename2) if name)
            why = f"{refused.strerror or refused}{names and f' ({names})'}"
            raise BackendError(self.url, why, passes=may_pass(refused)) from refused

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        part = self._part(shard.part)
        sink = _Sink(self, shard, part)
        if await self.run(os.path.lexists, part):
            await self.run(sink.clear)
            await self.run(sync_folder, self._parts)  # the run that made this name may have died before its sync
            return await self.run(_measure, part, shard.part)
        self._sinks.add(sink)  # before the descriptor exists: a cancellation must not lose it
        await self.run(sink.begin)
        return sink

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        done, size = 0, _size(sealed)
        rest: list[bytes] = []
        while done < size:
            # No file stays open between chunks, because `finish` may move the lines and a reader may be abandoned.
            file, start = place = self._where(sealed)
            try:
                chunk = await self.run(_read_at, file, start + done, min(size - done, CHUNK))
            except BackendError:
                if self._where(sealed) != place:  # the lines were moved during the read
                    continue
                raise
            if not chunk:
                raise BackendError(self.url, f"{file} is shorter than when it was sealed; put it back")
            done += len(chunk)
            first, *others = chunk.split(b"\n")
            rest.append(first)
            if others:
                yield b"".join(rest)
                *whole, last = others
                for line in whole:
                    yield line
                rest = [last]

    def place_of(self, sealed: Sealed, /) -> str:
        return str(self._part(sealed.part))

    async def aclose(self) -> None:
        for sink in tuple(self._sinks):
            sink.close()

    def closed(self, sink: _Sink) -> None:
        self._sinks.discard(sink)

    def _part(self, number: int) -> Path:
        return self._parts / f"part-{number:05}.jsonl"

    def _where(self, sealed: Sealed) -> tuple[Path, int]:
        """Return the file that holds a sealed shard, and the shard's offset in it."""
        return self._part(sealed.part), 0

    def _refuse(self, path: Path, why: str = "exists and is not this job's") -> BackendError:
        return BackendError(self.url, f"{path} {why}; {REMEDY}")

    def _make_parts(self) -> None:
        if os.path.lexists(self._parts) and _kind(self._parts) != stat.S_IFDIR:  # a symbolic link is not one
            raise self._refuse(self._parts, "is not a folder")
        make_private_folders(self._parts)

    def _make_claim(self) -> None:
        """Claim the destination for the job; if several processes try at once, the first link wins."""
        while (claimed := _read_claim(self._claim)) is None:
            draft = self._parts / f"{CLAIM_DRAFT}{secrets.token_hex(8)}.tmp"
            _write_new(draft, [self._ours])
            try:
                with durable_names(self._parts):
                    os.link(draft, self._claim)
            except (FileExistsError, FileNotFoundError):
                continue  # another process made its link first, or removed our draft
            finally:
                draft.unlink(missing_ok=True)
        if claimed != self._ours:
            raise self._refuse(self._parts, "belongs to another job")
        for draft in self._parts.glob(f"{CLAIM_DRAFT}*.tmp"):  # a run that died in the loop above left these
            draft.unlink(missing_ok=True)

    def _write_missing(self, name: Path, job: JobRef) -> None:
        """Join the lists of requests without a result into the file `name`; there is no file if there are no lists.

        A list that this job wrote before is replaced. A list of another job, or a changed one, never is.
        """
        draft = self._parts / ".missing.tmp"
        draft.unlink(missing_ok=True)
        now = _digest(_together(job.missing)) if job.missing else None
        if os.path.lexists(name) and (job.missing or job.listed):
            found = _digest(_chunks(name)) if _kind(name) == stat.S_IFREG else ""
            if found == now:
                return
            if found not in job.listed:
                raise self._changed_list(name)
            with durable_names(name.parent):
                name.unlink()
        if now is None:
            return
        _write_new(draft, _together(job.missing))
        try:
            _publish(draft, name)
        except FileExistsError:  # another process has just made it
            raise self._refuse(name) from None

    def _wrote(self, name: Path, job: JobRef) -> bool:
        """Return whether a file is the list of missing requests that this job wrote when it was finished."""
        if _kind(name) != stat.S_IFREG or not job.missing:
            return False
        return _digest(_chunks(name)) == _digest(_together(job.missing))

    def _changed_list(self, name: Path) -> BackendError:
        return BackendError(
            self.url,
            f"{name} is not the list of missing requests that this job wrote; move it away, then run the same "
            "command again to write the list again",
        )

    def _check_part(self, sealed: Sealed) -> None:
        part = self._part(sealed.part)
        if not os.path.lexists(part) or part.lstat().st_size != _size(sealed):
            raise BackendError(
                self.url,
                f"{part} was changed or removed after it was sealed; put it back, or remove the rest of it and "
                f"read it again: abatch redrain {self._job.key}",
            )


class _Folder(_Jsonl):
    """A folder of parts, in the form that Spark, DuckDB and pandas read."""

    def __init__(self, url: str, job: JobRef, target: Path) -> None:
        super().__init__(url, job, target, target, target / ".abatch-claim.json")

    async def claim(self) -> None:
        if not self._job.finished:
            await self.run(self._claim_folder)

    def _claim_folder(self) -> None:
        self._make_parts()
        if not os.path.lexists(self._claim) and (strangers := _strangers(self._target)):
            raise self._refuse(self._target, f"exists and is not this job's: it holds {strangers[0]!r}")
        self._make_claim()

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        await self.run(self._mark_complete, job, sealed)
        return f"{self._target}/"

    def _mark_complete(self, job: JobRef, sealed: Sequence[Sealed]) -> None:
        for each in sealed:
            self._check_part(each)
        if job.finished:
            return
        self._write_missing(self._target / "_missing.jsonl", job)
        success = self._target / "_SUCCESS"
        with durable_names(self._target):
            if not os.path.lexists(success):
                _write_new(success, [])


class _File(_Jsonl):
    """One file, which appears when it is complete."""

    def __init__(self, url: str, job: JobRef, target: Path) -> None:
        parts = target.with_name(f".{target.name}.abatch")
        super().__init__(url, job, target, parts, parts / "claim.json")
        self._missing = target.with_name(f"{target.name}.missing.jsonl")
        self._offsets: dict[int, int] = {}

    async def claim(self) -> None:
        if not self._job.finished:
            await self.run(self._claim_file)

    def _claim_file(self) -> None:
        if not os.path.lexists(self._claim):
            if os.path.lexists(self._target):
                raise self._changed() if self._job.reopened else self._refuse(self._target)
            if os.path.lexists(self._missing) and not (self._job.reopened and self._wrote(self._missing, self._job)):
                raise self._changed_list(self._missing) if self._job.reopened else self._refuse(self._missing)
        self._make_parts()
        self._make_claim()

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        offsets = dict(zip((each.part for each in sealed), accumulate(map(_size, sealed), initial=0), strict=False))
        present = await self.run(os.path.lexists, self._target)
        if present:
            await self._recognize(sealed, offsets, finished=job.finished)
            if not job.finished:
                await self.run(sync_folder, self._target.parent)  # the run that made it may have died before its sync
        elif job.finished:
            raise BackendError(
                self.url,
                f"{self._target} was moved or removed after the job had finished; put it back, or read it again: "
                f"abatch redrain {self._job.key}",
            )
        else:
            await self.run(self._write_missing, self._missing, job)
            await self._assemble(sealed)
        self._offsets = offsets
        await self.run(self._tidy, finished=job.finished)
        return str(self._target)

    async def _recognize(self, sealed: Sequence[Sealed], offsets: Mapping[int, int], *, finished: bool) -> None:
        """Raise unless the file under our name consists of these parts."""
        thoroughly = not (finished or self._offsets)
        kind = await self.run(_kind, self._target)
        same = kind == stat.S_IFREG and await self.run(os.path.getsize, self._target) == sum(map(_size, sealed))
        if thoroughly:
            for each in sealed:
                same = same and each.detail["crc32"] == await self.run(
                    _checksum, self._target, offsets[each.part], _size(each)
                )
        if not same:
            raise self._changed() if finished else self._refuse(self._target, "is not what this job wrote")

    def _changed(self) -> BackendError:
        return BackendError(
            self.url,
            f"{self._target} was changed after this job had written it; put it back, or remove it and write it "
            f"again: abatch redrain {self._job.key}",
        )

    async def _assemble(self, sealed: Sequence[Sealed]) -> None:
        draft = self._parts / ".whole.tmp"
        await self.run(draft.unlink, missing_ok=True)
        if len(sealed) == 1:  # the file will be equal to its only part
            await self.run(self._check_part, sealed[0])
            await self.run(self._let_appear, _name, self._part(sealed[0].part))
            return
        with self.guarded():
            whole = await open_blocking(os.close, _create, draft)
        try:
            for each in sealed:  # one step per part, so that a cancellation waits for one part and not for all
                await self.run(self._check_part, each)
                await self.run(_append, self._part(each.part), whole, _size(each))
            await self.run(sync, whole)
        finally:
            await clean_up_blocking(os.close, whole)
        await self.run(self._let_appear, _publish, draft)

    def _let_appear(self, name: Callable[[Path, Path], None], file: Path) -> None:
        try:
            name(file, self._target)
        except FileExistsError:  # another process made it while this one was assembled
            raise self._refuse(self._target) from None

    def _tidy(self, *, finished: bool) -> None:
        """Remove the parts, and also the claim once the end is on record."""
        if _read_claim(self._claim) not in (None, self._ours):
            return  # the file was moved away, and another job has claimed the destination
        with contextlib.suppress(FileNotFoundError):
            for entry in self._parts.iterdir():
                if entry.name.startswith(("part-", ".")):
                    entry.unlink()
        if finished:
            self._claim.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the folder is gone already, or holds other files
                self._parts.rmdir()

    def _where(self, sealed: Sealed) -> tuple[Path, int]:
        if sealed.part in self._offsets:
            return self._target, self._offsets[sealed.part]
        return super()._where(sealed)


class _Sink:
    """The part of one shard, under its temporary name."""

    def __init__(self, backend: _Jsonl, shard: ShardRef, part: Path) -> None:
        self._backend = backend
        self._shard = shard
        self._part = part
        self._draft = part.with_name(f".{part.name}.tmp")
        self._descriptor: int | None = None
        self._lines = 0
        self._bytes = 0
        self._checksum = 0
        self._writeback = Writeback()

    def clear(self) -> None:
        self._draft.unlink(missing_ok=True)

    def begin(self) -> None:
        self.clear()
        self._descriptor = _create(self._draft)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._backend.closed(self)

    async def write(self, lines: Sequence[Line], /) -> None:
        # The lines are joined here, because memory that a thread allocates stays with that thread.
        await self._backend.run(self._write, in_pieces(lines), len(lines))

    def _write(self, pieces: Sequence[bytes | memoryview], lines: int) -> None:
        for piece in pieces:
            _write_all(self._open_descriptor(), piece)
            self._checksum = zlib.crc32(piece, self._checksum)
            self._bytes += len(piece)
        self._writeback.reached(self._open_descriptor(), self._bytes)
        self._lines += lines

    async def seal(self) -> Sealed:
        return await self._backend.run(self._seal)

    def _seal(self) -> Sealed:
        if os.fstat(self._open_descriptor()).st_size != self._bytes:
            raise BackendError(self._backend.url, f"{self._draft} is not what was written; drain it again")
        sync(self._open_descriptor())
        self.close()
        try:
            _publish(self._draft, self._part)
        except FileExistsError:
            raise BackendError(self._backend.url, f"{self._part} exists and is not this run's; {REMEDY}") from None
        return _sealed(self._shard.part, self._lines, self._bytes, self._checksum)

    async def discard(self) -> None:
        self.close()
        await self._backend.run(self.clear)

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise BackendError(self._backend.url, "this sink was closed")
        return self._descriptor


# ---- the record of a part ----------------------------------------------------------------------------------


def _sealed(part: int, lines: int, size: int, checksum: int) -> Sealed:
    return Sealed(part=part, lines=lines, detail={"bytes": size, "crc32": checksum})


def _size(sealed: Sealed) -> int:
    return int(sealed.detail["bytes"])


def _measure(path: Path, part: int) -> Sealed:
    """Compute from the bytes of a part what `seal` returned for it."""
    lines = size = checksum = 0
    for chunk in _chunks(path):
        lines += chunk.count(b"\n")
        size += len(chunk)
        checksum = zlib.crc32(chunk, checksum)
    return _sealed(part, lines, size, checksum)


def _together(lists: Iterable[Path]) -> Iterable[bytes]:
    """Yield the bytes of these files, one after the other."""
    return (chunk for path in lists for chunk in _chunks(path))


def _digest(chunks: Iterable[bytes]) -> str:
    """Return the SHA-256 in the form of `JobRef.listed`."""
    found = sha256()
    for chunk in chunks:
        found.update(chunk)
    return found.hexdigest()


def _checksum(path: Path, start: int, size: int) -> int:
    """Return the checksum of `size` bytes from `start`."""
    checksum = 0
    with os.fdopen(_open_to_read(path), "rb", buffering=0) as file:
        file.seek(start)
        while size and (chunk := file.read(min(size, CHUNK))):
            checksum = zlib.crc32(chunk, checksum)
            size -= len(chunk)
    return checksum


# ---- files -------------------------------------------------------------------------------------------------


def _read_claim(path: Path) -> bytes | None:
    try:
        descriptor = _open_to_read(path)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as claim:
        return claim.read(CHUNK)


def _strangers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if not entry.name.startswith(CLAIM_DRAFT)]


def _kind(path: Path) -> int:
    """Return the file type of a path; a symbolic link is not followed."""
    return stat.S_IFMT(path.lstat().st_mode)


def _open_to_read(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _chunks(path: Path) -> Iterable[bytes]:
    with os.fdopen(_open_to_read(path), "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _write_all(descriptor: int, block: bytes | memoryview) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest[:CHUNK]) :]


def _write_new(path: Path, chunks: Iterable[bytes]) -> int:
    """Write a new file durably, and return its size in bytes."""
    written = 0
    descriptor = _create(path)
    try:
        for chunk in chunks:
            _write_all(descriptor, chunk)
            written += len(chunk)
        sync(descriptor)
    finally:
        os.close(descriptor)
    return written


def _read_at(path: Path, start: int, size: int) -> bytes:
    descriptor = _open_to_read(path)
    try:
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)


def _append(source: Path, writer: int, size: int) -> None:
    """Append `source` to the file of `writer`, with a copy in the kernel where possible."""
    reader = _open_to_read(source)
    try:
        size -= _copy_in_kernel(reader, writer, size)
        while size and (chunk := os.read(reader, min(size, CHUNK))):
            _write_all(writer, chunk)
            size -= len(chunk)
    finally:
        os.close(reader)


def _copy_in_kernel(reader: int, writer: int, size: int) -> int:
    """Copy in the kernel, and return the number of copied bytes; the caller must copy the rest."""
    copied = 0
    if sys.platform == "linux":
        try:
            while copied < size and (moved := os.copy_file_range(reader, writer, size - copied)):
                copied += moved
        except OSError as refused:
            if refused.errno not in NO_KERNEL_COPY:
                raise
    return copied


def _publish(draft: Path, name: Path) -> None:
    """Give a durable file its name, durably; FileExistsError if the name is taken."""
    with durable_names(name.parent):
        os.link(draft, name)
        draft.unlink()


def _name(file: Path, name: Path) -> None:
    """Give a durable file another name, durably; FileExistsError if the name is taken."""
    with durable_names(name.parent):
        os.link(file, name)
