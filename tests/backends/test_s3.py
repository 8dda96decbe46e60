"""S3 keeps the contract on a real server, compressed or not, and settles lost answers by looking."""

from __future__ import annotations

import asyncio
import errno
import json
import math
import secrets
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import ClassVar
from urllib.parse import urlsplit

import aiohttp
import boto3
import pytest
import zstandard
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
    SSLError,
)

from abatch.backend import Backend, JobRef, Sealed, connect
from abatch.errors import BackendError, BackendUnavailable, ConfigError
from abatch.testing import BackendContract, OutageContract
from abatch.testing.contract import make_line, make_lines, raw, read
from abatch_backends import s3

pytestmark = pytest.mark.anyio

BIG = [make_line(f"big-{n}", b'{"type":"succeeded","x":"%b"}' % secrets.token_hex(2**19).encode()) for n in range(20)]
ONE_PART = BIG[:6]
"""More than one part of an upload, and less than two."""


@pytest.fixture(scope="session")
def client(s3_server):
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.url,
        region_name="us-east-1",
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        config=Config(retries={"total_max_attempts": 1}),
    )
    client.create_bucket(Bucket="results")
    yield client
    client.close()


def refusal(operation: str, status: int, code: str) -> ClientError:
    """What the library raises when S3 says no."""
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


@asynccontextmanager
async def _client_of(store, place, real):
    async with real(place) as client:
        yield store(client, place)


def replace_store(monkeypatch, store) -> None:
    """Let the backend speak with the real server through `store`, which lacks something."""
    real = s3.client.new_client
    for module in (s3.client, s3.backend):
        monkeypatch.setattr(module, "new_client", lambda place: _client_of(store, place, real))


class _Store:
    """The real server, but for what a subclass does in its place."""

    calls: ClassVar[list[str]]

    def __init__(self, client, place) -> None:
        self._client, self._place = client, place

    def __getattr__(self, operation: str):
        async def call(**request):
            self.calls.append(operation)
            instead = getattr(type(self), f"_{operation}", None)
            return await (instead(self, **request) if instead else getattr(self._client, operation)(**request))

        return call


def without_condition(request):
    return {name: value for name, value in request.items() if name != "IfNoneMatch"}


class Real(_Store):
    calls: ClassVar[list[str]] = []


class WithoutConditionalPut(_Store):
    calls: ClassVar[list[str]] = []

    async def _put_object(self, **request):
        raise refusal("put_object", 501, "NotImplemented")


class IgnoresConditionalPut(_Store):
    calls: ClassVar[list[str]] = []

    async def _put_object(self, **request):
        return await self._client.put_object(**without_condition(request))


class WithoutConditionalComplete(_Store):
    calls: ClassVar[list[str]] = []

    async def _complete_multipart_upload(self, **request):
        raise refusal("complete_multipart_upload", 501, "NotImplemented")


class IgnoresConditionalComplete(_Store):
    calls: ClassVar[list[str]] = []

    async def _complete_multipart_upload(self, **request):
        return await self._client.complete_multipart_upload(**without_condition(request))


class WithoutChecksums(_Store):
    calls: ClassVar[list[str]] = []

    async def _put_object(self, **request):
        if self._place.checksums != "when_required":
            raise refusal("put_object", 400, "InvalidArgument")
        return await self._client.put_object(**request)


