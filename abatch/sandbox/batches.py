"""The batches of the sandbox, and their changes as facts.

Every change is a fact, which is recorded first and then applied. Replaying the facts of an earlier process gives the
same batches and the same account. Time passes only when the machine is called: `advance` ends the batches that are due.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING

from abatch.protocol import wire
from abatch.sandbox.account import Account
from abatch.sandbox.answers import CANCELED, CUT, EXPIRED, REFUSED, SUCCEEDED, Columns, Requests, Succeeded, scattered
from abatch.sandbox.store import Aborted, Accepted, CancelRequested, Deleted, Fact, ForeignAdded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from random import Random

__all__ = ["ARCHIVED_AFTER", "Batch", "Batches", "Canceling", "Ended", "InProgress"]

LIFETIME = timedelta(hours=24)
ARCHIVED_AFTER = timedelta(days=29)

_OTHERS_KEY = b"of somebody else's journal"  # the key of the journal of another user of abatch
_NOTHING_COUNTED = {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}


@dataclass(frozen=True, slots=True)
class InProgress:
    """The batch will end at `until` by itself."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Canceling:
    """The batch was canceled at `since` and will end at `until`."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """The batch has ended, and its outcomes are final."""

    at: datetime
    outcome_of: bytes
    counts: Mapping[str, int]
    canceled_at: datetime | None
    """When it was canceled; None if it ended by itself."""


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """One batch."""

    batch_id: str
    workspace: str
    number: int
    """The number of batches that were created before it."""
    requests: Requests
    created_at: datetime
    latency: float
    """The seconds that its work takes if it is not canceled and does not expire."""
    seed: int
    foreign: bool
    state: InProgress | Canceling | Ended
    parked: float = 0.0
    """Seconds from the end of the work to the end of the batch."""

    @property
    def age_key(self) -> tuple[datetime, int]:
        """The key that decides its position in the list."""
        return self.created_at, self.number

    def describe(
        self,
        now: datetime,
        results_host: str,
        *,
        flap: bool,
        counts_lag: bool,
        null_counts: bool,
        archived: bool,
    ) -> dict[str, object]:
        """Return the batch as the API shows it; with `flap` as if not ended, with `counts_lag` not counted.

        With `archived` it shows `archived_at` although it is young.

        The fields have the same order as in recorded answers.
        """
        archived_at = min(now, self.created_at + ARCHIVED_AFTER)
        shown: dict[str, object] = {
            "id": self.batch_id,
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": _NOTHING_COUNTED | {"processing": len(self.requests)},
            "ended_at": None,
            "created_at": _moment(self.created_at),
            "expires_at": _moment(self.created_at + LIFETIME),
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": None,
        }
        match self.state:
            case Canceling(since):
                shown |= {"processing_status": "canceling", "cancel_initiated_at": _moment(since)}
            case Ended(at, _, counts, canceled_at) if not flap:
                shown |= {
                    "processing_status": "ended",
                    "ended_at": _moment(at),
                    "cancel_initiated_at": _moment(canceled_at) if canceled_at else None,
                }
                if not counts_lag:
                    shown["request_counts"] = counts
                if archived or now >= self.created_at + ARCHIVED_AFTER:
                    shown["archived_at"] = _moment(archived_at)
                else:
                    shown["results_url"] = f"{results_host}/v1/messages/batches/{self.batch_id}/results"
            case InProgress() | Ended():
                pass
        if null_counts:
            shown["request_counts"] = None
        return shown

    def outcome_after(self, seconds: float, unfinished: int) -> bytes:
        """Return the outcomes after this time of work; `unfinished` for requests that were not reached."""
        n = len(self.requests)
        done = n if seconds >= self.latency else int(n * seconds / self.latency)
        if self.parked and unfinished == CANCELED:
            done = min(done, n - n // 60)
        if done == n:
            return self.requests.outcome_of
        outcome_of = bytearray(self.requests.outcome_of)
        for place, row in enumerate(scattered(n, self.seed + 1)):
            if place >= done:
                outcome_of[row] = unfinished
        return bytes(outcome_of)


@dataclass(frozen=True, slots=True)
class _Late:
    """A batch that will be created although its create was not answered."""

    workspace: str
    requests: Requests
    parked: float
    deleted_after: float | None


@dataclass(frozen=True, slots=True)
class _Vanishing:
    """A batch that will be deleted."""

    batch: Batch


class Batches:
    """Every batch of every workspace, and the account of what was accepted."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        rng: Random,
        latency: tuple[float, float],
        record: Callable[[Fact], None],
    ) -> None:
        self.account = Account()
        self._clock = clock
        self._rng = rng
        self._latency = latency
        self._record = record
        self._by_id: dict[str, Batch] = {}
        self.deleted: list[Batch] = []
        """The deleted batches."""
        self._in_workspace: defaultdict[str, list[Batch]] = defaultdict(list)
        self._waiting: defaultdict[str, int] = defaultdict(int)
        self._due: list[tuple[datetime, int, Batch | _Late | _Vanishing]] = []
        self._foreign: dict[tuple[int, bytes | None], Requests] = {}
        self._numbers = count()
        self._ties = count()

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over every batch in the order of creation."""
        return iter(self._by_id.values())

    def get(self, batch_id: str, /) -> Batch | None:
        """Return the batch with this id, if there is one."""
        return self._by_id.get(batch_id)

    def of(self, workspace: str, /) -> Sequence[Batch]:
        """Return the batches of a workspace, oldest first."""
        return self._in_workspace[workspace]

    def waiting(self, workspace: str, /) -> int:
        """Return how many requests of a workspace are in batches that have not ended."""
        return self._waiting[workspace]

    # ---- events --------------------------------------------------------------------------------------------------

    def accept(
        self,
        workspace: str,
        requests: Requests,
        /,
        *,
        at: datetime,
        created_at: datetime,
        parked: float = 0.0,
        deleted_after: float | None = None,
    ) -> Batch:
        """Create a batch, which ends `parked` seconds after its work and is deleted at the age `deleted_after`."""
        fact = Accepted(
            at=at,
            batch_id=self._new_id(),
            workspace=workspace,
            requests=requests,
            created_at=created_at,
            latency=self._rng.uniform(*self._latency),
            seed=self._rng.getrandbits(32),
            parked=parked,
            deleted_after=deleted_after,
        )
        self._happen(fact)
        return self._by_id[fact.batch_id]

    def accept_late(
        self,
        workspace: str,
        requests: Requests,
        /,
        *,
        at: datetime,
        parked: float = 0.0,
        deleted_after: float | None = None,
    ) -> None:
        """Create a batch at this later time."""
        self._wake(at, _Late(workspace, requests, parked, deleted_after))

    def cancel(self, batch: Batch, /, *, at: datetime, latency: float) -> None:
        """Cancel a batch that is in progress."""
        self._happen(CancelRequested(at=at, batch_id=batch.batch_id, latency=latency))

    def delete(self, batch: Batch, /, *, at: datetime) -> None:
        """Delete a batch. If it has not ended, its work still completes, and the account counts it."""
        self._happen(Deleted(at=at, batch_id=batch.batch_id))

    def abort(self, received: int, /) -> None:
        """Record a create whose body never became complete."""
        self._happen(Aborted(at=self._clock(), received=received))

    def add_foreign(
        self,
        n_requests: int,
        *,
        count: int = 1,
        created: datetime | None = None,
        latency: float | None = None,
        workspace: str = "default",
    ) -> list[str]:
        """Create batches of another user, which the account does not count, and return their ids."""
        now = self._clock()
        facts = [
            ForeignAdded(
                at=now,
                batch_id=self._new_id(),
                workspace=workspace,
                n_requests=n_requests,
                created_at=now if created is None else created,
                latency=self._rng.uniform(*self._latency) if latency is None else latency,
                seed=self._rng.getrandbits(32),
            )
            for _ in range(count)
        ]
        for fact in facts:
            self._happen(fact)
        return [fact.batch_id for fact in facts]

    def replay(self, facts: Iterable[Fact], /) -> None:
        """Restore the state of an earlier machine from its facts."""
        for fact in facts:
            self.advance(fact.at)
            self._apply(fact)

    def advance(self, now: datetime, /) -> None:
        """Let everything happen that is due by now."""
        while self._due and self._due[0][0] <= now:
            at, _, what = heapq.heappop(self._due)
            match what:
                case _Late(workspace, requests, parked, deleted_after):
                    self.accept(workspace, requests, at=at, created_at=at, parked=parked, deleted_after=deleted_after)
                case _Vanishing(batch):
                    self._remove(batch.batch_id)
                case Batch(state=InProgress(until) | Canceling(until=until)) if until == at:
                    self._end(what, at)
                case Batch():
                    pass  # a cancel moved the end of this batch to an earlier time

    def _new_id(self) -> str:
        while True:
            batch_id = f"msgbatch_01sandbox{self._rng.getrandbits(64):016x}"
            if batch_id not in self._by_id:
                return batch_id

    def _happen(self, fact: Fact) -> None:
        self._record(fact)
        self._apply(fact)

    def _apply(self, fact: Fact) -> None:
        match fact:
            case Accepted():
                self.account.accept(fact.batch_id, fact.requests)
                self._begin(fact, fact.requests)
            case ForeignAdded(n_requests=n):
                of = n, _others_prefix(fact.seed)
                if of not in self._foreign:
                    self._foreign[of] = _foreign_requests(*of)
                self._begin(fact, self._foreign[of])
            case CancelRequested():
                batch = self._by_id[fact.batch_id]
                assert isinstance(batch.state, InProgress)
                until = min(batch.state.until, fact.at + timedelta(seconds=fact.latency))
                batch.state = Canceling(fact.at, until)
                self._wake(until, batch)
                self.account.canceled.append(fact.batch_id)
            case Deleted():
                self._remove(fact.batch_id)
            case Aborted():
                self.account.abort(fact.received)

    def _remove(self, batch_id: str) -> None:
        batch = self._by_id.pop(batch_id, None)
        if batch is not None:  # None if it was deleted before
            self._in_workspace[batch.workspace].remove(batch)
            self.deleted.append(batch)
            self.account.deleted.append(batch_id)

    def _begin(self, fact: Accepted | ForeignAdded, requests: Requests) -> None:
        parked = fact.parked if isinstance(fact, Accepted) else 0.0
        until = fact.created_at + min(LIFETIME, timedelta(seconds=fact.latency + parked))
        batch = Batch(
            batch_id=fact.batch_id,
            workspace=fact.workspace,
            number=next(self._numbers),
            requests=requests,
            created_at=fact.created_at,
            latency=fact.latency,
            seed=fact.seed,
            foreign=isinstance(fact, ForeignAdded),
            state=InProgress(until),
            parked=parked,
        )
        self._by_id[batch.batch_id] = batch
        insort(self._in_workspace[batch.workspace], batch, key=lambda batch: batch.age_key)
        self._waiting[batch.workspace] += len(requests)
        self._wake(until, batch)
        if isinstance(fact, Accepted) and fact.deleted_after is not None:
            self._wake(fact.created_at + timedelta(seconds=fact.deleted_after), _Vanishing(batch))

    def _wake(self, at: datetime, what: Batch | _Late | _Vanishing) -> None:
        heapq.heappush(self._due, (at, next(self._ties), what))

    def _end(self, batch: Batch, at: datetime) -> None:
        match batch.state:
            case Canceling(since):
                outcome_of = batch.outcome_after((since - batch.created_at).total_seconds(), CANCELED)
                canceled_at: datetime | None = since
            case InProgress():
                outcome_of = batch.outcome_after(LIFETIME.total_seconds(), EXPIRED)
                canceled_at = None
            case Ended():
                return
        batch.state = Ended(at, outcome_of, _counts(outcome_of), canceled_at)
        self._waiting[batch.workspace] -= len(batch.requests)
        if not batch.foreign and outcome_of.count(SUCCEEDED) < len(outcome_of):
            failed = (row for row, outcome in enumerate(outcome_of) if outcome not in (SUCCEEDED, CUT, REFUSED))
            self.account.fail(batch.requests.digest_of(row) for row in failed)


def _counts(outcome_of: bytes) -> Mapping[str, int]:
    succeeded, canceled, expired = (outcome_of.count(outcome) for outcome in (SUCCEEDED, CANCELED, EXPIRED))
    succeeded += outcome_of.count(REFUSED) + outcome_of.count(CUT)
    errored = len(outcome_of) - succeeded - canceled - expired
    found = {"succeeded": succeeded, "errored": errored, "canceled": canceled, "expired": expired}
    return _NOTHING_COUNTED | found


def _moment(at: datetime) -> str:
    """Format a time as the API does: with microseconds, in UTC, ending in +00:00."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _others_prefix(seed: int) -> bytes | None:
    """Return an id prefix for half of the foreign batches, as if another user of abatch had made them.

    The shards of that user have small numbers, like ours.
    """
    if not seed >> 31:
        return None
    return wire.prefix(_OTHERS_KEY, shard=1 + (seed >> 16) % 8, attempt=1 + (seed >> 24) % 2)


def _foreign_requests(n: int, prefix: bytes | None) -> Requests:
    columns = Columns()
    for row in range(n):
        custom_id = f"foreign-{row}" if prefix is None else (prefix + wire.row_suffix(row)).decode()
        params = b'{"model":"claude-foreign"}'
        columns.add(custom_id, params, blake2b(custom_id.encode(), digest_size=16).digest(), Succeeded())
    return columns.requests()
