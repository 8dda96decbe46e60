"""Results in S3, or what speaks like it: one object per shard under `<prefix>/<job key>/`.

A shard below 5 MiB is one conditional put; a larger one is a multipart upload of parts of one size, which some stores
ask for, completed conditionally. Either is the seal: the object is there, whole, or it is not, and it never
replaces another. It carries lineage and shard number as metadata, so an answer that was lost is settled by
looking: *is it there, and ours?* `_abatch.json` is the claim; `_manifest.json` and `_SUCCESS` come last.

One client per endpoint and credentials serves all jobs of an event loop; it is made for the first of them and closed
with the last. Each call takes a connection of its own, so what is cancelled in one job is not felt in another.

Lines that were sent are not kept: whatever makes an upload begin anew is an error of the sink, and the shard
is drained again. What a run that died left half uploaded is aborted by the next one.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import aioboto3
import aiohttp
import anyio
from aiobotocore.config import AioConfig
from anyio.lowlevel import RunVar
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as NoConnection

from abatch.backend import Backend, JobRef, Sealed, ShardRef, Sink
from abatch.errors import BackendError, BackendUnavailable, ConfigError, TooManyOpenFiles
from abatch.log import log
from abatch.result import joined
from abatch.system import disk, threads
from abatch.system.disk import OUT_OF_FILES

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterable,
        AsyncIterator,
        Callable,
        Collection,
        Iterator,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from abatch.result import Line

__all__ = ["open_"]

FORM: Final = "s3://bucket/prefix?endpoint_url=https://…&region=…&compression=zstd&checksums=when_required"
PARAMETERS: Final = frozenset({"endpoint_url", "region", "compression", "checksums"})
WHEN_REQUIRED: Final = "when_required"
WHEN: Final = (WHEN_REQUIRED, "when_supported")
"""When a request carries a checksum of its body, in the words of the AWS libraries; the latter is their default."""
BLOCK: Final = 2**20
"""Bytes of lines that are compressed at once."""
PART: Final = 5 * 2**20
"""Bytes of each part of an upload but the last, the least that S3 takes; below it a whole object is one put."""
LARGER_AFTER: Final = 2_000
"""Parts, after which each has the size of one `PART` more: S3 takes 10,000, which are 157 GB."""
IN_FLIGHT: Final = 4
"""Parts and puts on their way at once, of all shards together: memory beside what each shard is filling."""
CONNECTIONS: Final = 32
"""Of one client at once: what eight drains have in flight. Further calls wait for one."""
RANGE: Final = 4 * 2**20
"""Bytes fetched at once by a reader."""
SLICE: Final = 2**12
"""Compressed bytes expanded at once; they may become a thousand times as many."""
BODY_TRIES: Final = 3
_Landed = dict[str, str | int]
"""What S3 wants to hear again of a part that it took."""
FAILURES: Final = (ClientError, BotoCoreError, aiohttp.ClientError, OSError)
PASSING: Final = frozenset(
    {
        *("408", "409", "429", "500", "502", "503", "504", "509"),
        *("BandwidthLimitExceeded", "InternalError", "OperationAborted", "RequestLimitExceeded", "RequestTimeout"),
        *("ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"),
        "NoSuchUpload",  # somebody aborted it: the shard is drained again, into another
    }
)
"""Statuses and codes of S3 that may change without anybody's help."""
REMEDY: Final = "move it away, or choose another destination"
CHECKSUMS: Final = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256")
HINTS: Final = {
    "403": "check the credentials, and that they may get, put and list objects, list and abort uploads",
    "409": "another writer was at it; try again",
    "NoCredentialsError": "give credentials in the environment or in ~/.aws",
    "NoSuchBucket": "make the bucket first",
    "NoSuchUpload": "the upload is gone; drain the batch again",
    "NotImplemented": "this store lacks what is needed: conditional writes (If-None-Match); choose another "
    "destination, or take a job that has begun there with `abatch move JOB --to DEST`",
}
UNFIT: Final = "choose a store with conditional writes, or a destination of another kind"
REFUSES_CHECKSUMS: Final = (
    "this store refuses the checksum headers of the AWS libraries (x-amz-checksum-…, x-amz-sdk-checksum-algorithm); "
    f"add checksums={WHEN_REQUIRED} to the parameters of the destination's URL"
)
LOOKING: Final = JobRef(key="none", lineage="0" * 16, finished=True)
"""Of no job: a finished one claims nothing."""
REFUSALS: Final = frozenset({400, 411, 501})
"""Statuses with which a store refuses a header that it does not know."""


