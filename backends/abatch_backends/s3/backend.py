"""Claim a place in S3 for one job, and read, write and finish the objects of its shards."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import anyio
from botocore.exceptions import BotoCoreError

from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink
from abatch.errors import BackendError, TooManyOpenFiles
from abatch.storage import joined, run_blocking
from abatch_backends.s3.address import WHEN_REQUIRED, Place, parse
from abatch_backends.s3.client import SharedClient, client_key, clients_of_this_loop, new_client
from abatch_backends.s3.codec import BLOCK, RANGE, Codec, codec_for
from abatch_backends.s3.errors import FAILURES, REFUSALS, REFUSES_CHECKSUMS, S3Error, is_condition, translated
from abatch_backends.s3.upload import Landed, Upload, stop

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from abatch import Line

__all__ = ["S3Backend", "open_"]

IN_FLIGHT: Final = 4
"""The number of parts and puts that are sent at once, for all shards together. Each needs memory, in addition to the
part that each shard is filling."""
BODY_TRIES: Final = 3
REMEDY: Final = "move it away, or choose another destination"
CHECKSUMS: Final = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256")
UNFIT: Final = "choose a store with conditional writes, or a destination of another kind"
LOOKING: Final = JobRef(key="none", lineage="0" * 16, finished=True)
"""The job of a check without a job; because it is finished, it claims nothing."""


class _Factory:
    """Opens a backend, and can check a destination before there is a job."""

    async def __call__(self, url: str, job: JobRef, /) -> Backend:
        """Claim `<prefix>/<job key>/` in a bucket."""
        return await _connected(url, job)

    async def check(self, url: str, /) -> None:
        """Check that the bucket exists and may be listed; conditional writes are tested when a job claims."""
        backend = await _connected(url, LOOKING)
        try:
            await backend.look()
        finally:
            await backend.aclose()


open_ = _Factory()


async def _connected(url: str, job: JobRef) -> S3Backend:
    place = parse(url)
    codec = codec_for(url, place.compression)
    backend = S3Backend(url, place, job, codec)
    await backend.begin()
    return backend


class S3Backend:
    """The objects of one job."""

    def __init__(self, url: str, place: Place, job: JobRef, codec: Codec) -> None:
        self.url = url
        self.codec = codec
        self._place = place
        self._job = job
        self._folder = f"{place.prefix}/{job.key}/" if place.prefix else f"{job.key}/"
        self._who = client_key(place)
        self._shared: SharedClient | None = None
        self.in_flight = anyio.Semaphore(IN_FLIGHT)
        self._parts: set[asyncio.Task[Any]] = set()
        self._client: Any = None

    async def begin(self) -> None:
        """Connect and claim; after a failure nothing stays open."""
        try:
            self._shared = clients_of_this_loop().setdefault(self._who, SharedClient())
            self._shared.users += 1
            self._client = await self._shared.client(self._place)
            if not self._job.finished:
                await self._claim()
        except (BotoCoreError, ValueError) as failed:  # the region or the address is invalid
            await self.aclose()
            raise translated(self.url, "connecting", failed) from None
        except BaseException:
            await self.aclose()
            raise

    async def look(self) -> None:
        """Raise unless the bucket exists and may be listed."""
        prefix = f"{self._place.prefix}/" if self._place.prefix else ""
        await self.call("list_objects_v2", Prefix=prefix, MaxKeys=1)

    async def _claim(self) -> None:
        name = f"{self._folder}_abatch.json"
        ours = json.dumps({"lineage": self._job.lineage, "key": self._job.key}).encode()
        claimed = await self._fetch(name)
        found = await self.call("list_objects_v2", Prefix=self._folder, MaxKeys=2)
        made = False
        if claimed is None:
            if found.get("KeyCount"):
                raise self._taken(self._folder, "exists and is not this job's")
            try:
                await self.call("put_object", Key=name, Body=BytesIO(ours), IfNoneMatch="*")
            except S3Error as refused:
                claimed = await self._fetch(name)  # another process was first, or only the answer was lost
                if claimed is None:
                    raise await self._explained(refused, name, ours) from None
            else:
                claimed, made = ours, True
        if claimed != ours:
            raise self._taken(self._folder, "is the destination of another job")
        if made or found.get("KeyCount", 0) < 2:  # with only a claim, the run that made it may have died in the probe
            await self._probe(name, ours, made=made)

    async def _probe(self, name: str, ours: bytes, *, made: bool) -> None:
        """Make sure that the store honours conditions, before anything is sent and paid for.

        The probe tries to replace the claim. A store that ignores conditions replaces it with the same bytes.
        """
        try:
            if not made:
                await self._abort_stale(name)  # the upload of a run that died in this probe
            await self._probe_put(name, ours)
            await self._probe_complete(name, ours)
        except S3Error as refused:
            if made or refused.status != 403:  # with read permission only, an earlier claim suffices
                raise
        except TooManyOpenFiles:
            raise
        except BackendError:
            if made:
                with suppress(BackendError):  # without permission to delete, the claim stays; no job can use the place
                    await self.call("delete_object", Key=name)
            raise

    async def _probe_put(self, name: str, ours: bytes) -> None:
        try:
            await self.call("put_object", Key=name, Body=BytesIO(ours), IfNoneMatch="*")
        except S3Error as refused:
            if not is_condition(refused):
                raise
        else:
            raise self._unfit("ignores If-None-Match in put_object: a second job would replace the results of this one")

    async def _probe_complete(self, name: str, ours: bytes) -> None:
        upload = str((await self.call("create_multipart_upload", Key=name))["UploadId"])
        try:
            part = await self._send_part(name, upload, 1, BytesIO(ours))
            parts = {"Parts": [part]}
            await self.call(
                "complete_multipart_upload", Key=name, UploadId=upload, MultipartUpload=parts, IfNoneMatch="*"
            )
        except S3Error as refused:
            await self.abort(name, upload)
            if refused.status in REFUSALS:
                why = f"lacks conditional complete_multipart_upload (If-None-Match, refused with {refused.code})"
                raise self._unfit(f"{why}: batches above 5 MiB could not be stored") from None
            if not is_condition(refused):
                raise
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(BackendError):
                await self.abort(name, upload)
            raise
        else:
            why = "ignores If-None-Match in complete_multipart_upload"
            raise self._unfit(f"{why}: a second job would replace the results of this one")

    async def _explained(self, refused: S3Error, name: str, ours: bytes) -> BackendError:
        """Return why a store refuses every write: the checksum headers, if it accepts the same write without them."""
        if refused.status not in REFUSALS or self._place.checksums == WHEN_REQUIRED:
            return refused
        async with new_client(replace(self._place, checksums=WHEN_REQUIRED)) as plain:
            try:
                await plain.put_object(Bucket=self._place.bucket, Key=name, Body=BytesIO(ours), IfNoneMatch="*")
            except FAILURES:
                return refused
            with suppress(*FAILURES):
                await plain.delete_object(Bucket=self._place.bucket, Key=name)
        return BackendError(self.url, f"{refused.why.partition(';')[0]}: {REFUSES_CHECKSUMS}")

    def _unfit(self, why: str) -> BackendError:
        return BackendError(self.url, f"this store {why}; {UNFIT}")

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        """Begin an upload, or find the object that an earlier run of the shard completed."""
        key, marks = self._part(shard.part), self._marks(str(shard.shard))
        found = await self.head(key)
        if found is None:
            await self._abort_stale(key)
            return _Sink(self, shard.part, key, marks)
        if found["Metadata"] != marks:
            raise self._taken(key, "exists and is not this job's")
        sealed = _sealed(shard.part, 0, key, found["ETag"], found["ContentLength"])
        lines = 0
        async for _ in self.read(sealed):
            lines += 1
        return _sealed(shard.part, lines, key, found["ETag"], found["ContentLength"])

    async def _abort_stale(self, key: str) -> None:
        """Abort the uploads of this object that a dead run left: unfinished parts cost money, and lists omit them."""
        found = await self.call("list_multipart_uploads", Prefix=key)
        for upload in found.get("Uploads", ()):
            if upload["Key"] == key:
                await self.abort(key, upload["UploadId"])

    async def abort(self, key: str, upload: str) -> None:
        """Abort an upload; an upload that is gone counts as aborted."""
        try:
            await self.call("abort_multipart_upload", Key=key, UploadId=upload)
        except S3Error as refused:
            if refused.status != 404:
                raise

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        """Read the lines of an object, one range at a time."""
        chunks = self.codec.expand(self._chunks(sealed))
        async for line in _lines(chunks):
            yield line

    async def _chunks(self, sealed: Sealed) -> AsyncGenerator[bytes]:
        """Yield the object's bytes, one range at a time, so that no answer stays open while the reader is idle."""
        key, etag, size = str(sealed.detail["key"]), sealed.detail["etag"], int(sealed.detail["bytes"])
        for start in range(0, size, RANGE):
            end = min(start + RANGE, size) - 1
            try:
                chunk = await self._body(Key=key, IfMatch=etag, Range=f"bytes={start}-{end}")
            except S3Error as refused:
                if refused.status not in {404, 412}:
                    raise
                raise self._changed(key) from None
            yield chunk

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        """Check that every part exists, and put the list of missing requests, the manifest and `_SUCCESS`."""
        await self._check(sealed)
        success = f"{self._folder}_SUCCESS"
        if not job.finished:
            await self._put_missing(job)
            await self._put_same(f"{self._folder}_manifest.json", _manifest(job, sealed), job)
            await self._put_same(success, b"")
        elif await self.head(success) is None:
            raise BackendError(self.url, f"{success} was removed after the job had finished")
        return f"s3://{self._place.bucket}/{self._folder}"

    async def _check(self, sealed: Sequence[Sealed]) -> None:
        """Raise unless every part exists and has its size."""
        sizes: dict[str, int] = {}
        page: Mapping[str, Any] = {"NextContinuationToken": None}
        while "NextContinuationToken" in page:
            token = page["NextContinuationToken"]
            more = {"ContinuationToken": token} if token else {}
            page = await self.call("list_objects_v2", Prefix=f"{self._folder}part-", **more)
            sizes |= {found["Key"]: found["Size"] for found in page.get("Contents", ())}
        for each in sealed:
            key = str(each.detail["key"])
            if sizes.get(key) != each.detail["bytes"] or key != self._part(each.part):
                raise self._changed(key)

    async def _put_missing(self, job: JobRef) -> None:
        """Put the list of requests without a result; it replaces an earlier list of this job, even if it is empty."""
        key, marks = f"{self._folder}_missing.jsonl", self._marks("missing")
        if not (job.missing or job.listed):
            return
        if (found := await self.head(key)) is not None:
            if found["Metadata"] != marks:
                raise self._taken(key, "is not the list of missing requests that this job wrote")
            if not job.listed:
                return  # a run that died has already put this list
        elif not job.missing:
            return
        upload = Upload(self, key, marks, replaces=found is not None)
        try:
            for path in job.missing:
                start = 0
                while block := await run_blocking(_read_at, path, start):
                    await upload.add(block)
                    start += len(block)
            await upload.commit()
        except BaseException:
            await upload.abandon()
            raise

    async def _put_same(self, key: str, body: bytes, job: JobRef | None = None) -> None:
        """Make an object, or accept the same object from a run that died.

        An earlier manifest of `job` is replaced, because parts that were read again may differ in size.
        """
        try:
            await self.call("put_object", Key=key, Body=body, IfNoneMatch="*")
        except S3Error:
            found = await self._fetch(key)
            if found is None:
                raise
            if found == body:
                return
            if job is None or not _is_manifest_of(job, found):
                raise self._taken(key, "exists and is not what this job wrote") from None
            await self.call("put_object", Key=key, Body=body)

    def place_of(self, sealed: Sealed, /) -> str:
        """Return the address of a part."""
        return f"s3://{self._place.bucket}/{sealed.detail['key']}"

    async def aclose(self) -> None:
        """Stop parts that are being sent; the last job closes the client."""
        with anyio.CancelScope(shield=True):
            await stop(self._parts)  # sinks that are still open may be sending parts
            shared, self._shared = self._shared, None
            if shared is None:
                return
            shared.users -= 1
            if not shared.users:
                del clients_of_this_loop()[self._who]
                await shared.aclose()

    # ---- calls ---------------------------------------------------------------------------------------------

    async def call(self, operation: str, /, **request: object) -> Mapping[str, Any]:
        """Call S3; raise `S3Error` if it refuses the call or cannot be reached."""
        try:
            answer: Mapping[str, Any] = await getattr(self._client, operation)(Bucket=self._place.bucket, **request)
        except FAILURES as failed:
            raise translated(self.url, operation, failed) from None
        return answer

    async def begin_part(self, key: str, upload: str, number: int, part: BytesIO) -> asyncio.Task[Landed]:
        """Wait until a part may be sent, then send it in the background."""
        await self.in_flight.acquire()
        sending = asyncio.create_task(self._send_part(key, upload, number, part))
        self._parts.add(sending)
        sending.add_done_callback(self._landed)
        return sending

    def _landed(self, part: asyncio.Task[Any]) -> None:
        self._parts.discard(part)
        self.in_flight.release()

    async def _send_part(self, key: str, upload: str, number: int, part: BytesIO) -> Landed:
        part.seek(0)
        answer = await self.call("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=part)
        # Completing the upload requires the checksums that were sent with the parts.
        checksums = {name: answer[name] for name in CHECKSUMS if name in answer}
        return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

    async def head(self, key: str) -> Mapping[str, Any] | None:
        """Return the metadata of an object; None if there is no object."""
        try:
            return await self.call("head_object", Key=key)
        except S3Error as refused:
            if refused.status == 404:
                return None
            raise

    async def _fetch(self, key: str) -> bytes | None:
        try:
            return await self._body(Key=key)
        except S3Error as refused:
            if refused.status == 404:
                return None
            raise

    async def _body(self, **request: object) -> bytes:
        for left in reversed(range(BODY_TRIES)):  # the library retries until the headers arrived, but never a body
            answer = await self.call("get_object", **request)
            try:
                async with answer["Body"] as body:
                    whole: bytes = await body.read()
                    return whole
            except FAILURES as failed:
                if not left:
                    raise translated(self.url, "get_object", failed) from None
        raise AssertionError("unreachable")

    def _taken(self, key: str, why: str) -> BackendError:
        return BackendError(self.url, f"{key} {why}; {REMEDY}")

    def _changed(self, key: str) -> BackendError:
        return BackendError(self.url, f"{key} was changed or removed after it was sealed; put it back")

    def _part(self, number: int) -> str:
        return f"{self._folder}part-{number:05}.jsonl{self.codec.suffix}"

    def _marks(self, shard: str) -> dict[str, str]:
        return {"lineage": self._job.lineage, "shard": shard}


class _Sink:
    """The sink of one shard: it passes the lines to an upload."""

    def __init__(self, backend: S3Backend, part: int, key: str, marks: Mapping[str, str]) -> None:
        self._backend = backend
        self._part = part
        self._key = key
        self._upload = Upload(backend, key, marks)
        self._held: list[bytes] = []
        self._bytes = 0
        self._lines = 0

    async def write(self, lines: Sequence[Line], /) -> None:
        block = joined(lines)
        self._held.append(block)
        self._bytes += len(block)
        self._lines += len(lines)
        if self._bytes >= self._backend.codec.block:
            await self._flush()

    async def _flush(self) -> None:
        block = b"".join(self._held)
        self._held.clear()
        self._bytes = 0
        if block:
            await self._upload.add(await self._backend.codec.shrink(block))

    async def seal(self) -> Sealed:
        await self._flush()
        etag = await self._upload.commit()
        return _sealed(self._part, self._lines, self._key, etag, self._upload.size)

    async def discard(self) -> None:
        self._held.clear()
        await self._upload.abandon()


def _sealed(part: int, lines: int, key: str, etag: str, size: int) -> Sealed:
    return Sealed(part=part, lines=lines, detail={"key": key, "etag": etag, "bytes": size})


def _manifest(job: JobRef, sealed: Sequence[Sealed]) -> bytes:
    parts = [{"key": each.detail["key"], "lines": each.lines, "bytes": each.detail["bytes"]} for each in sealed]
    manifest = {
        "job": job.key,
        "lineage": job.lineage,
        "lines": sum(each.lines for each in sealed),
        "bytes": sum(int(each.detail["bytes"]) for each in sealed),
        "parts": parts,
    }
    return json.dumps(manifest, indent=1).encode()


def _is_manifest_of(job: JobRef, body: bytes) -> bool:
    """Return whether this job put the manifest."""
    try:
        found = json.loads(body)
    except ValueError:
        return False
    match found:
        case {"job": str(key), "lineage": str(lineage)}:
            return (key, lineage) == (job.key, job.lineage)
        case _:
            return False


def _read_at(path: Path, start: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(BLOCK)


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    rest: list[bytes] = []
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest.append(first)
        if others:
            yield b"".join(rest)
            *whole, last = others
            for line in whole:
                yield line
            rest = [last]
