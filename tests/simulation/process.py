"""One process of the simulation: an application with a manager, from its start to its end, whichever that is."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from io import FileIO
from math import inf
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import httpx2
from anthropic._base_client import get_platform

from abatch import BackendError, BatchManager, ConfigError, InboxClosed, JobStopped, LimitReached, OpenJob
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.protocol.facts import LostWished, ResolveWished
from abatch.protocol.lifecycle import Held, InDoubt, Processing, doubt_of
from abatch.sandbox.transport import URL
from tests.simulation import oracles
from tests.simulation.loop import OWNER, Owner
from tests.simulation.network import Network, Wire
from tests.simulation.plan import KEY
from tests.simulation.witness import SURVIVED

if TYPE_CHECKING:
    from collections.abc import Callable

    from abatch import Job, Summary
    from abatch.engine.scope import Scope
    from abatch.protocol.lifecycle import State
    from abatch.sandbox.batches import Batch
    from tests.simulation.plan import Life, Work
    from tests.simulation.world import World

__all__ = ["InputBroke", "Operator", "Process"]

PATIENCE = 120
"""A process that nothing ends is told to stop after so many of its longest waits between two lists."""
HANDED_OVER = 3
"""How often one process hands a job over that stops."""


class InputBroke(Exception):
    """The caller's iterable raised."""


