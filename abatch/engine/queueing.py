"""Submit a job to the journal of another process: check it here, and leave its sending to the driver.

The order of the steps makes a death at any of them harmless: the destination is claimed for the job, then the job is
recorded. The same call again claims the same destination, and finds the job if it was recorded.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import msgspec

from abatch.backend import JobRef, connect, normalize
from abatch.config import Config
from abatch.engine.destination import Destination
from abatch.engine.submission import Submissions, check_arguments, check_lowered
from abatch.errors import ConfigError, JobConflict
from abatch.input.queued import is_kept, keep_requests
from abatch.input.request import paths_of
from abatch.journal.log import Entry
from abatch.protocol.facts import Limited, Resumed, Submitted
from abatch.protocol.terms import OTHER_TERMS, Terms, chosen, refusal
from abatch.system.paths import absolute_url, relative, relative_url

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch.input.check import Preview
    from abatch.input.request import RequestSource
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord
    from abatch.journal.status import DriverStatus

__all__ = ["enqueue", "key_of"]


async def enqueue(
    ledger: Ledger,
    requests: RequestSource,
    *,
    config: Config,
    driver: DriverStatus | None,
    to: str | os.PathLike[str],
    key: str | None,
    betas: Sequence[str],
    user_profile_id: str | None,
    workspace_id: str | None,
    tries: int,
    limit: int | None,
    pilot: int,
    preview: Preview | None,
    skip_answered: str | None,
) -> JobRecord:
    """Check a submission and record it; a job that is not finished continues, also if it stopped.

    Args:
        ledger: the journal's jobs, up to date.
        requests: as for `BatchManager.submit`; an iterable is first kept in a file of the journal.
        config: the settings of the job; those that are not the defaults are recorded for the driver.
        driver: the process that drives the journal, which may be planning the job; None if no process drives it.
        to: the destination's URL or path.
        key: the job's name; for files it may be left out.
        betas: values of `anthropic-beta` for every request.
        user_profile_id: `anthropic-user-profile-id` for every request.
        workspace_id: `anthropic-workspace-id` for every call.
        tries: how often a request is sent at most.
        limit: only this many requests are sent, the first ones.
        pilot: this many requests are sent alone, the first ones.
        preview: sees the requests that are about to be sent.
        skip_answered: the key of a finished job, whose answered requests are not sent.

    Raises:
        as `BatchManager.submit`.

    """
    folder = ledger.folder
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
    url = relative_url(folder.path, normalize(os.fspath(to)))
    submissions = _submissions(ledger, config)
    key = submissions.key_of(key, paths, url)
    job = ledger.job(key)
    if not paths and (job is None or is_kept(folder, job)):
        paths = (await keep_requests(folder, requests),)
    terms = _terms(ledger, config)
    if job is None:
        source = await submissions.source(paths, key, headers, preview, skip_answered)
        fact = Submitted(
            key=key, to=url, source=source, headers=headers, tries=tries, limit=limit, pilot=pilot, terms=terms
        )
        try:
            return await _begin(ledger, fact)
        except JobConflict:  # Another process has just submitted a job of this key, perhaps the same job.
            await ledger.refresh()
            job = ledger.named(key)
    await submissions.compare(
        job,
        requests,
        paths,
        url=url,
        headers=headers,
        limit=limit,
        preview=preview,
        skip_answered=skip_answered,
        changed_input=False,
    )
    if job.finished is None:
        await _continue(ledger, job, terms, paths, limit=limit, driver=driver)
    return job


def key_of(ledger: Ledger, requests: RequestSource, to: str | os.PathLike[str]) -> str:
    """Return the key of files and a destination that are submitted without one.

    Raises:
        ConfigError: the destination or the input has no form that gives a key.

    """
    url = relative_url(ledger.folder.path, normalize(os.fspath(to)))
    return _submissions(ledger, Config()).key_of(None, paths_of(requests), url)


def _submissions(ledger: Ledger, config: Config) -> Submissions:
    return Submissions(
        ledger,
        config,
        destination_of=lambda job: Destination(ledger, job, absolute_url(job.folder, job.to) if job.to else None),
    )


async def _begin(ledger: Ledger, fact: Submitted) -> JobRecord:
    """Claim the destination, then make the job durable.

    Raises:
        JobConflict: another process has taken the key.
        BackendError: the destination is another job's, or cannot be used.

    """
    ref = JobRef(key=fact.key, lineage=ledger.lineage.name)
    backend = await connect(absolute_url(ledger.folder.path, fact.to), ref)
    try:
        return await ledger.start_job(fact)
    finally:
        with anyio.CancelScope(shield=True):
            await backend.aclose()


async def _continue(
    ledger: Ledger,
    job: JobRecord,
    terms: Terms,
    paths: Sequence[Path],
    *,
    limit: int | None,
    driver: DriverStatus | None,
) -> None:
    """Record that an unfinished job was submitted again.

    Raises:
        ConfigError: the limit is below what is planned, or what may be planned now; or the job runs, and its driver
            would stop it because of these terms.

    """
    runs = driver is not None and job.stopped is None
    if driver is not None and runs and driver.base_url:
        own = Terms(settings=driver.settings, base_url=driver.base_url, fingerprint=driver.fingerprint)
        why = refusal(terms, own)
        if why:
            raise ConfigError(f"job {job.key!r} runs, and was not changed: {why}. {OTHER_TERMS}")
    entries: list[Entry] = []
    if limit != job.limit and not job.cancel_wished:
        check_lowered(job, limit, running=runs)
        if not job.cut.last:
            entries.append(Entry(job.job, Limited(rows=limit)))
    places = tuple(relative(job.folder, path.absolute()) for path in paths)
    goes_on = terms.settings.get("failing") == "go-on" or job.has_recovered
    entries.append(Entry(job.job, Resumed(terms=msgspec.structs.replace(terms, paths=places, goes_on=goes_on))))
    await ledger.record(*entries)


def _terms(ledger: Ledger, config: Config) -> Terms:
    """Return the choices of this process: its settings, and the key and base URL of its environment."""
    api_key, url = (os.environ.get(f"ANTHROPIC_{name}") or None for name in ("API_KEY", "BASE_URL"))
    return Terms(
        settings=chosen(config),
        base_url="" if url is None else url.rstrip("/"),
        fingerprint=ledger.lineage.fingerprint(api_key),
    )
