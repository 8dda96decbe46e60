"""Where results go: the two protocols that a storage medium implements, and their look-up by URL.

A *backend* is a place, claimed by one job; a *sink* is the open writer of one shard's results into it. abatch
makes these calls in this order. It may die between any two of them, and then it begins again with `open_`:

    backend = await open_(url, job)          claim the place, or BackendError before anything is sent
      sink = await backend.open(shard)       … or the Sealed of this shard from an earlier run
        await sink.write(lines)              any number of times, about 512 KiB at most, or one longer line
        sealed = await sink.seal()           every line is durable; the journal records `sealed`
      location = await backend.finish(job, sealed)   all shards are sealed: assemble, mark complete
    await backend.aclose()

A backend promises: lines become visible no later than the seal; a visible line never changes; each line is written
once, however often the steps above are repeated; memory is bounded by the lines of one `write`.
A step that fails raises BackendError. `passes=True` marks a temporary failure: then the shard is drained again into a
new sink of the same backend, or `open_` or `finish` is called again, until the job's patience is over. Any other
failure ends the job.
`abatch.testing.contract` tests all of this.

A third party's backend registers an entry point in the group `abatch.backends`: the scheme's name, and a function
`async def open_(url: str, job: JobRef, /) -> Backend`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import urlsplit

from abatch.errors import AbatchError, BackendError, BackendNotFound, BackendUnavailable, ConfigError
from abatch.system.paths import LOCAL, is_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from abatch.result import Line

__all__ = [
    "Backend",
    "BackendFactory",
    "Checked",
    "JobRef",
    "Lookup",
    "Places",
    "Sealed",
    "ShardRef",
    "Sink",
    "connect",
    "normalize",
]

GROUP = "abatch.backends"
FORMS = (
    "results.jsonl",
    "results/",
    "results.db",
    "jsonl:///relative.jsonl",
    "jsonl:////absolute.jsonl",
    "sqlite:///results.db",
    "s3://bucket/prefix?endpoint_url=…&region=…&compression=zstd",
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRef:
    """The job that a backend serves. `(lineage, key)` is its identity: the same pair is the same job, run again."""

    key: str
    """Matches `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`, so it is safe in names and paths."""
    lineage: str
    """16 hex digits that name the journal; a job with the same key in another journal is another job."""
    finished: bool = False
    """Whether the journal records that this job is finished: the destination is ours, and is opened only to read."""
    missing: tuple[Path, ...] = ()
    """For `finish`: files of JSON lines `{"custom_id", "reason"}`, the requests that have no result; often none."""
    listed: tuple[str, ...] = ()
    """For `finish`: the SHA-256 of each such list, put together, that an earlier `finish` of this job may have left: a
    file with that digest is the job's own, and is replaced."""
    reopened: bool = False
    """Whether the job was finished before, and its destination is claimed once more to read lost parts again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRef:
    """The shard that a sink serves."""

    job: JobRef
    shard: int
    """The shard's number, unique in its journal."""
    part: int
    """The shard's number in its job, from 0; for names like `part-00000`. Gaps are possible."""
    rows: int
    """The most lines to expect."""
    batch_id: str | None
    """The batch that the lines come from; None for a shard that ended without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A shard's durable results: the record that the journal keeps, and that `read` and `finish` receive."""

    part: int
    lines: int
    detail: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    """The values that the backend needs to find and check the lines again. Small; the journal keeps it as JSON."""


class Sink(Protocol):
    """The open writer of one shard's results."""

    async def write(self, lines: Sequence[Line], /) -> None:
        """Write these lines, in this order. A slow return is back-pressure; raise BackendError on failure.

        A job passes an `abatch.storage.Block`, a sequence that holds the bytes of its lines and makes a `Line` on
        access: about 512 KiB, or one longer line, or nothing. Tests may pass a list. The functions `joined`,
        `in_pieces` and `weight_of` of `abatch.storage` accept both. After a failure only `discard` is called.
        """
        ...

    async def seal(self) -> Sealed:
        """Make every line durable and visible. After a crash `Backend.open` returns the same Sealed."""
        ...

    async def discard(self) -> None:
        """Free what is held and drop lines that are not yet visible. Called instead of `seal`, or after it failed."""
        ...


@runtime_checkable
class Places(Protocol):
    """An optional method of a backend: the name of a part, for messages that refer people to it."""

    def place_of(self, sealed: Sealed, /) -> str:
        """Name the part as its owner finds it: a path, an object, a table's rows."""
        ...


