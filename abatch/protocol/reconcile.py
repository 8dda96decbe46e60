"""The two decision tables of a submission: the verdict on one create (A), and how a doubt is settled (B). Pure.

Table A, `judge`: after the commit point only a definite answer ends the doubt.

    A4   2xx with a batch                                             Created
    A5   2xx that cannot be read, or names another batch (`of_another`)
                                                                      CreatedUnnamed: in doubt, never sent again
    A6   400 401 402 403 404 422 with the API's envelope; 307 308     Refused: not created, the job stops
    A7   413                                                          TooLarge: not created, the shard is split
    A8   429 with the API's envelope                                  Later: not created; a spend limit stops the scope
    A9   those codes without the envelope; other 3xx; 408 409 425 499, other 4xx
                                                                      Unknown
    A10  any 5xx                                                      Unknown
    A11  no answer                                                    Unknown

(The driver decides A1 to A3, an attempt that never passed its commit point, and A12, a restart. With the policy
`refusals="doubt"` the driver treats a Refused or Later that is not `definite` as A9.)

Table B, `settle`: positive evidence needs no wait, only absence needs the grace; no batch is claimed before proof.

    B2, B3  a batch's first lines carry the tag of an attempt of ours         Found, for that attempt
    B4      a candidate's lines prove that it is not ours                     foreign permanently
    B5      a candidate ended, and its results are gone; or it was shown,     Hold
            and is not visible for two days after the commit point
    B6      a candidate still runs, is being looked at, or is not visible     Wait
    B7      no candidate, but the grace is not over, or the list is partial   Wait
    B8      no candidate on two complete lists a minute apart, both later     Absent, or Hold by policy
            than the grace
    B11     an entry of the list cannot be read: it may be any batch          Wait

(B9 is an operator's decision, and B10 a duplicate of an attempt that was given up.)

A *candidate* of a doubt is every batch of its size that any page of a list, complete or not, has shown since the commit
point, unless it is too old, bound to another attempt by an answer or a tag, or proven foreign. The journal remembers
candidates (`CandidatesChanged`), because a list that lacks one proves nothing about it. A candidate leaves by proof or
by an operator's decision.

An *odd entry* is an entry of a list that cannot be read as a batch. It is a candidate of every size until the batch is
read by its id, or by another list; then its size and its age decide. An odd entry without a usable id cannot be asked
for, so a list that shows one proves no absence.

A batch is *too old* only if two witnesses agree: the server's `Date` at the commit point, less the time by which `Date`
is known to run ahead, and the newest batch that the list showed at that moment; each less five minutes. If the list was
empty at that moment, the second witness is missing and no batch is too old. The first complete list after the grace
*closes* the candidates: a batch that is created later, by `Date` and by this machine's time, may still prove to be
ours, but does not keep a doubt open.

A list is *complete* if it shows every live batch of this journal that was listed before or is older than bound A2
allows. The grace counts by two clocks (`clocks.py`): `Doubt.waited` is the time that has passed on both.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from abatch.protocol.durations import BETWEEN_LISTS, CLOCK_SLACK, HIDDEN_FOR, KEPT_FOR, VISIBLE_WITHIN
from abatch.protocol.facts import Candidate, CandidatesChanged, Counts
from abatch.protocol.refusals import OF_ONE_JOB, remedy_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from abatch.protocol.clocks import Moment
    from abatch.protocol.lifecycle import InDoubt

__all__ = [
    "CORRECT",
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
    "OddEntry",
    "Proof",
    "Refused",
    "Replied",
    "Ruling",
    "TooLarge",
    "Unknown",
    "Verdict",
    "Wait",
    "closing",
    "counts_of",
    "judge",
    "misfits",
    "newly_odd",
    "newly_seen",
    "of_another",
    "oldest",
    "settle",
    "still_open",
    "to_inspect",
]

# ---- table A --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied:
    """A create was answered."""

    status: int
    kind: str | None = None
    """`error.type` of the API's envelope; None without that envelope."""
    error_code: str | None = None
    message: str = ""
    """The message of that envelope; without one, the host of a redirect."""
    envelope: bytes = b""
    """The API's error envelope as it came."""
    retry_after: float | None = None
    batch: BatchSeen | None = None
    """The batch, if the answer is a 2xx that could be read."""
    date: float | None = None
    """The answer's `Date`, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """A create was not answered, because of a time-out, a reset, the end of the stream, or a protocol error."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A batch exists, and its id is known."""

    rule: str
    batch: BatchSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedUnnamed:
    """A batch exists, but its id could not be read."""

    rule: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Nothing was created, and the API would refuse the same request again."""

    rule: str
    reason: str
    remedy: str
    whole_scope: bool = False
    """Whether the refusal applies to every job of this key and workspace."""
    definite: bool = False
    """Whether no server gives this answer after it has passed the request on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge:
    """Nothing was created: the body is too large."""

    rule: str
    envelope: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """Nothing was created; try again after `wait` seconds (None: the API gave no time)."""

    rule: str
    wait: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """It is not known whether a batch was created."""

    rule: str
    why: str


