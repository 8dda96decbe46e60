"""One seed's world, run from its first process to the end of its job: a calm end follows every disturbed beginning."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import shutil
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from abatch import StillInDoubt
from abatch.protocol import wire
from abatch.protocol.lifecycle import InDoubt
from abatch.sandbox.faults import CutBody, GzipBomb, Jump, LineFault, ResetAt, Reshuffle, Slow, Status
from abatch.testing import memory
from tests.simulation import oracles
from tests.simulation.api import Api
from tests.simulation.effects import Disk, here
from tests.simulation.loop import SimulatedLoop, Stuck
from tests.simulation.plan import CANARY, KEY, OTHER_KEY, Life, Outage, Plan, Work, near
from tests.simulation.process import Operator, Process
from tests.simulation.witness import Witness

if TYPE_CHECKING:
    from datetime import datetime

    from abatch import Summary
    from abatch.sandbox.api import Visit
    from abatch.sandbox.batches import Batch
    from abatch.sandbox.exchange import Reply
    from abatch.sandbox.store import Fact
    from tests.simulation.network import Read

__all__ = ["World"]

HOUR: Final = 3600.0
AUDIT: Final = 4 * HOUR
"""Seconds that the last batch takes while the list is looked at for duplicates."""
DONE_WITHIN: Final = 48 * HOUR
"""Liveness: once faults stop, everything is done within this time …"""
DAYS: Final = 5 * 24 * HOUR
"""… or within this, where each batch takes a day and a job that stops waits for those under way, or where batches are
deleted, which takes two days to be believed."""
BUDGET: Final = 16 * 2**20
"""Bytes of memory for a whole world whose results have twenty million."""
MOST_STEPS: Final = 150_000
SECRETS: Final = (KEY, OTHER_KEY, CANARY)
OF_A_STREAM: Final = (LineFault, CutBody, GzipBomb, ResetAt, Reshuffle, Slow)


class World:
    """A seed's world.

    Args:
        plan: what the seed drew.
        seed: the source of every other chance.
        folder: an empty folder for journal, input and results.
        trace: called with each line of the trace.

    """

    def __init__(self, plan: Plan, seed: int, folder: Path, *, trace: Callable[[str], None] | None = None) -> None:
        self.plan, self.folder, self._trace = plan, folder, trace
        self._place, self._pid = str(folder), f"process {os.getpid()}"
        self.chance = Random(f"{seed} world")
        here.enter(self, Random(f"{seed} core"))
        self.loop = SimulatedLoop(
            Random(f"{seed} loop"), most_steps=MOST_STEPS * (4 if plan.vanishing or plan.slow_polls else 1)
        )
        self._outside = contextvars.Context()
        self._story: list[str] = []
        self.hits: set[str] = set()
        """Each rule, fault and misfortune that was met."""
        self.violations: list[str] = []
        self.disturbed = True
        self.processes: list[Process] = []
        self.jobs = list(plan.jobs)
        """Those of the plan, and those that only look."""
        self.disk = Disk(self)
        self._refusals = Random(f"{seed} refusals of sinks")
        self.witness = Witness(self)
        self.booted_at = 0.0
        """When the machine that the processes run on was started last."""
        self._boots = 1
        self.machine = Api(
            self,
            clock=lambda: oracles.EPOCH + timedelta(seconds=self.now()),
            rng=Random(f"{seed} machine"),
            settings=plan.settings,
            record=self._created,
        )
        self.journal = folder / "journal"
        self._reader: sqlite3.Connection | None = None
        for work in plan.jobs:
            if work.source == "file":
                self.input_of(work).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in work.rows))
        memory.clear()
        self._known: set[str] = set()
        """Jobs in memory that were handed over."""
        self.restored = False
        self.limits: dict[str, float] = {}
        """Per job that was handed over: how many of its requests may have been sent by now."""
        self.place_of = {
            oracles.digest_of(work, row): (work.key, place)
            for work in plan.jobs
            for place, row in enumerate(work.rows, 1)
        }
        """Each request by the digest of its params: its job, and its place in that."""
        self.clashed = False
        """Two drivers at once wrote the same file."""
        self.audited_from = 0.0
        """When everything was done and somebody went on looking at the list; 0 never."""
        self.acknowledged: dict[str, set[str]] = {}
        """Per open job: the custom_ids of requests whose `put` returned."""
        self.reads: dict[str, list[Read]] = {}
        """Of each batch, the times that its results were asked for."""
        self.summaries: dict[str, Summary] = {}
        """Of each job, once it is done."""
        self.odd: set[int] = set()
        """Hashes of what stood behind the ids of lines that were sent with odd texts."""
        self.alarmed: set[str] = set()
        """Duplicates that the log told of."""

    def acknowledge(self, work: Work, custom_ids: list[str]) -> None:
        """These requests were put into an open job, so each of them has a line in the end."""
        if not self.restored:
            self.acknowledged.setdefault(work.key, set()).update(custom_ids)

    def input_of(self, work: Work) -> Path:
        """The file of a job that is handed over as one."""
        return self.folder / f"{work.key}.jsonl"

    def to(self, work: Work) -> str:
        """Where a job's results go."""
        match work.to:
            case "memory":
                return f"memory:{work.key}"
            case "file":
                return f"{self.folder}/{work.key}-results.jsonl"
            case "folder":
                return f"{self.folder}/{work.key}-results/"

    # ---- the world as its parts see it ------------------------------------------------------------------------

    def now(self) -> float:
        """Virtual seconds since the beginning."""
        return self.loop.time()

    def at(self, moment: datetime) -> float:
        """A moment of the server's clock in virtual seconds since the beginning."""
        return (moment - oracles.EPOCH).total_seconds()

    def server_time(self) -> float:
        """The server's clock, in seconds since the epoch."""
        return oracles.EPOCH.timestamp() + self.loop.time()

    def boot_id(self) -> str:
        """The name of the machine's last start."""
        return f"boot {self._boots}" if self.plan.tells_boot else ""

    def _reboot(self) -> None:
        self.note("the machine is restarted")
        self.hit("machine restarted")
        self.booted_at = self.now()
        self._boots += 1

    def later(self, seconds: float, call: Callable[[], Any]) -> None:
        """Let something happen outside every process."""
        self.loop.call_later(seconds, call, context=self._outside)

    def latency(self) -> float:
        """One way through the network."""
        return self.chance.uniform(0.001, 0.2)

    def transit(self, visit: Visit) -> float:
        """How long the last bytes of this request are on their way."""
        if self.disturbed and visit.action == "create" and self.chance.random() < self.plan.late_tails:
            self.hit("create late tail")
            return near(self.chance, self.plan.longest_transit)
        return self.latency()

    def refuses(self, *, at_break: bool) -> bool:
        """Whether a sink refuses the block that it is given now."""
        return self.disturbed and self._refusals.random() < self.plan.refuses[at_break]

    def met(self, visit: Visit, reply: Reply) -> None:
        """A call was answered, and its faults were met: those of a stream where one came."""
        stream = not isinstance(reply.body, bytes)
        for fault in visit.faults:
            if visit.action == "results" and isinstance(fault, OF_A_STREAM) and not stream:
                continue
            if not (isinstance(fault, Jump) and self.now() < fault.at):
                self.hit(f"{visit.action} {type(fault).__name__}")
            if isinstance(fault, Status):
                self.hit(f"{visit.action} {fault.status}")

    def hit(self, what: str) -> None:
        """A rule, a fault or a misfortune was met."""
        self.hits.add(what)

    def violation(self, what: str) -> None:
        """Something was promised and not kept."""
        self.violations.append(what)
        self.note(f"VIOLATION {what}")

    def note(self, what: str) -> None:
        """Write a line into the trace."""
        line = f"{self.loop.time():12.3f} {what}"
        self._story.append(line)
        if self._trace is not None:
            self._trace(self._anywhere(line))

    def logged(self, level: str, event: str, facts: dict[str, Any]) -> None:
        """The core logs."""
        process = here.process
        line = f"{event} {facts}"
        if any(secret in line for secret in SECRETS):
            self.violations.append(f"I6: a secret is in the log: {event}")
        self.note(f"{process.name if process else '-'} {level} {line}")
        oracles.reached_by_log(self, event, facts)

    def digest(self) -> str:
        """Of the whole trace: two runs of a seed have the same."""
        story = self._anywhere("\n".join(self._story))
        return blake2b(story.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()

    def _anywhere(self, told: str) -> str:
        """Without what is of this run alone."""
        return told.replace(self._place, "…").replace(self._pid, "process …")

    def opened(self, process: Process) -> None:
        """A process has opened the journal and recovered its ledger."""
        assert process.manager is not None
        ledger = process.manager._context.ledger
        if any(isinstance(shard.state, InDoubt) for job in ledger.jobs.values() for shard in job.shards.values()):
            self.hit("A12")
        driving = [
            p.name
            for p in self.processes
            if p.lives and p.manager is not None and p.manager._context.ledger.facts.drives
        ]
        if len(driving) > 1 and not self.plan.fenced:
            self.violation(f"{driving} drive one journal")

    def read_journal(self, query: str, *values: object) -> list[Any]:
        """Rows of the journal, read without abatch."""
        if self._reader is None:
            self._reader = sqlite3.connect(f"file:{self.journal}/journal.db?mode=ro", uri=True)
        return self._reader.execute(query, values).fetchall()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def batches_by_tag(self) -> dict[tuple[int, int], list[Batch]]:
        """Our batches by the shard and attempt in their ids."""
        found: dict[tuple[int, int], list[Batch]] = {}
        for batch in self.machine.batches():
            if not batch.foreign:
                named = wire.parse_id(batch.requests.custom_ids.split(b"\n", 1)[0])
                assert named is not None
                found.setdefault((named.shard, named.attempt), []).append(batch)
        return found

    def _created(self, fact: Fact) -> None:
        oracles.check_created(self, fact)

    # ---- its history ------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Live through all of it, and judge."""
        try:
            with self._weighed() if self.plan.weighed else nullcontext():
                self.loop.run_until_complete(self._history())
            oracles.judge(self, ended=True)
        except Stuck as stuck:
            self._not_live(str(stuck))
            oracles.judge(self, ended=False)
        finally:
            self._end()

    @contextmanager
    def _weighed(self) -> Iterator[None]:
        """I5: what all of this takes at most, while results come that are much larger."""
        gc.freeze()  # what earlier worlds left is not looked through again and again
        gc.enable()
        tracemalloc.start()
        try:
            yield
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.disable()
        self.hit("memory weighed")
        if most > BUDGET:
            self.violation(f"I5: {most} bytes of memory, and {BUDGET} are the budget")

    async def _history(self) -> None:
        plan = self.plan
        if self.plan.config.refusals == "doubt":
            self.hit("refusals doubted")
        if len(plan.jobs) > 1:
            self.hit("several jobs")
        if len({work.workspace_id for work in plan.jobs}) > 1:
            self.hit("several workspaces")
        if plan.foreign:
            size = plan.config.requests_per_batch
            named = self.chance.choice(plan.jobs).workspace_id
            where = "default" if named is None else f"default/{named}"
            self.later(
                self.chance.uniform(0, 60),
                lambda: self.machine.add_foreign(size, count=plan.foreign, workspace=where),
            )
        for site, fault, rate in plan.faults:
            self.machine.faults.always(site, fault, rate=rate)
        old: Path | None = None
        for number, life in enumerate(plan.lives):
            await asyncio.sleep(life.after)
            if life.reboots:
                self._reboot()
            if old is not None and not self.restored:
                self._restore(old)
            await self._live(f"p{number}", life)
            if plan.restores and old is None and self.journal.exists():
                old = self._copy()
        await asyncio.sleep(plan.slumber)
        await self._calm_end()
        await self._quiet()
        if (not plan.promised or self.restored) and not plan.fenced and not plan.slumber:
            await self._audit()

    def handed_over(self, work: Work) -> None:
        """A job is known, so it outlives an outage of its storage: one that is new is refused at once."""
        if work.to != "memory" or work.key in self._known:
            return
        self._known.add(work.key)
        for outage in self.plan.outages:
            self.later(outage.at, partial(self._storage_fails, work, outage))

    def _storage_fails(self, work: Work, outage: Outage) -> None:
        if self.disturbed:
            self.note(f"the storage of {work.key} fails for {outage.seconds:.0f} s")
            memory.outage(work.key, seconds=outage.seconds, carried_out=outage.carried_out)

    def _storage_works(self) -> None:
        for work in self.plan.jobs:
            memory.restore(work.key)

    async def _quiet(self) -> None:
        """Wait until nothing is on its way, and nothing runs: what comes then was paid, too."""
        await asyncio.sleep(self.plan.longest_transit + 1)
        while wait := self.machine.seconds_to_the_last_end():
            await asyncio.sleep(wait)

    async def _audit(self) -> None:
        """Let one more job look at the list for hours: what was paid twice must be reported."""
        self.machine.take(AUDIT)
        self.audited_from = self.now()
        for number, workspace_id in enumerate({work.workspace_id: None for work in self.plan.jobs}):
            said = {"role": "user", "content": f"audit {number}"}
            rows = [{"custom_id": "audit", "params": {"model": "m", "max_tokens": 1, "messages": [said]}}]
            work = Work(key=f"audit{number}", workspace_id=workspace_id, rows=rows, source="list", to="memory", tries=1)
            self.jobs.append(work)
            process = self._process(f"audit{number}", Life(), jobs=[work])
            process.start()
            async with asyncio.timeout(DONE_WITHIN):
                await process.over.wait()

    async def _live(self, name: str, life: Life) -> None:
        process = self._process(name, life)
        process.start()
        if life.twin is not None:
            await asyncio.sleep(life.twin.after)
            self.hit("process twin" if life.locked else "process twin that drives")
            twin = self._process(f"{name}'", life.twin)
            twin.start()
            await twin.over.wait()
            oracles.check_end(self, twin)
        await process.over.wait()
        oracles.check_end(self, process)
        if life.key != KEY and process.manager is not None:
            self.hit("process wrong key")
        if isinstance(process.error, StillInDoubt) and self.chance.random() < 0.5:
            await self._operate(name)

    async def _calm_end(self) -> None:
        """No more faults: everything must be done in time."""
        self.disturbed = False
        self._storage_works()
        self.machine.calm(stream_goes_on=self.plan.stream_goes_on)
        quick = self.plan.settings.latency_range[1] < 12 * HOUR and not self.plan.vanishing
        within = DONE_WITHIN if quick else DAYS
        began = self.now()
        if self.plan.vanishing and self.chance.random() < 0.5 and oracles.Book(self).jobs:
            await self._operate("early", early=True)
        for number in range(12):
            process = self._process(f"calm{number}", self._calm_life(number, within))
            process.start()
            try:
                async with asyncio.timeout(began + within - self.now()):
                    await process.over.wait()
            except TimeoutError:
                self._not_live(f"not done {within / HOUR:.0f} hours after faults stopped")
                return
            oracles.check_end(self, process)
            if len(process.summaries) == len(self.plan.jobs):
                self.summaries = process.summaries
                return
            if any(isinstance(error, StillInDoubt) for error in [process.error, *process.others]):
                await self._operate(process.name)
        self._not_live(f"the job does not end: {process.error}")

    def _calm_life(self, number: int, within: float) -> Life:
        """Who used two keys goes back to the one that is needed; what jobs wait for may be of both, so in turn."""
        if all(life.key == KEY for life in self.plan.lives):
            return Life()
        needed = oracles.needed_key(self)
        unneeded = KEY if needed == OTHER_KEY else OTHER_KEY
        return Life(key=unneeded if number % 2 else needed, stops_at=within / 10)

    def _not_live(self, why: str) -> None:
        """Two histories of one job may not come to an end, nor two drivers that wrote the same file."""
        if not self.clashed and not self.restored:
            self.violation(f"liveness: {why}")

    async def _operate(self, name: str, *, early: bool = False) -> None:
        await asyncio.sleep(HOUR)  # nothing is on its way any more
        operator = Operator(self, f"{name}-operator", Life(), [], early=early)
        self.processes.append(operator)
        operator.start()
        await operator.over.wait()
        if operator.error is not None and not operator.disk_failed:
            self.violation(f"the operator met {operator.error!r}")

    def _process(self, name: str, life: Life, jobs: list[Work] | None = None) -> Process:
        process = Process(self, name, life, self.plan.jobs if jobs is None else jobs)
        self.processes.append(process)
        return process

    def _copy(self) -> Path:
        old = self.folder / "old"
        shutil.copytree(self.journal, old)
        return old

    def _restore(self, old: Path) -> None:
        self.note("an old journal is put back")
        self.hit("process restored journal")
        self.restored = True
        self.acknowledged.clear()  # What was put since the copy is gone with the journal that held it.
        self._close_reader()
        shutil.rmtree(self.journal)
        old.rename(self.journal)

    def _end(self) -> None:
        """Let go of everything, also of what the dead held."""
        self.loop.close()
        self._close_reader()
        for process in self.processes:
            for task in process.tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine: Any = task.get_coro()
                with suppress(RuntimeError, ValueError):  # it may await in its cleanup
                    coroutine.close()
            process.tasks.clear()
