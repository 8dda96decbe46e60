"""Play the API within the bounds of the promise, as `unkind.py` states them.

Faults are drawn without regard to what abatch knows. Here each is held back where it would break a bound: a batch is
hidden, or deleted, only once it is on record; a list comes from another workspace only where that can be seen; an
answer names another batch only if the process knows it as ours. A world that is not promised holds nothing back.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import abatch.sandbox.api
from abatch.sandbox.api import Machine
from abatch.sandbox.batches import _Vanishing
from abatch.sandbox.faults import Drift, Jump, KeyPool, OddEntry, SameInstant, Skew, StaleAnswer
from abatch.sandbox.visibility import is_odd
from tests.simulation.witness import tag_of

if TYPE_CHECKING:
    from datetime import datetime

    from abatch.sandbox.api import Visit
    from abatch.sandbox.batches import Batch
    from abatch.sandbox.exchange import Reply
    from abatch.sandbox.faults import AnyFault
    from tests.simulation.process import Process
    from tests.simulation.world import World

__all__ = ["Api", "hidden", "sent_by", "shown_by"]

VISIBLE = 300.0
"""Bound A2."""
LATER = 60.0
"""Seconds after which it is looked again whether a batch may be deleted."""


class Api(Machine):
    """The API machine of one world.

    Batches that say the same instant are at most a minute apart, as those of one server's clock are.
    """

    def __init__(self, world: World, **settings: Any) -> None:
        super().__init__(**settings)
        self.world = world
        self._gone: dict[str, Batch] = {}
        self._really_remove = self._batches._remove
        self._batches._remove = self._remove  # type: ignore[method-assign]

    # ---- what there is ----------------------------------------------------------------------------------------

    def batches(self) -> list[Batch]:
        """Every batch that there ever was, also those that were deleted."""
        if not self._gone:
            return super().batches()
        return sorted([*super().batches(), *self._gone.values()], key=lambda batch: batch.number)

    def batch(self, batch_id: str) -> Batch:
        """A batch that there is, or was."""
        batch = self._batches.get(batch_id) or self._gone.get(batch_id)
        assert batch is not None
        return batch

    def tag(self, batch_id: str) -> tuple[int, int] | None:
        """The shard and attempt that made it, if it is ours."""
        batch = self._batches.get(batch_id) or self._gone.get(batch_id)
        return None if batch is None or batch.foreign else tag_of(batch)

    def seconds_to_the_last_end(self) -> float:
        """Until all has happened that is known to come: ends of batches, late creates; 0 if nothing does."""
        now = self._clock()
        self._batches.advance(now)
        due = (at for at, _, what in self._batches._due if not (isinstance(what, _Vanishing) and self._is_gone(what)))
        return max(((at - now).total_seconds() for at in due), default=0.0)

    def _is_gone(self, vanishing: _Vanishing) -> bool:
        return vanishing.batch.batch_id in self._gone

    def take(self, seconds: float) -> None:
        """Let each batch from now on take so long."""
        self._batches._latency = (seconds, seconds)

    def calm(self, *, stream_goes_on: bool) -> None:
        """No more faults; but `Date` stays as wrong as it is."""
        self.faults.clear()
        for site, fault, rate in self.world.plan.faults:
            if isinstance(fault, Skew | Drift | Jump):
                self.faults.always(site, fault, rate=rate)
        self._revoked.clear()
        for stream in self._streams.values():
            if stream_goes_on:
                stream.cleared = self.faults.cleared
                self.world.hit("stream goes on")

    # ---- within the bounds ------------------------------------------------------------------------------------

    def _suits(self, fault: AnyFault, visit: Visit) -> bool:
        if isinstance(fault, SameInstant):
            newest = self._batches.of(self._own_workspace(visit))[-1:]
            return bool(newest) and self._clock() - newest[0].created_at < timedelta(minutes=1)
        return super()._suits(fault, visit)

    def _workspace_of(self, visit: Visit) -> str:
        """A key of one workspace, with which a header selects others beside it."""
        try:
            workspace, own = super()._workspace_of(visit), self._own_workspace(visit)
        finally:
            if not self.world.disturbed:  # A create that was late brought its fault into the calm end.
                self._revoked.clear()
        named = visit.request.headers.get("anthropic-workspace-id")
        drawn = workspace if named is None else f"{workspace}/{named}"
        if drawn == own or visit.fault(KeyPool) is None:
            return drawn
        if visit.action == "list" and self.world.plan.promised and not self._may_be_partial(visit, own):
            return own
        self.world.hit(f"{visit.action} of another workspace")
        return drawn

    def _own_workspace(self, visit: Visit) -> str:
        headers = visit.request.headers
        key = headers.get("authorization", "").removeprefix("Bearer ") or headers["x-api-key"]
        workspace = (self.settings.keys or {})[key]
        named = headers.get("anthropic-workspace-id")
        return workspace if named is None else f"{workspace}/{named}"

    def _may_be_partial(self, visit: Visit, own: str) -> bool:
        """Bound A7: every batch of ours is on record, or a list without this workspace is seen to be partial."""
        on_record = self.world.witness.on_record
        if all(batch.foreign or batch.batch_id in on_record for batch in self._batches.of(own)):
            return True
        process = process_of(visit)
        scope = process.scope(visit.request.headers.get("anthropic-workspace-id"))
        if scope is None:
            return False
        must_show_until = self.world.server_time() + self.ahead(visit) - VISIBLE - 1
        known = scope.known
        return any(
            batch_id in known.listed or created_at < must_show_until for batch_id, created_at in known.live.items()
        )

    def ahead(self, visit: Visit) -> float:
        """By how much the `Date` of the answer will be ahead."""
        ran, ahead = self.world.now(), 0.0
        for fault in visit.faults:
            match fault:
                case Skew(seconds):
                    ahead += seconds
                case Drift(per_hour):
                    ahead += per_hour * ran / 3600
                case Jump(at, seconds) if ran >= at:
                    ahead += seconds
                case _:
                    pass
        return ahead

    def _create(self, visit: Visit, workspace: str, now: datetime) -> Reply:
        """Bound A7: a stale answer names a batch that the process knows as ours."""
        if visit.fault(StaleAnswer) is not None:
            mine = [batch for batch in self._batches.of(workspace) if not batch.foreign]
            scope = process_of(visit).scope(visit.request.headers.get("anthropic-workspace-id"))
            if not mine or scope is None or mine[-1].batch_id not in scope.known.bound:
                visit.faults = [fault for fault in visit.faults if not isinstance(fault, StaleAnswer)]
        return super()._create(visit, workspace, now)

    def _remove(self, batch_id: str) -> None:
        """Bound A2: nobody deletes a batch before it is on record."""
        world, batch = self.world, self._batches.get(batch_id)
        if batch is None:
            return
        if world.plan.promised and batch_id not in world.witness.on_record:
            if world.disturbed:
                self._batches._wake(self._clock() + timedelta(seconds=LATER), _Vanishing(batch))
            return
        world.hit("batch deleted")
        world.note(f"somebody deletes {batch_id}")
        world.witness.removed[batch_id] = world.now()
        self._gone[batch_id] = batch
        self._really_remove(batch_id)

    def _listed(self, batch: Batch, visit: Visit, now: datetime) -> Any:
        """An entry without an id shows nobody which batch it is."""
        entry = super()._listed(batch, visit, now)
        if is_odd(batch, visit) and any(isinstance(each, OddEntry) and each.field == "id" for each in visit.faults):
            shown_by(visit).remove(batch)
        return entry

    def _describe(self, batch: Batch, visit: Visit, now: datetime) -> Any:
        shown_by(visit).append(batch)
        return super()._describe(batch, visit, now)


def sent_by(visit: Visit, process: Process) -> None:
    """Note whose call it is."""
    vars(visit)["process"] = process


def process_of(visit: Visit) -> Process:
    """Whose call it is."""
    process: Process = vars(visit)["process"]
    return process


def shown_by(visit: Visit) -> list[Batch]:
    """The batches that the answer to a call shows."""
    shown: list[Batch] = vars(visit).setdefault("shown", [])
    return shown


_is_hidden = abatch.sandbox.api.is_hidden


def hidden(world: World, batch: Batch, visit: Visit, now: datetime) -> bool:
    """Whether a fault hides a batch; bound A2: an older one only once it is on record."""
    if not _is_hidden(batch, visit, now):
        return False
    young = now - batch.created_at < timedelta(seconds=VISIBLE)
    if world.plan.promised and not batch.foreign and not young and batch.batch_id not in world.witness.on_record:
        return False
    if not young:
        world.hit(f"{visit.action} hides a batch")
    return True
