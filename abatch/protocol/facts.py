"""The facts of the journal: immutable, past tense, each the whole of what is known by it.

The state of a shard or a job is the replay of its facts (`lifecycle.py`). A fact is JSON with its class name as
tag; a field may be added with a default, never removed or given another meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from abatch.protocol.clocks import Moment
from abatch.result import Failure, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Abandoned",
    "Accepted",
    "CancelWished",
    "CancelledAsParked",
    "Candidate",
    "CandidatesChanged",
    "ChangedSource",
    "Committing",
    "Counts",
    "Cut",
    "Drained",
    "DuplicateSeen",
    "Ended",
    "Fact",
    "FileSource",
    "Finished",
    "Found",
    "Headers",
    "Held",
    "InputChanged",
    "IterableSource",
    "JobFact",
    "Limited",
    "Lost",
    "LostWished",
    "Moved",
    "Planned",
    "Reappeared",
    "Rejected",
    "Reopened",
    "ResolveWished",
    "Resumed",
    "SealedRecord",
    "SelectedSource",
    "ShardFact",
    "Source",
    "SourceOfFiles",
    "Spend",
    "Split",
    "Stopped",
    "Submitted",
    "Unplanned",
    "Unreadable",
    "Vanished",
    "WishRefused",
    "Withdrawn",
    "betas_of_row",
    "decode",
    "encode",
    "takes_changed_input",
]


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A part of a fact."""


class Headers(Value, frozen=True, kw_only=True):
    """What is per batch on the wire: requests that differ in it cannot share a shard."""

    betas: tuple[str, ...] = ()
    user_profile_id: str | None = None
    workspace_id: str | None = None


class Counts(Value, frozen=True, kw_only=True):
    """Requests per outcome, as the API's `request_counts`; `other` are outcomes this version does not know."""

    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.succeeded + self.errored + self.canceled + self.expired + self.other

    def __add__(self, more: Counts) -> Counts:
        return Counts(
            succeeded=self.succeeded + more.succeeded,
            errored=self.errored + more.errored,
            canceled=self.canceled + more.canceled,
            expired=self.expired + more.expired,
            other=self.other + more.other,
        )


class Spend(Value, frozen=True, kw_only=True):
    """Tokens that one model used, apart for prompts above its price step (`long`)."""

    model: str
    long: bool = False
    usage: Usage


class Candidate(Value, frozen=True, kw_only=True):
    """A batch that may be the one an attempt in doubt made."""

    batch_id: str
    created_at: float
    """By the server's clock, in seconds since the epoch."""


class SealedRecord(Value, frozen=True, kw_only=True):
    """`abatch.backend.Sealed` as the journal keeps it."""

    part: int
    lines: int
    detail: dict[str, str | int] = {}


class FileSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests came from this file; equal size and mtime are taken as equal, else the hash decides."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    rows: int


class FilePart(Value, frozen=True, kw_only=True):
    """One of several files; equal size and mtime are taken as equal, else the hash decides."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


class FilesSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests came from these files, one behind the other."""

    files: tuple[FilePart, ...]
    rows: int
    """Of all of them."""


class SelectedSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests came from these files, but for those that another job had answered.

    It is a class of its own, which an older abatch refuses to read: it would send, and pay for, all of the requests.
    """

    files: tuple[FilePart, ...]
    rows: int
    """Requests that are sent."""
    answered_by: str
    """The key of the other job."""
    skipped: int
    """Requests that are not sent."""
    changed: int = 0
    """Requests that it answered with other params, and that are sent."""
    uncompared: int = 0
    """Requests that are not sent, though nothing is known of the params that were answered."""
    mask: bytes
    """A byte per request of the files, 1 where it is not sent; compressed by zlib."""


class ChangedSource(Value, frozen=True, tag=True, kw_only=True):
    """The input changed: what the job had not sent by then comes from these files.

    It is a class of its own, as SelectedSource is, for the same reason.
    """

    files: tuple[FilePart, ...]
    rows: int
    """Of the whole job."""
    sent: int
    """Of these: requests that were sent before the change."""
    mask: bytes
    """A byte per request of the files, 1 where it was sent before; compressed by zlib."""


class IterableSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests came from the caller; the digests of `Cut` tell whether they come again."""


SourceOfFiles: TypeAlias = FileSource | FilesSource | SelectedSource | ChangedSource
Source: TypeAlias = SourceOfFiles | IterableSource


def takes_changed_input(source: Source) -> bool:
    """Whether an unfinished job of this source may take changed files; one with `skip_answered` may not."""
    return not isinstance(source, SelectedSource | IterableSource)


