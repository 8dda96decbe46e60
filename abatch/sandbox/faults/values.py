"""Faults as values: what may go wrong with one call. Faults of one call work together."""

from __future__ import annotations

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
"""`error.details` of an error's envelope; UNSET leaves the field out."""


class Fault(msgspec.Struct, frozen=True, tag=True):
    """Something that goes wrong with one call."""


# On any site.


class Refuse(Fault, frozen=True):
    """The connection is reset before the body is read."""


class Stall(Fault, frozen=True):
    """The call is done at once, its answer held back."""

    seconds: float


class ResetBeforeAccept(Fault, frozen=True):
    """The whole request is read, nothing is done, the connection is reset."""


class ResetAfterAccept(Fault, frozen=True):
    """The call is done and its answer lost."""


class Status(Fault, frozen=True):
    """The answer is this status."""

    status: int
    kind: str | None = None
    """`error.type` of the envelope; the usual one of the status if None."""
    message: str = "[sandbox] a fault on demand"
    envelope: bool = True
    """False: not the API answers but a proxy, with an HTML page."""
    retry_after: float | None = None
    accepted: bool = False
    """Whether the call is done all the same."""
    early: bool = False
    """Whether the answer comes before the body was read."""
    details: Details = msgspec.UNSET


class SpendLimit(Fault, frozen=True):
    """429 of a spend limit: `error.details.error_code` tells, there is no `retry-after`."""


class OutOfCredit(Fault, frozen=True):
    """400 `invalid_request_error` whose message says that the credit balance is too low."""

    details: Details = msgspec.UNSET


class UsageLimit(Fault, frozen=True):
    """400 `invalid_request_error` whose message says that a usage limit set by the customer is reached."""

    workspace: bool = True
    """Whether the limit is the workspace's; otherwise it is the organization's."""
    details: Details = msgspec.UNSET


class Revoked(Fault, frozen=True):
    """401 for the token of this call, from now on and on every site, until the caller uses another token."""

    seconds: float | None = None
    """After this time the token is good again; None means never."""


class Redirect(Fault, frozen=True):
    """A redirect to another place."""

    location: str = "/v1/elsewhere"
    status: int = 307
    accepted: bool = False
    """Whether the call is done all the same."""


class Garbage(Fault, frozen=True):
    """The call is done; the answer says so with a body that is not JSON."""


class CutBody(Fault, frozen=True):
    """The call is done; the connection closes after this many bytes of the answer's body."""

    at: int = 20


class NoDate(Fault, frozen=True):
    """The answer has no `Date`."""


class Skew(Fault, frozen=True):
    """`Date` is ahead of the server's clock by these seconds (behind if negative); no other time is changed."""

    seconds: float


class Drift(Fault, frozen=True):
    """`Date` moves away from the server's clock by these seconds an hour, from the machine's start on."""

    per_hour: float


class Jump(Fault, frozen=True):
    """`Date` jumps by these seconds once the machine has run for `at` seconds, as after a failover."""

    at: float
    seconds: float


class OtherWorkspace(Fault, frozen=True):
    """The call is treated as if its key belonged to another workspace."""


class KeyPool(Fault, frozen=True):
    """A gateway answers the call with one key of a pool: with that of a workspace drawn from these."""

    workspaces: tuple[str, ...] = ("default", "other")
    """A name that stands twice is drawn twice as often."""

    def __post_init__(self) -> None:
        if not self.workspaces:
            raise ConfigError("KeyPool needs at least one workspace")


class Slow(Fault, frozen=True):
    """The answer trickles."""

    bytes_per_second: float


# On create.


class LateAccept(Fault, frozen=True):
    """The answer is lost, or this status, and the batch is created later all the same."""

    seconds: float
    status: int | None = None


class Replay(Fault, frozen=True):
    """An intermediary sends the call twice; both create a batch."""


class SameInstant(Fault, frozen=True):
    """The batch gets the `created_at` of the newest one there is."""


class StaleAnswer(Fault, frozen=True):
    """The batch is created, and the answer names the one that was created before it."""


class Foreign(Fault, frozen=True):
    """Somebody else creates batches of the same number of requests beside it."""

    count: int = 1


class ForeignStream(Fault, frozen=True):
    """From this create on, somebody else creates a batch of the same number of requests every `every` seconds.

    It begins also if this create is lost. It ends after `seconds`, or when the faults of `create` are cleared. The
    batches are made when the machine is called, at most a hundred of them per call; of a longer pause only the newest
    hundred are made.
    """

    every: float
    size: int | None = None
    """The number of requests of each batch, if not that of the create."""
    latency: float | None = None
    """Seconds that each batch takes; the machine's usual latency if None."""
    seconds: float = 86_400.0

    def __post_init__(self) -> None:
        if self.every <= 0:
            raise ConfigError(f"every of ForeignStream must be above 0 seconds, got {self.every}")


