"""BatchManager: the one object that an application creates. It owns the journal, the tasks and their lifetimes."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, cast

import anyio

from abatch.backend import Backend, normalize
from abatch.config import Config
from abatch.engine.access import check_access, open_client
from abatch.engine.context import ManagerContext
from abatch.engine.follow import follow_others
from abatch.engine.grace import grace_of
from abatch.engine.key_locks import KeyLocks
from abatch.engine.move import move
from abatch.engine.redrain import reopen_missing_parts
from abatch.engine.runs import JobRuns
from abatch.engine.scopes import Scopes
from abatch.engine.shutdown import Shutdown
from abatch.engine.submission import Submissions, check_arguments
from abatch.errors import ConfigError
from abatch.input.iterables import not_empty
from abatch.input.queued import is_kept, keep_requests
from abatch.input.repeats import same_requests
from abatch.input.request import paths_of
from abatch.job import Job
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.sqlite import SqliteLog
from abatch.journal.survey import Surveys
from abatch.open_job import OpenJob
from abatch.prices import load as load_prices
from abatch.protocol.durations import KEPT_FOR
from abatch.protocol.facts import OpenSource, Submitted
from abatch.streams import Events
from abatch.system import threads
from abatch.system.groups import first_of
from abatch.system.lifetime import Lifetime
from abatch.system.paths import absolute_url, folder_of, relative_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from types import TracebackType

    from anthropic import AsyncAnthropic

    from abatch.engine.client import Client
    from abatch.engine.planning import SubmittedIterable
    from abatch.engine.scope import Scope
    from abatch.events import OnEvent
    from abatch.input.check import Preview
    from abatch.input.request import RequestSource
    from abatch.journal.records import JobRecord
    from abatch.streams import EventStream

__all__ = ["BatchManager"]


class BatchManager:
    """Runs jobs of one journal, and recovers those that an earlier process left.

        async with BatchManager(journal=".abatch") as manager:
            job = await manager.submit(requests, to="results.jsonl", key="nightly")
            summary = await job.wait()

    Leaving the block, in whatever way, starts nothing new, gives creates past their commit point up to 30 seconds for
    their answer, and loses nothing. A task that waits for one of its jobs then gets ManagerClosed at once. Another task
    than the one that entered the block may leave it, as fixtures of pytest-asyncio and cells of a notebook do. The
    manager installs no signal handlers and configures no logging.

    Args:
        journal: the folder of the journal; created if it does not exist.
        client: your own `anthropic.AsyncAnthropic`; if not given, one is built from the environment.
        config: limits, polling and policy.
        resume: `all` recovers unfinished jobs; `given` polls and drains them but sends none of their requests until
            they are submitted again.
        take_jobs: whether jobs that other processes submitted, with `JournalView.submit`, are sent, whatever `resume`
            is; otherwise they wait for another manager.
        prices: your own price file.
        on_event: called in the event loop with every event (see `events`); its result is awaited if it is awaitable.
            An exception that it raises is logged as `on_event_failed`, and stops nothing. When the block is left, it
            has up to ten seconds for the last events.

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
        take_jobs: bool = True,
        prices: str | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        if resume not in ("all", "given"):
            raise ConfigError(f"resume must be all or given, got {resume!r}")
        self._folder = folder_of(journal)
        self._sdk = client
        self._config = config or Config()
        self._resume = resume
        self._take_jobs = take_jobs
        self._prices = load_prices(prices)
        self._lifetime: Lifetime | None = None
        self._one_at_a_time = KeyLocks()
        self._shutdown = Shutdown()
        self._open = False
        self._events = Events(self._folder)
        self._on_event = on_event

    def __repr__(self) -> str:
        if not self._open:
            return f"<BatchManager of {self._folder}, {'not entered' if self._lifetime is None else 'left'}>"
        jobs, unfinished = len(self._context.ledger.jobs), len(self._context.ledger.unfinished)
        return f"<BatchManager of {self._folder}: {jobs:,} jobs, {unfinished:,} unfinished>"

    async def __aenter__(self) -> Self:
        if self._lifetime is not None:
            raise RuntimeError("a BatchManager is entered once; make another one for another block")
        self._lifetime = Lifetime(self._run())
        await self._lifetime.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lifetime is not None
        await self._lifetime.leave()

    def close(self) -> None:
        """Begin to leave, without waiting; the block must still be left, and that waits for the rest.

        Call it from a signal handler, with `loop.call_soon_threadsafe`: a server that waits for its connections before
        it ends the application would wait for every client that reads results of an unfinished job.
        """
        if self._open and self._lifetime is not None:
            self._open = False
            self._lifetime.begin_to_leave()

    # ---- lifetime ---------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _run(self) -> AsyncGenerator[None, None]:
        """Run everything between entering and leaving; `Lifetime` runs it in a separate task."""
        async with AsyncExitStack() as open_:
            client = await open_client(self._sdk)  # first: without a key nothing is created
            open_.push_async_callback(client.aclose)
            folder = JournalFolder(self._folder)
            facts = await SqliteLog.open(folder, drive=True)
            open_.push_async_callback(facts.aclose)
            surveys = Surveys()
            ledger = await Ledger.load(facts, folder, finished=surveys.add)
            await facts.bind(client.base_url)
            fingerprint = facts.lineage.fingerprint(client.fixed_key)
            needed = ledger.needed_spool(), ledger.needed_inputs()
            await threads.run(folder.tidy, spool=needed[0], inputs=needed[1], ids_for=KEPT_FOR)
            await threads.run(surveys.add_all, ledger.unfinished.values())
            scopes = Scopes(
                client,
                ledger,
                self._config,
                fingerprint=fingerprint,
                grace=grace_of(self._config, client.base_url, owns_socket=client.owns_socket),
                surveys=surveys.of,
                start=self._run_scope,
                look=self._look,
            )
            self._context = ManagerContext(
                client=client,
                ledger=ledger,
                config=self._config,
                prices=self._prices,
                fingerprint=fingerprint,
                scopes=scopes,
                shutdown=self._shutdown,
            )
            self._runs = JobRuns(self._context)
            self._submissions = Submissions(
                ledger,
                self._config,
                destination_of=lambda job: self._runs.of(job).destination,
                paused=lambda job: self._runs.of(job).paused(),
            )
            ledger.on_recorded = self._events.announce
            try:
                async with self._events.open(self._on_event), self._runs.open() as self._group:
                    take = self._take if self._take_jobs else None
                    self._group.start_soon(partial(follow_others, ledger, scopes, self._runs, take=take))
                    scopes.open_surveyed()
                    for job in list(ledger.unfinished.values()):
                        is_taken = self._take_jobs and job.terms is not None
                        self._runs.start(self._runs.of(job), may_submit=self._resume == "all" or is_taken)
                    self._open = True
                    try:
                        yield
                    finally:
                        self._open = False
                        await self._leave()
            except BaseExceptionGroup as several:
                raise first_of(several) from None
            finally:
                with anyio.CancelScope(shield=True):
                    await self._runs.aclose()

    def _run_scope(self, scope: Scope) -> None:
        self._group.start_soon(scope.run)

    async def _leave(self) -> None:
        self._shutdown.wish()
        for job in self._context.ledger.unfinished.values():
            job.wake()
        with anyio.CancelScope(shield=True):
            await self._shutdown.answered()
        self._group.cancel_scope.cancel()

    def _look(self, job: JobRecord) -> None:
        self._runs.look(job)

    async def _take(self, job: JobRecord) -> None:
        async with self._one_at_a_time(job.key):
            await self._runs.take(job)

    async def check_api(self, workspace_id: str | None = None) -> None:
        """Make one cheap call; any failure counts at once, even one that passes (`check_access` ignores those).

        Raises:
            ApiError: the API is not available, or refuses the key.

        """
        self._check_open("check_api")
        await self._context.scopes.of(workspace_id).page(limit=1)

    async def check_access(self, key: str, workspace_id: str | None = None) -> None:
        """Repeat `check_api` until the API accepts the key or refuses it several times in a row.

        A temporary failure does not count, because a job waits until it ends.

        Args:
            key: the job that needs the API.
            workspace_id: its workspace.

        Raises:
            ApiError: the API cannot be reached.
            JobStopped: the API refuses the key, or the answers are not the API's.

        """
        await check_access(partial(self.check_api, workspace_id), key)

    def _check_open(self, call: str) -> None:
        if not self._open:
            when = "before its block is entered" if self._lifetime is None else "after its block was left"
            raise RuntimeError(
                f"BatchManager.{call}() {when}; "
                "call it inside `async with BatchManager(...) as manager:`, which each manager enters once"
            )
        assert self._lifetime is not None
        self._lifetime.check_loop(f"BatchManager.{call}()")

    # ---- jobs -------------------------------------------------------------------------------------------------

    def _handle(self, job: JobRecord, iterable: SubmittedIterable | None = None) -> Job:
        scope = self._context.scopes.of(job.submitted.headers.workspace_id)
        kind = OpenJob if isinstance(job.submitted.source, OpenSource) else Job
        return kind(self._context.ledger, self._runs.of(job), scope, self._prices, look=self._look, iterable=iterable)

    def events(self) -> EventStream:
        """Follow everything that happens in this journal from now on, whichever process records it.

            async for event in manager.events():
                match event:
                    case events.JobStopped(job=job, reason=reason):
                        ...

        The events are in `abatch.events`. A reader may be a thousand events behind; it loses events beyond that, and
        gets `EventsMissed` in their place. The stream ends when the manager is left.
        """
        self._check_open("events")
        return self._events.stream()

    def jobs(self) -> list[Job]:
        """Every job of the journal, in the order in which they were submitted."""
        self._check_open("jobs")
        return [self._handle(job) for job in self._context.ledger.jobs.values()]

    def job(self, key: str) -> Job:
        """The job with this key.

        Raises:
            JobNotFound: no job has this key.

        """
        self._check_open("job")
        return self._handle(self._context.ledger.named(key))

    def key_of(
        self, requests: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, to: str | os.PathLike[str]
    ) -> str:
        """Return the key that `submit` gives to files and a destination if it is called without one.

        If a job was started with these files and moved to this destination, it is the key of that job.
        """
        self._check_open("key_of")
        return self._submissions.key_of(None, paths_of(requests), relative_url(self._folder, normalize(os.fspath(to))))

    async def redrain(self, key: str) -> list[int]:
        """Drain again the shards of a job whose sealed part is missing; `job(key).wait()` waits until this is done.

        Nothing is sent or paid for: the API keeps results for 29 days. Remove a damaged part first. The order of
        lines may differ from the previous one.

        Returns:
            the numbers of these shards; none if every part is in its place.

        Raises:
            JobNotFound: there is no such job.
            BackendError: the destination cannot be used, or holds something else in the place of a part.
            JobStopped: a part is missing that cannot be read again.
            ApiError: the API cannot be reached.

        """
        self._check_open("redrain")
        job = self._context.ledger.named(key)
        async with self._one_at_a_time(key):
            run = self._runs.of(job)
            shards = await reopen_missing_parts(run, self._context.ledger, self._context.client, run.input.paths)
            if shards:
                self._look(job)
            return shards

    async def same_requests(
        self, requests: RequestSource, *, betas: Sequence[str] = (), skip_answered: str | None = None
    ) -> list[Job]:
        """The jobs of this journal that hold requests of these files, and were paid for or may be.

        Files are compared by their content, whatever their names and the jobs' destinations; a file that has grown
        since still holds its earlier requests. Submitting them under another key pays for these requests again: read
        the results of a finished job, `move` an unfinished one, or `submit` with `skip_answered`.

        Args:
            requests: a path, or a list or tuple of paths; an iterable cannot be compared, and returns an empty list.
            betas: values of `anthropic-beta` for every request; requests with different betas are different.
            skip_answered: as for `submit`; jobs whose answers it leaves out are not returned.

        Raises:
            ConfigError: a file cannot be read, or `skip_answered` cannot work.

        """
        self._check_open("same_requests")
        jobs = await same_requests(self._context.ledger, requests, betas=betas, skip_answered=skip_answered)
        return [self._handle(job) for job in jobs]

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
        """Submit a job, or submit it again: the same key with the same content resumes, or is done at once.

        Returns when the job's first fact is durable: from then on the job survives any crash. A file is checked before
        that; an iterable is checked while it is read. An empty iterable is refused, and leaves no job. An async
        iterable may wait for its first request, so `wait` reports an empty one; its key then takes other requests.

        Args:
            requests: a path to JSON lines (`.gz`, `.zst`), a list or tuple of such paths, which are read in this
                order, or an iterable or async iterable of `Request` or `{"custom_id", "params"}`, optionally with
                `betas` for that request.
            to: the destination's URL or path, or your own Backend.
            key: the job's name, `[A-Za-z0-9][A-Za-z0-9._-]{0,99}`; for a path it may be left out.
            betas: values of `anthropic-beta` for every request.
            user_profile_id: `anthropic-user-profile-id` for every request.
            workspace_id: `anthropic-workspace-id` for every call.
            tries: how often a request is sent at most if it expires or fails for a temporary reason.
            limit: send only this many requests, the first ones, and hold the others back: then `wait` raises
                LimitReached. Submitted with another limit or without one, the job continues, and does not send the
                first requests again. Planned requests are sent: a limit cannot be lower than their number, nor be
                lowered while the job runs.
            pilot: send this many requests, the first ones, alone; the others follow once four fifths of these have
                succeeded. If more than a fifth fail, the job stops, see `Config.failing`. It has an effect only in the
                call that begins the job.
            preview: sees the requests of files that are about to be sent, and may raise before anything is recorded:
                those of a new job, those of a changed input that were not sent, and those that a higher limit allows.
            skip_answered: the key of a finished job. Requests of the files are not sent if this job, one of its
                retries, or a job whose answers it left out itself has a success for them. A request whose params are
                known to differ is sent. The choice is made once, and belongs to the job from then on.
            changed_input: whether an unfinished job takes files whose content changed. They must contain the requests
                that were sent, unchanged, and nothing may be in flight; all other requests are planned once more. It
                has no effect if the content is the same.

        Raises:
            BadRequest: the file holds requests that cannot be sent; nothing was recorded or sent.
            ConfigError: an argument cannot work, or the iterable is empty.
            JobConflict: the key names a job with other content or another destination; nothing was changed. `submit`
                detects a list that differs in its first rows or its length; `wait` detects other iterables.
            BackendError: the destination is another job's, or exists and is not ours.

        """
        self._check_open("submit")
        paths = paths_of(requests)
        headers = check_arguments(
            paths,
            betas=betas,
            user_profile_id=user_profile_id,
            workspace_id=workspace_id,
            tries=tries,
            limit=limit,
            pilot=pilot,
            skip_answered=skip_answered,
        )
        backend, url = self._destination(to)
        key = self._submissions.key_of(key, paths, url)
        async with self._one_at_a_time(key):
            job = self._context.ledger.job(key)
            if job is not None and not paths and is_kept(self._context.ledger.folder, job):
                paths = (await keep_requests(self._context.ledger.folder, requests),)
            if job is None:
                if not paths:
                    requests = cast("RequestSource", not_empty(requests))
                source = await self._submissions.source(paths, key, headers, preview, skip_answered)
                fact = Submitted(key=key, to=url, source=source, headers=headers, tries=tries, limit=limit, pilot=pilot)
                job = await self._submissions.begin(fact, backend)
            else:
                await self._submissions.compare(
                    job,
                    requests,
                    paths,
                    url=url,
                    headers=headers,
                    limit=limit,
                    preview=preview,
                    skip_answered=skip_answered,
                    changed_input=changed_input,
                )
                if backend is not None and not job.to:  # a job that was moved has another destination since
                    self._runs.of(job).destination.use(backend)
            run = self._runs.of(job)
            await self._submissions.change_limit(job, run, limit)
            await self._submissions.drop_terms(job)
            if job.finished is not None:
                await run.destination.tidy()
            iterable = None  # no await from here to the start: a run that ends meanwhile would release its iterable
            if paths:
                run.input.paths = tuple(path.absolute() for path in paths)
            else:
                iterable = run.input.add(requests)
            if job.finished is None or not paths:
                await self._runs.go_on(run)
            return self._handle(job, iterable)

    def _destination(self, to: str | os.PathLike[str] | Backend) -> tuple[Backend | None, str]:
        """Return the caller's own backend, or the URL of a destination as the journal keeps it."""
        if isinstance(to, Backend) and not isinstance(to, str | os.PathLike):
            return to, ""
        return None, relative_url(self._folder, normalize(os.fspath(to)))

    async def open_job(
        self,
        key: str,
        *,
        to: str | os.PathLike[str] | Backend,
        linger: timedelta = timedelta(minutes=1),
        betas: Sequence[str] = (),
        user_profile_id: str | None = None,
        workspace_id: str | None = None,
        tries: int = 3,
    ) -> OpenJob:
        """Open a job whose requests come one by one: see `OpenJob`. With the key of an open job, continue it.

        The job is durable when this returns, and takes requests until `close` or `cancel`. After a crash it continues
        without its callers; a manager with `resume="given"` sends its requests once it is opened again.

        Args:
            key: the job's name, as for `submit`.
            to: the destination's URL or path, or your own Backend; a database finds single results.
            linger: how long a request waits for others before it is sent in a batch that is not full. It has an
                effect only in the call that begins the job.
            betas: values of `anthropic-beta` for every request.
            user_profile_id: `anthropic-user-profile-id` for every request.
            workspace_id: `anthropic-workspace-id` for every call.
            tries: how often a request is sent at most if it expires or fails for a temporary reason.

        Raises:
            ConfigError: an argument cannot work.
            JobConflict: the key names a job that is not open, or that has other headers or another destination.
            BackendError: the destination is another job's, or exists and is not ours.

        """
        self._check_open("open_job")
        if linger < timedelta(0):
            raise ConfigError(f"linger must not be negative, got {linger}")
        headers = check_arguments(
            (),
            betas=betas,
            user_profile_id=user_profile_id,
            workspace_id=workspace_id,
            tries=tries,
            limit=None,
            pilot=0,
            skip_answered=None,
        )
        backend, url = self._destination(to)
        key = self._submissions.key_of(key, (), url)
        async with self._one_at_a_time(key):
            job = self._context.ledger.job(key)
            if job is None:
                source = OpenSource(linger=linger.total_seconds())
                fact = Submitted(key=key, to=url, source=source, headers=headers, tries=tries)
                job = await self._submissions.begin(fact, backend)
            else:
                self._submissions.compare_open(job, url=url, headers=headers)
                if backend is not None and not job.to:
                    self._runs.of(job).destination.use(backend)
            if job.finished is None:
                await self._runs.go_on(self._runs.of(job))
            handle = self._handle(job)
            assert isinstance(handle, OpenJob)
            return handle

    async def move(self, key: str, *, to: str | os.PathLike[str]) -> Job:
        """Move an unfinished job to another destination, where it continues; for instance because its own failed.

        Sealed parts are copied; parts that cannot be read at the old destination are read again from the API, which
        keeps results for 29 days. Nothing is sent again. The old destination keeps its copy. From then on `submit`
        finds the job by its old and by its new destination. After a crash the same call continues. An iterable that is
        being read is given up; submit it again.

        Args:
            key: the job's key.
            to: the new destination's URL or path.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: the job is done, or the destination cannot work.
            BackendError: the new destination is another job's or failed, or the old one does not return lines that the
                API does not have (of cancelled or refused requests); the job stays where it was.
            JobStopped: the old destination does not return results that the API no longer keeps; likewise.
            ApiError: the API is needed, and cannot be reached; likewise.

        """
        self._check_open("move")
        url = relative_url(self._folder, normalize(os.fspath(to)))
        async with self._one_at_a_time(key):
            job = self._context.ledger.named(key)
            handle = self._handle(job)
            if job.to == url:
                return handle
            run = self._runs.of(job)
            async with run.paused():
                await move(
                    self._context.ledger,
                    job,
                    url,
                    api=self._api,
                    input_paths=run.input.paths,
                    old=run.destination.connected,
                )
                await run.destination.move_to(absolute_url(self._folder, url))
            if run.is_over and job.finished is None:
                self._runs.start(run, may_submit=run.may_submit)
            return handle

    async def _api(self) -> Client:
        return self._context.client
