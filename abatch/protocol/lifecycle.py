"""The life of a shard: its states, what each fact does to them, and the one thing to do next.

                 Withdrawn                              ┌─► Held ──┬─ Found ─► Processing
        ┌───────────────────────────────┐               │          └─ Withdrawn ─► Ready
        ▼                               │               │
      Ready ──── Committing ────────► InDoubt ── Held ──┘
      │  │                              ├─ Rejected ─► Rejected ── Abandoned ─► Dead
      │  └─ Split, Abandoned ─► Dead    └─ Accepted, Found ─► Processing ── Ended ─► Draining ── Drained ─► Done
                                                                                        ▲                    │
      InDoubt, Held, Processing ── Lost ─► Lost ── Drained ─► Done                      └───── Reopened ─────┘

The state is the replay of the shard's facts, and `next_action` of the state says what the driver does. Running
and recovering are therefore the same code: after a crash the facts say where to go on. Everything here is pure.

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

¹ Only a batch that an operator named and no tag has proven yet.
² Lost where the batch never was known. `Vanished` follows only where it did not, or `Reappeared` came since, and
`Reappeared` only where it did.
³ Only a batch that is proven ours, and once.
`Candidates` is the fact `CandidatesChanged`. `Unplanned` comes with the job's fact `InputChanged`.
`Planned` is the first fact of a shard and of no other state.
Every empty place raises IllegalTransition, and the journal is left as it is.
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
    # a large journal makes these by the ten thousand when it is opened; as facts hold no cycle, they hold none

    def followed_by(self, fact: ShardFact) -> State | None:  # noqa: ARG002 - most states have a row of their own
        """The row of the table above that is this state's: the next state, or None where the place is empty."""
        return None


class Ready(_State, frozen=True, kw_only=True):
    """Nothing exists on the server; `attempt` is the number of the last create, 0 before the first."""

    attempt: int = 0

    def followed_by(self, fact: ShardFact) -> State | None:
        """The row of this state."""
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
    """A 2xx was seen: the batch exists, only its id is unknown. Never sent again by policy."""
    at: Moment | None = None
    """The commit point on every clock; None in a journal of format 2."""
    newest: float | None = None
    """`created_at` of the newest batch listed just before; 0.0 if there was none, None if that is not known."""
    ahead: float = 0.0
    """Seconds by which `Date` ran ahead of `created_at`, as far as that was known."""
    candidates: tuple[Candidate, ...] = ()
    """Every batch that was ever shown, may be this one, and is not proven foreign."""
    foreign: frozenset[str] = frozenset()
    """Batches that were candidates, and are proven not to be this one."""
    closed_at: float | None = None
    """Batches created later are no candidates; None while the grace lasts."""

    def after(self, change: CandidatesChanged) -> InDoubt:
        """The doubt once a look at the list changed its candidates."""
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
        """The row of this state."""
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
    """In doubt, and only an operator can say."""

    doubt: InDoubt
    reason: str

    def followed_by(self, fact: ShardFact) -> State | None:
        """The row of this state."""
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
        """The row of this state."""
        return Dead(end=fact) if isinstance(fact, Abandoned) else None


class Processing(_State, frozen=True, kw_only=True):
    """The batch is known and has not ended."""

    doubt: InDoubt
    """What was committed."""
    batch_id: str
    created_at: float
    proven: bool
    """By an answer or a tag. False for a batch an operator named, until its first line proves it."""
    vanished: Moment | None = None
    """When the API was first asked for it in vain, if it has not been seen since; set after an hour without it."""
    parked: bool = False
    """abatch cancelled it because it was parked: what comes back canceled is tried again."""

    def followed_by(self, fact: ShardFact) -> State | None:
        """The row of this state."""
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
    """As of Processing."""
    parked: bool = False
    """As of Processing."""
    earlier: Drained | None = None
    """How it was drained before its sealed part was gone; None where this is the first time."""

    def followed_by(self, fact: ShardFact) -> State | None:
        """The row of this state."""
        match fact:
            case Drained():
                return _done(self, fact)
            case _:
                return _of_a_known_batch(self, fact)


class Lost(_State, frozen=True, kw_only=True):
    """What the attempt made is given up; that its rows are missing is not sealed yet."""

    doubt: InDoubt
    batch_id: str | None
    """None where the batch never was known."""
    created_at: float
    """Of the batch; where it never was known, the `Date` of the commit point."""
    why: str
    proven: bool = False
    """As of Processing."""

    def followed_by(self, fact: ShardFact) -> State | None:
        """The row of this state."""
        return _done(self, fact) if isinstance(fact, Drained) else None


class Done(_State, frozen=True, kw_only=True):
    """Every row has its line, or is in a retry shard, or is missing."""

    drained: Drained
    doubt: InDoubt
    batch_id: str | None
    """None where the batch never was known: a doubt that an operator gave up."""
    created_at: float
    proven: bool = True
    """By an answer, a tag, or a line; False for a batch that an operator named and that gave none."""
    parked: bool = False
    """As of Processing: where it is drained once more, what came back canceled is the retry shard's."""

    def followed_by(self, fact: ShardFact) -> State | None:
        """The row of this state."""
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
    """Find out from the server's list what became of the attempt, or wait for an operator's word."""


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
    """What was committed and is not settled or drained yet; None where nothing is."""
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
    """The one thing to do in this state; None at its end."""
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
    """The state of a sealed shard whose results are at another destination now.

    Raises:
        IllegalTransition: nothing of it is sealed.

    """
    match state:
        case Done(drained=end):
            return replace(state, drained=replace(end, sealed=sealed))
        case Dead(end=Abandoned() as end):
            return replace(state, end=replace(end, sealed=sealed))
        case _:
            raise IllegalTransition(state, sealed)


def after(state: State | None, fact: ShardFact) -> State:
    """The state once `fact` is added to the facts that led to `state` (None: there were none).

    Raises:
        IllegalTransition: the table above has an empty place here.

    """
    if state is None:
        following: State | None = Ready() if isinstance(fact, Planned) else None
    else:
        following = state.followed_by(fact)
    if following is None:
        raise IllegalTransition(state, fact)
    return following


def _of_a_known_batch(state: Processing | Draining, fact: ShardFact) -> State | None:
    """What the rows of these two states have in common."""
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
    """The doubt without what was only of use while it was one."""
    if doubt.closed_at is None and not doubt.candidates and not doubt.foreign:
        return doubt
    return replace(doubt, candidates=(), foreign=frozenset(), closed_at=None)