class _S3(OutageContract):
    parameters = ""
    window = 96
    suffix = ""

    @pytest.fixture(autouse=True)
    def place(self, client, s3_server, monkeypatch):
        self.client, self.server = client, s3_server
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        self.prefix = f"runs/{secrets.token_hex(4)}"
        self.folder = f"{self.prefix}/contract/"
        self.url = f"s3://results/{self.prefix}?endpoint_url={s3_server.url}&region=us-east-1{self.parameters}"

    async def connect(self, job: JobRef, /) -> Backend:
        return await connect(self.url, job)

    @asynccontextmanager
    async def outage(self, backend):
        client, backend._client = backend._client, Busy()
        yield
        backend._client = client

    async def stored(self) -> list[bytes]:
        assert self.body("_SUCCESS") == b""
        manifest = json.loads(self.body("_manifest.json"))
        assert manifest["job"] == "contract"
        lines = []
        for part in manifest["parts"]:
            stored = self.body(part["key"].removeprefix(self.folder))
            assert len(stored) == part["bytes"]
            content = self.expand(stored)
            assert content.endswith(b"\n") or not content
            assert content.count(b"\n") == part["lines"]
            lines += content.split(b"\n")[:-1]
        assert len(lines) == manifest["lines"]
        return lines

    async def stored_missing(self) -> list[tuple[str, str]]:
        pairs = map(json.loads, self.body("_missing.jsonl").splitlines())
        return [(pair["custom_id"], pair["reason"]) for pair in pairs]

    def elsewhere(self, sealed: Sealed) -> dict[str, str | int]:
        return {**sealed.detail, "key": f"{self.folder}part-00001.jsonl{self.suffix}"}

    def expand(self, stored: bytes) -> bytes:
        return stored

    def body(self, name: str) -> bytes:
        return self.client.get_object(Bucket="results", Key=self.folder + name)["Body"].read()

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket="results", Prefix=self.folder).get("Contents", ())
        return sorted(each["Key"].removeprefix(self.folder) for each in found)

    def uploads(self) -> list[str]:
        found = self.client.list_multipart_uploads(Bucket="results", Prefix=self.folder).get("Uploads", ())
        return sorted(each["Key"].removeprefix(self.folder) for each in found)


