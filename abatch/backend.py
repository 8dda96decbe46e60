"""Where results go: the two protocols a storage medium implements, and the look-up of one by URL.

A *backend* is a place, claimed by one job; a *sink* is the open writer of one shard's results into it. abatch
calls them in this order, and may die between any two calls and begin again with `open`:

    backend = await open_(url, job)          claim the place, or BackendError before anything is sent
      sink = await backend.open(shard)       … or the Sealed that an earlier run of this shard came to
        await sink.write(lines)              any number of times, about 512 KiB at most, or one longer line
        sealed = await sink.seal()           every line is durable; the journal records `sealed`
      location = await backend.finish(job, sealed)   all shards are sealed: assemble, mark complete
    await backend.aclose()

What a backend promises: lines become visible no later than the seal; a visible line never changes; each line
stands once, however often the steps above were repeated; memory stays bounded by what one `write` is given.
A step that fails raises BackendError. With `passes=True` it says that the failure may end without anybody's help: the
shard is drained again into a new sink of the same backend, `open_` and `finish` are called again, until the job's
patience is over. Any other failure ends the job.
`abatch.testing.contract` checks all of it.

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
    """The job a backend serves. `(lineage, key)` is its identity: the same pair is the same job, run again."""

    key: str
    """Matches `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`, so it may stand in names and paths."""
    lineage: str
    """16 hex digits that name the journal; another journal's job of the same key is another job."""
    finished: bool = False
    """This job's `finish` was durable before: the destination is ours, and is opened only to read."""
    missing: tuple[Path, ...] = ()
    """For `finish`: files of JSON lines `{"custom_id", "reason"}`, the requests that have no result; often none."""
    listed: tuple[str, ...] = ()
    """For `finish`: the SHA-256 of each such list, put together, that an earlier `finish` of this job may have left: a
    file with that digest is the job's own, and is replaced."""
    reopened: bool = False
    """This job's `finish` was durable before, and the destination is claimed once more, to read lost parts again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRef:
    """The shard a sink serves."""

    job: JobRef
    shard: int
    """The shard's number, unique in its journal."""
    part: int
    """The shard's number in its job, from 0; for names like `part-00000`. Gaps are possible."""
    rows: int
    """Lines to expect at most."""
    batch_id: str | None
    """The batch the lines come from; None for a shard that died without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A shard's durable results: what the journal keeps of them, and what `read` and `finish` are given back."""

    part: int
    lines: int
    detail: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    """The backend's own: whatever it needs to find and check the lines again. Small; it is kept as JSON."""


class Sink(Protocol):
    """The open writer of one shard's results."""

    async def write(self, lines: Sequence[Line], /) -> None:
        """Take these lines, in this order. Returning late is back-pressure; raise BackendError on failure.

        A job passes an `abatch.storage.Block`, a sequence that holds the bytes of its lines and makes a `Line` when one
        is looked at: about 512 KiB, or one longer line, or nothing. Tests may pass a list. The functions `joined`,
        `in_pieces` and `weight_of` of `abatch.storage` take either. After a failure only `discard` is called.
        """
        ...

    async def seal(self) -> Sealed:
        """Make every line durable and visible. After a crash `Backend.open` gives the same Sealed."""
        ...

    async def discard(self) -> None:
        """Give up: free what is held; lines not yet visible are dropped. Instead of `seal`, or after it failed."""
        ...


@runtime_checkable
class Places(Protocol):
    """What a backend may have besides: the name of a part, for texts that send people to it."""

    def place_of(self, sealed: Sealed, /) -> str:
        """The part as its owner finds it: a path, an object, a table's rows."""
        ...


@runtime_checkable
class Backend(Protocol):
    """A place for the results of one job."""

    async def open(self, shard: ShardRef, /) -> Sink | Sealed:
        """Open a writer for the shard, or say how it was sealed by a run that died before it could tell.

        What a run that died left unsealed is cleared away, or kept where its lines are visible already.
        """
        ...

    def read(self, sealed: Sealed, /) -> AsyncIterator[bytes]:
        """Every line of a sealed shard as it was written, without newline; before and after `finish`."""
        ...

    async def finish(self, job: JobRef, sealed: Sequence[Sealed], /) -> str:
        """Assemble and mark complete, in the order given; return the location for people.

        Repeatable: called again with the same arguments, also by a later process, it changes nothing. A crash
        at any point inside is followed by a call with the same arguments. Once the location is on record it is
        called with `job.finished` set: until then keep whatever proves that the destination is this job's.
        """
        ...

    async def aclose(self) -> None:
        """Free connections and descriptors, also of sinks still open. Nothing that was sealed depends on it."""
        ...


class BackendFactory(Protocol):
    """The object behind an entry point of the group `abatch.backends`."""

    async def __call__(self, url: str, job: JobRef, /) -> Backend:
        """Claim the destination for this job, or raise BackendError if it is another's or exists and is not ours."""
        ...


@runtime_checkable
class Checked(Protocol):
    """What a backend's factory may have besides: a look at the destination for `abatch run --dry-run`."""

    async def check(self, url: str, /) -> None:
        """Look whether a job can begin there, and write nothing; raise BackendError if it cannot."""
        ...


def normalize(destination: str, /) -> str:
    """The URL that a destination stands for, with its scheme.

    `results.jsonl` becomes `jsonl:///results.jsonl`; a name with a trailing slash, or of an existing folder, is a
    folder of JSONL parts; `.db`, `.sqlite` and `.sqlite3` are SQLite. Three slashes begin a relative path, four an
    absolute one.

    Raises:
        BackendNotFound: it is none of the forms, or names no file.
        ConfigError: it carries credentials.

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
        if (told := failed_elsewhere(url, failure)) is None:
            raise
        raise told from failure


def load(url: str, /) -> BackendFactory:
    """The backend of a URL as `normalize` made it, imported; nothing is opened.

    Raises:
        BackendNotFound: no entry point of this scheme.
        BackendUnavailable: packages that one of our own stands on are not installed; the text names the `pip install`.
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
    """What a destination may look like: our own forms, and the schemes that other packages brought."""
    others = (name for name, entry in _registered().items() if _other_package(entry) is not None)
    return (*FORMS, *(f"{name}:…" for name in sorted(others)))


def _other_package(entry: EntryPoint) -> str | None:
    """The package that an entry point comes from, if that is not ours."""
    return None if entry.dist is None or entry.dist.name == "abatch" else entry.dist.name


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
