"""The two decision tables of a submission: what one create came to (A), and how doubts are settled (B). Pure.

Table A, `judge`: after the commit point only a definite answer ends the doubt.

    A4   2xx with a batch                                             Created
    A5   2xx that cannot be read                                      CreatedUnnamed: in doubt, never sent again
    A6   400 401 402 403 404 422 with the API's envelope; any 3xx     Refused: not created, the job stops
    A7   413                                                          TooLarge: not created, the shard is split
    A8   429 with the API's envelope                                  Later: not created; a spend limit stops the scope
    A9   those codes without the envelope; 408 409 425 499, other 4xx Unknown
    A10  any 5xx                                                      Unknown
    A11  no answer                                                    Unknown

(A1 to A3, an attempt that never passed its commit point, and A12, a restart, are the driver's.)

Table B, `settle`: positive evidence needs no wait, only absence needs grace; there is no claim before proof.

    B2, B3  a candidate's first lines carry the tag of an attempt of ours     Found, for that attempt
    B4      it is not ours                                                    foreign for ever
    B5      a candidate ended, its results are gone                           Hold
    B6      a candidate still runs                                            Wait
    B7      no candidate, but the grace is not over                           Wait
    B8      no candidate on two complete lists a minute apart, both later     Absent, or Hold by policy
            than the grace, and a batch known to be younger is listed

A *candidate* of a doubt is a batch of its size, created after the commit point's `Date` less five minutes, that is
not bound to another attempt by an answer or a tag and not known to be foreign.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from abatch.facts import Counts
from abatch.refusals import remedy_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Absent",
    "AbsentOnce",
    "BatchSeen",
    "Created",
    "CreatedUnnamed",
    "Doubt",
    "FoundBatch",
    "Hold",
    "Known",
    "Later",
    "Listing",
    "NoAnswer",
    "Refused",
    "Replied",
    "Ruling",
    "TooLarge",
    "Unknown",
    "Verdict",
    "Wait",
    "counts_of",
    "judge",
    "settle",
    "to_inspect",
]

CLOCK_SLACK: Final = 300.0
"""Seconds by which a batch may seem older than the commit point."""
BETWEEN_LISTS: Final = 60.0
"""Seconds between the two lists that establish an absence."""

# ---- table A --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied:
    """A create was answered."""

    status: int
    kind: str | None = None
    """`error.type` of the API's envelope; None without that envelope."""
    error_code: str | None = None
    message: str = ""
    envelope: bytes = b""
    """The API's error envelope as it came."""
    retry_after: float | None = None
    batch: BatchSeen | None = None
    """Of a 2xx that could be read."""
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """A create was not answered: time-out, reset, end of stream, protocol error."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A batch exists, and this is it."""

    rule: str
    batch: BatchSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedUnnamed:
    """A batch exists; which one could not be read."""

    rule: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing was created, and the same would be refused again."""

    rule: str
    reason: str
    remedy: str
    whole_scope: bool = False
    """It holds for every job of this key and workspace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge:
    """Nothing was created: the body is too large."""

    rule: str
    envelope: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """Nothing was created; try again after `wait` seconds (None: the API did not say)."""

    rule: str
    wait: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Whether a batch was created is not known."""

    rule: str
    why: str


Verdict: TypeAlias = Created | CreatedUnnamed | Refused | TooLarge | Later | Unknown

_REFUSALS: Final = frozenset({400, 401, 402, 403, 404, 422})
_REMEDIES: Final = {
    401: "Check the API key, then run the same command again.",
    402: "Settle the account's billing, then run the same command again.",
    403: "Check what the API key and workspace are allowed to do, then run the same command again.",
    404: "Check the base URL, then run the same command again.",
}


def judge(answer: Replied | NoAnswer) -> Verdict:
    """Table A: what one create, sent to its end, came to."""
    if isinstance(answer, NoAnswer):
        return Unknown(rule="A11", why=answer.cause)
    status, kind = answer.status, answer.kind
    said = (
        f"the API answered {status}" + (f" {kind}" if kind else "") + (f": {answer.message}" if answer.message else "")
    )
    if 200 <= status < 300:
        if answer.batch is None:
            return CreatedUnnamed(rule="A5", status=status)
        return Created(rule="A4", batch=answer.batch)
    if 300 <= status < 400:
        return Refused(
            rule="A6",
            reason=f"the create was redirected ({status}), and a key is never sent after a redirect",
            remedy="Set the base URL to the API's own address.",
        )
    if status == 413:
        return TooLarge(rule="A7", envelope=answer.envelope)
    if kind is not None and (lifts := remedy_of(status, answer.error_code, answer.message)) is not None:
        return Refused(rule="A8" if status == 429 else "A6", reason=said, remedy=lifts, whole_scope=True)
    if kind is not None and status in _REFUSALS:
        remedy = _REMEDIES.get(status, "Change what the message names, then hand the job over again.")
        return Refused(rule="A6", reason=said, remedy=remedy, whole_scope=status in (401, 402, 403))
    if kind is not None and status == 429:
        return Later(rule="A8", wait=answer.retry_after)
    return Unknown(rule="A10" if status >= 500 else "A9", why=f"answered {status}")


# ---- table B --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSeen:
    """A batch as the API shows it; times in seconds since the epoch, by the server's clock."""

    batch_id: str
    status: str
    """`in_progress`, `canceling` or `ended`."""
    created_at: float
    total: int
    """The sum of `request_counts`, which is the number of its requests from the first moment on."""
    counts: tuple[int, int, int, int] = (0, 0, 0, 0)
    """succeeded, errored, canceled, expired."""
    archived: bool = False
    ended: bool = False


