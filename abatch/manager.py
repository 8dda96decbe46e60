"""BatchManager: the one object an application makes. It owns the journal, the tasks and their lifetimes."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast
from weakref import WeakValueDictionary

import anyio
from msgspec.structs import replace

from abatch.backend import Backend, JobRef, connect, normalize
from abatch.config import GRACE_FOREIGN_SOCKET, GRACE_OWN_SOCKET, Config
from abatch.engine.access import check_access
from abatch.engine.context import ManagerContext
from abatch.engine.move import move
from abatch.engine.redrain import reopen_missing_parts
from abatch.engine.runner import HandedOver, JobRun
from abatch.engine.scope import Scope
from abatch.engine.shutdown import Shutdown
from abatch.errors import BadRequest, ConfigError, JobConflict, JobNotFound, JournalError, Overtaken, cancel_and_skip
from abatch.input.answered import answering, without_answered
from abatch.input.changed import check_may_change, take_changed
from abatch.input.check import check_files
from abatch.input.files import is_same, read_again
from abatch.input.iterables import HEAD_ROWS, not_empty, other_row, read_row
from abatch.input.keys import default_key
from abatch.input.params import check_of
from abatch.input.planner import log_doubts, spool_needed
from abatch.input.repeats import repeated
from abatch.input.request import HEADER_VALUE, Rows, exact, paths_of
from abatch.job import Job
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.journal.status import DriverStatus, post
from abatch.journal.survey import Survey, Surveys
from abatch.log import log
from abatch.prices import load as load_prices
from abatch.protocol import wire
from abatch.protocol.durations import KEPT_FOR
from abatch.protocol.facts import (
    ChangedSource,
    DuplicateSeen,
    FileSource,
    FilesSource,
    Headers,
    IterableSource,
    Limited,
    SelectedSource,
    Submitted,
    files_of,
    source_of,
    takes_changed_input,
)
from abatch.protocol.lifecycle import Done, Held, InDoubt, Lost, doubt_of
from abatch.streams import Events, call_with_events
from abatch.system import threads
from abatch.system.lifetime import Lifetime
from abatch.system.paths import absolute, absolute_url, folder_of, is_text, relative, relative_url, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
    from types import TracebackType

    from anthropic import AsyncAnthropic

    from abatch.engine.client import Client
    from abatch.events import Event, EventsMissed
    from abatch.input.check import Preview
    from abatch.input.request import RequestSource
    from abatch.journal.records import JobRecord
    from abatch.protocol.facts import Source
    from abatch.streams import EventStream

__all__ = ["BatchManager"]

KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
ON_EVENT_PATIENCE: Final = 10.0
"""Seconds that `on_event` has for the last events when the manager is left."""
WISHES_EVERY: Final = 0.5


class BatchManager:
    """Runs jobs of one journal, and recovers those that an earlier process left.

        async with BatchManager(journal=".abatch") as manager:
            job = await manager.submit(requests, to="results.jsonl", key="nightly")
            summary = await job.wait()

    Leaving the block, however it is left, starts nothing new, gives creates past their commit point up to 30
    seconds for their answer, and loses nothing. Whoever waits for one of its jobs then gets ManagerClosed at once.
    The block may be left by another task than the one that entered it, as fixtures of pytest-asyncio and cells of a
    notebook do. It installs no signal handlers and configures no logging.

    Args:
        journal: the folder of the journal; made if it is not there.
        client: an `anthropic.AsyncAnthropic` of your own; else one is built from the environment.
        config: limits, polling and policy.
        resume: `all` recovers unfinished jobs; `given` polls and drains them but submits nothing of theirs until
            they are handed over again.
        prices: a price file of your own.
        on_event: called in the event loop with every event (see `events`); what it returns is awaited if it can be.
            An exception of it is logged as `on_event_failed`, and stops nothing. When the block is left, it has up to
            ten seconds for the last events.

    Raises:
        JournalLocked: on entering: another process drives this journal.
        ConfigError: on entering: no API key, or the journal belongs to another API.
        JournalError: on leaving: the journal could not be written, and everything was stopped.

    """

    def __init__(
        self,
        journal: str | os.PathLike[str] = ".abatch",
        *,
        client: AsyncAnthropic | None = None,
        config: Config | None = None,
        resume: Literal["all", "given"] = "all",
        prices: str | None = None,
        on_event: Callable[[Event | EventsMissed], Awaitable[object] | object] | None = None,
    ) -> None:
        if resume not in ("all", "given"):
            raise ConfigError(f"resume must be all or given, got {resume!r}")
        self._folder = folder_of(journal)
        self._sdk = client
        self._config = config or Config()
        self._resume = resume
        self._prices = load_prices(prices)
        self._lifetime: Lifetime | None = None
        self._runs: dict[int, JobRun] = {}
        self._spare: WeakValueDictionary[int, JobRun] = WeakValueDictionary()
        """Those of finished jobs: they live as long as somebody has a handle."""
        self._scopes: dict[str | None, Scope] = {}
        self._surveys: dict[str | None, Survey] = {}
        self._guarded: set[str | None] = set()
        self._submitting: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._shutdown = Shutdown()
        self._lost_seen: set[str] = set()
        self._open = False
        self._events = Events(self._folder)
        self._on_event = on_event

    async def __aenter__(self) -> Self:
        if self._lifetime is not None:
            raise RuntimeError("a BatchManager is entered once")
        self._lifetime = Lifetime(self._run())
        await self._lifetime.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lifetime is not None
        await self._lifetime.leave()

    def close(self) -> None:
        """Begin to leave, without waiting; the block is still to be left, and waits for the rest.

        For a signal handler, by `loop.call_soon_threadsafe`: a server that first waits for its connections, and then
        ends the application, would wait for every client that reads results of an unfinished job.
        """
        if self._open and self._lifetime is not None:
            self._open = False
            self._lifetime.begin_to_leave()

    # ---- lifetime ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _run(self) -> AsyncGenerator[None, None]:
        """Everything that runs between entering and leaving; `Lifetime` gives it a task of its own."""
        async with AsyncExitStack() as open_:
            self._client = await self._make_client()  # first: without a key nothing is made
            open_.push_async_callback(self._client.aclose)
            folder = JournalFolder(self._folder)
            facts = await SqliteLog.open(folder, drive=True)
            open_.push_async_callback(facts.aclose)
            surveys = Surveys()
            self._ledger = await Ledger.load(facts, folder, finished=surveys.add)
            await facts.bind(self._client.base_url)
            self._fingerprint = facts.lineage.fingerprint(self._client.fixed_key)
            self._grace = self._choose_grace()
            await threads.run(self._tidy_spool)
            await threads.run(surveys.add_all, self._ledger.unfinished.values())
            self._surveys = surveys.of
            self._shop = ManagerContext(
                client=self._client,
                ledger=self._ledger,
                config=self._config,
                prices=self._prices,
                fingerprint=self._fingerprint,
                scope=self._scope,
                guard_checked=self._guard_checked,
                shutdown=self._shutdown,
            )
            self._ledger.on_recorded = self._events.announce
            try:
                async with self._calling_on_event(), anyio.create_task_group() as self._group:
                    self._group.start_soon(self._follow_wishes)
                    for workspace_id in list(self._surveys):
                        self._scope(workspace_id)
                    for job in list(self._ledger.unfinished.values()):
                        self._start(self._run_of(job), may_submit=self._resume == "all")
                    self._open = True
                    try:
                        yield
                    finally:
                        self._open = False
                        await self._leave()
            except BaseExceptionGroup as several:
                raise _leaves(several)[0] from None
            finally:
                with anyio.CancelScope(shield=True):
                    for run in [*self._runs.values(), *self._spare.values()]:
                        await run.aclose()

    @asynccontextmanager
    async def _calling_on_event(self) -> AsyncGenerator[None, None]:
        """Call `on_event` with every event until all jobs are left, and then with the last ones."""
        async with anyio.create_task_group() as group:
            if self._on_event is not None:
                group.start_soon(call_with_events, self._events.stream(), self._on_event)
            try:
                yield
            finally:
                self._events.end()
                group.cancel_scope.deadline = anyio.current_time() + ON_EVENT_PATIENCE

    async def _leave(self) -> None:
        self._shutdown.wish()
        for job in self._ledger.unfinished.values():
            job.wake()
        with anyio.CancelScope(shield=True):
            await self._shutdown.answered()
        self._group.cancel_scope.cancel()

    async def _make_client(self) -> Client:
        module: Any = await threads.run(import_module, "abatch.engine.client")  # Any: importing the SDK takes a second
        if self._sdk is not None:
            made: Client = module.Client(self._sdk, own=False)
        else:
            made = module.Client.from_environment()
        return made

    def _choose_grace(self) -> float:
        needed = GRACE_OWN_SOCKET if self._client.owns_socket else GRACE_FOREIGN_SOCKET
        if self._config.grace is None:
            return needed.total_seconds()
        if self._config.grace < needed:
            log.warning(
                "grace_below_the_bounds",
                seconds=self._config.grace.total_seconds(),
                needed_seconds=needed.total_seconds(),
            )
        return self._config.grace.total_seconds()

    def _tidy_spool(self) -> None:
        """Remove what no live shard needs: left-overs of a run that died."""
        folder = self._ledger.folder
        needed: set[str] = set()
        for job in self._ledger.unfinished.values():
            for shard in job.open_shards.values():
                needed |= {shard.planned.spool, folder.retry_name(shard.shard)}
        folder.tidy(spool=needed, ids_for=KEPT_FOR)

    async def _follow_wishes(self) -> None:
        """Take in what other processes appended, cancels and operators' words; tell them what only we know."""
        posted = None
        while True:
            await anyio.sleep(WISHES_EVERY)
            if (status := self._status()) != posted:
                posted = status
                try:
                    await threads.run(post, self._ledger.folder, status)
                except OSError as failure:  # nothing depends on it; the journal will say if the disk is full
                    log.warning("driver_status_not_written", why=failure.strerror)
            await self._ledger.refresh()
            for job in self._ledger.take_wished():
                if job.finished is None:
                    self._heed(job)

    def _heed(self, job: JobRecord) -> None:
        """Somebody wished something of this job: let its run look."""
        scope = self._scope(job.submitted.headers.workspace_id)
        for number in job.wishes:
            scope.interrupt(number)
        self._look(job)

    def _look(self, job: JobRecord) -> None:
        """Let the run of a job look at its open shards."""
        run = self._run_of(job)
        if run.over.is_set():
            self._start(run, may_submit=run.may_submit)
        else:
            run.look()

    def _status(self) -> DriverStatus:
        scopes = list(self._scopes.values())
        return DriverStatus(
            pid=os.getpid(),
            waiting={shard: why for scope in scopes for shard, why in scope.doubts.waiting().items()},
            not_visible=[batch_id for scope in scopes for batch_id in scope.not_visible()],
            parked={batch_id: why for scope in scopes for batch_id, why in scope.parking.in_words().items()},
            trouble="; ".join(str(scope.trouble) for scope in scopes if scope.trouble is not None),
            storage_down=[run.outage.down for run in self._runs.values() if run.outage.down is not None],
        )

    # ---- scopes -----------------------------------------------------------------------------------------------

    def _scope(self, workspace_id: str | None) -> Scope:
        scope = self._scopes.get(workspace_id)
        if scope is None:
            found = self._surveys.pop(workspace_id, None) or Survey()
            scope = self._scopes[workspace_id] = Scope(
                self._client,
                workspace_id,
                self._config,
                grace=self._grace,
                fingerprint=self._fingerprint,
                known=found.known,
                commits=found.commits,
                prove=self._prove,
                duplicate=self._note_duplicate,
                durations=self._ledger.durations,
                troubled=partial(self._wake, workspace_id),
            )
            scope.lost |= found.lost
            self._group.start_soon(scope.run)
        return scope

    def _wake(self, workspace_id: str | None) -> None:
        """Let all who wait for a job of this scope look again."""
        for job in self._ledger.unfinished.values():
            if job.submitted.headers.workspace_id == workspace_id:
                job.wake()

    def _prove(self, wire_id: bytes) -> tuple[int, int] | None:
        named = wire.parse_id(wire_id)
        if named is None or not self._ledger.lineage.made(named):
            return None
        return named.shard, named.attempt

    async def _note_duplicate(self, shard: int, attempt: int, batch_id: str) -> bool:
        """Whether a batch with the tag of this attempt is one too many; if so, it is recorded."""
        await self._ledger.refresh()  # another process may have planned or found it
        record = await self._ledger.find_shard(shard)
        if record is None:
            return True
        job = self._ledger.jobs[record.job]
        match record.state:
            case InDoubt(attempt=open_) if open_ == attempt:
                return False  # its answer may be on the way
            case Held(doubt=InDoubt(attempt=open_)) if open_ == attempt:
                self._look(job)  # its driver will find it now
                return False
            case _ if record.batch_id == batch_id:
                return False
            case Lost(batch_id=None) | Done(batch_id=None) if record.state.doubt.attempt == attempt:
                # an operator gave it up, so its rows are missing: it is no duplicate
                if batch_id not in self._lost_seen:
                    self._lost_seen.add(batch_id)
                    log.warning("lost_batch_seen", shard=shard, batch_id=batch_id)
                return False
            case _:
                pass
        if batch_id not in job.duplicates:
            fact = DuplicateSeen(shard=shard, attempt=attempt, batch_id=batch_id)
            await self._ledger.record(Entry(record.job, fact))
        return True

    def _guard_checked(self, workspace_id: str | None) -> bool:
        """Whether nothing that is open in a scope was committed under another key."""
        if workspace_id in self._guarded:
            return True
        for job in self._ledger.unfinished.values():
            if job.submitted.headers.workspace_id != workspace_id:
                continue
            for shard in job.open_shards.values():
                doubt = doubt_of(shard.state)
                if doubt is not None and not self._scope(workspace_id).key.is_guarded(doubt.fingerprint):
                    return False
        self._guarded.add(workspace_id)
        return True

    async def check_api(self, workspace_id: str | None = None) -> None:
        """Make one cheap call, to learn at once whether the API is there and takes the key.

        Raises:
            ApiError: it is not, or does not.

        """
        self._check_open("check_api")
        await self._scope(workspace_id).page(limit=1)

    async def check_access(self, key: str, workspace_id: str | None = None) -> None:
        """Make sure that the API is there and takes the key; a refusal is looked at several times before it counts.

        A failure that passes by itself is not one: a job waits for its end.

        Args:
            key: the job that needs the API.
            workspace_id: its workspace.

        Raises:
            ApiError: it cannot be reached.
            JobStopped: it refuses the key, or what answers is not the API.

        """
        await check_access(partial(self.check_api, workspace_id), key)

    def _check_open(self, call: str) -> None:
        if not self._open:
            when = "before its block is entered" if self._lifetime is None else "after its block was left"
            raise RuntimeError(
                f"BatchManager.{call}() {when}; "
                "call it inside `async with BatchManager(...) as manager:`, which each manager enters once"
            )

    # ---- jobs -------------------------------------------------------------------------------------------------

    def _run_of(self, job: JobRecord) -> JobRun:
        run = self._runs.get(job.job) or self._spare.get(job.job)
        if run is None:
            to = job.to
            run = JobRun(self._shop, job, destination=absolute_url(self._folder, to) if to else None)
            run.input_paths = tuple(absolute(self._folder, file.path) for file in files_of(job.submitted.source))
            self._keep(run)
        return run

    def _keep(self, run: JobRun) -> None:
        """Hold a run; that of a finished job only as long as somebody else does."""
        number = run.job.job
        if run.spare:
            self._runs.pop(number, None)
            self._spare[number] = run
        else:
            self._runs[number] = run

    def _start(self, run: JobRun, *, may_submit: bool, handed_over: bool = False) -> None:
        run.begin(may_submit=may_submit, handed_over=handed_over)
        self._keep(run)
        self._group.start_soon(self._run_to_its_end, run)

    async def _run_to_its_end(self, run: JobRun) -> None:
        try:
            await run.run()
        finally:
            self._keep(run)

    def _handle(self, job: JobRecord, handed: HandedOver | None = None) -> Job:
        scope = self._scope(job.submitted.headers.workspace_id)
        return Job(self._ledger, self._run_of(job), scope, self._prices, look=self._look, handed=handed)

    def events(self) -> EventStream:
        """Follow everything that happens in this journal from now on, whichever process records it.

            async for event in manager.events():
                match event:
                    case JobStopped(job=job, reason=reason, remedy=remedy):
                        ...

        The events are in `abatch.events`. A reader may be a thousand events behind; what does not fit is lost to it,
        and `EventsMissed` stands in its place. The stream ends when the manager is left.
        """
        self._check_open("events")
        return self._events.stream()

    def jobs(self) -> list[Job]:
        """Every job of the journal, in the order they were handed over."""
        self._check_open("jobs")
        return [self._handle(job) for job in self._ledger.jobs.values()]

    def job(self, key: str) -> Job:
        """The job of this key.

        Raises:
            JobNotFound: there is none.

        """
        self._check_open("job")
        return self._handle(self._record_of(key))

    def _record_of(self, key: str) -> JobRecord:
        if (job := self._ledger.job(key)) is None:
            raise JobNotFound(self._folder, key, tuple(each.key for each in self._ledger.jobs.values()))
        return job

    async def redrain(self, key: str) -> list[int]:
        """Drain the shards of a job once more whose sealed part is gone; `job(key).wait()` waits for the end.

        Nothing is sent or paid for: the API keeps results for 29 days. A part that is there and damaged has to be
        removed first. Lines stand in another order than before.

        Returns:
            the numbers of these shards; none if all is in its place.

        Raises:
            JobNotFound: there is no such job.
            BackendError: the destination cannot be used, or holds something else in the place of a part.
            JobStopped: a part is gone that cannot be read again.
            ApiError: the API cannot be reached.

        """
        self._check_open("redrain")
        job = self._record_of(key)
        async with self._one_at_a_time(key):
            run = self._run_of(job)
            shards = await reopen_missing_parts(run, self._ledger, self._client, run.input_paths)
            if shards:
                self._look(job)
            return shards

    async def same_requests(
        self, requests: RequestSource, *, betas: Sequence[str] = (), skip_answered: str | None = None
    ) -> list[Job]:
        """The jobs of this journal that hold requests of these files, and were paid for or may be.

        Files are compared by their content, whatever their names and the jobs' destinations; one that has grown since
        holds the requests that it held before. Submitting them under another key pays for these requests again: read
        the results of a finished job, `move` an unfinished one, or `submit` with `skip_answered`.

        Args:
            requests: a path, or a list or tuple of paths; of an iterable nothing is known, and the list is empty.
            betas: values of `anthropic-beta` for every request: with others the requests are others.
            skip_answered: as for `submit`; jobs whose answers it leaves out are not named.

        Raises:
            ConfigError: a file cannot be read, or `skip_answered` cannot work.

        """
        self._check_open("same_requests")
        jobs = await repeated(self._ledger, paths_of(requests), tuple(map(exact, betas)))
        left_out = () if skip_answered is None else answering(self._ledger, skip_answered)
        numbers = {job.job for job in left_out}
        return [self._handle(job) for job in jobs if job.job not in numbers]

    async def submit(
        self,
        requests: RequestSource,
        *,
        to: str | os.PathLike[str] | Backend,
        key: str | None = None,
        betas: Sequence[str] = (),
        user_profile_id: str | None = None,
        workspace_id: str | None = None,
        tries: int = 3,
        limit: int | None = None,
        pilot: int = 0,
        preview: Preview | None = None,
        skip_answered: str | None = None,
        changed_input: bool = False,
    ) -> Job:
        """Hand over a job, or hand it over again: the same key with the same content goes on, or is done at once.

        Returns when the job's first fact is durable: from then on it survives any crash. A file is checked before
        that; an iterable is checked as it is read. One that is empty is refused, and leaves no job; an async one may
        wait for its first request, so that it is empty is found by `wait`, and its key then takes other requests.

        Args:
            requests: a path to JSON lines (`.gz`, `.zst`), a list or tuple of such paths, which are read one behind
                the other, or an iterable or async iterable of `Request` or `{"custom_id", "params"}`, optionally with
                `betas` of its own.
            to: the destination's URL or path, or a Backend of your own.
            key: the job's name, `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`; for a path it may be left out.
            betas: values of `anthropic-beta` for every request.
            user_profile_id: `anthropic-user-profile-id` for every request.
            workspace_id: `anthropic-workspace-id` for every call.
            tries: how often a request is sent at most when it expires or fails for a passing reason.
            limit: send only the first so many requests and hold the others back: `wait` raises LimitReached then.
                Handed over with another limit or without, the job goes on, and the first are not sent again. What is
                planned already is sent: a limit cannot be lower than that, nor be lowered while the job runs.
            pilot: send so many requests, the first ones, alone; the others go once four fifths of these succeeded. If
                more than a fifth fail, the job stops, see `Config.failing`. It counts only in the call that begins the
                job.
            preview: sees the requests of files that are about to be sent, and may raise before anything is recorded:
                those of a new job, those of a changed input that were not sent, and those that a higher limit allows.
            skip_answered: the key of a finished job: requests of the files that it, one of its retries, or a job whose
                answers it left out itself answered with success are not sent. One whose params are known to be others
                is sent. The choice is made once, and belongs to the job from then on.
            changed_input: whether an unfinished job takes files whose content changed. What it has sent must be the
                same in them, and nothing may be in flight; all else is planned once more. It has no effect where
                the content is the same.

        Raises:
            BadRequest: the file holds requests that cannot be sent; nothing was promised or sent.
            ConfigError: an argument cannot work, or the iterable is empty.
            JobConflict: the key names a job with other content or another destination; nothing was changed. A list
                that differs in its first rows or its length is found out here, others are by `wait`.
            BackendError: the destination is another job's, or exists and is not ours.

        """
        self._check_open("submit")
        if not 1 <= tries <= 100:
            raise ConfigError(f"tries must be 1..100, got {tries}")
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1, got {limit}")
        if pilot < 0:
            raise ConfigError(f"pilot must be at least 0, got {pilot}")
        paths = paths_of(requests)
        if unnamed := [path for path in paths if not is_text(str(path))]:
            raise ConfigError(
                f"input {str(unnamed[0])!r} has a name that is not UTF-8; rename it, or pass its lines as an iterable"
            )
        for value in (*betas, user_profile_id, workspace_id):
            if value is not None and not HEADER_VALUE.fullmatch(value):
                raise ConfigError(f"{value!r} cannot stand in a header")
        headers = Headers(
            betas=tuple(sorted(set(map(exact, betas)))),
            user_profile_id=None if user_profile_id is None else exact(user_profile_id),
            workspace_id=None if workspace_id is None else exact(workspace_id),
        )
        if skip_answered is not None and not paths:
            raise ConfigError("skip_answered needs a file, which is read twice; leave answered requests out yourself")
        backend = to if isinstance(to, Backend) and not isinstance(to, str | os.PathLike) else None
        url = "" if backend is not None else relative_url(self._folder, normalize(os.fspath(to)))  # type: ignore[arg-type]
        key = default_key(self._folder, paths, url) if key is None else exact(key)
        key = self._moved_key(key, paths, url)
        if not KEY.fullmatch(key):
            raise ConfigError(f"key must match {KEY.pattern}, got {key!r}")
        async with self._one_at_a_time(key):
            job = self._ledger.job(key)
            if job is None:
                if not paths:
                    requests = cast("RequestSource", not_empty(requests))
                source = await self._source(paths, key, headers, preview, skip_answered)
                fact = Submitted(key=key, to=url, source=source, headers=headers, tries=tries, limit=limit, pilot=pilot)
                job = await self._begin(fact, backend)
            else:
                self._compare_terms(job, url, headers, skip_answered)
                taken = False
                if changed_input and paths and job.finished is None and not job.cancel_wished:
                    taken = await self._take_changed(job, paths, headers, limit, preview)
                ends = job.cancel_wished and job.finished is None and not changed_input  # nothing is sent of its input
                if not ends:
                    await self._compare_content(job, paths)
                if preview is not None and not taken:
                    await self._preview_more(job, paths, limit, preview)
                if not paths and isinstance(requests, list | tuple) and not ends:
                    await self._compare_first_rows(job, cast("Sequence[object]", requests))
                if backend is not None and not job.to:  # one that was moved has another destination since
                    self._run_of(job).use(backend)
            run = self._run_of(job)
            if limit != job.limit and job.finished is None and not job.cancel_wished:
                stopped = job.stopped is not None  # held still it plans nothing, though its run may not be over yet
                async with run.paused() if stopped else nullcontext():
                    _check_lowered(job, limit, running=run.submits and not stopped)
                    if not job.cut.last:
                        await self._ledger.record(Entry(job.job, Limited(rows=limit)))
            if job.finished is not None:
                await run.tidy()
            handed = None  # and from here to the start nothing is awaited: a run that ends lets go of what it has
            if paths:
                run.input_paths = tuple(path.absolute() for path in paths)
            else:
                handed = run.hand_over(requests)
            if job.finished is None or not paths:
                self._scope(job.submitted.headers.workspace_id).start_over()
                if run.over.is_set():
                    self._start(run, may_submit=True, handed_over=True)
                else:
                    await run.join()
            return self._handle(job, handed)

    async def move(self, key: str, *, to: str | os.PathLike[str]) -> Job:
        """Take an unfinished job to another destination, where it goes on; for instance because its own one failed.

        What is sealed is copied; what cannot be read at the old destination is read again from the API, which keeps
        results for 29 days. Nothing is sent again. The old destination keeps its copy. From then on `submit` finds the
        job by its old and by its new destination. After a crash the same call goes on. An iterable that is being read
        is given up; hand it over again.

        Args:
            key: the job's key.
            to: the new destination's URL or path.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: it is done, or the destination cannot work.
            BackendError: the new destination is another job's or failed, or the old one does not give back what the
                API does not have (lines of cancelled or refused requests); the job stays where it was.
            JobStopped: the old destination does not give back what the API does not keep any more; likewise.
            ApiError: the API has to be asked, and cannot be reached; likewise.

        """
        self._check_open("move")
        url = relative_url(self._folder, normalize(os.fspath(to)))
        async with self._one_at_a_time(key):
            job = self._record_of(key)
            handle = self._handle(job)
            if job.to == url:
                return handle
            run = self._run_of(job)
            async with run.paused():
                await move(self._ledger, job, url, api=self._api, input_paths=run.input_paths, old=run.connected)
                await run.move_to(absolute_url(self._folder, url))
            if run.over.is_set() and job.finished is None:
                self._start(run, may_submit=run.may_submit)
            return handle

    @asynccontextmanager
    async def _one_at_a_time(self, key: str) -> AsyncGenerator[None, None]:
        """Hold the lock of this key, which is there as long as somebody wants it."""
        lock = self._submitting[key]
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._submitting.pop(key, None)

    async def _api(self) -> Client:
        return self._client

    def _moved_key(self, key: str, paths: Sequence[Path], url: str) -> str:
        """The key of the job that was begun with this input and moved to this destination; else `key`."""
        if not paths or key != default_key(self._folder, paths, url) or self._ledger.job(key) is not None:
            return key
        moved = (job for job in self._ledger.jobs.values() if job.moves and url in job.places)
        return next((job.key for job in moved if job.key == default_key(self._folder, paths, job.submitted.to)), key)

    async def _source(
        self, paths: Sequence[Path], key: str, headers: Headers, preview: Preview | None, skip_answered: str | None
    ) -> Source:
        if not paths:
            return IterableSource()
        if skip_answered is not None:
            answering(self._ledger, skip_answered)  # before the files are read
        params = check_of(self._config.params, betas=bool(headers.betas))
        note = None if preview is None else preview.add
        source = await check_files(
            paths,
            self._ledger.folder.path,
            bytes_per_batch=self._config.bytes_per_batch,
            params=params,
            note=note if skip_answered is None else None,
        )
        if params is not None:
            log_doubts(key, params.fresh_doubts())
        needed = spool_needed(source, self._config) + self._config.free_disk
        usage = os.statvfs(self._folder)
        free = usage.f_bavail * usage.f_frsize
        if free < needed:
            raise ConfigError(
                f"journal {self._folder} needs about {needed:,} bytes of disk for this input, {free:,} are free; "
                "free some, or put the journal on another disk"
            )
        files = [replace(file, path=relative(self._folder, Path(file.path))) for file in files_of(source)]
        checked = source_of(files, source.rows)
        chosen: FileSource | FilesSource | SelectedSource = checked
        if skip_answered is not None:
            chosen = await without_answered(
                self._ledger,
                checked,
                paths,
                betas=headers.betas,
                answered_by=skip_answered,
                run_of=self._run_of,
                note=note,
            )
            log.info(
                "answered_left_out",
                job=key,
                answered_by=skip_answered,
                skipped=chosen.skipped,
                changed=chosen.changed,
                uncompared=chosen.uncompared,
            )
        if preview is not None:
            await preview.agree()
        return chosen

    async def _take_changed(
        self, job: JobRecord, paths: Sequence[Path], headers: Headers, limit: int | None, preview: Preview | None
    ) -> bool:
        """Let a job go on with files whose content changed, and say whether; those that are as they were do nothing."""
        files = files_of(job.submitted.source)
        if not files:  # a conflict, as without this
            return False
        if len(files) == len(paths) and all(
            [await is_same(file, path) for file, path in zip(files, paths, strict=True)]
        ):
            return False
        async with self._run_of(job).paused():
            check_may_change(job)  # before the files are read
            source = await self._source(paths, job.key, headers, None, None)
            assert isinstance(source, FileSource | FilesSource)
            asking = None if preview is None else _Once(preview)
            while job.finished is None:
                try:
                    await take_changed(self._ledger, job, source, paths, limit=limit, preview=asking)
                except Overtaken:  # another process changed the job; look at it as it is now
                    log.warning("change_overtaken", job=job.key)
                else:
                    return True
        return False

    async def _preview_more(self, job: JobRecord, paths: Sequence[Path], limit: int | None, preview: Preview) -> None:
        """Show the requests that a higher limit allows."""
        before, source = job.limit, job.submitted.source
        if isinstance(source, IterableSource) or job.finished is not None or job.cancel_wished or job.cut.last:
            return
        if before is None or (limit is not None and limit <= before):
            return
        sent = source.sent if isinstance(source, ChangedSource) else 0  # they come first, and are not read
        seen, end = sent, source.rows if limit is None else limit

        def show(rows: Rows) -> None:
            nonlocal seen
            begin, most = max(before - seen, 0), max(end - seen, 0)
            seen += len(rows.custom_ids)
            preview.add(Rows(rows.custom_ids[begin:most], rows.params[begin:most], rows.betas[begin:most]))

        await read_again(source, paths, show)
        await preview.agree()

    async def _begin(self, fact: Submitted, backend: Backend | None) -> JobRecord:
        """Claim the destination, then make the job durable."""
        if backend is None:
            ref = JobRef(key=fact.key, lineage=self._ledger.lineage.name)
            backend = await connect(absolute_url(self._folder, fact.to), ref)
        try:
            job = await self._ledger.start_job(fact)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await backend.aclose()
            raise
        self._run_of(job).use(backend)
        log.info("job_submitted", job=job.key)
        return job

    def _compare_terms(self, job: JobRecord, url: str, headers: Headers, skip_answered: str | None) -> None:
        """Refuse what belongs to a job besides its requests and is another; nothing is recorded before this."""
        known = job.submitted
        if url not in job.places:
            place = f"destination {shown(absolute_url(self._folder, job.to))}" if job.to else "a backend object"
            remedy = f"take the job elsewhere: abatch move {job.key} --to DEST" if job.finished is None else ""
            raise JobConflict(job.key, place, why="destination", remedy=remedy)
        if known.headers != headers:
            raise JobConflict(job.key, "other betas, user profile or workspace", why="headers")
        answered_by = known.source.answered_by if isinstance(known.source, SelectedSource) else None
        if answered_by != skip_answered:
            others = (
                "all requests of its files (no --skip-answered)"
                if answered_by is None
                else f"the requests that job {answered_by!r} answered left out (--skip-answered {answered_by})"
            )
            raise JobConflict(job.key, others, why="selection")

    async def _compare_content(self, job: JobRecord, paths: Sequence[Path]) -> None:
        known = job.submitted.source
        files = files_of(known)
        if len(files) != len(paths):
            raise JobConflict(job.key, "requests from another kind of source, or from more or fewer files")
        for file, path in zip(files, paths, strict=True):  # an iterable is compared row by row, as it is read
            if not await is_same(file, path):
                way = "take the requests that were not sent from it: --changed-input (`changed_input=True`)"
                if not takes_changed_input(known):
                    way = cancel_and_skip(job.key)
                raise JobConflict(job.key, f"other content of {file.path}", remedy=way if job.finished is None else "")

    async def _compare_first_rows(self, job: JobRecord, requests: Sequence[object]) -> None:
        """Refuse a list that differs at its beginning or in its length; the rest is compared as it is read."""
        head, planned = (await self._ledger.in_full(job)).head, job.cut
        with suppress(BadRequest):  # its place is named when it is read
            for number, request in enumerate(requests[:HEAD_ROWS], 1):
                if (difference := other_row(head, read_row(request, number), number)) is not None:
                    raise JobConflict(job.key, difference)
        if len(requests) < planned.rows or (planned.last and len(requests) > planned.rows):
            kind = "more" if len(requests) < planned.rows else "fewer"
            raise JobConflict(job.key, f"{kind} requests: {planned.rows:,}, where these are {len(requests):,}")