@runtime_checkable
class Lookup(Protocol):
    """An optional method of a backend: single results by custom_id, for `OpenJob.result`."""

    async def find(self, custom_ids: Sequence[str], /) -> Mapping[str, bytes]:
        """Return the lines of those of these requests that sealed shards of the job hold, as they were written.

        It takes a time that does not grow with the number of results; a call names at most a thousand requests.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """A place for the results of one job."""

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        """Open a writer for the shard, or return its Sealed if a run sealed it and died before that was recorded.

        Remove what a dead run left unsealed, or keep it where its lines are already visible.
        """
        ...

    def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        """Yield every line of a sealed shard as it was written, without newline; before and after `finish`."""
        ...

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        """Assemble and mark complete, in the order given; return the location for people.

        It is repeatable: a second call with the same arguments, also by a later process, changes nothing. After a
        crash at any point inside, it is called with the same arguments. Once the journal has the location, it is
        called with `job.finished` set: until then keep everything that proves that the destination is this job's.
        """
        ...

    async def aclose(self) -> None:
        """Free connections and descriptors, also of sinks still open. Nothing that was sealed depends on it."""
        ...


class BackendFactory(Protocol):
    """The object that an entry point of the group `abatch.backends` names."""

    async def __call__(self, url: str, job: JobRef, /) -> Backend:
        """Claim the destination for this job, or raise BackendError if it is another's or exists and is not ours."""
        ...


@runtime_checkable
class Checked(Protocol):
    """An optional method of a backend's factory: a check of the destination for `abatch run --dry-run`."""

    async def check(self, url: str, /) -> None:
        """Check whether a job can begin there, and write nothing; raise BackendError if it cannot."""
        ...


def normalize(destination: str, /) -> str:
    """Return the URL of a destination, with its scheme.

    `results.jsonl` becomes `jsonl:///results.jsonl`; a name with a trailing slash, or of an existing folder, is a
    folder of JSONL parts; `.db`, `.sqlite` and `.sqlite3` are SQLite. Three slashes begin a relative path, four an
    absolute one.

    Raises:
        BackendNotFound: it has none of the forms, or names no file.
        ConfigError: it contains credentials.

    """
    if not destination.strip("/") or "\0" in destination:
        raise BackendNotFound(destination, _forms())
    if not is_text(destination):
        raise ConfigError(f"destination {destination!r} is not UTF-8; choose another name")
    if _SCHEME.match(destination):
        try:
            parts = urlsplit(destination)
        except ValueError:
            raise BackendNotFound(destination, _forms()) from None
        if "@" in parts.netloc:
            raise ConfigError(
                f"a destination must not carry credentials ({parts.scheme}://…@…); "
                "give them in the environment or in the storage's own configuration file"
            )
        named = destination.partition(":///")[2].partition("?")[0].strip("/")
        if parts.scheme not in _registered() or (parts.scheme in LOCAL and not named):
            raise BackendNotFound(destination, _forms())
        return parts.scheme + destination[len(parts.scheme) :]
    if "?" in destination:
        raise ConfigError(f"destination {destination!r} holds a '?', where a URL's parameters begin; choose another")
    path = Path(destination)
    if destination.endswith("/") or os.path.isdir(destination):  # noqa: PTH112 - Path.is_dir raises on long names
        return f"jsonl:///{destination.rstrip('/')}/"
    if (suffix := _BY_SUFFIX.get(path.suffix)) is None:
        raise BackendNotFound(destination, _forms())
    return f"{suffix}:///{destination}"


async def connect(url: str, job: JobRef, /) -> Backend:
    """Claim the destination `url`, as `normalize` made it, for `job`.

    Raises:
        BackendNotFound, BackendUnavailable, ConfigError: as `load`.
        BackendError: the destination is another job's, or exists and is not ours.

    """
    factory = load(url)
    try:
        return await factory(url, job)
    except AbatchError:
        raise
    except Exception as failure:
        if (wrapped := failed_elsewhere(url, failure)) is None:
            raise
        raise wrapped from failure


def load(url: str, /) -> BackendFactory:
    """Import the backend of a URL as `normalize` made it; nothing is opened.

    Raises:
        BackendNotFound: no entry point has this scheme.
        BackendUnavailable: packages of one of our own backends are not installed; the text names the `pip install`.
        ConfigError: another package's backend cannot be loaded.

    """
    scheme = url.partition(":")[0]
    entry = _registered().get(scheme)
    if entry is None:
        raise BackendNotFound(url, _forms())
    try:
        factory: BackendFactory = entry.load()
    except Exception as failure:
        if package := _other_package(entry):
            raise ConfigError(f"the backend of {scheme}: cannot be loaded from {package}: {failure}") from failure
        if isinstance(failure, ModuleNotFoundError):
            raise BackendUnavailable(f"{scheme}:", scheme) from failure
        raise
    return factory


def failed_elsewhere(url: str, failure: Exception, /) -> BackendError | None:
    """An exception of a third-party backend, wrapped as BackendError; None if the backend is one of ours."""
    entry = _registered().get(url.partition(":")[0])
    package = None if entry is None else _other_package(entry)
    if package is None or isinstance(failure, AbatchError):
        return None
    return BackendError(url, f"the backend from {package} failed with {type(failure).__name__}: {failure}")


def _forms() -> tuple[str, ...]:
    """List the forms of a destination: our own, and the schemes of other packages."""
    others = (name for name, entry in _registered().items() if _other_package(entry) is not None)
    return (*FORMS, *(f"{name}:…" for name in sorted(others)))


def _other_package(entry: EntryPoint) -> str | None:
    """Return the package that an entry point comes from, if it is not ours."""
    return None if entry.dist is None or entry.dist.name == "abatch" else entry.dist.name


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
