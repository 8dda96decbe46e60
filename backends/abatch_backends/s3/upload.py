"""Upload one object to S3: with a single conditional put, or in parts that are completed conditionally."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import anyio

from abatch.errors import BackendError
from abatch.storage import log, run_to_end
from abatch_backends.s3.errors import S3Error

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from abatch_backends.s3.backend import S3Backend

__all__ = ["Landed", "Upload", "stop"]

PART: Final = 5 * 2**20
"""The bytes of each part of an upload except the last: the least that S3 takes. A smaller object is one put."""
LARGER_AFTER: Final = 2_000
"""After every so many parts, the size of a part grows by one `PART`. S3 takes 10,000 parts, which are 157 GB."""
Landed = dict[str, str | int]
"""The description of a stored part that S3 requires to complete the upload."""


class Upload:
    """The upload of one object: a single put if it is small, otherwise part after part, each full except the last."""

    def __init__(self, backend: S3Backend, key: str, marks: Mapping[str, str], *, replaces: bool = False) -> None:
        self._backend = backend
        self._key = key
        self._marks = marks
        self._condition: dict[str, str] = {} if replaces else {"IfNoneMatch": "*"}
        self._id: str | None = None
        self._held = BytesIO()  # it grows without copies and is sent in pieces; bytes would be copied as a whole
        self._parts: list[asyncio.Task[Landed]] = []
        self._failure: BaseException | None = None
        self.size = 0
        """The size of the whole object, in bytes."""

    async def add(self, block: bytes) -> None:
        """Add a block. The failure of a part that is sent in the background is raised here or by `commit`."""
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
        """Make the complete object appear, and return its ETag."""
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
        except S3Error as refused:
            return await self._settle(refused)
        if "ETag" not in answer:  # a 200 may carry an error
            return await self._settle(
                S3Error(
                    self._backend.url,
                    "the seal was not confirmed; drain the batch again",
                    200,
                    code="200",
                    passes=True,
                )
            )
        return str(answer["ETag"])

    async def _settle(self, refused: S3Error) -> str:
        """Settle a refused or lost answer: return the ETag if the object exists and is this one, else raise."""
        found = await self._backend.head(self._key)
        if found is None:
            raise refused
        if found["Metadata"] != self._marks or found["ContentLength"] != self.size:
            why = f"{self._key} was made by another run; drain the batch again"
            raise BackendError(self._backend.url, why, passes=found["Metadata"] == self._marks)
        if self._failure is not None or refused.status == 412:
            await self.abandon()  # ours was not completed, because the object is of an earlier run; so abort ours
        return str(found["ETag"])

    async def abandon(self) -> None:
        """Give up: free the memory, and abort the upload."""
        self._held = BytesIO()
        if self._id is not None:
            await run_to_end(self._abandon(self._id))

    async def _abandon(self, upload: str) -> None:
        why = "no answer within 30 seconds"
        with anyio.move_on_after(30):
            try:
                await stop(self._parts)  # otherwise a part that arrives after the abort would stay
                await self._backend.abort(self._key, upload)
            except BackendError as refused:
                why = refused.why
            else:
                return
        # The next run of this shard aborts the upload. If the object exists, only the bucket's lifecycle rules do.
        log.warning("upload_left_behind", key=self._key, why=why)

    async def _begin_part(self) -> None:
        if self._id is None:
            answer = await self._call("create_multipart_upload", Metadata=self._marks)
            self._id = str(answer["UploadId"])
        part = await self._backend.begin_part(self._key, self._id, len(self._parts) + 1, self._held)
        part.add_done_callback(self._landed)
        self._parts.append(part)
        self._held = BytesIO()

    def _landed(self, part: asyncio.Task[Landed]) -> None:
        if not part.cancelled():
            self._failure = self._failure or part.exception()

    async def _call(self, operation: str, /, **request: object) -> Mapping[str, Any]:
        async with self._backend.in_flight:
            return await self._backend.call(operation, Key=self._key, **request)


async def stop(parts: Collection[asyncio.Task[Any]]) -> None:
    """Cancel parts that are being sent, and wait until they have ended."""
    for part in parts:
        part.cancel()
    await asyncio.gather(*parts, return_exceptions=True)


def _part_size(sent: int) -> int:
    """Return the size of the next part, if it is not the last."""
    return PART * (1 + sent // LARGER_AFTER)
