"""Keep the sandbox's facts on disk, so that they survive its process.

A fact is one record, which one `write` stores before the answer is sent: four bytes of length, four of CRC-32, then
msgpack. Only the last record can be torn by a crash; it is cut off when the log is read.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from datetime import datetime
from typing import TYPE_CHECKING, Self

import msgspec

from abatch.errors import ConfigError
from abatch.sandbox.answers import Requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Aborted", "Accepted", "CancelRequested", "Deleted", "Fact", "ForeignAdded", "Log"]


class Accepted(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A batch was created."""

    at: datetime
    batch_id: str
    workspace: str
    requests: Requests
    created_at: datetime
    latency: float
    seed: int
    parked: float = 0.0
    deleted_after: float | None = None


class ForeignAdded(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Another user created a batch."""

    at: datetime
    batch_id: str
    workspace: str
    n_requests: int
    created_at: datetime
    latency: float
    seed: int


class CancelRequested(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The cancellation of a batch was requested."""

    at: datetime
    batch_id: str
    latency: float


class Deleted(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A batch was deleted."""

    at: datetime
    batch_id: str


class Aborted(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A create ended before its body was complete."""

    at: datetime
    received: int


Fact = Accepted | ForeignAdded | CancelRequested | Deleted | Aborted

HEAD = struct.Struct("<II")


class Log:
    """The append-only log of one state directory, held by one process at a time."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / "accepted.log"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise ConfigError(
                f"{directory} is held by another sandbox; stop it or give this one another directory"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def facts(self) -> Iterator[Fact]:
        """Yield every fact from the first; then cut off a record that a crash tore."""
        read = msgspec.msgpack.Decoder[Fact](Fact).decode
        whole = 0
        with self._path.open("rb") as log:
            while len(head := log.read(HEAD.size)) == HEAD.size:
                length, checksum = HEAD.unpack(head)
                record = log.read(length)
                if len(record) != length or zlib.crc32(record) != checksum:
                    break
                whole += HEAD.size + length
                yield read(record)
        os.ftruncate(self._file, whole)

    def append(self, fact: Fact) -> None:
        """Write one fact, which then survives the process."""
        record = msgspec.msgpack.encode(fact)
        framed = HEAD.pack(len(record), zlib.crc32(record)) + record
        written = os.write(self._file, framed)
        if written != len(framed):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(f"{self._path}: the disk took only a part of a record")