class _Once:
    """A preview that is asked once, however often the requests are read."""

    def __init__(self, preview: Preview) -> None:
        self._preview: Preview | None = preview

    def add(self, rows: Rows, /) -> None:
        """Show these requests unless all were shown and agreed to."""
        if self._preview is not None:
            self._preview.add(rows)

    async def agree(self) -> None:
        """Ask unless that was done."""
        preview, self._preview = self._preview, None
        if preview is not None:
            await preview.agree()


def _check_lowered(job: JobRecord, limit: int | None, *, running: bool) -> None:
    """Refuse a limit that could not be kept: what is planned is sent.

    Raises:
        ConfigError: it is below what is planned, or what is being planned now.

    """
    if limit is None:
        return
    planned = job.cut.rows
    if limit < planned:
        raise ConfigError(
            f"{planned:,} requests of job {job.key!r} are planned already, and these are sent: the limit must be at "
            f"least {planned}, got {limit}"
        )
    if running and not job.cut.last and (job.limit is None or limit < job.limit):
        raise ConfigError(f"job {job.key!r} is running: its limit cannot be lowered to {limit} now; leave it first")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors of a task group, the journal's first."""
    found: list[BaseException] = []
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            found += _leaves(cast("BaseExceptionGroup[BaseException]", each))
        else:
            found.append(each)
    return sorted(found, key=lambda error: not isinstance(error, JournalError))