def betas_of_row(common: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """All betas of a request: those of its job and its own."""
    return tuple(sorted({*common, *own})) if own else common


def files_of(source: Source) -> tuple[FilePart, ...]:
    """The files that a job's requests came from; none if they came from the caller."""
    match source:
        case FileSource(path=path, size=size, mtime_ns=mtime_ns, sha256=sha256):
            return (FilePart(path=path, size=size, mtime_ns=mtime_ns, sha256=sha256),)
        case FilesSource(files=files) | SelectedSource(files=files) | ChangedSource(files=files):
            return files
        case IterableSource():
            return ()


def source_of(files: Sequence[FilePart], rows: int) -> FileSource | FilesSource:
    """What the journal keeps of these files, which hold so many requests."""
    if len(files) > 1:
        return FilesSource(files=tuple(files), rows=rows)
    (file,) = files
    return FileSource(path=file.path, size=file.size, mtime_ns=file.mtime_ns, sha256=file.sha256, rows=rows)


class Recorded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True, gc=False):
    """A fact."""


# ---- of a shard -----------------------------------------------------------------------------------------------


class Planned(Recorded, frozen=True, kw_only=True):
    """The shard was sealed in the spool: these rows will be one batch."""

    part: int
    """Its number in the job."""
    rows: int
    body_bytes: int
    """Size of the create body on the wire."""
    spool: str
    """Name of its file in the spool."""
    params_digest: str
    ids_digest: str
    headers: Headers = Headers()
    parent: int | None = None
    """The shard whose failed rows these are (a retry), or whose rows were split."""
    trial: int = 1
    """Which try of its rows this is."""


class Committing(Recorded, frozen=True, kw_only=True):
    """All of the body but its final `]}` was sent: from here on a batch may exist."""

    attempt: int
    date: float
    """The server's `Date` just before, in seconds since the epoch."""
    fingerprint: str | None
    """Of the API key; None for credentials without a fixed key."""
    at: Moment | None = None
    """That moment on every clock; None in a journal of format 2."""
    newest: float | None = None
    """`created_at` of the newest batch that the list showed just before, 0.0 if it was empty; None in format 2."""
    ahead: float = 0.0
    """Seconds by which `Date` ran ahead of `created_at`, as far as creates before this one had shown."""


class CandidatesChanged(Recorded, frozen=True, kw_only=True):
    """A look at the list changed what is known of the batches that may be this attempt's."""

    seen: tuple[Candidate, ...] = ()
    """Batches that were shown for the first time."""
    foreign: tuple[str, ...] = ()
    """Ids of batches whose results proved that they are not this attempt's."""
    closed_at: float | None = None
    """A batch created after this moment, by the server's clock, is no candidate: the grace is over."""


class Unreadable(Recorded, frozen=True, kw_only=True):
    """The answer was a 2xx that could not be read: a batch exists, its id is not known."""

    status: int


class Accepted(Recorded, frozen=True, kw_only=True):
    """The API answered with the batch that holds the shard."""

    batch_id: str
    created_at: float
    date: float | None = None
    """`Date` of the answer; None if it had none, and in a journal of format 2."""


class Found(Recorded, frozen=True, kw_only=True):
    """The batch that holds the shard was found: by a tag in its results, or named by an operator."""

    batch_id: str
    created_at: float
    by: str
    """`tag` or `operator`."""


class CancelledAsParked(Recorded, frozen=True, kw_only=True):
    """abatch asks the API to cancel the batch because it is parked: rows that come back canceled are tried again."""

    why: str


class Withdrawn(Recorded, frozen=True, kw_only=True):
    """This attempt certainly made no batch; the shard may be sent again."""

    why: str


class Rejected(Recorded, frozen=True, kw_only=True):
    """The API refuses the shard's only request as too large (413): no attempt follows."""

    error: str
    """JSON of the API's error envelope: its request's line."""


class Vanished(Recorded, frozen=True, kw_only=True):
    """For an hour the batch was in no list, and a 404 by its id."""

    since: Moment
    """When it was first looked for in vain."""


class Reappeared(Recorded, frozen=True, kw_only=True):
    """A batch that had vanished was seen again."""


class Lost(Recorded, frozen=True, kw_only=True):
    """Whatever this attempt made, its results are given up; the rows will be missing."""

    why: str


class Ended(Recorded, frozen=True, kw_only=True):
    """The batch ended; `counts` are the API's."""

    counts: Counts


class Drained(Recorded, frozen=True, kw_only=True):
    """Every row has its line in a sealed sink, or stands in a retry shard, or is missing."""

    counts: Counts
    """Of the lines sealed here."""
    sealed: SealedRecord
    spend: tuple[Spend, ...] = ()
    retried: int = 0
    """Rows that went to the retry shard."""
    missing: int = 0
    """Rows without a line; their ids stand in the journal's `missing` folder."""
    gone: str = ""
    """Why rows are missing."""
    stops: dict[str, int] = {}
    """Of the lines sealed here that succeeded: how many stopped for each `stop_reason`. Empty in older journals."""
    failures: tuple[Failure, ...] = ()
    """Of the lines sealed here that did not, and of missing rows: what for, in few groups. Empty in older journals."""


