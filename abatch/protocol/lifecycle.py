"""The life of a shard: its states, the transition that each fact makes, and the next action in each state.

                 Withdrawn                              ┌─► Held ──┬─ Found ─► Processing
        ┌───────────────────────────────┐               │          └─ Withdrawn ─► Ready
        ▼                               │               │
      Ready ──── Committing ────────► InDoubt ── Held ──┘
      │  │                              ├─ Rejected ─► Rejected ── Abandoned ─► Dead
      │  └─ Split, Abandoned ─► Dead    └─ Accepted, Found ─► Processing ── Ended ─► Draining ── Drained ─► Done
                                                                                        ▲                    │
      InDoubt, Held, Processing ── Lost ─► Lost ── Drained ─► Done                      └───── Reopened ─────┘

The state is the replay of the shard's facts, and `next_action` of the state returns what the driver does. Running
and recovering are therefore the same code: after a crash the facts determine where to resume. Everything here is pure.

| state      | Committing | Candidates | Unreadable | Accepted   | Found      | Withdrawn | Rejected | CancelledAsParked | Vanished   | Reappeared | Lost | Ended    | Drained | Reopened  | Split | Unplanned | Abandoned | Held  |
|------------|------------|------------|------------|------------|------------|-----------|----------|-------------------|------------|------------|------|----------|---------|-----------|-------|-----------|-----------|-------|
| Ready      | InDoubt    |            |            |            |            |           | Rejected |                   |            |            |      |          |         |           | Dead  | Dead      | Dead      |       |
| InDoubt    |            | InDoubt    | InDoubt    | Processing | Processing | Ready     | Rejected |                   |            |            | Lost |          |         |           |       |           |           | Held  |
| Held       |            | Held       |            |            | Processing | Ready     |          |                   |            |            | Lost |          |         |           |       |           |           |       |
| Processing |            |            |            |            |            |           |          | Processing³       | Processing | Processing | Lost | Draining |         |           |       |           |           | Held¹ |
| Draining   |            |            |            |            |            |           |          |                   | Draining   | Draining   |      |          | Done    |           |       |           |           | Held¹ |
| Lost       |            |            |            |            |            |           |          |                   |            |            |      |          | Done    |           |       |           |           |       |
| Rejected   |            |            |            |            |            |           |          |                   |            |            |      |          |         |           |       |           | Dead      |       |
| Done       |            |            |            |            |            |           |          |                   |            |            |      |          |         | Draining² |       |           |           |       |
| Dead       |            |            |            |            |            |           |          |                   |            |            |      |          |         |           |       |           |           |       |

¹ Only for a batch that an operator named and that no tag has proven yet.
² Lost if the batch was never known.
³ Only for a batch that is proven ours, and only once.
`Vanished` is legal only while the batch has not vanished, and `Reappeared` only while it has.
`Candidates` is the fact `CandidatesChanged`. `Unplanned` is recorded together with the job's fact `InputChanged`.
`Planned` is always the first fact of a shard, and never a later one.
Every empty cell raises IllegalTransition, and the journal stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

import msgspec
from msgspec.structs import replace

from abatch.errors import IllegalTransition
from abatch.protocol.clocks import Moment
from abatch.protocol.facts import (
    Abandoned,
    Accepted,
    CancelledAsParked,
    Candidate,
    CandidatesChanged,
    Committing,
    Counts,
    Drained,
    Ended,
    Found,
    Planned,
    Reappeared,
    Reopened,
    Split,
    Unplanned,
    Unreadable,
    Vanished,
    Withdrawn,
)
from abatch.protocol.facts import Held as HeldFact
from abatch.protocol.facts import Lost as LostFact
from abatch.protocol.facts import Rejected as RejectedFact

if TYPE_CHECKING:
    from abatch.protocol.facts import SealedRecord, ShardFact

__all__ = [
    "Abandon",
    "Action",
    "Dead",
    "Done",
    "Drain",
    "Draining",
    "GiveUp",
    "Held",
    "InDoubt",
    "Lost",
    "Processing",
    "Ready",
    "Rejected",
    "Settle",
    "State",
    "Upload",
    "Watch",
    "after",
    "doubt_of",
    "next_action",
    "resealed",
]


class _State(msgspec.Struct, frozen=True, gc=False):
    # Opening a large journal makes tens of thousands of these. They hold no cycles, as facts hold none, so gc is off.

    def followed_by(self, fact: ShardFact) -> State | None:  # noqa: ARG002 - most states override this
        """Return the next state by this state's row of the table above, or None if the cell is empty."""
        return None


