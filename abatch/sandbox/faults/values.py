"""Faults as values: each is one failure of a call. All faults of one call take effect."""

from __future__ import annotations

from typing import Literal

import msgspec

from abatch.errors import ConfigError

__all__ = [
    "AnyFault",
    "Archived",
    "BlankLine",
    "ConflictingLine",
    "CountsLag",
    "Crlf",
    "CutAtLine",
    "CutBody",
    "CutInLine",
    "DeepJson",
    "Deleted",
    "Details",
    "Drift",
    "DuplicateLine",
    "EmptyResults",
    "Fault",
    "Flap",
    "Foreign",
    "ForeignLine",
    "ForeignStream",
    "Garbage",
    "GzipBomb",
    "Hang",
    "Hide",
    "HugeLine",
    "Jump",
    "KeyPool",
    "Lag",
    "LateAccept",
    "LineFault",
    "LineSeparator",
    "LoneSurrogate",
    "MissingLine",
    "NoDate",
    "NotYet",
    "NullCounts",
    "OddEntry",
    "OtherWorkspace",
    "OutOfCredit",
    "PageError",
    "Parked",
    "Redirect",
    "Refuse",
    "Replay",
    "ResetAfterAccept",
    "ResetAt",
    "ResetBeforeAccept",
    "Reshuffle",
    "Revoked",
    "SameInstant",
    "ShownArchived",
    "Skew",
    "Slow",
    "SpendLimit",
    "Stale",
    "StaleAnswer",
    "Stall",
    "Status",
    "UnparsableLine",
    "UsageLimit",
]

Details = dict[str, str] | list[str] | str | None | msgspec.UnsetType
"""`error.details` of an error envelope; UNSET leaves the field out."""


class Fault(msgspec.Struct, frozen=True, tag=True):
    """One failure of a call."""


# On any site.


class Refuse(Fault, frozen=True):
    """The connection is reset before the body is read."""


class Stall(Fault, frozen=True):
    """The call is carried out at once, and its answer is delayed."""

    seconds: float


class ResetBeforeAccept(Fault, frozen=True):
    """The whole request is read, but not carried out, and the connection is reset."""


class ResetAfterAccept(Fault, frozen=True):
    """The call is carried out, and its answer is lost."""


class Status(Fault, frozen=True):
    """The answer has this status."""

    status: int
    kind: str | None = None
    """`error.type` of the envelope; the usual one of the status if None."""
    message: str = "[sandbox] a fault on demand"
    envelope: bool = True
    """Whether the API answers; False: a proxy answers, with an HTML page."""
    retry_after: float | None = None
    accepted: bool = False
    """Whether the call is carried out all the same."""
    early: bool = False
    """Whether the answer is sent before the body is read."""
    closes: bool = False
    """Whether the connection is closed after an early answer."""
    details: Details = msgspec.UNSET


class SpendLimit(Fault, frozen=True):
    """429 for a spend limit: `error.details.error_code` names it, and there is no `retry-after`."""


class OutOfCredit(Fault, frozen=True):
    """400 `invalid_request_error` with a message that the credit balance is too low."""

    details: Details = msgspec.UNSET


class UsageLimit(Fault, frozen=True):
    """400 `invalid_request_error` with a message that a usage limit set by the customer is reached."""

    workspace: bool = True
    """Whether the limit is the workspace's; otherwise it is the organization's."""
    details: Details = msgspec.UNSET


class Revoked(Fault, frozen=True):
    """401 for the token of this call, from now on and on every site, until the caller uses another token."""

    seconds: float | None = None
    """After this time the token is accepted again; None means never."""


class Redirect(Fault, frozen=True):
    """A redirect to another address."""

    location: str = "/v1/elsewhere"
    status: int = 307
    accepted: bool = False
    """Whether the call is carried out all the same."""


class Garbage(Fault, frozen=True):
    """The call is carried out, and the answer has a good status and a body that is not JSON."""


class CutBody(Fault, frozen=True):
    """The call is carried out, and the connection closes after this many bytes of the answer's body."""

    at: int = 20


class NoDate(Fault, frozen=True):
    """The answer has no `Date`."""