class Reopened(Recorded, frozen=True, kw_only=True):
    """The sealed part of the shard is gone: the batch's results are to be read once more into another."""

    why: str
    listed: str = ""
    """SHA-256 of the job's list of missing requests as it was before this: the destination may hold it."""


class Split(Recorded, frozen=True, kw_only=True):
    """The body was too large (413): the rows go in two other shards."""

    into: tuple[int, ...]


class Unplanned(Recorded, frozen=True, kw_only=True):
    """The input changed before the shard was sent: its rows are planned once more, from the changed input."""


class Abandoned(Recorded, frozen=True, kw_only=True):
    """The shard will not be sent; its fallback lines are sealed."""

    why: str
    counts: Counts
    sealed: SealedRecord
    failures: tuple[Failure, ...] = ()
    """What the lines say, in few groups. Empty in older journals."""


class Held(Recorded, frozen=True, kw_only=True):
    """Only an operator can say whether this attempt made a batch."""

    reason: str


ShardFact: TypeAlias = (
    Planned
    | Committing
    | CandidatesChanged
    | Unreadable
    | Accepted
    | Found
    | CancelledAsParked
    | Withdrawn
    | Rejected
    | Vanished
    | Reappeared
    | Lost
    | Ended
    | Drained
    | Reopened
    | Split
    | Unplanned
    | Abandoned
    | Held
)

# ---- of a job -------------------------------------------------------------------------------------------------


class Submitted(Recorded, frozen=True, kw_only=True):
    """The job was handed over."""

    key: str
    to: str
    """The destination's URL, normalized; empty for a backend object."""
    source: Source
    headers: Headers = Headers()
    tries: int = 3
    limit: int | None = None
    """Only so many requests, the first ones, are sent until `Limited` says otherwise."""
    pilot: int = 0
    """So many requests, the first ones, are sent alone, and the others after their results; 0 for none."""


class Limited(Recorded, frozen=True, kw_only=True):
    """The job was handed over with another limit."""

    rows: int | None
    """Only so many requests, the first ones, are sent; None for all."""


class Cut(Recorded, frozen=True, kw_only=True):
    """All open shards were sealed together; planning goes on from here."""

    rows: int
    """Rows of the input that are planned."""
    offset: int = 0
    """For a plain file: the byte after the last of them."""
    digest: str = ""
    """For an iterable: of all rows so far, in order."""
    head: str = ""
    """For an iterable, in its first cut alone: a short digest of each of its first rows, one after the other."""
    last: bool = False
    """The input was read to its end."""


class CancelWished(Recorded, frozen=True, kw_only=True):
    """Somebody asked to cancel the job."""


class ResolveWished(Recorded, frozen=True, kw_only=True):
    """An operator's word on a shard in doubt: it is this batch, or (None) none was created."""

    shard: int
    attempt: int
    """The attempt it is about; the word does not hold for a later one."""
    batch_id: str | None = None


class LostWished(Recorded, frozen=True, kw_only=True):
    """An operator's word on a shard that waits for the API: give up whatever this attempt made.

    It is no field of `ResolveWished`, where an older abatch would read "none was created", and pay twice.
    """

    shard: int
    attempt: int
    any_key: bool = False
    """Whether the word holds for a key that may not see the batch: the one it was sent with is gone."""


class WishRefused(Recorded, frozen=True, kw_only=True):
    """An operator's word on a shard cannot be obeyed: the API says otherwise."""

    shard: int


class DuplicateSeen(Recorded, frozen=True, kw_only=True):
    """A batch with a tag of ours was paid for besides the one that counts: a bound of the protocol was broken."""

    shard: int
    attempt: int
    batch_id: str


class Stopped(Recorded, frozen=True, kw_only=True):
    """The job submits nothing more until it is handed over again; a later one while it is stopped says more of why."""

    reason: str
    remedy: str
    failing: bool = False
    """Its first results failed: to hand it over again is not enough, `Config.failing` has to be `go-on`."""


class Resumed(Recorded, frozen=True, kw_only=True):
    """The job was handed over again after a stop."""


class InputChanged(Recorded, frozen=True, kw_only=True):
    """The job goes on with a changed input; planning begins behind the rows that were sent before."""

    source: ChangedSource


class Moved(Recorded, frozen=True, kw_only=True):
    """The job's destination is another one now; what was sealed before is sealed there, too."""

    to: str
    """The new destination's URL, normalized."""
    sealed: dict[int, SealedRecord] = {}
    """Per shard that was sealed at the old destination: its results at the new one."""


class Finished(Recorded, frozen=True, kw_only=True):
    """All shards are sealed and the destination is complete."""

    location: str


JobFact: TypeAlias = (
    Submitted
    | Limited
    | Cut
    | CancelWished
    | ResolveWished
    | LostWished
    | WishRefused
    | DuplicateSeen
    | Stopped
    | Resumed
    | InputChanged
    | Moved
    | Finished
)
Fact: TypeAlias = ShardFact | JobFact

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Fact).decode