class Process(Owner):
    """One run of the application."""

    def __init__(self, world: World, name: str, life: Life, jobs: list[Work]) -> None:
        super().__init__()
        self.world, self.name, self.life, self.jobs = world, name, life, jobs
        self.skew, self.dies_at_step = life.skew, life.dies_at_step
        self.manager: BatchManager | None = None
        self.disk_failed = False
        """The simulated disk refused it something."""
        self.error: Exception | None = None
        self.others: list[Exception] = []
        """What other jobs ended with."""
        self.summaries: dict[str, Summary] = {}
        self.over = asyncio.Event()
        self.began_at = world.now()
        self.ended_at: float | None = None
        self.locks: list[FileIO] = []
        self.uploading = 0
        """Creates under way."""
        self.met_limit: dict[str | None, str] = {}
        """Workspaces in which a create met a limit of the account, and the job that is about to stop for it."""
        self.limited: dict[str | None, int] = {}
        """Workspaces in which a job stopped for a limit, and how many creates may still pass their gate."""
        self.offsets: list[tuple[float, float]] = []
        """Of each create that was accepted: when, and by how much `Date` was ahead."""
        self.heard: set[str] = set()
        """What the monitors of the clocks said."""
        self.breaking: dict[str | None, bool] = {}
        """Whether the stream of a batch's results that it reads will break."""
        self._effects = 0
        self._task: asyncio.Task[None] | None = None

    # ---- life and death ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; `over` is set at the end."""
        world, life = self.world, self.life
        context = contextvars.Context()
        context.run(OWNER.set, self)
        self.note("starts")
        self._task = world.loop.create_task(self._run(), context=context)
        if life.dies_at:
            world.later(life.dies_at, lambda: self._meets("dies_at", self.die))
        if life.stops_at:
            world.later(life.stops_at, lambda: self._meets("stops_at", self.stop))
        if world.disturbed:
            world.later(PATIENCE * world.plan.config.longest_poll_interval.total_seconds(), self.stop)

    def _meets(self, what: str, end: Callable[[], None]) -> None:
        if self.lives:
            self.world.hit(f"process {what}")
            end()

    @property
    def lives(self) -> bool:
        """Whether it has begun and not ended."""
        return self._task is not None and not self.over.is_set()

    def survived(self, at: float) -> bool:
        """Whether it lived on for so long that all which followed from an answer at this time is durable."""
        paused = sum(self.life.pauses.values())
        return self.ended_at is None or self.ended_at >= at + SURVIVED + paused

    def scope(self, workspace_id: str | None) -> Scope | None:
        """What its manager knows of a workspace."""
        context = getattr(self.manager, "_context", None)  # made when the manager is entered
        return None if context is None else context.scopes.opened.get(workspace_id)

    def stop(self) -> None:
        """Tell it to stop, as by SIGTERM."""
        if self.lives:
            assert self._task is not None
            self.note("is told to stop")
            self._task.cancel()

    def die(self) -> None:
        """Be killed, as by SIGKILL."""
        if self.lives:
            self.note("dies")
            if self.steps == self.dies_at_step:
                self.world.hit("process dies_at_step")
            super().die()
            self._end()

    def counts_down(self, what: str) -> bool:
        """Whether the process is dead, or dies of this effect."""
        if self.dead:
            return True
        self._effects += 1
        if self._effects == self.life.dies_at_effect:
            self.note(f"meets its end {what}")
            self._meets("dies_at_effect", self.die)
        return self.dead

    async def moment(self, what: str) -> None:
        """A place where the process may die, stand still, or let others go first."""
        if self.counts_down(what):
            await self.sleep_for_ever()
        seconds = self.life.pauses.get(self._effects)
        if seconds is not None and not self.paused:
            self.note(f"stands still for {seconds:.0f} s {what}")
            self.world.hit("process SIGSTOP")
            self.paused = True
            self.world.later(seconds, lambda: self.world.loop.resume(self))
            await anyio.lowlevel.cancel_shielded_checkpoint()
        elif self.world.chance.random() < 0.1:
            await anyio.lowlevel.cancel_shielded_checkpoint()

    async def sleep_for_ever(self) -> None:
        """What a dead process does."""
        await self.world.loop.create_future()

    def note(self, what: str) -> None:
        """Write into the trace."""
        self.world.note(f"{self.name} {what}")

    # ---- what it does -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self.work()
        except asyncio.CancelledError:
            self.note("stopped")
        except Exception as error:  # noqa: BLE001 - the oracles judge it
            self.error = error
            self.note(f"ended with {type(error).__name__}: {error}")
        else:
            self.note("ended")
        self._end()

    def _end(self) -> None:
        """What the kernel does when a process ends, and the world with it."""
        for lock in self.locks:
            lock.close()
        self.world.disk.forget_unsynced()
        self.ended_at = self.world.now()
        self.over.set()

    async def work(self) -> None:
        """Open the journal, hand the job over, wait for it."""
        world, life = self.world, self.life
        manager = BatchManager(
            journal=world.journal,
            client=self._client(),
            config=replace(world.plan.config, failing=life.failing),
            resume=life.resume,
        )
        async with manager:
            self.manager = manager
            world.opened(self)
            if life.skew:
                world.hit("process skew")
            with anyio.move_on_after(life.leaves_at or None) as leaving:
                await self._hand_over_all(manager, self.jobs[:1] if life.forgetful else self.jobs)
            if leaving.cancelled_caught:
                self.note("leaves")
                world.hit("process leaves_at")

    def _client(self) -> Any:
        network = Network(self.world, self)
        if not self.world.plan.real_sdk:
            return Wire(network, self.life.key)
        http = httpx2.AsyncClient(transport=network, trust_env=False)
        sdk = anthropic.AsyncAnthropic(api_key=self.life.key, base_url=URL, http_client=http)
        sdk._platform = get_platform()  # else it asks a real thread, in real time
        return sdk

    async def _hand_over_all(self, manager: BatchManager, jobs: list[Work]) -> None:
        """Each job on its own: one that fails keeps no other from its end."""
        if len(jobs) == 1:
            await self._hand_over(manager, jobs[0])
            return
        errors: list[Exception] = []

        async def hand_over(work: Work) -> None:
            try:
                await self._hand_over(manager, work)
            except Exception as error:  # noqa: BLE001 - the oracles judge the first of them
                self.note(f"{work.key} ended with {type(error).__name__}: {error}")
                errors.append(error)

        async with anyio.create_task_group() as group:
            for work in jobs:
                group.start_soon(hand_over, work)
        if errors:
            self.others = errors[1:]
            raise errors[0]

    async def _hand_over(self, manager: BatchManager, work: Work) -> None:
        world = self.world
        for time in range(1, HANDED_OVER + 1):
            self.met_limit.pop(work.workspace_id, None)
            self.limited.pop(work.workspace_id, None)  # who hands a job over may have acted on it
            job = await self._submit(manager, work)
            if job is None:
                return
            world.handed_over(work)
            try:
                async with anyio.create_task_group() as group:
                    if self.life.cancels_at and work is world.plan.jobs[0]:
                        group.start_soon(self._cancel, job)
                    if isinstance(job, OpenJob):
                        group.start_soon(self._put_all, job, work)
                    summary = self.summaries[work.key] = await job.wait()
                    oracles.check_duplicates(world, work, summary)
                    group.cancel_scope.cancel()
            except BaseExceptionGroup as several:
                error = several.exceptions[0]
                if isinstance(error, LimitReached) and self.life.limit is not None:
                    world.hit("limit reached")
                    return
                mendable = isinstance(error, JobStopped) or (
                    isinstance(error, BackendError) and (self.disk_failed or world.plan.outlasts)
                )
                if not mendable or time == HANDED_OVER:
                    raise error from None
                self.note(f"hands over again after {error}")
            else:
                return

    async def _put_all(self, job: OpenJob, work: Work) -> None:
        """Put every request, also those that an earlier life has put, and close the job; wait for one answer."""
        world = self.world
        rows = work.rows[: self.life.breaks_after or None]
        try:
            while rows:
                await anyio.sleep(world.latency() * world.chance.choice([1, 1, 600]))
                most = world.chance.choice([1, 1, 2, 5])
                some, rows = rows[:most], rows[most:]
                new = await job.put_many(some)
                world.acknowledge(work, [row["custom_id"] for row in some])
                world.hit("put" if new == len(some) else "put again")
            if 0 < self.life.breaks_after < len(work.rows):
                world.hit("process breaks_after")
                raise InputBroke
            await job.close()
        except InboxClosed:
            world.hit("inbox closed")

    async def _submit(self, manager: BatchManager, work: Work) -> Job | None:
        """Hand a job over with the limit of this life; None where that is below what is planned."""
        if work.source == "open":
            return await manager.open_job(
                work.key,
                to=self.world.to(work),
                linger=timedelta(seconds=work.linger),
                workspace_id=work.workspace_id,
                tries=work.tries,
            )
        limits, limit = self.world.limits, inf if self.life.limit is None else self.life.limit
        before = limits.get(work.key, 0)
        limits[work.key] = max(before, limit)
        try:
            job = await manager.submit(
                self._input(work),
                to=self.world.to(work),
                key=work.key,
                workspace_id=work.workspace_id,
                tries=work.tries,
                pilot=self.world.plan.pilot,
                limit=self.life.limit,
            )
        except ConfigError as refused:
            if limit >= before or "limit" not in str(refused):
                raise
            self.world.hit("lower limit refused")
            return None
        limits[work.key] = limit
        if limit < before:
            self.world.hit("limit lowered")
        return job

    async def _cancel(self, job: Job) -> None:
        await anyio.sleep(self.life.cancels_at)
        self.world.hit("cancel wished")
        await job.cancel()

    def _input(self, work: Work) -> Any:
        if work.source == "file":
            return self.world.input_of(work)
        return self._rows(work) if work.source == "list" else self._arow(work)

    def _rows(self, work: Work) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(work.rows, 1):
            if self.life.breaks_after and number > self.life.breaks_after:
                self.world.hit("process breaks_after")
                raise InputBroke
            oracles.check_read(self.world, work, number)
            yield row

    async def _arow(self, work: Work) -> AsyncIterator[dict[str, Any]]:
        for row in self._rows(work):
            await anyio.sleep(self.world.latency())
            yield row