class _Factory:
    """Opens a backend, and can look at a destination before there is a job."""

    async def __call__(self, url: str, job: JobRef, /) -> Backend:
        """Claim `<prefix>/<job key>/` in a bucket."""
        return await _connected(url, job)

    async def check(self, url: str, /) -> None:
        """Look whether the bucket exists and may be listed; conditional writes are tried at the claim."""
        backend = await _connected(url, LOOKING)
        try:
            await backend.look()
        finally:
            await backend.aclose()


open_ = _Factory()


async def _connected(url: str, job: JobRef) -> _S3:
    place = _parse(url)
    codec = _codec(url, place.compression)
    backend = _S3(url, place, job, codec)
    await backend.begin()
    return backend


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    compression: str | None = None
    checksums: str | None = None


def _parse(url: str) -> _Place:
    path, _, query = url.removeprefix("s3://").partition("?")
    bucket, _, prefix = path.partition("/")
    prefix = prefix.rstrip("/")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if "@" in (address := parameters.get("endpoint_url", "https://aws")):
        # the URL stays out of the text: it holds a secret
        raise ConfigError("an endpoint_url must not carry credentials; give them in the environment or in ~/.aws")
    try:
        endpoint = urlsplit(address)
    except ValueError:
        endpoint = urlsplit("")
    problem = ""
    if not url.startswith("s3://") or not bucket:
        problem = "names no bucket"
    elif prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/")):
        problem = "has an empty step, '.' or '..' in its prefix, which servers read differently"
    elif unknown := parameters.keys() - PARAMETERS:
        problem = f"has the unknown parameter {min(unknown)!r}"
    elif endpoint.scheme not in {"http", "https"} or not endpoint.hostname:
        problem = "has an endpoint_url that is no http address"
    elif parameters.get("compression") not in {None, "zstd"}:
        problem = f"has the unknown compression {parameters['compression']!r}"
    elif parameters.get("checksums") not in {None, *WHEN}:
        problem = f"has unknown checksums {parameters['checksums']!r}, which are {' or '.join(WHEN)}"
    if problem:
        raise ConfigError(f"{url!r} {problem}; write {FORM}")
    return _Place(bucket=bucket, prefix=prefix, **parameters)


def _new_client(place: _Place) -> AbstractAsyncContextManager[Any]:
    """The one place that knows whose client it is; the rest calls S3's operations by name."""
    config = AioConfig(
        request_checksum_calculation=place.checksums,  # None is the setting of the environment
        response_checksum_validation=place.checksums,
        signature_version="s3v4",
        retries={"mode": "standard"},
        max_pool_connections=CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
    )
    session: Any = aioboto3.Session()  # Any, here and below: these libraries have no types
    client: AbstractAsyncContextManager[Any] = session.client(
        "s3", endpoint_url=place.endpoint_url, region_name=place.region, config=config
    )
    return client


class _Shared:
    """The client of one endpoint and one set of credentials, made when it is first asked for."""

    def __init__(self) -> None:
        self.users = 0
        self._open = AsyncExitStack()
        self._turn = anyio.Lock()
        self._client: Any = None

    async def client(self, place: _Place) -> Any:  # noqa: ANN401 - these libraries have no types
        async with self._turn:
            if self._client is None:
                self._client = await self._open.enter_async_context(_new_client(place))
            return self._client

    async def aclose(self) -> None:
        async with self._turn:
            self._client = None
            await self._open.aclose()


_Who = tuple[str | None, str | None, str | None, bytes]
_clients: RunVar[dict[_Who, _Shared]] = RunVar("abatch_backends.s3")


def _of_this_loop() -> dict[_Who, _Shared]:
    try:
        return _clients.get()
    except LookupError:
        made: dict[_Who, _Shared] = {}
        _clients.set(made)
        return made


def _who(place: _Place) -> _Who:
    """The key of a shared client: its place, and a digest of the environment variables that select credentials."""
    names = blake2b(digest_size=16)
    for name, value in sorted(os.environ.items()):
        if name.startswith("AWS_") or name == "HOME":
            names.update(os.fsencode(f"{name}={value}\0"))
    return place.endpoint_url, place.region, place.checksums, names.digest()