class Ready(_State, frozen=True, kw_only=True):
    """Nothing exists on the server; `attempt` is the number of the last create, 0 before the first."""

    attempt: int = 0

    def followed_by(self, fact: ShardFact) -> State | None:
        """Return the next state by this state's row of the table."""
        match fact:
            case Committing() if fact.attempt == self.attempt + 1:
                return InDoubt(
                    attempt=fact.attempt,
                    date=fact.date,
                    fingerprint=fact.fingerprint,
                    at=fact.at,
                    newest=fact.newest,
                    ahead=fact.ahead,
                )
            case RejectedFact(error=error):
                return Rejected(error=error)
            case Split() | Unplanned() | Abandoned():
                return Dead(end=fact)
            case _:
                return None


class InDoubt(_State, frozen=True, kw_only=True):
    """The commit point is passed and no definite answer is known."""

    attempt: int
    date: float
    fingerprint: str | None
    certain: bool = False
    """Whether a 2xx was seen: the batch exists, and only its id is unknown. No policy sends the shard again."""
    at: Moment | None = None
    """The commit point on every clock; None in a journal of format 2."""
    newest: float | None = None
    """`created_at` of the newest batch listed just before; 0.0 if there was none, None if that is not known."""
    ahead: float = 0.0
    """Seconds by which `Date` ran ahead of `created_at`, as far as that was known."""
    candidates: tuple[Candidate, ...] = ()
    """Every batch that was ever shown, may be this attempt's, and is not proven foreign."""
    foreign: frozenset[str] = frozenset()
    """Batches that were candidates, and are proven not to be this attempt's."""
    closed_at: float | None = None
    """Batches created after this time are not candidates; None while the grace lasts."""

    def after(self, change: CandidatesChanged) -> InDoubt:
        """Return the doubt with this change of its candidates."""
        foreign = self.foreign.union(change.foreign)
        remembered = {each.batch_id for each in self.candidates}
        every = self.candidates + tuple(each for each in change.seen if each.batch_id not in remembered)
        return replace(
            self,
            candidates=tuple(each for each in every if each.batch_id not in foreign),
            foreign=foreign,
            closed_at=self.closed_at if change.closed_at is None else change.closed_at,
        )

    def followed_by(self, fact: ShardFact) -> State | None:
        """Return the next state by this state's row of the table."""
        match fact:
            case Accepted():
                return Processing(doubt=_settled(self), batch_id=fact.batch_id, created_at=fact.created_at, proven=True)
            case Unreadable():
                return replace(self, certain=True)
            case CandidatesChanged():
                return self.after(fact)
            case Found():
                return _found(self, fact)
            case Withdrawn():
                return Ready(attempt=self.attempt)
            case RejectedFact(error=error):
                return Rejected(error=error)
            case HeldFact(reason=reason):
                return Held(doubt=self, reason=reason)
            case LostFact(why=why):
                return Lost(doubt=self, batch_id=None, created_at=self.date, why=why)
            case _:
                return None


class Held(_State, frozen=True, kw_only=True):
    """In doubt, and only an operator can decide."""

    doubt: InDoubt
    reason: str

    def followed_by(self, fact: ShardFact) -> State | None:
        """Return the next state by this state's row of the table."""
        doubt = self.doubt
        match fact:
            case CandidatesChanged():
                return replace(self, doubt=doubt.after(fact))
            case Found():
                return _found(doubt, fact)
            case Withdrawn():
                return Ready(attempt=doubt.attempt)
            case LostFact(why=why):
                return Lost(doubt=doubt, batch_id=None, created_at=doubt.date, why=why)
            case _:
                return None


