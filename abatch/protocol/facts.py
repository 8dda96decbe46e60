"""The facts of the journal: immutable, in the past tense, and each complete in itself.

The state of a shard or a job is the replay of its facts (`lifecycle.py`). A fact is stored as JSON with its class name
as the tag. A field may be added with a default; no field may be removed or given another meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never

import msgspec

from abatch.protocol.clocks import Moment
from abatch.protocol.terms import Terms
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
    "Closed",
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
    "OpenSource",
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
    """The headers that apply to a whole batch: requests with different headers cannot share a shard."""

    betas: tuple[str, ...] = ()
    user_profile_id: str | None = None
    workspace_id: str | None = None


class Counts(Value, frozen=True, kw_only=True):
    """Requests per outcome, as in the API's `request_counts`; `other` counts outcomes unknown to this version."""

    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """The number of all requests."""
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
    """Tokens that one model used; prompts above its price step are counted separately (`long`)."""

    model: str
    long: bool = False
    usage: Usage


class Candidate(Value, frozen=True, kw_only=True):
    """A batch that may be the one an attempt in doubt made."""

    batch_id: str
    created_at: float
    """By the server's clock, in seconds since the epoch; 0 if its entry in the list does not hold it."""
    sized: bool = True
    """Whether its size is known to be that of the attempt; else its entry in the list could not be read."""


class SealedRecord(Value, frozen=True, kw_only=True):
    """The form of `abatch.backend.Sealed` that the journal keeps."""

    part: int
    lines: int
    detail: dict[str, str | int] = {}


class FileSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests came from this file. Equal size and mtime count as the same file; else the hash decides."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    rows: int


class FilePart(Value, frozen=True, kw_only=True):
    """One of several files. Equal size and mtime count as the same file; otherwise the hash decides."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


class FilesSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests came from these files, in this order."""

    files: tuple[FilePart, ...]
    rows: int
    """The number of requests in all files."""


class SelectedSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests came from these files, except for those that another job had answered.

    This is a separate class so that an older abatch refuses to read it. It would send, and pay for, all the requests.
    """

    files: tuple[FilePart, ...]
    rows: int
    """The number of requests that are sent."""
    answered_by: str
    """The key of the other job."""
    skipped: int
    """The number of requests that are not sent."""
    changed: int = 0
    """The number of requests that the other job answered with other params, and that are sent."""
    uncompared: int = 0
    """The number of requests that are not sent although the params that were answered are not known."""
    mask: bytes
    """One byte for each request of the files, 1 if it is not sent; compressed by zlib."""


class ChangedSource(Value, frozen=True, tag=True, kw_only=True):
    """The input changed: the requests that the job had not sent by then come from these files.

    This is a separate class for the same reason as SelectedSource.
    """

    files: tuple[FilePart, ...]
    rows: int
    """The number of requests of the whole job."""
    sent: int
    """The number of these requests that were sent before the change."""
    mask: bytes
    """One byte for each request of the files, 1 if it was sent before; compressed by zlib."""


class IterableSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests came from the caller; the digests of `Cut` show whether the caller passes the same again."""


class OpenSource(Value, frozen=True, tag=True, kw_only=True):
    """The job's requests come one by one into the inbox of the journal, until it is closed."""

    linger: float
    """Seconds for which a request may wait for others before it is sent in a batch that is not full."""


SourceOfFiles: TypeAlias = FileSource | FilesSource | SelectedSource | ChangedSource
Source: TypeAlias = SourceOfFiles | IterableSource | OpenSource


def takes_changed_input(source: Source) -> bool:
    """Return whether an unfinished job of this source may take changed files; one with `skip_answered` may not."""
    return not isinstance(source, SelectedSource | IterableSource | OpenSource)