class _S3Error(BackendError):
    """S3 said no, or nothing: `status` is None when there was no answer."""

    def __init__(self, url: str, why: str, status: int | None, *, code: str, passes: bool) -> None:
        super().__init__(url, why, passes=passes)
        self.status = status
        self.code = code


class _S3:
    def __init__(self, url: str, place: _Place, job: JobRef, codec: _Codec) -> None:
        self.url, self.codec = url, codec
        self._place, self._job = place, job
        self._folder = f"{place.prefix}/{job.key}/" if place.prefix else f"{job.key}/"
        self._who = _who(place)
        self._shared: _Shared | None = None
        self.in_flight = anyio.Semaphore(IN_FLIGHT)
        self._parts: set[asyncio.Task[Any]] = set()
        self._client: Any = None

    async def begin(self) -> None:
        """Connect and claim; on failure nothing stays open."""
        try:
            self._shared = _of_this_loop().setdefault(self._who, _Shared())
            self._shared.users += 1
            self._client = await self._shared.client(self._place)
            if not self._job.finished:
                await self._claim()
        except (BotoCoreError, ValueError) as failed:  # a region or an address that it cannot take
            await self.aclose()
            raise self._failed("connecting", failed) from None
        except BaseException:
            await self.aclose()
            raise

    async def look(self) -> None:
        """Raise unless the bucket is there and may be listed."""
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
            except _S3Error as refused:
                claimed = await self._fetch(name)  # somebody was first, or only the answer was lost
                if claimed is None:
                    raise await self._explained(refused, name, ours) from None
            else:
                claimed, made = ours, True
        if claimed != ours:
            raise self._taken(self._folder, "is the destination of another job")
        if made or found.get("KeyCount", 0) < 2:  # nothing but the claim: the run that made it may have died here
            await self._probe(name, ours, made=made)

    async def _probe(self, name: str, ours: bytes, *, made: bool) -> None:
        """Make sure that the store honours conditions, before anything is sent and paid for.

        The claim is what must not be replaced; a store that replaces it all the same writes the same bytes.
        """
        try:
            if not made:
                await self._abort_stale(name)  # of a run that died in here
            await self._probe_put(name, ours)
            await self._probe_complete(name, ours)
        except _S3Error as refused:
            if made or refused.status != 403:  # who may only read an earlier claim does not write
                raise
        except TooManyOpenFiles:
            raise
        except BackendError:
            if made:
                with suppress(BackendError):  # who may not delete leaves a claim to a place that nobody can use
                    await self.call("delete_object", Key=name)
            raise

    async def _probe_put(self, name: str, ours: bytes) -> None:
        try:
            await self.call("put_object", Key=name, Body=BytesIO(ours), IfNoneMatch="*")
        except _S3Error as refused:
            if not _is_condition(refused):
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
        except _S3Error as refused:
            await self.abort(name, upload)
            if refused.status in REFUSALS:
                why = f"lacks conditional complete_multipart_upload (If-None-Match, refused with {refused.code})"
                raise self._unfit(f"{why}: batches above 5 MiB could not be stored") from None
            if not _is_condition(refused):
                raise
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(BackendError):
                await self.abort(name, upload)
            raise
        else:
            why = "ignores If-None-Match in complete_multipart_upload"
            raise self._unfit(f"{why}: a second job would replace the results of this one")

    async def _explained(self, refused: _S3Error, name: str, ours: bytes) -> BackendError:
        """Why a store refuses to write at all: the headers of a checksum, if it takes the same without them."""
        if refused.status not in REFUSALS or self._place.checksums == WHEN_REQUIRED:
            return refused
        async with _new_client(replace(self._place, checksums=WHEN_REQUIRED)) as plain:
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
        """Abort what a run that died left of this object: unfinished parts cost money and show nowhere."""
        found = await self.call("list_multipart_uploads", Prefix=key)
        for upload in found.get("Uploads", ()):
            if upload["Key"] == key:
                await self.abort(key, upload["UploadId"])

    async def abort(self, key: str, upload: str) -> None:
        try:
            await self.call("abort_multipart_upload", Key=key, UploadId=upload)
        except _S3Error as refused:
            if refused.status != 404:
                raise

    async def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        chunks = self.codec.expand(self._chunks(sealed))
        async for line in _lines(chunks):
            yield line

    async def _chunks(self, sealed: Sealed) -> AsyncGenerator[bytes]:
        """The object's bytes, a range at a time: no answer stays open while the reader idles."""
        key, etag, size = str(sealed.detail["key"]), sealed.detail["etag"], int(sealed.detail["bytes"])
        for start in range(0, size, RANGE):
            end = min(start + RANGE, size) - 1
            try:
                chunk = await self._body(Key=key, IfMatch=etag, Range=f"bytes={start}-{end}")
            except _S3Error as refused:
                if refused.status not in {404, 412}:
                    raise
                raise self._changed(key) from None
            yield chunk

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
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
        """Raise unless every part is there in its size."""
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
        """Put the list of requests without a result; one that this job put before is replaced, maybe by none."""
        key, marks = f"{self._folder}_missing.jsonl", self._marks("missing")
        if not (job.missing or job.listed):
            return
        if (found := await self.head(key)) is not None:
            if found["Metadata"] != marks:
                raise self._taken(key, "is not the list of missing requests that this job wrote")
            if not job.listed:
                return  # all was said by a run that died
        elif not job.missing:
            return
        upload = _Upload(self, key, marks, replaces=found is not None)
        try:
            for path in job.missing:
                start = 0
                while block := await threads.run(_read_at, path, start):
                    await upload.add(block)
                    start += len(block)
            await upload.commit()
        except BaseException:
            await upload.abandon()
            raise

    async def _put_same(self, key: str, body: bytes, job: JobRef | None = None) -> None:
        """Make an object, or find it made with this body by a run that died.

        An earlier manifest of `job` is replaced: parts that were read again may differ in size.
        """
        try:
            await self.call("put_object", Key=key, Body=body, IfNoneMatch="*")
        except _S3Error:
            found = await self._fetch(key)
            if found is None:
                raise
            if found == body:
                return
            if job is None or not _is_manifest_of(job, found):
                raise self._taken(key, "exists and is not what this job wrote") from None
            await self.call("put_object", Key=key, Body=body)

    def place_of(self, sealed: Sealed, /) -> str:
        return f"s3://{self._place.bucket}/{sealed.detail['key']}"

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await _stop(self._parts)  # of sinks still open
            shared, self._shared = self._shared, None
            if shared is None:
                return
            shared.users -= 1
            if not shared.users:
                del _of_this_loop()[self._who]
                await shared.aclose()

    # ---- calls ---------------------------------------------------------------------------------------------

    async def call(self, operation: str, /, **request: object) -> Mapping[str, Any]:
        """Ask S3; what it refuses, or cannot be reached for, is a `_S3Error`."""
        try:
            answer: Mapping[str, Any] = await getattr(self._client, operation)(Bucket=self._place.bucket, **request)
        except FAILURES as failed:
            raise self._failed(operation, failed) from None
        return answer

    async def begin_part(self, key: str, upload: str, number: int, part: BytesIO) -> asyncio.Task[_Landed]:
        """Send a part while the caller goes on, as soon as there is room for it."""
        await self.in_flight.acquire()
        sending = asyncio.create_task(self._send_part(key, upload, number, part))
        self._parts.add(sending)
        sending.add_done_callback(self._landed)
        return sending

    def _landed(self, part: asyncio.Task[Any]) -> None:
        self._parts.discard(part)
        self.in_flight.release()

    async def _send_part(self, key: str, upload: str, number: int, part: BytesIO) -> _Landed:
        part.seek(0)
        answer = await self.call("upload_part", Key=key, UploadId=upload, PartNumber=number, Body=part)
        # S3 wants the checksums that it was given with the parts once more at the end
        checksums = {name: answer[name] for name in CHECKSUMS if name in answer}
        return {"PartNumber": number, "ETag": answer["ETag"], **checksums}

    async def head(self, key: str) -> Mapping[str, Any] | None:
        """What is known of an object; None if there is none."""
        try:
            return await self.call("head_object", Key=key)
        except _S3Error as refused:
            if refused.status == 404:
                return None
            raise

    async def _fetch(self, key: str) -> bytes | None:
        try:
            return await self._body(Key=key)
        except _S3Error as refused:
            if refused.status == 404:
                return None
            raise

    async def _body(self, **request: object) -> bytes:
        for left in reversed(range(BODY_TRIES)):  # the library asks again for headers, never for bodies
            answer = await self.call("get_object", **request)
            try:
                async with answer["Body"] as body:
                    whole: bytes = await body.read()
                    return whole
            except FAILURES as failed:
                if not left:
                    raise self._failed("get_object", failed) from None
        raise AssertionError("unreachable")

    def _failed(self, operation: str, failed: Exception) -> BackendError:
        """The one translation. It leaves S3's answer out, which names key ids and signatures."""
        if _is_out_of_files(failed):
            return TooManyOpenFiles(self.url)
        answer: Mapping[str, Any] = getattr(failed, "response", None) or {}
        status: int | None = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = f"{status} {answer['Error']['Code']}" if status else type(failed).__name__
        hints = {hint for name, hint in HINTS.items() if name in code.split()}
        if status in REFUSALS and "checksum" in str(answer["Error"].get("Message", "")).lower():
            hints = {REFUSES_CHECKSUMS}
        passes = not PASSING.isdisjoint(code.split()) if status else _passes(failed)
        why = "; ".join([f"{operation} came to {code}", *sorted(hints)])
        return _S3Error(self.url, why, status, code=code, passes=passes)

    def _taken(self, key: str, why: str) -> BackendError:
        return BackendError(self.url, f"{key} {why}; {REMEDY}")

    def _changed(self, key: str) -> BackendError:
        return BackendError(self.url, f"{key} was changed or removed after it was sealed; put it back")

    def _part(self, number: int) -> str:
        return f"{self._folder}part-{number:05}.jsonl{self.codec.suffix}"

    def _marks(self, shard: str) -> dict[str, str]:
        return {"lineage": self._job.lineage, "shard": shard}


