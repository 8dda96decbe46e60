"""Check a submission: the input of a new job, or a job that is submitted again."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import anyio
from msgspec.structs import replace

from abatch.backend import Backend, JobRef, connect
from abatch.errors import BadRequest, ConfigError, JobConflict, Overtaken, cancel_and_skip
from abatch.input.answered import answering, without_answered
from abatch.input.changed import check_may_change, take_changed
from abatch.input.check import check_files
from abatch.input.files import is_same, read_again
from abatch.input.iterables import HEAD_ROWS, other_row, read_row
from abatch.input.keys import default_key
from abatch.input.params import check_of
from abatch.input.planner import log_doubts, spool_needed
from abatch.input.request import HEADER_VALUE, Rows, exact
from abatch.journal.log import Entry
from abatch.log import log
from abatch.protocol.facts import (
    ChangedSource,
    FileSource,
    FilesSource,
    Headers,
    IterableSource,
    Limited,
    OpenSource,
    Resumed,
    SelectedSource,
    Submitted,
    files_of,
    source_of,
    takes_changed_input,
)
from abatch.protocol.terms import Terms
from abatch.system.paths import absolute_url, is_text, relative, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from abatch.config import Config
    from abatch.engine.destination import Destination
    from abatch.engine.runner import JobRun
    from abatch.input.check import Preview
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord
    from abatch.protocol.facts import Source

__all__ = ["KEY", "Submissions", "check_arguments", "check_lowered"]

KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_arguments(
    paths: Sequence[Path],
    *,
    betas: Sequence[str],
    user_profile_id: str | None,
    workspace_id: str | None,
    tries: int,
    limit: int | None,
    pilot: int,
    skip_answered: str | None,
) -> Headers:
    """Check the arguments of `submit` that need no journal; return the headers of the job.

    Raises:
        ConfigError: one of them cannot work.

    """
    if not 1 <= tries <= 100:
        raise ConfigError(f"tries must be 1..100, got {tries}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    if pilot < 0:
        raise ConfigError(f"pilot must be at least 0, got {pilot}")
    if unnamed := [path for path in paths if not is_text(str(path))]:
        raise ConfigError(
            f"input {str(unnamed[0])!r} has a name that is not UTF-8; rename it, or pass its lines as an iterable"
        )
    for value in (*betas, user_profile_id, workspace_id):
        if value is not None and not HEADER_VALUE.fullmatch(value):
            raise ConfigError(f"{value!r} cannot stand in a header")
    if skip_answered is not None and not paths:
        raise ConfigError("skip_answered needs a file, which is read twice; leave answered requests out yourself")
    return Headers(
        betas=tuple(sorted(set(map(exact, betas)))),
        user_profile_id=None if user_profile_id is None else exact(user_profile_id),
        workspace_id=None if workspace_id is None else exact(workspace_id),
    )


def check_lowered(job: JobRecord, limit: int | None, *, running: bool) -> None:
    """Refuse a limit that could not be kept, because planned requests are sent.

    Raises:
        ConfigError: the limit is below what is planned, or what is being planned now.

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