class Skew(Fault, frozen=True):
    """`Date` is ahead of the server's clock by this many seconds (behind if negative); no other time changes."""

    seconds: float


class Drift(Fault, frozen=True):
    """`Date` drifts from the server's clock by this many seconds per hour, from the start of the machine."""

    per_hour: float


class Jump(Fault, frozen=True):
    """`Date` jumps by this many seconds once the machine has run for `at` seconds, as after a failover."""

    at: float
    seconds: float


class OtherWorkspace(Fault, frozen=True):
    """The call is treated as if its key belonged to another workspace."""


class KeyPool(Fault, frozen=True):
    """A gateway answers the call with one key of a pool: the key of a workspace that is drawn from these."""

    workspaces: tuple[str, ...] = ("default", "other")
    """The workspaces; a name that is listed twice is drawn twice as often."""

    def __post_init__(self) -> None:
        if not self.workspaces:
            raise ConfigError("KeyPool needs at least one workspace")


class Slow(Fault, frozen=True):
    """The answer is sent slowly."""

    bytes_per_second: float


# On create.


class LateAccept(Fault, frozen=True):
    """The answer is lost, or has this status, and the batch is created later all the same."""

    seconds: float
    status: int | None = None


class Replay(Fault, frozen=True):
    """An intermediary sends the call twice; both create a batch."""


class SameInstant(Fault, frozen=True):
    """The batch gets the same `created_at` as the newest existing batch."""


class StaleAnswer(Fault, frozen=True):
    """The batch is created, but the answer names the batch that was created before it."""


class Foreign(Fault, frozen=True):
    """Another user also creates batches with the same number of requests."""

    count: int = 1


class ForeignStream(Fault, frozen=True):
    """From this create on, another user creates a batch with the same number of requests every `every` seconds.

    The stream begins even if this create is lost. It ends after `seconds`, or when the faults of `create` are cleared.
    The batches are made when the machine is called, at most a hundred per call; after a longer pause only the newest
    hundred are made.
    """

    every: float
    size: int | None = None
    """The number of requests in each batch, if it differs from that of the create."""
    latency: float | None = None
    """The seconds that each batch takes; the machine's usual latency if None."""
    seconds: float = 86_400.0

    def __post_init__(self) -> None:
        if self.every <= 0:
            raise ConfigError(f"every of ForeignStream must be above 0 seconds, got {self.every}")


class Parked(Fault, frozen=True):
    """The batch shows no progress and ends this much later, although its requests are processed in the usual time.

    After a cancel nearly all its requests have succeeded: one in sixty is canceled.
    """

    seconds: float


class Deleted(Fault, frozen=True):
    """The batch is deleted this long after its creation, in any state: every call returns 404, and no list shows it."""

    after_seconds: float


# On list and retrieve.


class Lag(Fault, frozen=True):
    """The list leaves out a batch until it has a certain age, which is drawn for each batch, up to `seconds`."""

    seconds: float


