"""The Message Batches API as a pure machine: requests in, replies out.

The machine does no I/O and has no clock: the caller passes the clock, the random generator, and a function that records
its facts. A reply includes the faults that the transport must carry out, so the same machine serves over HTTP
(`server.py`) and inside a simulation on a virtual clock:

    reply = machine.handle(Request("POST", "/v1/messages/batches", headers={...}, body=body))

A server that receives a body piece by piece opens a visit instead: `open`, `feed` …, then `finish` or
`abandon`. Nothing is created before `finish`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, Annotated, TypedDict, assert_never

import msgspec

from abatch.input.params import table
from abatch.sandbox import faults as f
from abatch.sandbox.answers import (
    Canceled,
    Columns,
    CutShort,
    Errored,
    Expired,
    Refused,
    Requests,
    Succeeded,
    chosen_outcome,
    message,
    scattered,
    why_invalid,
)
from abatch.sandbox.batches import ARCHIVED_AFTER, Batch, Batches, Ended, InProgress
from abatch.sandbox.disturb import blank_lines_in_gzip, disturbed, in_chunks
from abatch.sandbox.exchange import Cut, Reply, Request, Transport, Whole
from abatch.sandbox.faults.orders import Delete
from abatch.sandbox.http_replies import STATUS_OF_KIND, Replies
from abatch.sandbox.replies import own_answer
from abatch.sandbox.settings import Settings
from abatch.sandbox.visibility import is_hidden, is_odd, lag_of
from abatch.sandbox.visit import BODY_LIMIT, Visit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from abatch.sandbox.account import Account
    from abatch.sandbox.store import Fact

__all__ = ["BODY_LIMIT", "Machine", "Settings", "Visit"]

REQUESTS_LIMIT = 100_000
FOREIGN_PER_CALL = 100
"""The largest number of batches that a foreign stream makes at one call."""
NEVER = datetime.max.replace(tzinfo=UTC)


class _Refused(Exception):
    """The call is answered with an error of the API."""

    def __init__(self, status: int, text: str, *, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retry_after = retry_after


class _Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    custom_id: Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}\Z")]
    params: msgspec.Raw


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    requests: Annotated[list[_Item], msgspec.Meta(min_length=1, max_length=REQUESTS_LIMIT)]


_read_create = msgspec.json.Decoder(_Create).decode


@dataclass(slots=True)
class _Allowance:
    """The calls that a workspace may still make: a bucket that fills at the rate per minute."""

    calls: float
    at: datetime


@dataclass(slots=True)
class _Stream:
    """Batches that another user creates, one every few seconds; they are made when the machine is called."""

    every: float
    latency: float | None
    due: datetime
    """When the next batch is created."""
    until: datetime
    cleared: int
    """How often faults had been cleared when the stream began; it ends when they are cleared again."""


class _Fate(TypedDict, total=False):
    """The effects of a create's faults on its batch."""

    parked: float
    deleted_after: float


def nowhere(_: Fact) -> None:
    """Discard a fact."""