def counts_of(batch: BatchSeen) -> Counts:
    """The outcomes of an ended batch, as a fact holds them."""
    succeeded, errored, canceled, expired = batch.counts
    return Counts(succeeded=succeeded, errored=errored, canceled=canceled, expired=expired)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A complete list of a scope, newest back to before every doubt."""

    date: float
    """The server's `Date` of its first page."""
    batches: tuple[BatchSeen, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """One attempt in doubt."""

    shard: int
    attempt: int
    rows: int
    date: float
    """The server's `Date` just before the commit point."""
    since: float
    """Where the grace begins, by the server's clock."""
    certain: bool = False
    """A 2xx was seen: it exists."""
    guarded: bool = True
    """The key and workspace are those of the commit point, or proven to see the same batches."""
    empty_since: float | None = None
    """`Date` of the first complete list after the grace that showed no candidate, unbroken since."""


@dataclass(slots=True, kw_only=True)
class Known:
    """What is known of a scope's batches."""

    bound: set[str] = field(default_factory=set[str])
    """Ours by a 2xx answer or a proven tag."""
    live: dict[str, float] = field(default_factory=dict[str, float])
    """Those of them that are not drained, with the time of their creation: a complete list shows them."""
    proven: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Whose first lines carried a tag of ours: shard and attempt."""
    foreign: set[str] = field(default_factory=set[str])
    """Whose first lines did not."""
    gone: set[str] = field(default_factory=set[str])
    """Candidates that ended and whose results cannot be read any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBatch:
    """B2, B3: this is the attempt's batch."""

    rule: str
    batch: BatchSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """B6, B7: nothing to conclude yet."""

    rule: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentOnce:
    """The first of the two lists of B8."""

    rule: str
    date: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """B8: no batch was made; the shard may be sent again."""

    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """B5, B8: only an operator can say."""

    rule: str
    reason: str


Ruling: TypeAlias = FoundBatch | Wait | AbsentOnce | Absent | Hold


def candidates(doubt: Doubt, listing: Listing, known: Known) -> list[BatchSeen]:
    """The batches of a list that may be this attempt's."""
    return [
        batch
        for batch in listing.batches
        if batch.total == doubt.rows
        and batch.created_at >= doubt.date - CLOCK_SLACK
        and batch.batch_id not in known.bound
        and batch.batch_id not in known.foreign
        and known.proven.get(batch.batch_id, (doubt.shard, doubt.attempt)) == (doubt.shard, doubt.attempt)
    ]


def to_inspect(doubts: Sequence[Doubt], listing: Listing, known: Known) -> list[BatchSeen]:
    """The candidates that ended and whose first lines have not been looked at, each once."""
    wanted = {
        batch.batch_id: batch
        for doubt in doubts
        for batch in candidates(doubt, listing, known)
        if batch.ended and batch.batch_id not in known.proven and batch.batch_id not in known.gone
    }
    return list(wanted.values())


def settle(doubt: Doubt, listing: Listing, known: Known, *, grace: float, hold: bool) -> Ruling:
    """Table B for one attempt, on one complete list, after every ended candidate was inspected.

    Args:
        doubt: the attempt.
        listing: a complete list, later than the commit point.
        known: what is known of the scope's batches.
        grace: seconds that a create may still take to appear.
        hold: the policy `unresolved="hold"`.

    """
    mine = candidates(doubt, listing, known)
    for batch in mine:
        if known.proven.get(batch.batch_id) == (doubt.shard, doubt.attempt):
            return FoundBatch(rule="B2", batch=batch)
    gone = [batch for batch in mine if batch.batch_id in known.gone]
    unread = [batch for batch in mine if batch.ended and batch.batch_id not in known.gone]
    running = [batch for batch in mine if not batch.ended]
    if running:
        return Wait(rule="B6", why=f"batch {running[0].batch_id} may be it, and still runs")
    if unread:
        return Wait(rule="B6", why=f"batch {unread[0].batch_id} may be it, and is being looked at")
    if gone:
        return Hold(rule="B5", reason=f"batch {gone[0].batch_id} may be it, but its results cannot be read any more")
    if listing.date <= doubt.since + grace:
        return Wait(rule="B7", why="the create may still appear in the list")
    if not _shows_what_it_must(doubt, listing, known):
        return Wait(rule="B7", why="the list does not show a batch that is known to exist")
    if doubt.empty_since is None:
        return AbsentOnce(rule="B7", date=listing.date)
    if listing.date < doubt.empty_since + min(BETWEEN_LISTS, grace):
        return Wait(rule="B7", why="a second list is awaited")
    if not doubt.guarded:
        return Hold(
            rule="B8",
            reason="the API key or workspace is not the one it was sent with, so an empty list proves nothing; "
            "use the old key, or say what you know",
        )
    if doubt.certain:
        return Hold(rule="B8", reason="the API said that it made a batch, but none can be found")
    if hold:
        return Hold(rule="B8", reason="no batch can be found, and unresolved creates are to be held")
    return Absent(rule="B8")


def _shows_what_it_must(doubt: Doubt, listing: Listing, known: Known) -> bool:
    """Whether it shows a younger batch that is known, if there is one; somebody may have deleted others."""
    shown = {batch.batch_id for batch in listing.batches}
    younger = [
        batch_id for batch_id, created_at in known.live.items() if doubt.date < created_at < listing.date - CLOCK_SLACK
    ]
    return not younger or not shown.isdisjoint(younger)