class Hide(Fault, frozen=True):
    """A batch is hidden for a span of its age: lists leave it out, and its id returns 404.

    A batch that is listed for six seconds and then hidden for a day: `Hide(86_400, after=6)`. One that is hidden for
    ten seconds of every minute: `Hide(10, after=50, every=60)`.
    """

    seconds: float
    after: float = 0.0
    """The age at which the span begins."""
    every: float | None = None
    """The time from the beginning of one span to the beginning of the next; None means only one span."""
    spread: float = 0.0
    """The largest delay of the span; the delay is drawn for each batch."""
    share: float = 1.0
    """The share of batches that are hidden at all, drawn for each batch."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every <= 0:
            raise ConfigError(f"every of Hide must be above 0 seconds, got {self.every}")


class Stale(Fault, frozen=True):
    """A replica that lags behind answers: it does not know batches younger than this."""

    seconds: float


class PageError(Fault, frozen=True):
    """A page after the first one fails with this status."""

    status: int = 500


class Flap(Fault, frozen=True):
    """Ended batches show as in progress."""


class CountsLag(Fault, frozen=True):
    """Ended batches still show every request as processing."""


class NullCounts(Fault, frozen=True):
    """Batches show `request_counts` as null."""


class OddEntry(Fault, frozen=True):
    """Some entries of a list have null in a field that no batch is without; by its id each batch is whole."""

    field: Literal["id", "processing_status", "request_counts", "created_at"] = "request_counts"
    share: float = 1.0
    """The share of batches whose entries are odd, drawn for each batch."""


class ShownArchived(Fault, frozen=True):
    """Ended batches show `archived_at`, as they do after 29 days."""


# On results.


class NotYet(Fault, frozen=True):
    """The results return 404 until this many seconds after the batch ended."""

    seconds: float


class Archived(Fault, frozen=True):
    """The results return 404, as they do after 29 days."""


class Hang(Fault, frozen=True):
    """No byte of the answer is sent for this time."""

    seconds: float
    only_foreign: bool = False
    """Whether only batches of other users are affected."""


class EmptyResults(Fault, frozen=True):
    """The answer is 200 without any line."""

    only_foreign: bool = False
    """Whether only batches of other users are affected."""


class CutAtLine(Fault, frozen=True):
    """The stream ends after `lines` whole lines (a random number if None), as if it were complete if `clean`."""

    lines: int | None = None
    clean: bool = True


class CutInLine(Fault, frozen=True):
    """The stream ends in the middle of the line that follows `lines` whole lines (a random number if None)."""

    lines: int | None = None
    clean: bool = False
    newline: bool = False
    """Whether a newline follows the cut line, as a proxy may add one."""


class ResetAt(Fault, frozen=True):
    """The connection is reset after this many bytes of the body."""

    byte: int


class Reshuffle(Fault, frozen=True):
    """Every read returns the lines in another order."""


class DuplicateLine(Fault, frozen=True):
    """Some lines are repeated later."""

    count: int = 1


class ConflictingLine(Fault, frozen=True):
    """Some lines are repeated later with another outcome."""

    count: int = 1


class MissingLine(Fault, frozen=True):
    """Some lines are left out."""

    count: int = 1


class ForeignLine(Fault, frozen=True):
    """There are additional lines with custom_ids that were never submitted."""

    count: int = 1


class UnparsableLine(Fault, frozen=True):
    """There are additional lines that are not JSON."""

    count: int = 1


class BlankLine(Fault, frozen=True):
    """There are additional lines that are empty."""

    count: int = 1


class Crlf(Fault, frozen=True):
    """Lines end with a carriage return and a newline."""


class LineSeparator(Fault, frozen=True):
    """Some texts contain a raw U+2028, which does not end a line."""

    count: int = 1


class LoneSurrogate(Fault, frozen=True):
    """Some texts contain half a surrogate pair, escaped."""

    count: int = 1


class HugeLine(Fault, frozen=True):
    """Some lines have this many additional bytes of text."""

    size: int = 64_000_000
    count: int = 1


class DeepJson(Fault, frozen=True):
    """Some lines have a content block that is nested this deeply."""

    depth: int = 100_000
    count: int = 1


class GzipBomb(Fault, frozen=True):
    """A small compressed body, sent as `content-encoding: gzip`, expands to blank lines of this total size."""

    size: int = 1_000_000_000


LineFault = (
    CutAtLine
    | CutInLine
    | DuplicateLine
    | ConflictingLine
    | MissingLine
    | ForeignLine
    | UnparsableLine
    | BlankLine
    | Crlf
    | LineSeparator
    | LoneSurrogate
    | HugeLine
    | DeepJson
)
AnyFault = (
    Refuse
    | Stall
    | ResetBeforeAccept
    | ResetAfterAccept
    | Status
    | SpendLimit
    | OutOfCredit
    | UsageLimit
    | Revoked
    | Redirect
    | Garbage
    | CutBody
    | NoDate
    | Skew
    | Drift
    | Jump
    | OtherWorkspace
    | KeyPool
    | Slow
    | LateAccept
    | Replay
    | SameInstant
    | StaleAnswer
    | Foreign
    | ForeignStream
    | Parked
    | Deleted
    | Lag
    | Hide
    | Stale
    | PageError
    | Flap
    | CountsLag
    | NullCounts
    | OddEntry
    | ShownArchived
    | NotYet
    | Archived
    | Hang
    | EmptyResults
    | ResetAt
    | Reshuffle
    | GzipBomb
    | LineFault
)
