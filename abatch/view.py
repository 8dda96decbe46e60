"""JournalView: read a journal while another process drives it, and record requests to that process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from abatch.backend import normalize
from abatch.config import Config
from abatch.engine.move_undriven import move_undriven
from abatch.engine.queueing import enqueue, key_of
from abatch.engine.retry import RetryKind, choose
from abatch.errors import ConfigError
from abatch.input.repeats import same_requests
from abatch.journal.sqlite import SqliteLog
from abatch.journal.wishes import wish_cancel, wish_lost, wish_resolved
from abatch.open_job import Inbox
from abatch.protocol.facts import OpenSource
from abatch.reader import JournalReader
from abatch.snapshot import JobStatus, Resolution, job_status, resolution_of
from abatch.system.paths import absolute_url

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Sequence
    from types import TracebackType

    from abatch.engine.move_undriven import Relocation
    from abatch.engine.retry import Retry
    from abatch.input.check import Preview
    from abatch.input.request import RequestSource

__all__ = ["JournalView", "RetryKind"]


class JournalView(JournalReader):
    """Read and steer the jobs of a journal without driving them, whether another process drives them or not.

        async with JournalView(".abatch") as view:
            for job in view.jobs():
                print(job.key, job.state, job.progress.sealed)

    It needs no API key, takes no lock and imports no SDK. It shows the journal at the time when it was entered, or
    of the last `refresh`, `status` or own change. `cancel` and `resolve` record a request: a process that drives the
    journal acts on it within a second, otherwise the next one does. `submit` records a job for it.

    Args:
        journal: the folder of the journal; it must exist.
        prices: your own price file.
        create: whether to make the journal if it does not exist, for `submit`.

    Raises:
        ConfigError: on entering: there is no journal.
        JournalCorrupt: on entering: this version cannot read the journal.

    """

    def __init__(
        self, journal: str | os.PathLike[str] = ".abatch", *, prices: str | None = None, create: bool = False
    ) -> None:
        super().__init__(journal, prices=prices, create=create)
        self._inboxes: dict[str, Inbox] = {}

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            for inbox in self._inboxes.values():
                await inbox.aclose()
        await super().__aexit__(kind, error, trace)

    # ---- submit -----------------------------------------------------------------------------------------------

    async def submit(
        self,
        requests: RequestSource,
        *,
        to: str | os.PathLike[str],
        key: str | None = None,
        betas: Sequence[str] = (),
        user_profile_id: str | None = None,
        workspace_id: str | None = None,
        tries: int = 3,
        limit: int | None = None,
        pilot: int = 0,
        preview: Preview | None = None,
        skip_answered: str | None = None,
        config: Config | None = None,
    ) -> JobStatus:
        """Submit a job, or submit it again, to the process that drives the journal; without one, to the next.

        The input is checked here, as `BatchManager.submit` checks it; the other arguments and errors are the same. When
        this returns, the job is durable, and this process is no longer needed. The requests of an iterable are read
        to the end, and kept in a file of the journal until 29 days later.

        The driver begins the job within a second if its `DriverStatus.takes_jobs` is True. It stops the job, with the
        reason, if the key or base URL in its environment differs from the one here (if there is one here), or if
        `config` has another `grace` or `unresolved`; a job that runs is not stopped, but the submission is refused.

        Args:
            requests: as for `BatchManager.submit`.
            to: the destination's URL or path.
            key: the job's name; for a path it may be left out.
            betas: values of `anthropic-beta` for every request.
            user_profile_id: `anthropic-user-profile-id` for every request.
            workspace_id: `anthropic-workspace-id` for every call.
            tries: how often a request is sent at most.
            limit: send only this many requests, the first ones.
            pilot: send this many requests, the first ones, alone.
            preview: sees the requests that are about to be sent, and may raise before anything is recorded.
            skip_answered: the key of a finished job, whose answered requests are not sent.
            config: settings of this job: how batches are cut, `params`, `refusals`, `parked`, `failing` and
                `storage_patience`. What is left at its default is the driver's choice.

        Raises:
            BadRequest: the requests cannot be sent; nothing was recorded.
            ConfigError: an argument cannot work, or there is no request, or the job runs and its driver would stop it.
            JobConflict: the key names a job with other content or another destination; nothing was changed.
            BackendError: the destination is another job's, or exists and is not ours.

        """
        await self.refresh()
        job = await enqueue(
            self._ledger,
            requests,
            config=config or Config(),
            driver=self._driver,
            to=to,
            key=key,
            betas=betas,
            user_profile_id=user_profile_id,
            workspace_id=workspace_id,
            tries=tries,
            limit=limit,
            pilot=pilot,
            preview=preview,
            skip_answered=skip_answered,
        )
        await self.refresh()
        return self.job(job.key)

    def key_of(
        self, requests: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, to: str | os.PathLike[str]
    ) -> str:
        """Return the key that `submit` gives to files and a destination if it is called without one."""
        return key_of(self._ledger, requests, to)

    async def same_requests(
        self,
        requests: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        betas: Sequence[str] = (),
        skip_answered: str | None = None,
    ) -> list[JobStatus]:
        """The jobs of this journal that hold requests of these files: see `BatchManager.same_requests`.

        Raises:
            ConfigError: a file cannot be read, or `skip_answered` cannot work.

        """
        await self.refresh()
        jobs = await same_requests(self._ledger, requests, betas=betas, skip_answered=skip_answered)
        return [job_status(self._ledger, job, driver=self._driver) for job in jobs]

    # ---- open jobs --------------------------------------------------------------------------------------------

    async def open_job(self, key: str, *, config: Config | None = None) -> Inbox:
        """The inbox of an open job, to put requests and to wait for single results: see `Inbox`.

        Args:
            key: the open job, which a manager has begun.
            config: the limits of a request and of the inbox; those of the process that drives the journal.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: the job is not an open job.

        """
        job = await self._found(key)
        if not isinstance(job.submitted.source, OpenSource):
            raise ConfigError(f"job {key!r} is not an open job; `BatchManager.open_job` begins one")
        url = absolute_url(job.folder, job.to) if job.to else None
        inbox = self._inboxes[key] = self._inboxes.get(key) or Inbox(self._ledger, job, config or Config(), url=url)
        return inbox

    # ---- steer ------------------------------------------------------------------------------------------------

    async def cancel(self, key: str) -> JobStatus:
        """Request that a job is cancelled, as `Job.cancel` does; durable at once.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: the job is done.

        """
        job = await self._found(key)
        await wish_cancel(self._ledger, job)
        return self.job(key)

    async def resolve(
        self,
        shard: int,
        *,
        adopt: str | None = None,
        not_created: bool = False,
        lost: bool = False,
        any_key: bool = False,
    ) -> Resolution:
        """Record a decision about a shard that is in doubt or held, or whose batch is gone; durable at once.

        The process that drives the journal checks the decision with the API, and refuses one that the API contradicts.
        But if you use `not_created` for a batch that exists, its requests are paid for twice.

        Args:
            shard: the shard's number.
            adopt: the id of the shard's batch.
            not_created: no batch was created; the shard is sent again.
            lost: its results are given up: its requests are listed as missing, and nothing is sent again.
            any_key: with `lost`: also if the API key is not known to see the batch.

        Raises:
            ConfigError: there is no such shard, its state does not allow this, or the arguments do not go together.

        """
        if [adopt is not None, not_created, lost].count(True) != 1:
            raise ConfigError("give one of adopt, not_created, lost")
        if any_key and not lost:
            raise ConfigError("any_key goes with lost only")
        if lost:
            return resolution_of(*await wish_lost(self._ledger, shard, any_key=any_key))
        return resolution_of(*await wish_resolved(self._ledger, shard, adopt))

    async def retry(
        self,
        key: str,
        *,
        kinds: Collection[RetryKind] = (),
        final: bool = False,
        stop_reasons: Collection[str] = (),
        max_tokens: int | None = None,
        to: str | None = None,
    ) -> Retry:
        """Choose the requests of a finished job to send again, as a separate job; nothing is sent.

        Requests that an earlier retry has answered are left out. `BatchManager.submit` sends the others: see `Retry`.

        Args:
            key: the finished job.
            kinds: which requests; all that did not succeed, if neither this nor `stop_reasons` is given.
            final: with `failed`: also requests that cannot succeed unchanged, such as bad requests.
            stop_reasons: answers that stopped for one of these reasons.
            max_tokens: only for the stop reason `max_tokens`: how long the answers may be now.
            to: the destination; next to the original's results if it is not given.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: the job is not finished, its files changed, or the arguments cannot be combined.
            BackendError: its results cannot be read.

        """
        return await choose(
            self._ledger,
            await self._found(key),
            kinds=kinds,
            final=final,
            stop_reasons=stop_reasons,
            max_tokens=max_tokens,
            to=to,
        )

    async def move(self, key: str, *, to: str | os.PathLike[str]) -> Relocation:
        """Move an unfinished job to another destination, as `BatchManager.move` does, while no process drives it.

        Sealed parts are copied, nothing is sent, and the old destination keeps its copy. The API key is needed only
        if a part cannot be read at the old destination.

        Args:
            key: the job.
            to: the destination's URL or path.

        Raises:
            JournalLocked: a process drives the journal.
            JobNotFound: there is no such job.
            ConfigError: the job is done, or the new destination cannot work.
            BackendError, JobStopped, ApiError: as `BatchManager.move`.

        """
        url = normalize(str(to))
        await self._found(key)
        facts = await SqliteLog.open(self._folder, drive=True)  # no other process may drive the journal during the move
        try:
            moved = await move_undriven(facts, self._folder, key, url)
        finally:
            with anyio.CancelScope(shield=True):
                await facts.aclose()
        await self.refresh()
        return moved