class Rejected(_State, frozen=True, kw_only=True):
    """Never sent again: the API refuses its only request."""

    error: str

    def followed_by(self, fact: ShardFact) -> State | None:
        """Return the next state by this state's row of the table."""
        return Dead(end=fact) if isinstance(fact, Abandoned) else None


class Processing(_State, frozen=True, kw_only=True):
    """The batch is known and has not ended."""

    doubt: InDoubt
    """What was committed."""
    batch_id: str
    created_at: float
    proven: bool
    """Whether an answer or a tag proved it. False for a batch that an operator named, until its first line proves it."""
    vanished: Moment | None = None
    """When the API first did not find it, if it has not been seen since; set after an hour without it."""
    parked: bool = False
    """Whether abatch cancelled it because it was parked: then rows that come back canceled are tried again."""

    def followed_by(self, fact: ShardFact) -> State | None:
        """Return the next state by this state's row of the table."""
        match fact:
            case Ended(counts=counts):
                return Draining(
                    doubt=self.doubt,
                    batch_id=self.batch_id,
                    created_at=self.created_at,
                    proven=self.proven,
                    counts=counts,
                    parked=self.parked,
                )
            case CancelledAsParked() if self.proven and not self.parked:
                return replace(self, parked=True)
            case LostFact(why=why):
                return Lost(
                    doubt=self.doubt,
                    batch_id=self.batch_id,
                    created_at=self.created_at,
                    why=why,
                    proven=self.proven,
                )
            case _:
                return _of_a_known_batch(self, fact)


class Draining(_State, frozen=True, kw_only=True):
    """The batch ended; its results are not sealed yet."""

    doubt: InDoubt
    batch_id: str
    created_at: float
    proven: bool
    counts: Counts
    vanished: Moment | None = None
    """As in Processing."""
    parked: bool = False
    """As in Processing."""
    earlier: Drained | None = None
    """The previous drain, if its sealed part is gone; None if this is the first drain."""

    def followed_by(self, fact: ShardFact) -> State | None:
        """Return the next state by this state's row of the table."""
        match fact:
            case Drained():
                return _done(self, fact)
            case _:
                return _of_a_known_batch(self, fact)


class Lost(_State, frozen=True, kw_only=True):
    """The results of the attempt are given up; its part without lines is not sealed yet."""

    doubt: InDoubt
    batch_id: str | None
    """None if the batch was never known."""
    created_at: float
    """When the batch was created; the `Date` of the commit point if the batch was never known."""
    why: str
    proven: bool = False
    """As in Processing."""

    def followed_by(self, fact: ShardFact) -> State | None:
        """Return the next state by this state's row of the table."""
        return _done(self, fact) if isinstance(fact, Drained) else None


class Done(_State, frozen=True, kw_only=True):
    """Every row has its line, or is in a retry shard, or is missing."""

    drained: Drained
    doubt: InDoubt
    batch_id: str | None
    """None if the batch was never known: a doubt that an operator gave up."""
    created_at: float
    proven: bool = True
    """Whether an answer, a tag, or a line proved it; False for a batch that an operator named and that has no line."""
    parked: bool = False
    """As in Processing: if the shard is drained once more, rows that came back canceled belong to the retry shard."""

    def followed_by(self, fact: ShardFact) -> State | None:
        """Return the next state by this state's row of the table."""
        return _reopened(self) if isinstance(fact, Reopened) else None


class Dead(_State, frozen=True, kw_only=True):
    """The shard will never be a batch: split, planned once more, or abandoned with its fallback lines sealed."""

    end: Split | Unplanned | Abandoned


State: TypeAlias = Ready | InDoubt | Held | Rejected | Processing | Draining | Lost | Done | Dead