class TestS3(_S3):
    async def test_a_job_leaves_its_objects_and_nothing_else(self):
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, make_lines(5)), await self.sealed(backend, 1, BIG)]
            assert self.names() == ["_abatch.json", "part-00000.jsonl", "part-00001.jsonl"]
            assert await backend.finish(self.job, sealed) == f"s3://results/{self.folder}"
        assert self.names() == [
            "_SUCCESS",
            "_abatch.json",
            "_manifest.json",
            "part-00000.jsonl",
            "part-00001.jsonl",
        ]
        assert self.uploads() == []
        for part in range(2):
            found = self.client.head_object(Bucket="results", Key=f"{self.folder}part-0000{part}.jsonl")
            assert found["Metadata"] == {"lineage": self.job.lineage, "shard": str(40 + part)}

    async def test_list_of_missing_requests_and_manifest_are_replaced_when_a_part_was_read_again(self, tmp_path):
        lists = [tmp_path / "a", tmp_path / "b"]
        for path in lists:
            path.write_text(json.dumps({"custom_id": path.name, "reason": "lost"}) + "\n")
        async with self.opened() as backend:
            await backend.finish(
                replace(self.job, missing=tuple(lists)), [await self.sealed(backend, 0, make_lines(5))]
            )
        assert sorted(await self.stored_missing()) == [("a", "lost"), ("b", "lost")]
        self.client.delete_object(Bucket="results", Key=f"{self.folder}part-00000.jsonl{self.suffix}")
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, make_lines(6))]
            await backend.finish(replace(self.job, missing=(lists[1],), listed=("0" * 64,)), sealed)
            assert await self.stored_missing() == [("b", "lost")]
            await backend.finish(replace(self.job, listed=("0" * 64,)), sealed)
        assert await self.stored_missing() == []
        assert await self.stored() == [line.raw for line in make_lines(6)]

    async def test_list_of_missing_requests_that_is_not_ours_is_not_replaced(self):
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, make_lines(5))]
            self.client.put_object(Bucket="results", Key=f"{self.folder}_missing.jsonl", Body=b"mine")
            with pytest.raises(BackendError, match="is not the list of missing requests that this job wrote"):
                await backend.finish(replace(self.job, listed=("0" * 64,)), sealed)
        assert self.body("_missing.jsonl") == b"mine"

    async def test_another_key_is_another_place(self):
        another = replace(self.job, key="another")
        async with self.opened() as one, self.opened(another) as two:
            await self.sealed(one, 0, make_lines(5))
            assert not isinstance(await two.open(replace(self.shard(), job=another)), Sealed)

    async def test_all_parts_but_the_last_have_one_size(self):
        """Cloudflare's R2 refuses to complete an upload of others."""
        async with self.opened() as backend:
            await self.sealed(backend, 0, BIG)
        part = {"Bucket": "results", "Key": f"{self.folder}part-00000.jsonl"}
        first = self.client.head_object(**part, PartNumber=1)
        sizes = [
            self.client.head_object(**part, PartNumber=number + 1)["ContentLength"]
            for number in range(first["PartsCount"])
        ]
        assert len(sizes) > 2
        assert set(sizes[:-1]) == {5 * 2**20}
        assert 0 < sizes[-1] <= 5 * 2**20

    async def test_objects_that_are_not_ours_are_refused_and_left_alone(self):
        self.client.put_object(Bucket="results", Key=f"{self.folder}precious", Body=b"1")
        with pytest.raises(BackendError, match="exists and is not this job's; move it away, or choose another"):
            await self.connect(self.job)
        assert self.names() == ["precious"]

    async def test_a_part_that_is_not_ours_is_refused_and_never_replaced(self):
        async with self.opened() as backend:
            key = f"{self.folder}part-00000.jsonl"
            for lines in (make_lines(5), BIG):
                sink = await self.sink(backend)
                await sink.write(lines)
                self.client.put_object(Bucket="results", Key=key, Body=b"precious")
                with pytest.raises(BackendError, match="made by another run"):
                    await sink.seal()
                await sink.discard()
                assert self.body("part-00000.jsonl") == b"precious"
                assert self.uploads() == []
                with pytest.raises(BackendError, match="exists and is not this job's"):
                    await backend.open(self.shard())
                self.client.delete_object(Bucket="results", Key=key)

    async def test_stale_uploads_of_the_shard_are_aborted_and_no_others(self):
        backend = await self.connect(self.job)
        for part in range(2):
            await (await self.sink(backend, part)).write(BIG)
        await self.die(backend)
        assert self.uploads() == ["part-00000.jsonl", "part-00001.jsonl"]
        async with self.opened() as backend:
            await self.sink(backend, 0)
            assert self.uploads() == ["part-00001.jsonl"]

    async def test_a_discarded_upload_is_aborted(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            await sink.write(BIG)
            assert self.uploads() == ["part-00000.jsonl"]
            await sink.discard()
            assert self.uploads() == []

    @pytest.mark.parametrize("lines", [make_lines(5), BIG], ids=["put", "multipart"])
    async def test_a_lost_answer_to_the_seal_is_settled_by_looking(self, lines):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            await sink.write(lines)
            lose_answers(backend, "put_object", "complete_multipart_upload")
            sealed = await sink.seal()
            assert await read(backend, sealed) == raw(lines)
            assert self.uploads() == []

    async def test_a_seal_that_was_repeated_underneath_is_settled_by_looking(self):
        """The library asks again when an answer is lost; then the answer is 412 or 404."""
        for lines in (make_lines(5), BIG):
            async with self.opened() as backend:
                sink = await self.sink(backend, len(lines))
                await sink.write(lines)
                repeat_calls(backend, "put_object", "complete_multipart_upload")
                assert await read(backend, await sink.seal()) == raw(lines)

    async def test_an_upload_that_vanished_must_be_drained_again(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            await sink.write(BIG)
            for upload in self.client.list_multipart_uploads(Bucket="results", Prefix=self.folder)["Uploads"]:
                self.client.abort_multipart_upload(Bucket="results", Key=upload["Key"], UploadId=upload["UploadId"])
            with pytest.raises(BackendError, match="drain the batch again"):
                await sink.seal()
            await sink.discard()
            assert await read(backend, await self.sealed(backend, 0, BIG)) == raw(BIG)

    async def test_a_failed_part_is_a_backend_error(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            lose_answers(backend, "upload_part")
            await sink.write(BIG)
            with pytest.raises(BackendError, match="upload_part failed with ReadTimeoutError"):
                await sink.seal()
            await sink.discard()
            assert self.uploads() == []

    async def test_a_failed_part_is_told_to_the_next_one(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            refuse(backend, "upload_part")
            await sink.write(BIG)
            for _ in range(5):  # turns of the event loop
                await asyncio.sleep(0)
            with pytest.raises(BackendError, match="upload_part failed with ReadTimeoutError"):
                await sink.write(BIG)
            await sink.discard()
            assert self.uploads() == []

    async def test_a_shard_is_written_on_while_its_parts_are_on_their_way(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            arrived = hold_back(backend, "upload_part")
            for _ in range(s3.backend.IN_FLIGHT):
                await sink.write(BIG[:6])
            arrived.set()
            await sink.write(BIG)
            assert await read(backend, await sink.seal()) == raw(s3.backend.IN_FLIGHT * BIG[:6] + BIG)

    async def test_parts_beyond_those_in_flight_wait_and_are_not_gathered(self):
        async with self.opened() as backend:
            sinks = [await self.sink(backend, part) for part in range(s3.backend.IN_FLIGHT + 1)]
            arrived = hold_back(backend, "upload_part")
            for sink in sinks[:-1]:
                await sink.write(ONE_PART)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sinks[-1].write(ONE_PART), 0.2)
            await sinks[-1].discard()
            arrived.set()
            for sink in sinks[:-1]:
                assert (await sink.seal()).lines == len(ONE_PART)

    async def test_nothing_is_left_of_parts_that_were_on_their_way_when_the_drain_failed(self):
        async with self.opened() as backend:
            sink = await self.sink(backend)
            arrived = hold_back(backend, "upload_part")
            await sink.write(ONE_PART)
            await sink.write(ONE_PART)
            await sink.discard()
            assert self.uploads() == []
            arrived.set()
            assert await read(backend, await self.sealed(backend, 1, BIG)) == raw(BIG)

    @pytest.mark.parametrize("refused", [True, False])
    async def test_a_seal_that_an_earlier_run_came_to_leaves_no_upload_of_ours(self, refused):
        async with self.opened() as backend:
            earlier, later = await self.sink(backend), await self.sink(backend)
            await earlier.write(BIG)
            sealed = await earlier.seal()
            if refused:
                refuse(backend, "upload_part")
            await later.write(BIG)
            assert (await later.seal()).detail == sealed.detail
            assert self.uploads() == []
            assert await read(backend, sealed) == raw(BIG)

    async def test_closing_ends_the_parts_of_sinks_that_are_open(self):
        backend = await self.connect(self.job)
        sink = await self.sink(backend)
        others = asyncio.all_tasks()
        hold_back(backend, "upload_part")
        await sink.write(BIG)
        assert asyncio.all_tasks() > others
        await backend.aclose()
        assert asyncio.all_tasks() == others

    async def test_a_part_that_broke_off_is_sent_again_whole(self):
        async with breaking_off(self.server.url) as broken:
            self.url = self.url.replace(self.server.url, broken.url)
            async with self.opened() as backend:
                sealed = await self.sealed(backend, 0, BIG)
                assert broken.happened
                assert await read(backend, sealed) == raw(BIG)

    async def test_a_changed_part_is_noticed(self):
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, make_lines(5))
            self.client.put_object(Bucket="results", Key=f"{self.folder}part-00000.jsonl", Body=b"x")
            with pytest.raises(BackendError, match="changed or removed after it was sealed"):
                await read(backend, sealed)
            with pytest.raises(BackendError, match="changed or removed after it was sealed"):
                await backend.finish(self.job, [sealed])

    async def test_wrong_credentials_are_told_without_secrets(self, monkeypatch):
        for key, secret in (
            (self.server.access_key, "wrong-secret-123"),
            ("wrong-key-123", self.server.secret_key),
        ):
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            with pytest.raises(BackendError, match=r"403 .*check the credentials") as told:
                await self.connect(self.job)
            assert told.value.__suppress_context__
            for said in (str(told.value), repr(told.value)):
                assert key not in said
                assert secret not in said

    async def test_absent_credentials_and_buckets_are_told(self, monkeypatch, tmp_path):
        with pytest.raises(BackendError, match="make the bucket first"):
            await connect(self.url.replace("s3://results", "s3://absent"), self.job)
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with pytest.raises(BackendError, match="give credentials in the environment"):
            await self.connect(self.job)

    async def test_a_server_that_is_not_there_is_told(self, monkeypatch):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(BackendError, match="EndpointConnectionError"):
            await connect("s3://results/a?endpoint_url=http://127.0.0.1:9&region=us-east-1", self.job)

    @pytest.mark.parametrize(
        ("store", "why"),
        [
            (WithoutConditionalPut, r"lacks conditional writes \(If-None-Match\), which abatch needs"),
            (IgnoresConditionalPut, "ignores If-None-Match in put_object"),
            (WithoutConditionalComplete, "lacks conditional complete_multipart_upload"),
            (IgnoresConditionalComplete, "ignores If-None-Match in complete_multipart_upload"),
        ],
    )
    async def test_a_store_without_conditional_writes_is_found_out_at_the_claim(self, monkeypatch, store, why):
        replace_store(monkeypatch, store)
        with pytest.raises(BackendError, match=why) as told:
            await self.connect(self.job)
        assert "choose a" in told.value.why
        assert not told.value.passes
        assert self.names() == self.uploads() == []

    async def test_refused_checksum_headers_are_named_with_the_setting_that_helps(self, monkeypatch):
        replace_store(monkeypatch, WithoutChecksums)
        with pytest.raises(BackendError, match=r"refuses the checksum headers .* add checksums=when_required"):
            await self.connect(self.job)
        assert self.names() == []
        self.url += "&checksums=when_required"
        async with self.opened() as backend:
            sealed = [await self.sealed(backend, 0, make_lines(5)), await self.sealed(backend, 1, BIG)]
            await backend.finish(self.job, sealed)
        assert await self.stored() == raw([*make_lines(5), *BIG])

    async def test_a_message_about_a_checksum_is_named_without_repeating_it(self):
        async with self.opened() as backend:
            failed = refusal("put_object", 400, "InvalidRequest")
            failed.response["Error"]["Message"] = "The header x-amz-checksum-crc32 of AKIASECRET is not supported"
            told = s3.errors.translated(backend.url, "put_object", failed)
        assert "checksums=when_required" in told.why
        assert "AKIA" not in str(told)

    async def test_probes_are_made_once_per_claim_and_leave_nothing(self, monkeypatch):
        replace_store(monkeypatch, Real)
        Real.calls.clear()
        async with self.opened() as backend:
            assert Real.calls == [
                *("get_object", "list_objects_v2", "put_object"),
                *("put_object", "create_multipart_upload", "upload_part", "complete_multipart_upload"),
                "abort_multipart_upload",
            ]
            assert (self.names(), self.uploads()) == (["_abatch.json"], [])
            await self.sealed(backend, 0, make_lines(5))
        Real.calls.clear()
        async with self.opened():
            assert Real.calls == ["get_object", "list_objects_v2"]

    @pytest.mark.parametrize("died_at", ["put_object", "create_multipart_upload", "upload_part"])
    async def test_a_run_that_died_between_claim_and_probe_is_made_good(self, monkeypatch, died_at):
        class Killed(BaseException):
            pass

        class Dying(_Store):
            calls: ClassVar[list[str]] = []

            async def _abort_multipart_upload(self, **_):
                raise Killed

        async def die(self, **request):
            await getattr(self._client, died_at)(**request)
            raise Killed

        setattr(Dying, f"_{died_at}", die)
        with monkeypatch.context() as dying:
            replace_store(dying, Dying)
            with pytest.raises(Killed):
                await self.connect(self.job)
        with monkeypatch.context() as unfit:
            replace_store(unfit, IgnoresConditionalComplete)
            with pytest.raises(BackendError, match="ignores If-None-Match"):
                await self.connect(self.job)
        async with self.opened() as backend:
            assert self.uploads() == []
            await self.sealed(backend, 0, BIG)


class TestZstd(_S3):
    parameters = "&compression=zstd"
    suffix = ".zst"
    test_a_claim_that_was_cut_short_keeps_nobody_out = None  # as TestS3's: a claim is not compressed

    def expand(self, stored: bytes) -> bytes:
        return zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True).read()

    async def test_it_is_smaller(self):
        async with self.opened() as backend:
            sealed = await self.sealed(backend, 0, make_lines(5000))
        assert int(sealed.detail["bytes"]) * 10 < sum(map(len, raw(make_lines(5000))))

    async def test_without_the_package_the_text_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "zstandard", None)
        with pytest.raises(BackendUnavailable, match=r"pip install 'abatch\[zstd\]'"):
            await self.connect(self.job)


class Busy:
    """A server that answers 503 to everything."""

    def __getattr__(self, operation: str):
        async def instead(**_):
            raise refusal(operation, 503, "SlowDown")

        return instead


@pytest.mark.parametrize(
    ("failed", "passes"),
    [
        *((refusal("put_object", status, "X"), True) for status in (409, 429, 500, 502, 503, 504)),
        (refusal("put_object", 400, "RequestTimeout"), True),
        (refusal("upload_part", 404, "NoSuchUpload"), True),
        (refusal("put_object", 403, "AccessDenied"), False),
        (refusal("put_object", 403, "InvalidAccessKeyId"), False),
        (refusal("put_object", 404, "NoSuchBucket"), False),
        (refusal("put_object", 501, "NotImplemented"), False),
        (NoCredentialsError(), False),
        (SSLError(endpoint_url="https://x", error="certificate verify failed"), False),
        (EndpointConnectionError(endpoint_url="http://x"), True),
        (ReadTimeoutError(endpoint_url="http://x"), True),
        (ConnectionClosedError(endpoint_url="http://x"), True),
        (aiohttp.ClientPayloadError(), True),
        (TimeoutError(), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (OSError(errno.EIO, "Input/output error"), False),
    ],
)
async def test_what_may_pass_is_told_from_what_does_not(failed, passes):
    assert s3.errors.translated("s3://bucket/prefix", "put_object", failed).passes is passes


def lose_answers(backend: Backend, *operations: str) -> None:
    """Let the server do these, and lose what it says."""

    def lossy(operation):
        async def instead(**request):
            await operation(**request)
            raise ReadTimeoutError(endpoint_url="http://x")

        return instead

    _replace(backend, operations, lossy)


def refuse(backend: Backend, *operations: str) -> None:
    """Let these come to nothing."""

    def refused(_):
        async def instead(**_):
            raise ReadTimeoutError(endpoint_url="http://x")

        return instead

    _replace(backend, operations, refused)


def hold_back(backend: Backend, *operations: str) -> asyncio.Event:
    """Let these begin when the event is set."""
    arrived = asyncio.Event()

    def late(operation):
        async def instead(**request):
            await arrived.wait()
            return await operation(**request)

        return instead

    _replace(backend, operations, late)
    return arrived


class Broken:
    url = ""
    happened = False


@asynccontextmanager
async def breaking_off(upstream: str):
    """A way to the server on which the first connection that sends a megabyte breaks."""
    broken = Broken()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = urlsplit(upstream)
        from_server, to_server = await asyncio.open_connection(address.hostname, address.port)

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, most: float) -> None:
            while piece := await source.read(2**16):
                most -= len(piece)
                if most < 0 and not broken.happened:
                    broken.happened = True
                    break
                target.write(piece)
                await target.drain()
            for end in (writer, to_server):
                end.close()

        await asyncio.gather(
            carry(reader, to_server, 2**20), carry(from_server, writer, math.inf), return_exceptions=True
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        broken.url = "http://{}:{}".format(*server.sockets[0].getsockname())
        yield broken


def repeat_calls(backend: Backend, *operations: str) -> None:
    def twice(operation):
        async def instead(**request):
            await operation(**request)
            with pytest.raises(ClientError):
                await operation(**request)
            return await operation(**request)

        return instead

    _replace(backend, operations, twice)


def _replace(backend, operations, wrap) -> None:
    for name in operations:
        setattr(backend._client, name, wrap(getattr(backend._client, name)))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("s3:bucket", "names no bucket"),
        ("s3://bucket//a", "prefix"),
        ("s3://bucket/a/../b", "prefix"),
        ("s3://bucket?acl=public", "unknown parameter 'acl'"),
        ("s3://bucket?endpoint_url=ftp://x", "not an http address"),
        ("s3://bucket?endpoint_url=https:", "not an http address"),
        ("s3://bucket?compression=gzip", "unknown compression 'gzip'"),
    ],
)
async def test_other_forms_are_refused(url, why):
    with pytest.raises(ConfigError, match=why) as told:
        await s3.open_(url, BackendContract.job)
    assert s3.address.FORM in str(told.value)


def test_ten_thousand_parts_are_enough_for_the_largest_shard():
    assert s3.upload._part_size(0) == s3.upload.PART >= 5 * 2**20
    assert sum(map(s3.upload._part_size, range(10_000))) > 100_000 * 2**20


async def test_an_endpoint_with_credentials_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="must not carry credentials") as told:
        await connect("s3://bucket?endpoint_url=https://me:hidden@host", BackendContract.job)
    assert "hidden" not in str(told.value)