class Parked(Fault, frozen=True):
    """The batch shows no progress and ends this much later, although its requests were processed in the usual time.

    After a cancel nearly all of them have succeeded: one in sixty is canceled.
    """

    seconds: float


class Deleted(Fault, frozen=True):
    """Somebody deletes the batch this long after its creation, whatever its state: 404 everywhere, and unlisted."""

    after_seconds: float


# On list and retrieve.


class Lag(Fault, frozen=True):
    """The list leaves out a batch until it has a certain age, drawn for each batch up to `seconds`."""

    seconds: float


class Hide(Fault, frozen=True):
    """A batch that was shown is hidden for a span of its age: unlisted, or 404 where it is asked for by its id.

    Listed for six seconds and then hidden for a day: `Hide(86_400, after=6)`. Hidden for ten seconds of every
    minute: `Hide(10, after=50, every=60)`.
    """

    seconds: float
    after: float = 0.0
    """The age at which the span begins."""
    every: float | None = None
    """The span comes again after this time, counted from the beginning of the span before; None means once."""
    spread: float = 0.0
    """The span begins later by a time that is drawn for each batch, up to this."""
    share: float = 1.0
    """The share of batches that are hidden at all, drawn for each batch."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every <= 0:
            raise ConfigError(f"every of Hide must be above 0 seconds, got {self.every}")


class Stale(Fault, frozen=True):
    """A replica answers that lags behind: it does not know batches younger than this."""

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


# On results.


class NotYet(Fault, frozen=True):
    """404 until this many seconds after the batch ended."""

    seconds: float


class Archived(Fault, frozen=True):
    """404, as after 29 days."""


class Hang(Fault, frozen=True):
    """No byte of the answer comes for this time."""

    seconds: float
    only_foreign: bool = False
    """Whether only batches of somebody else are concerned."""


class EmptyResults(Fault, frozen=True):
    """200 and no line at all."""

    only_foreign: bool = False
    """Whether only batches of somebody else are concerned."""


class CutAtLine(Fault, frozen=True):
    """The stream ends after `lines` whole lines (a number drawn if None), as if complete if `clean`."""

    lines: int | None = None
    clean: bool = True


class CutInLine(Fault, frozen=True):
    """The stream ends in the middle of the line after `lines` whole ones (a number drawn if None)."""

    lines: int | None = None
    clean: bool = False
    newline: bool = False
    """Whether a newline ends what there is of the line, as a proxy puts it there."""


class ResetAt(Fault, frozen=True):
    """The connection is reset after this many bytes of the body."""

    byte: int


class Reshuffle(Fault, frozen=True):
    """The lines come in another order at every reading."""


class DuplicateLine(Fault, frozen=True):
    """Lines come again, later."""

    count: int = 1


class ConflictingLine(Fault, frozen=True):
    """Lines come again, later, with another outcome."""

    count: int = 1


class MissingLine(Fault, frozen=True):
    """Lines are left out."""

    count: int = 1


class ForeignLine(Fault, frozen=True):
    """Lines with custom_ids that were never submitted."""

    count: int = 1


class UnparsableLine(Fault, frozen=True):
    """Lines that are not JSON."""

    count: int = 1


class BlankLine(Fault, frozen=True):
    """Lines that are empty."""

    count: int = 1


class Crlf(Fault, frozen=True):
    """Lines end with a carriage return and a newline."""


class LineSeparator(Fault, frozen=True):
    """Texts with a raw U+2028, which is no end of a line."""

    count: int = 1


class LoneSurrogate(Fault, frozen=True):
    """Texts with half a surrogate pair, escaped."""

    count: int = 1


class HugeLine(Fault, frozen=True):
    """Lines with that many bytes more of text."""

    size: int = 64_000_000
    count: int = 1


class DeepJson(Fault, frozen=True):
    """Lines with a content block nested that deep."""

    depth: int = 100_000
    count: int = 1


class GzipBomb(Fault, frozen=True):
    """A small compressed body, as `content-encoding: gzip`, that grows to blank lines of this size."""

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
    | NotYet
    | Archived
    | Hang
    | EmptyResults
    | ResetAt
    | Reshuffle
    | GzipBomb
    | LineFault
)