class Machine:
    """The Batches API, the account of what it accepted, and the faults that it has to show."""

    def __init__(
        self,
        *,
        clock: Callable[[], datetime],
        rng: Random,
        settings: Settings | None = None,
        record: Callable[[Fact], None] = nowhere,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        self._replies = Replies(self.settings, clock)
        table()  # build the table now, because the first call takes a second and no request waits yet
        self.faults = f.Faults()
        self._clock = clock
        self._rng = rng
        self._batches = Batches(clock=clock, rng=rng, latency=self.settings.latency_range, record=record)
        self._allowances: dict[str, _Allowance] = {}
        self._streams: dict[tuple[str, int], _Stream] = {}
        """Foreign streams, by workspace and number of requests."""
        self._revoked: dict[str, datetime] = {}
        """The tokens that are refused, with the time until which they are."""
        self._described: dict[str, tuple[object, object, msgspec.Raw]] = {}
        """Each batch as it was shown last: its state, the options of the call, and its JSON."""

    @property
    def account(self) -> Account:
        """The account of what was accepted."""
        return self._batches.account

    def batches(self) -> list[Batch]:
        """Return every batch of every workspace, in the order of creation."""
        self._advance(self._clock())
        return list(self._batches)

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
        return self._batches.add_foreign(n_requests, count=count, created=created, latency=latency, workspace=workspace)

    def deleted(self) -> list[Batch]:
        """Return every deleted batch, including those deleted before they ended, in the order of deletion."""
        self._advance(self._clock())
        return list(self._batches.deleted)

    def delete(self, batch_id: str, /) -> None:
        """Delete a batch in any state.

        Raises:
            LookupError: there is no such batch.

        """
        now = self._clock()
        self._advance(now)
        batch = self._batches.get(batch_id)
        if batch is None:
            raise LookupError(f"there is no batch {batch_id}; GET /sandbox/batches lists them")
        self._batches.delete(batch, at=now)

    def obey(self, orders: Sequence[f.Order], /) -> None:
        """Carry out orders in JSON; if one names a batch that does not exist, none is carried out.

        Raises:
            LookupError: there is no such batch.

        """
        self._advance(self._clock())
        for order in orders:
            if isinstance(order, Delete) and self._batches.get(order.batch_id) is None:
                raise LookupError(f"there is no batch {order.batch_id}; GET /sandbox/batches lists them")
        for order in orders:
            match order:
                case Delete(batch_id):
                    self.delete(batch_id)
                case _:
                    self.faults.obey(order)

    def replay(self, facts: Iterable[Fact], /) -> None:
        """Restore the state of an earlier machine from its facts."""
        self._batches.replay(facts)

    # ---- the request ---------------------------------------------------------------------------------------------

    def handle(self, request: Request, /) -> Reply:
        """Answer a request with a complete body."""
        visit = self.open(request)
        if visit.early is not None:
            return visit.early
        visit.feed(request.body)
        return visit.finish()

    def open(self, request: Request, /) -> Visit:
        """Begin a request whose body comes piece by piece; the `body` of the request is ignored."""
        return Visit(self, request)

    def draw(self, visit: Visit, /) -> Sequence[f.AnyFault]:
        """Draw the faults that this visit will meet."""
        if visit.action == "unknown":
            return ()
        self._advance(self._clock())
        return self.faults.draw(visit.action, lambda fault: self._suits(fault, visit), self._rng)

    def _suits(self, fault: f.AnyFault, visit: Visit) -> bool:
        match fault:
            case f.PageError():
                return "after_id" in visit.request.query
            case f.Flap() | f.CountsLag() if visit.action == "retrieve":
                batch = self._batches.get(visit.batch_id)
                return batch is not None and isinstance(batch.state, Ended)
            case f.Hang(only_foreign=True) | f.EmptyResults(only_foreign=True):
                batch = self._batches.get(visit.batch_id)
                return batch is not None and batch.foreign
            case _:
                return True

    def _advance(self, now: datetime) -> None:
        """Let everything happen that is due by now, including the batches of other users."""
        for (workspace, size), stream in list(self._streams.items()):
            if stream.cleared != self.faults.cleared:
                del self._streams[workspace, size]
                continue
            end = min(now, stream.until)
            if stream.due > end:
                continue
            missing = int((end - stream.due).total_seconds() / stream.every) + 1
            skipped = max(0, missing - FOREIGN_PER_CALL)
            for place in range(skipped, missing):
                created = stream.due + timedelta(seconds=stream.every * place)
                self.add_foreign(size, created=created, latency=stream.latency, workspace=workspace)
            stream.due += timedelta(seconds=stream.every * missing)
        self._batches.advance(now)

    def early_reply(self, visit: Visit, /) -> Reply | None:
        """Return the reply that does not wait for the body, if this visit meets such a fault."""
        if visit.fault(f.Refuse):
            return self._replies.lost()
        status = visit.fault(f.Status)
        if status is None or not status.early:
            return None
        return self._replies.dated(self._replies.recorded(self._replies.status(status), visit), visit)

    def answer(self, visit: Visit, /) -> Reply:
        """Carry out a complete visit, with the changes that its faults make."""
        now = self._clock()
        self._advance(now)
        if visit.action == "create" and (stream := visit.fault(f.ForeignStream)):
            self._begin_stream(stream, visit, now)
        reply = self._replies.instead(visit)
        if reply is None:
            try:
                reply = self._act(visit, now)
            except _Refused as refusal:
                reply = self._replies.error(refusal.status, refusal.text, retry_after=refusal.retry_after)
        return self._replies.dated(self._replies.spoiled(self._replies.recorded(reply, visit), visit), visit)

    def abandon(self, visit: Visit, received: int, /) -> None:
        """Record a create that never became complete."""
        if visit.action == "create":
            self._batches.abort(received)

    # ---- the endpoints -------------------------------------------------------------------------------------------

    def _act(self, visit: Visit, now: datetime) -> Reply:
        workspace = self._workspace_of(visit)
        visit.workspace = workspace
        if visit.action not in ("messages", "unknown"):
            self._pace(workspace, now)
        match visit.action:
            case "create":
                return self._create(visit, workspace, now)
            case "retrieve":
                return self._retrieve(visit, workspace, now)
            case "list":
                return self._list(visit, workspace, now)
            case "results":
                return self._results(visit, workspace, now)
            case "cancel":
                return self._cancel(visit, workspace, now)
            case "delete":
                return self._delete(visit, workspace, now)
            case "messages":
                return self._message(visit)
            case "unknown":
                raise _Refused(404, "Not Found")
            case _:
                assert_never(visit.action)

    def _workspace_of(self, visit: Visit) -> str:
        headers = visit.request.headers
        key = headers.get("authorization", "").removeprefix("Bearer ").strip() or headers.get("x-api-key", "")
        keys = self.settings.keys
        if not key:
            raise _Refused(401, "an API key is required: Authorization: Bearer KEY, or x-api-key")
        if revoked := visit.fault(f.Revoked):
            now = self._clock()
            self._revoked[key] = NEVER if revoked.seconds is None else now + timedelta(seconds=revoked.seconds)
        if key in self._revoked and self._clock() < self._revoked[key]:
            raise _Refused(401, "the token was revoked")
        if keys is not None and key not in keys:
            raise _Refused(401, "invalid API key")
        workspace = headers.get("anthropic-workspace-id", "default") if keys is None else keys[key]
        if pool := visit.fault(f.KeyPool):
            workspace = self._rng.choice(pool.workspaces)
        return f"not-{workspace}" if visit.fault(f.OtherWorkspace) else workspace

    def _pace(self, workspace: str, now: datetime) -> None:
        per_minute = self.settings.requests_per_minute
        if per_minute is None:
            return
        allowance = self._allowances.setdefault(workspace, _Allowance(per_minute, now))
        passed = (now - allowance.at).total_seconds()
        allowance.calls = min(per_minute, allowance.calls + passed * per_minute / 60)
        allowance.at = now
        if allowance.calls < 1:
            wait = (1 - allowance.calls) * 60 / per_minute
            raise _Refused(429, f"more than {per_minute} requests per minute", retry_after=wait)
        allowance.calls -= 1

    def _create(self, visit: Visit, workspace: str, now: datetime) -> Reply:
        requests = self._read_requests(visit)
        limit = self.settings.queue_limit
        if limit is not None and self._batches.waiting(workspace) + len(requests) > limit:
            raise _Refused(429, f"more than {limit} requests in the processing queue", retry_after=10)
        fate: _Fate = {}
        if parked := visit.fault(f.Parked):
            fate["parked"] = parked.seconds
        if deleted := visit.fault(f.Deleted):
            fate["deleted_after"] = deleted.after_seconds
        if late := visit.fault(f.LateAccept):
            self._batches.accept_late(workspace, requests, at=now + timedelta(seconds=late.seconds), **fate)
            return self._replies.lost() if late.status is None else self._replies.status(f.Status(late.status))
        created_at = now
        if visit.fault(f.SameInstant) and self._batches.of(workspace):
            created_at = self._batches.of(workspace)[-1].created_at
        if foreign := visit.fault(f.Foreign):
            self.add_foreign(len(requests), count=foreign.count, created=created_at, workspace=workspace)
        if visit.fault(f.Replay):
            self._batches.accept(workspace, requests, at=now, created_at=created_at, **fate)
        before = (
            [each for each in self._batches.of(workspace) if not each.foreign] if visit.fault(f.StaleAnswer) else []
        )
        batch = self._batches.accept(workspace, requests, at=now, created_at=created_at, **fate)
        return self._replies.json(200, self._describe(before[-1] if before else batch, visit, now))

    def _begin_stream(self, fault: f.ForeignStream, visit: Visit, now: datetime) -> None:
        """Begin a stream of another user's batches; a running stream of the same size continues instead.

        The stream begins even if another fault prevents this create.
        """
        try:
            workspace = self._workspace_of(visit)
            size = fault.size or len(_read_create(visit.body).requests)
        except (_Refused, msgspec.DecodeError, UnicodeDecodeError):
            return  # this create will be refused, and reveals no size that a stream could match
        self._streams.setdefault(
            (workspace, size),
            _Stream(
                every=fault.every,
                latency=fault.latency,
                due=now + timedelta(seconds=fault.every),
                until=now + timedelta(seconds=fault.seconds),
                cleared=self.faults.cleared,
            ),
        )

    def _read_requests(self, visit: Visit) -> Requests:
        if visit.received > BODY_LIMIT:
            raise _Refused(413, f"the body has {visit.received} bytes, the limit is {BODY_LIMIT}")
        try:
            items = _read_create(visit.body).requests
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Refused(400, str(error)) from None
        if len({item.custom_id for item in items}) < len(items):
            raise _Refused(400, "requests: every custom_id must be unique within the batch")
        decide, times_of, rng = self.settings.outcome, self.account.times_of, self._rng
        columns = Columns()
        for item in items:
            params = bytes(item.params)
            request = blake2b(params, digest_size=16).digest()
            outcome = decide(params, times_of(request) + 1, rng)
            own = own_answer(params, self.settings.answer) if isinstance(outcome, Succeeded) else None
            if isinstance(own, Errored):
                columns.add(item.custom_id, params, request, own)
            else:
                columns.add(item.custom_id, params, request, outcome, own)
        return columns.requests()

    def _retrieve(self, visit: Visit, workspace: str, now: datetime) -> Reply:
        batch = self._find_shown(visit, workspace, now)
        retry_after = None if isinstance(batch.state, Ended) else self.settings.retry_after_seconds
        return self._replies.json(200, self._describe(batch, visit, now), retry_after=retry_after)

    def _list(self, visit: Visit, workspace: str, now: datetime) -> Reply:
        query = visit.request.query
        asked = query.get("limit", "20")
        limit = int(asked) if asked.isdecimal() else 0
        if not 1 <= limit <= 1000:
            raise _Refused(400, "limit: a number from 1 to 1000 is expected")
        if "after_id" in query and "before_id" in query:
            raise _Refused(400, "after_id and before_id exclude each other")
        shown = self._batches.of(workspace)
        if lag := visit.fault(f.Lag):
            shown = [batch for batch in shown if batch.created_at + lag_of(batch, lag.seconds) <= now]
        if visit.fault(f.Hide) or visit.fault(f.Stale):
            shown = [batch for batch in shown if not is_hidden(batch, visit, now)]
        start, end = max(0, len(shown) - limit), len(shown)
        more = start > 0
        if "after_id" in query:
            end = self._place(shown, query["after_id"], workspace)
            start = max(0, end - limit)
            more = start > 0
        elif "before_id" in query:
            start = self._place(shown, query["before_id"], workspace)
            start += start < len(shown) and shown[start].batch_id == query["before_id"]
            end = min(len(shown), start + limit)
            more = end < len(shown)
        page = shown[start:end][::-1]
        ends = {"first_id": page[0].batch_id if page else None, "last_id": page[-1].batch_id if page else None}
        data = [self._listed(batch, visit, now) for batch in page]
        return self._replies.json(200, {"data": data, "has_more": more, **ends})

    def _listed(self, batch: Batch, visit: Visit, now: datetime) -> msgspec.Raw:
        """Return the entry of a batch in a list, which a fault may make odd."""
        entry = self._describe(batch, visit, now)
        if not is_odd(batch, visit):
            return entry
        nulls = {fault.field: None for fault in visit.faults if isinstance(fault, f.OddEntry)}
        return msgspec.Raw(msgspec.json.encode(msgspec.json.decode(entry) | nulls))

    def _place(self, shown: Sequence[Batch], batch_id: str, workspace: str) -> int:
        """Return the index at which the batch is shown, or would be."""
        return bisect_left(shown, self._find(batch_id, workspace).age_key, key=lambda batch: batch.age_key)

    def _results(self, visit: Visit, workspace: str, now: datetime) -> Reply:
        batch = self._find_shown(visit, workspace, now)
        if not isinstance(batch.state, Ended):
            raise _Refused(404, f"Message Batch {batch.batch_id} has no available results.")
        not_yet = visit.fault(f.NotYet)
        if not_yet and now < batch.state.at + timedelta(seconds=not_yet.seconds):
            raise _Refused(404, f"Message Batch {batch.batch_id} has no available results.")
        if visit.fault(f.Archived) or now >= batch.created_at + ARCHIVED_AFTER:
            raise _Refused(404, f"the results of {batch.batch_id} are archived")
        shape = self.settings.shape
        headers = {"content-disposition": f"attachment; filename*=utf-8''{batch.batch_id}_results.jsonl"}
        if shape.results_type is not None:
            headers["content-type"] = shape.results_type
        if bomb := visit.fault(f.GzipBomb):
            squeezed = headers | {"content-encoding": "gzip"}
            return self._replies.reply(200, blank_lines_in_gzip(bomb.size), squeezed, kind=None)
        if visit.fault(f.EmptyResults):
            return self._replies.reply(200, iter(()), headers, kind=None)
        n = len(batch.requests)
        order = scattered(n, self._rng.getrandbits(32) if visit.fault(f.Reshuffle) else batch.seed)
        lines = batch.requests.lines(batch.state.outcome_of, order, self.settings.answer_bytes)
        transport: Transport = Whole()
        for fault in visit.faults:
            if isinstance(fault, f.LineFault):
                lines = disturbed(lines, n, fault, Random(self._rng.getrandbits(32)))  # noqa: S311 - chance
            if isinstance(fault, f.CutAtLine | f.CutInLine) and not fault.clean:
                transport = Cut()
        cuts = [fault for fault in visit.faults if isinstance(fault, f.CutInLine)]
        last_newline = all(fault.newline for fault in cuts) if cuts else shape.last_newline
        chunks = in_chunks(lines, last_newline=last_newline)
        return replace(self._replies.reply(200, chunks, headers, kind=None), transport=transport)

    def _cancel(self, visit: Visit, workspace: str, now: datetime) -> Reply:
        batch = self._find_shown(visit, workspace, now)
        if isinstance(batch.state, Ended):
            raise _Refused(400, f"{batch.batch_id} has ended and cannot be canceled")
        if isinstance(batch.state, InProgress):
            self._batches.cancel(batch, at=now, latency=self.settings.cancel_latency)
        return self._replies.json(200, self._describe(batch, visit, now))

    def _delete(self, visit: Visit, workspace: str, now: datetime) -> Reply:
        batch = self._find_shown(visit, workspace, now)
        if not isinstance(batch.state, Ended):
            raise _Refused(400, f"{batch.batch_id} has not ended and cannot be deleted; cancel it first")
        self._batches.delete(batch, at=now)
        return self._replies.json(200, {"id": batch.batch_id, "type": "message_batch_deleted"})

    def _message(self, visit: Visit) -> Reply:
        params = bytes(visit.body)
        if (why := why_invalid(params)) is not None:
            raise _Refused(400, why)
        self.account.messages += 1
        match chosen_outcome(params, self.account.messages):
            case Errored(kind):
                raise _Refused(STATUS_OF_KIND.get(kind, 500), "[sandbox] errored on demand")
            case Succeeded() | Refused() | CutShort() | Expired() | Canceled() | None:
                own = own_answer(params, self.settings.answer)
                if isinstance(own, Errored):
                    raise _Refused(STATUS_OF_KIND[own.kind], own.text or own.kind)
                return self._replies.json(200, message(params, self.settings.answer_bytes, own))

    def _find(self, batch_id: str, workspace: str) -> Batch:
        batch = self._batches.get(batch_id)
        if batch is None or batch.workspace != workspace:
            raise _Refused(404, f"Message Batch {batch_id} not found.")
        return batch

    def _find_shown(self, visit: Visit, workspace: str, now: datetime) -> Batch:
        """Return the batch that a call names, unless a fault hides it."""
        batch = self._find(visit.batch_id, workspace)
        if is_hidden(batch, visit, now):
            raise _Refused(404, f"Message Batch {batch.batch_id} not found.")
        return batch

    # ---- the answers ---------------------------------------------------------------------------------------------

    def _describe(self, batch: Batch, visit: Visit, now: datetime) -> msgspec.Raw:
        """Return a batch as JSON, which is made once for each state, because a list has many unchanged batches."""
        host = self.settings.results_host or f"http://{visit.request.headers.get('host', '127.0.0.1')}"
        flap = visit.fault(f.Flap) is not None
        counts_lag = visit.fault(f.CountsLag) is not None
        null_counts = visit.fault(f.NullCounts) is not None
        archived = visit.fault(f.ShownArchived) is not None or now >= batch.created_at + ARCHIVED_AFTER
        what = (host, flap, counts_lag, null_counts, archived)
        state, of, shown = self._described.get(batch.batch_id, (None, None, msgspec.Raw()))
        if state is not batch.state or of != what:
            described = batch.describe(
                now, host, flap=flap, counts_lag=counts_lag, null_counts=null_counts, archived=archived
            )
            if not self.settings.shape.archived_at:
                del described["archived_at"]
            shown = msgspec.Raw(msgspec.json.encode(described))
            self._described[batch.batch_id] = batch.state, what, shown
        return shown
