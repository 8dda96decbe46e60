"""Translate failures of S3 into BackendError: the text, the remedy, and whether the failure may pass."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
from botocore.exceptions import ConnectionError as NoConnection

from abatch.errors import BackendError, TooManyOpenFiles
from abatch.storage import is_out_of_files, may_pass
from abatch_backends.s3.address import WHEN_REQUIRED

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FAILURES", "REFUSALS", "REFUSES_CHECKSUMS", "S3Error", "is_condition", "translated"]

FAILURES: Final = (ClientError, BotoCoreError, aiohttp.ClientError, OSError)
PASSING: Final = frozenset(
    {
        *("408", "409", "429", "500", "502", "503", "504", "509"),
        *("BandwidthLimitExceeded", "InternalError", "OperationAborted", "RequestLimitExceeded", "RequestTimeout"),
        *("ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"),
        "NoSuchUpload",  # the upload was aborted elsewhere: the shard is drained again into a new one
    }
)
"""Statuses and codes of S3 that may pass by themselves."""
HINTS: Final = {
    "403": "check the credentials, and that they may get, put and list objects, list and abort uploads",
    "409": "another writer changed it at the same time; try again",
    "NoCredentialsError": "give credentials in the environment or in ~/.aws",
    "NoSuchBucket": "make the bucket first",
    "NoSuchUpload": "the upload is gone; drain the batch again",
    "NotImplemented": "this store lacks conditional writes (If-None-Match), which abatch needs; choose another "
    "destination, or take a job that has begun there with `abatch move JOB --to DEST`",
}
REFUSES_CHECKSUMS: Final = (
    "this store refuses the checksum headers of the AWS libraries (x-amz-checksum-…, x-amz-sdk-checksum-algorithm); "
    f"add checksums={WHEN_REQUIRED} to the parameters of the destination's URL"
)
REFUSALS: Final = frozenset({400, 411, 501})
"""Statuses with which a store refuses a header that it does not know."""


class S3Error(BackendError):
    """S3 refused a call or did not answer it; without an answer `status` is None."""

    def __init__(self, url: str, why: str, status: int | None, *, code: str, passes: bool) -> None:
        super().__init__(url, why, passes=passes)
        self.status = status
        self.code = code


def translated(url: str, operation: str, failed: Exception) -> BackendError:
    """Translate a failure. S3's answer is left out of the text, because it names key ids and signatures."""
    if _is_out_of_files(failed):
        return TooManyOpenFiles(url)
    answer: Mapping[str, Any] = getattr(failed, "response", None) or {}
    status: int | None = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = f"{status} {answer['Error']['Code']}" if status else type(failed).__name__
    hints = {hint for name, hint in HINTS.items() if name in code.split()}
    if status in REFUSALS and "checksum" in str(answer["Error"].get("Message", "")).lower():
        hints = {REFUSES_CHECKSUMS}
    passes = not PASSING.isdisjoint(code.split()) if status else _passes(failed)
    why = "; ".join([f"{operation} failed with {code}", *sorted(hints)])
    return S3Error(url, why, status, code=code, passes=passes)


def _is_out_of_files(failed: BaseException | None) -> bool:
    """Return whether a failure, or its cause, is that no descriptor was left for a connection."""
    while failed is not None:
        if isinstance(failed, OSError) and is_out_of_files(failed):
            return True
        failed = failed.__cause__ or failed.__context__
    return False


def is_condition(refused: S3Error) -> bool:
    """Return whether a store refused a write because of its condition: 412, or 409 during another write."""
    return refused.status in {409, 412}


def _passes(failed: Exception) -> bool:
    """Return whether the failure of a call that S3 did not answer may pass by itself."""
    match failed:
        case SSLError():
            return False
        case NoConnection() | HTTPClientError() | aiohttp.ClientError() | TimeoutError() | socket.gaierror():
            return True
        case OSError():
            return may_pass(failed)
        case _:
            return False