def betas_of_row(common: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """Return all betas of a request: those of its job and its own."""
    return tuple(sorted({*common, *own})) if own else common


def files_of(source: Source) -> tuple[FilePart, ...]:
    """Return the files that a job's requests came from; none if they came from the caller."""
    match source:
        case FileSource(path=path, size=size, mtime_ns=mtime_ns, sha256=sha256):
            return (FilePart(path=path, size=size, mtime_ns=mtime_ns, sha256=sha256),)
        case FilesSource(files=files) | SelectedSource(files=files) | ChangedSource(files=files):
            return files
        case IterableSource() | OpenSource():
            return ()
        case _:
            assert_never(source)


def source_of(files: Sequence[FilePart], rows: int) -> FileSource | FilesSource:
    """Make the source that the journal records for these files, which hold `rows` requests."""
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
    """The number of the shard in its job."""
    rows: int
    body_bytes: int
    """The size of the create body on the wire."""
    spool: str
    """The name of the shard's file in the spool."""
    params_digest: str
    ids_digest: str
    headers: Headers = Headers()
    parent: int | None = None
    """The shard that these rows come from: a retry of its failed rows, or a split."""
    trial: int = 1
    """The number of this try of the rows, from 1."""


class Committing(Recorded, frozen=True, kw_only=True):
    """All of the body except its final `]}` was sent: from here on a batch may exist."""

    attempt: int
    date: float
    """The server's `Date` just before this fact, in seconds since the epoch."""
    fingerprint: str | None
    """The fingerprint of the API key; None for credentials without a fixed key."""
    at: Moment | None = None
    """The moment of `date` on every clock; None in a journal of format 2."""
    newest: float | None = None
    """`created_at` of the newest batch that the list showed just before, 0.0 if it was empty; None in format 2."""
    ahead: float = 0.0
    """Seconds by which `Date` ran ahead of `created_at`, as far as earlier creates had shown."""


class CandidatesChanged(Recorded, frozen=True, kw_only=True):
    """A look at the list changed what is known about the batches that may be this attempt's."""

    seen: tuple[Candidate, ...] = ()
    """Batches that were shown for the first time."""
    foreign: tuple[str, ...] = ()
    """Ids of batches that were proven not to be this attempt's: by their results, or by a size that was not known."""
    closed_at: float | None = None
    """A batch created after this moment, by the server's clock, is not a candidate, because the grace is over."""


class Unreadable(Recorded, frozen=True, kw_only=True):
    """The answer was a 2xx that could not be read: a batch exists, but its id is not known."""

    status: int


class Accepted(Recorded, frozen=True, kw_only=True):
    """The API answered with the batch that holds the shard."""

    batch_id: str
    created_at: float
    date: float | None = None
    """The `Date` of the answer; None if it had none, and in a journal of format 2."""


class Found(Recorded, frozen=True, kw_only=True):
    """The batch that holds the shard was found by a tag in its results, or named by an operator."""

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
    rule: str = ""
    """The row of table A or B that decided, for instance `A6`. Empty in older journals."""


class Rejected(Recorded, frozen=True, kw_only=True):
    """The API refuses the shard's only request as too large (413): no attempt follows."""

    error: str
    """The API's error envelope as JSON: the result line of the request."""


class Vanished(Recorded, frozen=True, kw_only=True):
    """For an hour no list showed the batch, and its id returned 404."""

    since: Moment
    """The moment of the first look that did not find the batch."""


class Reappeared(Recorded, frozen=True, kw_only=True):
    """A batch that had vanished was seen again."""


class Lost(Recorded, frozen=True, kw_only=True):
    """The results of this attempt are given up, whether it made a batch or not; its rows will be missing."""

    why: str


class Ended(Recorded, frozen=True, kw_only=True):
    """The batch ended; `counts` are the API's."""

    counts: Counts


class Drained(Recorded, frozen=True, kw_only=True):
    """Every row has its line in a sealed sink, or is in a retry shard, or is missing."""

    counts: Counts
    """The outcomes of the lines sealed here."""
    sealed: SealedRecord
    spend: tuple[Spend, ...] = ()
    retried: int = 0
    """The number of rows that went to the retry shard."""
    missing: int = 0
    """The number of rows without a line; the journal's `missing` folder lists their ids."""
    gone: str = ""
    """Why rows are missing."""
    stops: dict[str, int] = {}
    """Per `stop_reason`, the number of lines sealed here that succeeded with it. Empty in older journals."""
    failures: tuple[Failure, ...] = ()
    """Why the other lines sealed here failed and why rows are missing, in few groups. Empty in older journals."""


class Reopened(Recorded, frozen=True, kw_only=True):
    """The sealed part of the shard is gone: the batch's results have to be read once more into another part."""

    why: str
    listed: str = ""
    """SHA-256 of the job's list of missing requests before this fact, because the destination may hold that list."""


class Split(Recorded, frozen=True, kw_only=True):
    """The body was too large (413): the rows are sent in two other shards."""

    into: tuple[int, ...]


class Unplanned(Recorded, frozen=True, kw_only=True):
    """The input changed before the shard was sent: its rows are planned once more from the changed input."""


class Abandoned(Recorded, frozen=True, kw_only=True):
    """The shard will not be sent; its fallback lines are sealed."""

    why: str
    counts: Counts
    sealed: SealedRecord
    failures: tuple[Failure, ...] = ()
    """The failures that the lines report, in few groups. Empty in older journals."""


class Held(Recorded, frozen=True, kw_only=True):
    """Only an operator can decide whether this attempt made a batch."""

    reason: str
    rule: str = ""
    """The row of table B that decided; empty if the results of its batch were not ours, and in older journals."""


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
    """The job was submitted."""

    key: str
    to: str
    """The destination's URL, normalized; empty for a backend object."""
    source: Source
    headers: Headers = Headers()
    tries: int = 3
    limit: int | None = None
    """Only this many requests, the first ones, are sent until a `Limited` changes it; None for all."""
    pilot: int = 0
    """This many requests, the first ones, are sent alone, and the others after their results; 0 for no pilot."""
    terms: Terms | None = None
    """The choices of a process that does not drive the journal; None if the driver itself submitted the job."""


class Limited(Recorded, frozen=True, kw_only=True):
    """The job was submitted again with another limit."""

    rows: int | None
    """Only this many requests, the first ones, are sent; None for all."""


class Cut(Recorded, frozen=True, kw_only=True):
    """All open shards were sealed together; planning resumes from here."""

    rows: int
    """The number of rows of the input that are planned."""
    offset: int = 0
    """For a plain file: the position of the byte after the last planned row."""
    digest: str = ""
    """For an iterable: the digest of all rows so far, in order."""
    head: str = ""
    """For an iterable, in its first cut only: a short digest of each of its first rows, one after the other."""
    last: bool = False
    """Whether the input was read to its end."""


class Closed(Recorded, frozen=True, kw_only=True):
    """The open job takes no further requests; those in its inbox are its last ones."""


class CancelWished(Recorded, frozen=True, kw_only=True):
    """The cancellation of the job was requested."""


class ResolveWished(Recorded, frozen=True, kw_only=True):
    """An operator decided a shard in doubt: its batch is this one, or (None) none was created."""

    shard: int
    attempt: int
    """The attempt that was decided; the decision does not hold for a later attempt."""
    batch_id: str | None = None


class LostWished(Recorded, frozen=True, kw_only=True):
    """An operator gave up a shard that waits for the API, whether this attempt made a batch or not.

    This is not a field of `ResolveWished`, because an older abatch would read it as "none was created" and pay twice.
    """

    shard: int
    attempt: int
    any_key: bool = False
    """Whether the decision holds for a key that may not see the batch, because the key that sent it is gone."""


class WishRefused(Recorded, frozen=True, kw_only=True):
    """An operator's decision about a shard was refused: the API contradicts it, or settled the attempt before."""

    shard: int


class DuplicateSeen(Recorded, frozen=True, kw_only=True):
    """A batch with our tag was paid for in addition to the one that counts: a bound of the protocol was broken."""

    shard: int
    attempt: int
    batch_id: str


class Stopped(Recorded, frozen=True, kw_only=True):
    """The job sends nothing until it is submitted again; a second `Stopped` replaces the first with more detail."""

    reason: str
    remedy: str
    failing: bool = False
    """Whether its first results failed: then submitting it again is not enough; `Config.failing` must be `go-on`."""


class Resumed(Recorded, frozen=True, kw_only=True):
    """The job was submitted again: by its driver after a stop, or by a process that does not drive the journal."""

    terms: Terms | None = None
    """As for `Submitted`; they replace the earlier ones. None keeps them."""


class InputChanged(Recorded, frozen=True, kw_only=True):
    """The job continues with a changed input; planning resumes after the rows that were sent before."""

    source: ChangedSource


class Moved(Recorded, frozen=True, kw_only=True):
    """The job has another destination now; the results that were sealed before are sealed there, too."""

    to: str
    """The new destination's URL, normalized."""
    sealed: dict[int, SealedRecord] = {}
    """For each shard that was sealed at the old destination: its sealed results at the new one."""


class Finished(Recorded, frozen=True, kw_only=True):
    """All shards are sealed and the destination is complete."""

    location: str


JobFact: TypeAlias = (
    Submitted
    | Limited
    | Cut
    | Closed
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