@dataclass(frozen=True, slots=True)
class Upload:
    """Create the batch, as this attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Settle the attempt from the server's list, or wait for an operator's decision."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Wait until this batch ends."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Stream the results of this batch into the sink and seal it."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Seal a part without lines, and list every row as missing."""

    why: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """Seal this error envelope as the line of its only request."""

    error: str


Action: TypeAlias = Upload | Settle | Watch | Drain | GiveUp | Abandon


def doubt_of(state: State) -> InDoubt | None:
    """Return the committed attempt, if it is not settled or drained yet; None otherwise."""
    match state:
        case InDoubt():
            return state
        case Held(doubt=doubt) | Processing(doubt=doubt) | Draining(doubt=doubt):
            return doubt
        case Ready() | Rejected() | Lost() | Done() | Dead():
            return None
        case _:
            assert_never(state)


def next_action(state: State) -> Action | None:
    """Return the one action to take in this state; None if the shard is finished."""
    match state:
        case Ready(attempt=attempt):
            return Upload(attempt + 1)
        case InDoubt() | Held():
            return Settle()
        case Processing(batch_id=batch_id):
            return Watch(batch_id)
        case Draining(batch_id=batch_id):
            return Drain(batch_id)
        case Lost(why=why):
            return GiveUp(why)
        case Rejected(error=error):
            return Abandon(error)
        case Done() | Dead():
            return None
        case _:
            assert_never(state)


def resealed(state: State, sealed: SealedRecord) -> State:
    """Return the state of a sealed shard whose results are at another destination now.

    Raises:
        IllegalTransition: the shard has no sealed results.

    """
    match state:
        case Done(drained=end):
            return replace(state, drained=replace(end, sealed=sealed))
        case Dead(end=Abandoned() as end):
            return replace(state, end=replace(end, sealed=sealed))
        case _:
            raise IllegalTransition(state, sealed)


def after(state: State | None, fact: ShardFact) -> State:
    """Return the state that `fact` leads to from `state` (None before the first fact).

    Raises:
        IllegalTransition: the cell of the table above is empty.

    """
    if state is None:
        following: State | None = Ready() if isinstance(fact, Planned) else None
    else:
        following = state.followed_by(fact)
    if following is None:
        raise IllegalTransition(state, fact)
    return following


def _of_a_known_batch(state: Processing | Draining, fact: ShardFact) -> State | None:
    """Return the next state for the facts that both states treat alike."""
    match fact:
        case HeldFact(reason=reason) if not state.proven:
            return Held(doubt=state.doubt, reason=reason)
        case Vanished(since=since) if state.vanished is None:
            return replace(state, vanished=since)
        case Reappeared() if state.vanished is not None:
            return replace(state, vanished=None)
        case _:
            return None


def _found(doubt: InDoubt, fact: Found) -> Processing:
    proven = fact.by == "tag"
    doubt = _settled(doubt) if proven else doubt
    return Processing(doubt=doubt, batch_id=fact.batch_id, created_at=fact.created_at, proven=proven)


def _done(state: Draining | Lost, fact: Drained) -> Done:
    return Done(
        drained=fact,
        doubt=state.doubt,
        batch_id=state.batch_id,
        created_at=state.created_at,
        proven=state.proven or bool(fact.counts.total or fact.retried),
        parked=isinstance(state, Draining) and state.parked,
    )


def _reopened(state: Done) -> Draining | Lost:
    if state.batch_id is None:
        return Lost(doubt=state.doubt, batch_id=None, created_at=state.created_at, why=state.drained.gone)
    return Draining(
        doubt=state.doubt,
        batch_id=state.batch_id,
        created_at=state.created_at,
        proven=state.proven,
        counts=state.drained.counts,
        earlier=state.drained,
        parked=state.parked,
    )


def _settled(doubt: InDoubt) -> InDoubt:
    """Return the doubt without the fields that matter only while it is open."""
    if doubt.closed_at is None and not doubt.candidates and not doubt.foreign:
        return doubt
    return replace(doubt, candidates=(), foreign=frozenset(), closed_at=None)