Verdict: TypeAlias = Created | CreatedUnnamed | Refused | TooLarge | Later | Unknown

_REFUSALS: Final = frozenset({400, 401, 402, 403, 404, 422})
_SENT_ELSEWHERE: Final = frozenset({307, 308})
"""The redirects that ask for the same request at another address. 303, and by convention 301 and 302, point to the
result of a request that was carried out."""
CORRECT: Final = "Change what the message names, then submit the job again."
"""The remedy if the API refuses the requests; how to change them depends on where they came from."""
_REMEDIES: Final = {
    401: "Check the API key, then run the same command again.",
    402: "Settle the account's billing, then run the same command again.",
    403: "Check what the API key and workspace are allowed to do, then run the same command again.",
    404: "Check the base URL, then run the same command again.",
}


def judge(answer: Replied | NoAnswer) -> Verdict:
    """Decide by table A whether one create, sent completely, made a batch."""
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
    if status in _SENT_ELSEWHERE:
        to = f" to {answer.message}" if answer.message and kind is None else ""
        return Refused(
            rule="A6",
            reason=f"the create was redirected ({status}{to}), and a key is never sent after a redirect",
            remedy="Set the base URL to the API's own address.",
            whole_scope=True,
            definite=True,
        )
    if status == 413:
        return TooLarge(rule="A7", envelope=answer.envelope)
    if kind is not None and (lifts := remedy_of(status, answer.error_code, answer.message)) is not None:
        whole_scope = answer.error_code not in OF_ONE_JOB
        return Refused(rule="A8" if status == 429 else "A6", reason=said, remedy=lifts, whole_scope=whole_scope)
    if kind is not None and status in _REFUSALS:
        remedy = _REMEDIES.get(status, CORRECT)
        return Refused(rule="A6", reason=said, remedy=remedy, whole_scope=status in (401, 402, 403))
    if kind is not None and status == 429:
        return Later(rule="A8", wait=answer.retry_after)
    return Unknown(rule="A10" if status >= 500 else "A9", why=f"answered {status}")


# ---- table B --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSeen:
    """A batch as the API shows it; times are in seconds since the epoch, by the server's clock."""

    batch_id: str
    status: str
    """`in_progress`, `canceling` or `ended`."""
    created_at: float
    total: int
    """The sum of `request_counts`, which is the number of its requests from its creation on; 0 if not reported."""
    counts: tuple[int, int, int, int] = (0, 0, 0, 0)
    """The numbers of requests that succeeded, errored, were canceled, and expired, in this order."""
    archived: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OddEntry:
    """An entry of a list that cannot be read as a batch."""

    batch_id: str | None
    """None: the entry has no usable id."""
    created_at: float | None
    """In seconds since the epoch, by the server's clock; None: the entry does not hold it."""
    why: str
    """The field that cannot be read, and how it looks."""

    def __str__(self) -> str:
        which = "an entry without a usable id" if self.batch_id is None else f"batch {self.batch_id}"
        return f"the list shows {which} in a form that cannot be read ({self.why})"