class Submissions:
    """Compares submissions with one journal.

    Args:
        ledger: the journal's jobs.
        config: limits and policy.
        destination_of: returns the destination of a job.
        paused: pauses the run of a job during a block; None if this process runs no job.

    """

    def __init__(
        self,
        ledger: Ledger,
        config: Config,
        *,
        destination_of: Callable[[JobRecord], Destination],
        paused: Callable[[JobRecord], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._destination_of = destination_of
        self._paused = paused
        self._folder = ledger.folder.path

    def key_of(self, key: str | None, paths: Sequence[Path], url: str) -> str:
        """Return the key of a submission: the given one, a default, or the key of the job if it was moved.

        Raises:
            ConfigError: the key is not valid.

        """
        if not isinstance(key, str | None):
            raise ConfigError(f"key must be a string, got {key!r}")
        chosen = default_key(self._folder, paths, url) if key is None else exact(key)
        chosen = self._moved_key(chosen, paths, url)
        if not KEY.fullmatch(chosen):
            raise ConfigError(f"key must match {KEY.pattern}, got {chosen!r}")
        return chosen

    async def compare(
        self,
        job: JobRecord,
        requests: object,
        paths: Sequence[Path],
        *,
        url: str,
        headers: Headers,
        limit: int | None,
        preview: Preview | None,
        skip_answered: str | None,
        changed_input: bool,
    ) -> None:
        """Compare a repeated submission with the job that has the key; take a changed input if that is allowed.

        Raises:
            JobConflict: the submission is that of another job.

        """
        if isinstance(job.submitted.source, OpenSource):
            raise JobConflict(job.key, "requests that are put one by one, by `open_job`")
        self._compare_terms(job, url, headers, skip_answered)
        taken = False
        if changed_input and paths and job.finished is None and not job.cancel_wished:
            taken = await self._take_changed(job, paths, headers, limit, preview)
        # The input of a job that is being cancelled is not compared, because nothing of it is sent.
        ends = job.cancel_wished and job.finished is None and not changed_input
        if not ends:
            await self._compare_content(job, paths)
        if preview is not None and not taken:
            await self._preview_more(job, paths, limit, preview)
        if not paths and isinstance(requests, list | tuple) and not ends:
            await self._compare_first_rows(job, cast("Sequence[object]", requests))

    def compare_open(self, job: JobRecord, *, url: str, headers: Headers) -> None:
        """Compare an open job that is opened again with the job that has the key.

        Raises:
            JobConflict: that is another job.

        """
        if not isinstance(job.submitted.source, OpenSource):
            raise JobConflict(job.key, "requests that were submitted together, by `submit`")
        self._compare_terms(job, url, headers, None)

    async def change_limit(self, job: JobRecord, run: JobRun, limit: int | None) -> None:
        """Record another limit for an unfinished job.

        Raises:
            ConfigError: the limit is below what is planned, or what is being planned now.

        """
        if limit == job.limit or job.finished is not None or job.cancel_wished:
            return
        stopped = job.stopped is not None  # The run of a stopped job may not be over, but paused it plans nothing.
        async with run.paused() if stopped else nullcontext():
            check_lowered(job, limit, running=run.submits and not stopped)
            if not job.cut.last:
                await self._ledger.record(Entry(job.job, Limited(rows=limit)))

    async def drop_terms(self, job: JobRecord) -> None:
        """Record that the settings of this process count for an unfinished job, which another process submitted."""
        terms = job.terms
        if job.finished is None and terms is not None and (terms.settings or terms.base_url or terms.fingerprint):
            goes_on = self._config.failing == "go-on" or job.has_recovered
            await self._ledger.record(Entry(job.job, Resumed(terms=Terms(goes_on=goes_on))))

    def _moved_key(self, key: str, paths: Sequence[Path], url: str) -> str:
        """Return the key of the job that was started with this input and moved to this destination; otherwise `key`."""
        if not paths or key != default_key(self._folder, paths, url) or self._ledger.job(key) is not None:
            return key
        moved = (job for job in self._ledger.jobs.values() if job.moves and url in job.destinations)
        return next((job.key for job in moved if job.key == default_key(self._folder, paths, job.submitted.to)), key)

    async def source(
        self, paths: Sequence[Path], key: str, headers: Headers, preview: Preview | None, skip_answered: str | None
    ) -> Source:
        """Check the whole input of a job and describe it; an iterable cannot be checked before it is read.

        Raises:
            BadRequest: the files hold requests that cannot be sent.
            ConfigError: a file cannot be read, the disk is too small, or `skip_answered` cannot work.

        """
        if not paths:
            return IterableSource()
        if skip_answered is not None:
            answering(self._ledger, skip_answered)  # It raises before the files are read.
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
                destination_of=self._destination_of,
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
        """Let a job continue with files whose content changed; return False if no content changed."""
        files = files_of(job.submitted.source)
        if not files:  # The later comparison reports the conflict.
            return False
        if len(files) == len(paths) and all(
            [await is_same(file, path) for file, path in zip(files, paths, strict=True)]
        ):
            return False
        assert self._paused is not None
        async with self._paused(job):
            check_may_change(job)  # It raises before the files are read.
            source = await self.source(paths, job.key, headers, None, None)
            assert isinstance(source, FileSource | FilesSource)
            asking = None if preview is None else _Once(preview)
            while job.finished is None:
                try:
                    await take_changed(self._ledger, job, source, paths, limit=limit, preview=asking)
                except Overtaken:  # Another process changed the job, so its present state is compared.
                    log.warning("change_overtaken", job=job.key)
                else:
                    return True
        return False

    async def _preview_more(self, job: JobRecord, paths: Sequence[Path], limit: int | None, preview: Preview) -> None:
        """Show the preview the requests that a higher limit allows."""
        before, source = job.limit, job.submitted.source
        if isinstance(source, IterableSource | OpenSource):
            return
        if job.finished is not None or job.cancel_wished or job.cut.last:
            return
        if before is None or (limit is not None and limit <= before):
            return
        sent = source.sent if isinstance(source, ChangedSource) else 0  # These rows count first, and are not read.
        seen, end = sent, source.rows if limit is None else limit

        def show(rows: Rows) -> None:
            nonlocal seen
            begin, most = max(before - seen, 0), max(end - seen, 0)
            seen += len(rows.custom_ids)
            preview.add(Rows(rows.custom_ids[begin:most], rows.params[begin:most], rows.betas[begin:most]))

        await read_again(source, paths, show)
        await preview.agree()

    def _compare_terms(self, job: JobRecord, url: str, headers: Headers, skip_answered: str | None) -> None:
        """Refuse terms of the job, apart from its requests, that differ; nothing is recorded before this check."""
        known = job.submitted
        if url not in job.destinations:
            place = f"destination {shown(absolute_url(self._folder, job.to))}" if job.to else "a backend object"
            remedy = f"take the job elsewhere: abatch move {job.key} --to DEST" if job.finished is None else ""
            raise JobConflict(job.key, place, why="destination", remedy=remedy)
        if known.headers != headers:
            raise JobConflict(job.key, "other betas, user profile or workspace", why="headers")
        answered_by = known.source.answered_by if isinstance(known.source, SelectedSource) else None
        if answered_by != skip_answered:
            others = (
                "all requests of its files (no skip_answered=)"
                if answered_by is None
                else f"the requests that job {answered_by!r} answered left out (skip_answered={answered_by!r})"
            )
            raise JobConflict(job.key, others, why="selection")

    async def _compare_content(self, job: JobRecord, paths: Sequence[Path]) -> None:
        """Refuse files whose content is not the job's; an iterable is compared while it is read.

        Raises:
            JobConflict: the content differs.

        """
        known = job.submitted.source
        files = files_of(known)
        if len(files) != len(paths):
            raise JobConflict(job.key, "requests from another kind of source, or from more or fewer files")
        for file, path in zip(files, paths, strict=True):
            if not await is_same(file, path):
                way = "take the requests that were not sent from it: --changed-input (`changed_input=True`)"
                if not takes_changed_input(known):
                    way = cancel_and_skip(job.key)
                raise JobConflict(job.key, f"other content of {file.path}", remedy=way if job.finished is None else "")

    async def begin(self, fact: Submitted, backend: Backend | None) -> JobRecord:
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
        self._destination_of(job).use(backend)
        log.info("job_submitted", job=job.key)
        return job

    async def _compare_first_rows(self, job: JobRecord, requests: Sequence[object]) -> None:
        """Refuse a list that differs at its beginning or in its length; the rest is compared while it is read."""
        head, planned = (await self._ledger.in_full(job)).head, job.cut
        with suppress(BadRequest):  # The later read reports the bad request with its position.
            for number, request in enumerate(requests[:HEAD_ROWS], 1):
                if (difference := other_row(head, read_row(request, number), number)) is not None:
                    raise JobConflict(job.key, difference)
        if len(requests) < planned.rows or (planned.last and len(requests) > planned.rows):
            kind = "more" if len(requests) < planned.rows else "fewer"
            raise JobConflict(job.key, f"{kind} requests: {planned.rows:,}, where these are {len(requests):,}")


class _Once:
    """A preview that is used only once, however often the requests are read."""

    def __init__(self, preview: Preview) -> None:
        self._preview: Preview | None = preview

    def add(self, rows: Rows, /) -> None:
        """Show these requests, unless the preview has agreed to all of them."""
        if self._preview is not None:
            self._preview.add(rows)

    async def agree(self) -> None:
        """Ask the preview, unless it was asked before."""
        preview, self._preview = self._preview, None
        if preview is not None:
            await preview.agree()