def _is_out_of_files(failed: BaseException | None) -> bool:
    """Whether a failure, or what led to it, is that no connection could be opened for want of descriptors."""
    while failed is not None:
        if isinstance(failed, OSError) and failed.errno in OUT_OF_FILES:
            return True
        failed = failed.__cause__ or failed.__context__
    return False


class _Sink:
    """The lines of one shard on their way into an upload."""

    def __init__(self, backend: _S3, part: int, key: str, marks: Mapping[str, str]) -> None:
        self._backend, self._part, self._key = backend, part, key
        self._upload = _Upload(backend, key, marks)
        self._held: list[bytes] = []
        self._bytes = self._lines = 0

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


class _Upload:
    """One object on its way: a single put if it is small, else part after part, each full but the last."""

    def __init__(self, backend: _S3, key: str, marks: Mapping[str, str], *, replaces: bool = False) -> None:
        self._backend, self._key, self._marks = backend, key, marks
        self._condition: dict[str, str] = {} if replaces else {"IfNoneMatch": "*"}
        self._id: str | None = None
        self._held = BytesIO()  # grows without copies, and is sent in pieces: bytes would be copied whole
        self._parts: list[asyncio.Task[_Landed]] = []
        self._failure: BaseException | None = None
        self.size = 0
        """Bytes of the whole object."""

    async def add(self, block: bytes) -> None:
        """Take a block; what a part came to that was on its way is raised here, or by `commit`."""
        if self._failure is not None:
            raise self._failure
        self.size += len(block)
        rest = memoryview(block)
        while self._held.tell() + len(rest) >= (full := _part_size(len(self._parts))):
            room = full - self._held.tell()
            self._held.write(rest[:room])
            rest = rest[room:]
            await self._begin_part()
        self._held.write(rest)

    async def commit(self) -> str:
        """Make the object appear, whole; its ETag."""
        try:
            if self._id is None:
                self._held.seek(0)
                answer = await self._call("put_object", Body=self._held, Metadata=self._marks, **self._condition)
            else:
                if self._held.tell():
                    await self._begin_part()
                parts = [await part for part in self._parts]
                answer = await self._call(
                    "complete_multipart_upload",
                    UploadId=self._id,
                    MultipartUpload={"Parts": parts},
                    **self._condition,
                )
        except _S3Error as refused:
            return await self._settle(refused)
        if "ETag" not in answer:  # a 200 may carry an error
            return await self._settle(
                _S3Error(
                    self._backend.url,
                    "the seal was not confirmed; drain the batch again",
                    200,
                    code="200",
                    passes=True,
                )
            )
        return str(answer["ETag"])

    async def _settle(self, refused: _S3Error) -> str:
        """An answer that is no, or was lost: look whether the object is there, and is this one."""
        found = await self._backend.head(self._key)
        if found is None:
            raise refused
        if found["Metadata"] != self._marks or found["ContentLength"] != self.size:
            why = f"{self._key} was made by another run; drain the batch again"
            raise BackendError(self._backend.url, why, passes=found["Metadata"] == self._marks)
        if self._failure is not None or refused.status == 412:
            await self.abandon()  # it was not completed: the object is of an earlier run, and nobody aborts ours
        return str(found["ETag"])

    async def abandon(self) -> None:
        self._held = BytesIO()
        if self._id is not None:
            await threads.whole(self._abandon(self._id))

    async def _abandon(self, upload: str) -> None:
        why = "no answer within 30 seconds"
        with anyio.move_on_after(30):
            try:
                await _stop(self._parts)  # or one comes after the abort, and stays
                await self._backend.abort(self._key, upload)
            except BackendError as refused:
                why = refused.why
            else:
                return
        # the next run of this shard aborts it, unless the object is there; then the bucket's own rules do
        log.warning("upload_left_behind", key=self._key, why=why)

    async def _begin_part(self) -> None:
        if self._id is None:
            answer = await self._call("create_multipart_upload", Metadata=self._marks)
            self._id = str(answer["UploadId"])
        part = await self._backend.begin_part(self._key, self._id, len(self._parts) + 1, self._held)
        part.add_done_callback(self._landed)
        self._parts.append(part)
        self._held = BytesIO()

    def _landed(self, part: asyncio.Task[_Landed]) -> None:
        if not part.cancelled():
            self._failure = self._failure or part.exception()

    async def _call(self, operation: str, /, **request: object) -> Mapping[str, Any]:
        async with self._backend.in_flight:
            return await self._backend.call(operation, Key=self._key, **request)