class Operator(Process):
    """Somebody who looked in the Console and says, by `abatch resolve`, what became of a shard.

    Each word is true: a batch is called lost only if it was deleted. The one false word is that a batch which is
    there is lost, said of a shard that abatch watches itself or has in doubt, and only where nothing keeps the API
    from showing it.

    Args:
        world: the world.
        name: of the process.
        life: its life.
        jobs: none.
        early: say it of shards that are not held yet, too.

    """

    def __init__(self, world: World, name: str, life: Life, jobs: list[Work], *, early: bool = False) -> None:
        super().__init__(world, name, life, jobs)
        self._early = early

    async def work(self) -> None:
        """Append a word for each shard of which there is one to say."""
        journal = await SqliteLog.open(JournalFolder(self.world.journal), drive=False)
        try:
            ledger = await Ledger.load(journal, journal.folder)
            truth = self.world.batches_by_tag()
            for job in ledger.jobs.values():
                for shard in job.shards.values():
                    word = self._word(shard.shard, shard.state, truth)
                    if word is not None:
                        self.note(f"says {word}")
                        await ledger.record(Entry(shard.job, word))
        finally:
            await journal.aclose()

    def _word(self, number: int, state: State, truth: dict[Any, list[Batch]]) -> ResolveWished | LostWished | None:
        doubt = doubt_of(state)
        if doubt is None or not (self._early or isinstance(state, Held)):
            return None
        made = truth.get((number, doubt.attempt), [])
        deleted = bool(made) and made[0].batch_id in self.world.witness.removed
        if deleted:
            self.world.hit("operator says lost")
            return LostWished(shard=number, attempt=doubt.attempt)
        if isinstance(state, Held):
            return ResolveWished(shard=number, attempt=doubt.attempt, batch_id=made[0].batch_id if made else None)
        kept = not self.world.plan.slumber  # else results are gone after 29 days, and the word is as good as true
        there = isinstance(state, Processing) or (isinstance(state, InDoubt) and made and kept)
        if there and all(life.key == KEY for life in self.world.plan.lives):
            self.world.hit("operator says lost of what is there")
            return LostWished(shard=number, attempt=doubt.attempt)
        return None
