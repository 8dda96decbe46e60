"""The engine without a manager: a journal and an API in memory, one job, and what its drivers share."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import httpx2

from abatch import Config
from abatch.engine.client import Client
from abatch.engine.context import JobContext, ManagerContext
from abatch.engine.destination import Destination
from abatch.engine.outage import Outage
from abatch.engine.recorder import ShardRecorder
from abatch.engine.scopes import Scopes
from abatch.engine.shutdown import Shutdown
from abatch.engine.upload import Uploader
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.prices import load
from abatch.protocol.facts import Fact, ShardFact
from abatch.sandbox.api import Machine, Settings
from abatch.sandbox.transport import URL, MachineTransport
from abatch.testing.memory_log import MemoryStore
from tests.unit.make import planned_for, rows_of, submitted, write_spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from abatch.journal.records import JobRecord, ShardRecord

__all__ = ["Engine", "engine", "until", "while_running"]

KEY = "key-in-use"


class Engine:
    """What the parts of the engine are given; the scope reads its list only where a test says so."""

    def __init__(self, store: MemoryStore, machine: Machine, manager: ManagerContext, job: JobRecord) -> None:
        self.store = store
        self.machine = machine
        self.manager = manager
        self.ledger = manager.ledger
        self.job = job
        self.spawned: list[int] = []
        """The shards for which a driver was asked."""
        self.looked_up: list[str] = []
        """The messages whose requests were to be found in the input."""
        self.scope = manager.scopes.of(None)
        self.context = JobContext(
            manager=manager,
            job=job,
            ref=Destination(manager.ledger, job, None).ref(),
            scope=self.scope,
            drainer=None,
            outage=Outage(job.key, manager.config),
            unread={},
            may_submit=lambda: True,
            spawn=self.spawned.append,
            look_up=lambda message, _stop: self.looked_up.append(message.reason),
        )

    async def shard(self, *names: str) -> ShardRecord:
        """Plan one more shard of the job, with rows of these names."""
        number = self.ledger.number_shard()
        spool = self.ledger.folder.spool_name(number)
        written = write_spool(self.ledger.folder.spool, rows_of(*names), spool)
        fact = planned_for(written, spool)
        await self.ledger.record(Entry(self.job.job, fact, number, 0))
        return self.job.shards[number]

    def recorder(self, shard: ShardRecord) -> ShardRecorder:
        """A recorder whose action begins now."""
        recorder = ShardRecorder(self.context, shard)
        recorder.begin()
        return recorder

    def uploader(self, shard: ShardRecord) -> Uploader:
        return Uploader(self.context, shard, self.recorder(shard))

    async def upload(self, shard: ShardRecord) -> bool:
        """Make the first attempt of a shard."""
        return await self.uploader(shard).upload(1)

    async def elsewhere(self, shard: ShardRecord, *facts: ShardFact) -> None:
        """Append facts of a shard as another process would, unknown to this one."""
        other = self.store.open(drive=False)
        taken = sum(row.recorded.shard == shard.shard for row in self.store.rows)
        await other.append(*(Entry(self.job.job, fact, shard.shard, taken + i) for i, fact in enumerate(facts)))

    def facts(self, shard: ShardRecord | None = None) -> list[str]:
        """The names of the facts of a shard, or of the job alone, as they are in the journal."""
        number = None if shard is None else shard.shard
        return [type(each).__name__ for each in self.recorded(number)]

    def recorded(self, number: int | None) -> list[Fact]:
        return [row.recorded.fact for row in self.store.rows if row.recorded.shard == number]

    @property
    def created(self) -> int:
        """How many batches the API made for us."""
        return len(self.machine.account.created)


@asynccontextmanager
async def engine(
    folder: Path, *, settings: Settings | None = None, grace: float = 0.0, **config: Any
) -> AsyncIterator[Engine]:
    """An engine with one job; its server's clock is this machine's."""
    machine = Machine(clock=lambda: datetime.now(UTC), rng=Random(1), settings=settings)
    store = MemoryStore()
    facts = store.open(drive=True)
    files = JournalFolder(folder)
    files.prepare()
    ledger = await Ledger.load(facts, files)
    chosen = Config(**config)
    http = httpx2.AsyncClient(transport=MachineTransport(machine))
    async with anthropic.AsyncAnthropic(api_key=KEY, base_url=URL, http_client=http, max_retries=0) as sdk:
        client = Client(sdk, own=False)
        fingerprint = facts.lineage.fingerprint(KEY)
        scopes = Scopes(
            client,
            ledger,
            chosen,
            fingerprint=fingerprint,
            grace=grace,
            surveys={},
            start=lambda _scope: None,
            look=lambda _job: None,
        )
        manager = ManagerContext(
            client=client,
            ledger=ledger,
            config=chosen,
            prices=load(None),
            fingerprint=fingerprint,
            scopes=scopes,
            shutdown=Shutdown(),
        )
        yield Engine(store, machine, manager, await ledger.start_job(submitted()))


@asynccontextmanager
async def while_running(*works: Callable[[], Coroutine[Any, Any, object]]) -> AsyncIterator[None]:
    """Run these in the background until the block is left."""
    async with anyio.create_task_group() as group:
        for work in works:
            group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        yield
        group.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until this holds; nothing in these tests waits for a clock."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0)