def _is_condition(refused: _S3Error) -> bool:
    """Whether a store refused a write because of its condition: 412, or 409 while another writer is at it."""
    return refused.status in {409, 412}


def _passes(failed: Exception) -> bool:
    """Whether a call that S3 did not answer may be answered later, without anybody's help."""
    match failed:
        case SSLError():
            return False
        case NoConnection() | HTTPClientError() | aiohttp.ClientError() | TimeoutError() | socket.gaierror():
            return True
        case OSError():
            return disk.passes(failed)
        case _:
            return False


async def _stop(parts: Collection[asyncio.Task[Any]]) -> None:
    for part in parts:
        part.cancel()
    await asyncio.gather(*parts, return_exceptions=True)


def _part_size(sent: int) -> int:
    """Bytes of the next part, if it is not the last."""
    return PART * (1 + sent // LARGER_AFTER)


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
    """Whether a manifest is one that this job put."""
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


# ---- compression -------------------------------------------------------------------------------------------


class _Codec:
    """Lines as they are."""

    suffix = ""
    block = 0
    """Bytes that `shrink` is given at once, at least."""

    async def shrink(self, block: bytes) -> bytes:
        return block

    def expand(self, chunks: AsyncIterable[bytes]) -> AsyncIterable[bytes]:
        return chunks


class _Zstd(_Codec):
    """Each block of whole lines is a frame of its own; a series of frames is a valid file."""

    suffix = ".zst"
    block = BLOCK

    def __init__(self, compress: Callable[[bytes], bytes], expander: Callable[[], Callable[[bytes], bytes]]) -> None:
        self._compress, self._expander = compress, expander

    async def shrink(self, block: bytes) -> bytes:
        frame = await threads.run(self._compress, block)
        return bytes(memoryview(frame))  # a copy: the frame itself keeps a buffer of the block's size

    async def expand(self, chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
        expand = self._expander()
        async for chunk in chunks:
            slices = (chunk[start : start + SLICE] for start in range(0, len(chunk), SLICE))
            while block := await threads.run(_some, map(expand, slices)):
                yield block


def _some(pieces: Iterator[bytes]) -> bytes:
    """The next pieces, together about a `RANGE`; empty when there are no more."""
    taken: list[bytes] = []
    size = 0
    while size < RANGE and (piece := next(pieces, None)) is not None:
        taken.append(piece)
        size += len(piece)
    return b"".join(taken)


def _codec(url: str, compression: str | None) -> _Codec:
    if compression is None:
        return _Codec()
    try:
        import zstandard  # noqa: PLC0415 - only who asks for it needs it
    except ModuleNotFoundError as missing:
        raise BackendUnavailable(url, "zstd") from missing
    return _Zstd(
        lambda block: zstandard.ZstdCompressor(level=3).compress(block),
        lambda: zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress,
    )