def counts_of(batch: BatchSeen) -> Counts:
    """Return the outcomes of an ended batch, in the form of a fact."""
    succeeded, errored, canceled, expired = batch.counts
    return Counts(succeeded=succeeded, errored=errored, canceled=canceled, expired=expired)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A list of a scope, from the newest batch back to before every doubt, and the batches retrieved by id.

    The pages of the list join.
    """

    at: Moment
    """When the first page was answered."""
    shown: Mapping[str, BatchSeen]
    """The batches that the list shows, by id."""
    odd: Mapping[str, OddEntry] = field(default_factory=dict[str, "OddEntry"])
    """The odd entries of the list that have an id, by id."""
    unnamed: OddEntry | None = None
    """An odd entry without a usable id; None if the list shows none."""
    by_id: Mapping[str, BatchSeen] = field(default_factory=dict[str, "BatchSeen"])
    """Batches that the list does not show, or shows as odd entries, and that can be retrieved by id."""

    @property
    def date(self) -> float:
        """The server's `Date` of the first page."""
        return self.at.date

    @property
    def ids(self) -> set[str]:
        """The ids of the batches that the list shows, those of odd entries included."""
        return {*self.shown, *self.odd}

    def visible(self, batch_id: str) -> BatchSeen | None:
        """Return the batch as the list shows it, or as it was retrieved by id; None if it is in neither."""
        return self.shown.get(batch_id) or self.by_id.get(batch_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """One attempt in doubt: its state in the journal, and what this process knows in addition."""

    shard: int
    rows: int
    committed: InDoubt
    waited: float = 0.0
    """Seconds since the grace began, by the slower of the two clocks."""
    guarded: bool = True
    """Whether the key and workspace are those of the commit point, or are proven to see the same batches."""
    empty_at: float | None = None
    """`waited` at the first complete list after the grace that left no candidate, if none has appeared since."""

    @property
    def attempt(self) -> int:
        """The number of the attempt."""
        return self.committed.attempt

    def after(self, change: CandidatesChanged) -> Doubt:
        """Return the doubt with this change of its candidates."""
        return replace(self, committed=self.committed.after(change))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The attempt that made a batch, by the tag in its results."""

    shard: int
    attempt: int
    created_at: float
    """When the batch was created."""


@dataclass(slots=True, kw_only=True)
class Known:
    """The knowledge about a scope's batches."""

    bound: set[str] = field(default_factory=set[str])
    """Batches that are ours by a 2xx answer or a proven tag."""
    live: dict[str, float] = field(default_factory=dict[str, float])
    """Bound batches that are not drained, with the time of their creation: a complete list shows them."""
    listed: set[str] = field(default_factory=set[str])
    """Live batches that a list has shown."""
    proven: dict[str, Proof] = field(default_factory=dict[str, Proof])
    """Batches whose first lines carried a tag of ours."""
    foreign: set[str] = field(default_factory=set[str])
    """Batches whose first lines did not carry a tag of ours."""
    gone: set[str] = field(default_factory=set[str])
    """Candidates that ended and whose results cannot be read any more."""
    ahead: float = 0.0
    """The largest number of seconds by which `Date` ran ahead of `created_at` in the creates of this process."""

    def has_looked_at(self, batch_id: str) -> bool:
        """Return whether no further look at a batch's results is needed."""
        return batch_id in self.proven or batch_id in self.foreign or batch_id in self.gone


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBatch:
    """B2, B3: the batch of the attempt was found."""

    rule: str
    batch: Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """B6, B7, B11: nothing can be concluded yet."""

    rule: str
    why: str
    soon: bool = False
    """Whether a look at a batch's results is under way and will decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentOnce:
    """The first of the two lists of B8."""

    rule: str
    waited: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """B8: no batch was made; the shard may be sent again."""

    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """B5, B8: only an operator can decide."""

    rule: str
    reason: str


Ruling: TypeAlias = FoundBatch | Wait | AbsentOnce | Absent | Hold


def oldest(doubt: Doubt, known: Known) -> float:
    """Return the `created_at` before which a batch is too old to be this attempt's, by both witnesses."""
    committed = doubt.committed
    by_date = committed.date - max(committed.ahead, known.ahead) - CLOCK_SLACK
    match committed.newest:
        case None:
            return by_date
        case 0.0:
            return 0.0
        case newest:
            return min(by_date, newest - CLOCK_SLACK)


def newly_seen(doubt: Doubt, batches: Iterable[BatchSeen], known: Known) -> tuple[Candidate, ...]:
    """Return those of the batches that are new candidates. The pages of a list that failed later count, too."""
    remembered = {each.batch_id for each in doubt.committed.candidates}
    return tuple(
        Candidate(batch_id=batch.batch_id, created_at=batch.created_at)
        for batch in batches
        if _fits(doubt, batch, known) and batch.batch_id not in remembered and _may_be(doubt, batch.batch_id, known)
    )


def newly_odd(doubt: Doubt, entries: Iterable[OddEntry], known: Known) -> tuple[Candidate, ...]:
    """Return those of the odd entries that are new candidates: of any size, and of any age unless they have one."""
    remembered = {each.batch_id for each in doubt.committed.candidates}
    return tuple(
        Candidate(batch_id=entry.batch_id, created_at=entry.created_at or 0.0, sized=False)
        for entry in entries
        if entry.batch_id is not None
        and (entry.created_at is None or _is_in_time(doubt, entry.created_at, known))
        and entry.batch_id not in remembered
        and _may_be(doubt, entry.batch_id, known)
    )


def misfits(doubt: Doubt, batches: Iterable[BatchSeen], known: Known) -> tuple[str, ...]:
    """Return the candidates of unknown size that these batches prove to have another size or age."""
    unsized = {each.batch_id for each in doubt.committed.candidates if not each.sized}
    read = (batch for batch in batches if batch.batch_id in unsized and batch.total)
    return tuple(batch.batch_id for batch in read if not _fits(doubt, batch, known))


def _fits(doubt: Doubt, batch: BatchSeen, known: Known) -> bool:
    return batch.total == doubt.rows and _is_in_time(doubt, batch.created_at, known)


def _is_in_time(doubt: Doubt, created_at: float, known: Known) -> bool:
    last = doubt.committed.closed_at
    return oldest(doubt, known) <= created_at and (last is None or created_at <= last)


def of_another(batch: BatchSeen, doubt: Doubt, known: Known, *, before: Collection[str]) -> bool:
    """Decide by row A5 whether the batch in the answer to a create is certainly not the one that the create made.

    If something on the way stores an answer and repeats it, it names a batch that existed before this attempt's commit
    point. That batch may belong to another attempt whose own answer was lost, and then it is not bound yet.

    Args:
        batch: the batch as the answer names it.
        doubt: the attempt.
        known: the knowledge about the scope's batches.
        before: batches that were shown before the commit point.

    """
    too_old = batch.created_at < oldest(doubt, known)
    return batch.batch_id in before or too_old or not _may_be(doubt, batch.batch_id, known)


def still_open(doubt: Doubt, known: Known) -> list[Candidate]:
    """Return the candidates that no proof has removed."""
    return [each for each in doubt.committed.candidates if _may_be(doubt, each.batch_id, known)]


def _may_be(doubt: Doubt, batch_id: str, known: Known) -> bool:
    proof = known.proven.get(batch_id)
    elsewhere = proof is not None and (proof.shard, proof.attempt) != (doubt.shard, doubt.attempt)
    foreign = batch_id in known.foreign or batch_id in doubt.committed.foreign
    return not (elsewhere or foreign or batch_id in known.bound)


def to_inspect(doubts: Sequence[Doubt], listing: Listing, known: Known) -> list[BatchSeen]:
    """Return the candidates that ended and whose first lines have not been looked at, each once."""
    wanted: dict[str, BatchSeen] = {}
    for doubt in doubts:
        for each in still_open(doubt, known):
            batch = listing.visible(each.batch_id)
            if batch is not None and batch.ended and not known.has_looked_at(each.batch_id):
                wanted[each.batch_id] = batch
    return list(wanted.values())


def closing(doubt: Doubt, listing: Listing, known: Known, *, grace: float) -> CandidatesChanged | None:
    """Return the fact that closes the candidates, on the first complete list after the grace; None before and after.

    A batch may have been created before this list was made and still be missing from it. So the recorded moment is a
    little later than the list's `Date` and every batch that it shows. `Date` alone is not enough: if it is behind
    `created_at`, a batch that was made long before this list would seem to be created after it. So this machine's time
    is a second witness.
    """
    if doubt.committed.closed_at is not None or doubt.waited <= grace or listing.unnamed is not None:
        return None
    if missing_in(listing, known) is not None:
        return None
    newest = max((batch.created_at for batch in listing.shown.values()), default=0.0)
    return CandidatesChanged(closed_at=max(newest, listing.date, listing.at.wall) + CLOCK_SLACK)


def missing_in(listing: Listing, known: Known) -> str | None:
    """Return a batch of ours that a complete list would show and this one lacks; None if it lacks none."""
    archived = min(listing.date, listing.at.wall) - KEPT_FOR  # a `Date` that jumps by weeks ages no batch
    for batch_id, created_at in known.live.items():
        if created_at < archived:
            continue  # it is not known whether the list shows archived batches
        must_show = batch_id in known.listed or created_at < listing.date - VISIBLE_WITHIN
        if must_show and batch_id not in listing.shown and batch_id not in listing.odd:
            return batch_id
    return None


def settle(doubt: Doubt, listing: Listing, known: Known, *, grace: float, hold: bool) -> Ruling:
    """Decide by table B about one attempt, once the candidates that this list shows are recorded.

    Args:
        doubt: the attempt.
        listing: a list that was made after the commit point.
        known: the knowledge about the scope's batches.
        grace: the seconds after which an unanswered create cannot appear in the list any more.
        hold: whether the policy is `unresolved="hold"`.

    """
    for batch_id, proof in known.proven.items():
        if (proof.shard, proof.attempt) == (doubt.shard, doubt.attempt) and batch_id not in known.bound:
            return FoundBatch(rule="B2", batch=Candidate(batch_id=batch_id, created_at=proof.created_at))
    waits_for = _waits_for(doubt, listing, known)
    if waits_for is not None:
        return waits_for
    if doubt.waited <= grace:
        return Wait(rule="B7", why="the create may still appear in the list")
    if listing.unnamed is not None:
        return Wait(rule="B11", why=f"{listing.unnamed}, so it proves no absence")
    if (lacks := missing_in(listing, known)) is not None:
        return Wait(rule="B7", why=f"the list is partial: it does not show batch {lacks}, which is known to exist")
    if doubt.empty_at is None:
        return AbsentOnce(rule="B7", waited=doubt.waited)
    if doubt.waited < doubt.empty_at + min(BETWEEN_LISTS, grace):
        return Wait(rule="B7", why="a second list is awaited")
    if not doubt.guarded:
        return Hold(
            rule="B8",
            reason="the API key or workspace is not the one it was sent with, so an empty list proves nothing; "
            "use the old key, or resolve the shard",
        )
    if doubt.committed.certain:
        return Hold(rule="B8", reason="the API reported that it made a batch, but none can be found")
    if hold:
        return Hold(rule="B8", reason="no batch can be found, and unresolved creates are to be held")
    return Absent(rule="B8")


def _waits_for(doubt: Doubt, listing: Listing, known: Known) -> Wait | Hold | None:
    """Return the ruling that the remaining candidates require; None if none is left."""
    running, unread, odd, hidden, gone = list[str](), list[str](), list[OddEntry](), list[str](), list[str]()
    for each in still_open(doubt, known):
        batch = listing.visible(each.batch_id)
        if each.batch_id in known.gone:
            gone.append(each.batch_id)
        elif batch is None and (entry := listing.odd.get(each.batch_id)) is not None:
            odd.append(entry)
        elif batch is None:
            hidden.append(each.batch_id)
        elif batch.ended:
            unread.append(each.batch_id)
        else:
            running.append(each.batch_id)
    if running:
        return Wait(rule="B6", why=f"batch {running[0]} may be it, and still runs")
    if unread:
        return Wait(rule="B6", why=f"batch {unread[0]} may be it, and is being looked at", soon=True)
    if odd:
        return Wait(rule="B11", why=f"{odd[0]}; it may be it, and is asked for by its id")
    if hidden and doubt.waited <= HIDDEN_FOR:
        return Wait(rule="B6", why=f"batch {hidden[0]} was listed, may be it, and is not visible now")
    if hidden:
        return Hold(rule="B5", reason=f"batch {hidden[0]} was listed, may be it, and is not visible any more")
    if gone:
        return Hold(rule="B5", reason=f"batch {gone[0]} may be it, but its results cannot be read any more")
    return None
