"""Define the state of jobs, shards and a journal at one moment: frozen values for programs outside of abatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from abatch.input.answered import left_out_of, retried_key
from abatch.journal.states import attempt_of, created_at_of, resolution_in_words, state_of_job, state_of_shard
from abatch.protocol.durations import KEPT_FOR
from abatch.protocol.facts import SelectedSource, files_of
from abatch.protocol.lifecycle import Held, doubt_of
from abatch.system.paths import absolute, absolute_url, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.journal.states import ShardState, State
    from abatch.journal.status import DriverStatus
    from abatch.journal.sums import Progress
    from abatch.protocol.facts import LostWished, ResolveWished, Submitted
    from abatch.result import LeftOut

__all__ = [
    "JobStatus",
    "JournalStatus",
    "Resolution",
    "ShardStatus",
    "job_status",
    "resolution_of",
    "retried_key",
    "shard_status",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """An operator's decision about a shard."""

    job: str
    """The key of the shard's job."""
    shard: int
    says: str
    """`was not created`, `is lost` or `is batch ID`."""
    refused: bool = False
    """Whether the API contradicted the decision; if not, it is recorded, and not carried out yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStatus:
    """The state of a shard."""

    job: str
    """The key of its job."""
    shard: int
    part: int
    """The shard's number in its job, from 0; it is in the names of files."""
    rows: int
    state: ShardState
    reason: str
    """Why the shard is in this state; empty if there is no reason to report."""
    attempt: int
    """The number of its last attempt; 0 before the first."""
    batch_id: str | None
    wire_prefix: str | None
    """The prefix of the attempt's custom_ids on the wire."""
    since: float
    """When its last fact was recorded, in seconds since the epoch."""
    committed_at: float | None
    """When its open attempt passed the commit point, in seconds since the epoch, by the API's clock; else None."""
    created_at: float | None
    """When its batch was created, in seconds since the epoch, by the API's clock; None if no batch is known."""

    @property
    def results_until(self) -> float | None:
        """When the API removes the results of its batch; None if no batch is known."""
        return None if self.created_at is None else self.created_at + KEPT_FOR


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The state of a job, and the arguments with which it was submitted."""

    key: str
    state: State
    """`planning`, `running`, `in doubt`, `held`, `stopped`, `cancelling` or `done`."""
    reason: str
    """Why the job is in this state; empty if there is no reason to report."""
    remedy: str
    """What to do about it; empty if nothing helps or nothing is needed."""
    done: bool
    failing: bool
    """Whether it stopped because its first results failed: it continues only when `Config.failing` is `go-on`."""
    progress: Progress
    not_sent: int | None
    """Requests that it never planned because it was cancelled; None if their number is not known."""
    since: float
    """When its last fact was recorded, in seconds since the epoch."""
    started_at: float
    """When it was submitted, in seconds since the epoch."""
    taken: bool
    """False while a submission by another process waits for a process that drives the journal and takes it."""
    limit_open: bool
    """Whether a limit holds requests back, and not all requests that it allows are sealed yet."""
    retry_of: str | None
    """The key of the job that it retries."""
    resolutions: tuple[Resolution, ...]
    """Decisions of operators about shards that are not held, if not carried out yet or refused."""
    parked: Mapping[str, str]
    """Its batches that are far older than usual and have not moved, with the time as the driver reports it."""
    shards: tuple[ShardStatus, ...] | None
    """Every shard, if the caller asked for them; else None."""
    _folder: Path = field(repr=False)
    _to: str = field(repr=False)
    _submitted: Submitted = field(repr=False)

    @property
    def destination(self) -> str:
        """The URL of the job's current destination; empty for a backend object."""
        return absolute_url(self._folder, self._to) if self._to else ""

    @property
    def short_destination(self) -> str:
        """The destination in short form: a path, relative to the parent of the journal's folder, or a URL."""
        return shown(self._to)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its requests come from; none for an iterable."""
        return tuple(absolute(self._folder, file.path) for file in files_of(self._submitted.source))

    @property
    def input_bytes(self) -> int:
        """The size of the files that its requests come from; 0 for an iterable."""
        return sum(file.size for file in files_of(self._submitted.source))

    @property
    def left_out(self) -> LeftOut | None:
        """The requests that `skip_answered` left out of its files; None if it was not given."""
        return left_out_of(self._submitted.source)

    @property
    def limit(self) -> int | None:
        """The most requests of the job that are sent, the first ones; None for all."""
        return self.progress.limit

    @property
    def betas(self) -> tuple[str, ...]:
        """Values of `anthropic-beta` for every request."""
        return self._submitted.headers.betas

    @property
    def user_profile_id(self) -> str | None:
        """The value of `anthropic-user-profile-id`."""
        return self._submitted.headers.user_profile_id

    @property
    def workspace_id(self) -> str | None:
        """The value of `anthropic-workspace-id`."""
        return self._submitted.headers.workspace_id

    @property
    def tries(self) -> int:
        """How often a request is sent at most."""
        return self._submitted.tries

    @property
    def skip_answered(self) -> str | None:
        """The key of the job whose answered requests it leaves out."""
        source = self._submitted.source
        return source.answered_by if isinstance(source, SelectedSource) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStatus:
    """The states of the jobs of a journal, and the status of the process that drives it."""

    folder: Path
    jobs: tuple[JobStatus, ...]
    driver: DriverStatus | None
    """None if no process drives the journal."""
    at: float
    """When this status was read, in seconds since the epoch."""

    @property
    def done(self) -> bool:
        """Whether every job is done."""
        return all(job.done for job in self.jobs)


def job_status(
    ledger: Ledger,
    job: JobRecord,
    *,
    driver: DriverStatus | None = None,
    attempts: Mapping[int, int] | None = None,
) -> JobStatus:
    """Return the state of a job now.

    Args:
        ledger: the journal's jobs.
        job: the job.
        driver: the status of the process that drives the journal.
        attempts: the last attempt of every shard, to include the shards.

    """
    taken = job.finished is not None or (
        driver is not None and (not job.submitted_seq or driver.acts_on(job.submitted_seq))
    )
    failed = driver.failed.get(job.key) if driver is not None and taken else None
    now = (
        state_of_job(job) if driver is None else state_of_job(job, failed, driver.unread, driver.obstacles.get(job.key))
    )
    original = retried_key(job.key)
    return JobStatus(
        key=job.key,
        state=now.state,
        reason=now.reason,
        remedy=now.remedy,
        done=job.finished is not None,
        failing=job.stopped is not None and job.stopped.failing,
        progress=job.progress(),
        not_sent=job.not_sent,
        since=job.changed_at,
        started_at=job.started_at,
        taken=taken,
        limit_open=job.limit is not None and bool(job.open_shards or not job.limit_reached),
        retry_of=original if original and ledger.job(original) is not None else None,
        resolutions=_resolutions(job),
        parked=_parked(job, driver),
        shards=None
        if attempts is None
        else tuple(shard_status(ledger, job, shard, attempts) for shard in job.shards.values()),
        _folder=job.folder,
        _to=job.to,
        _submitted=job.submitted,
    )


def shard_status(ledger: Ledger, job: JobRecord, shard: ShardRecord, attempts: Mapping[int, int]) -> ShardStatus:
    """Return the state of a shard now; its last attempt is in `attempts` if its state does not contain it."""
    attempt = attempt_of(shard)
    attempt = attempts.get(shard.shard, 0) if attempt is None else attempt
    state, reason = state_of_shard(shard)
    return ShardStatus(
        job=job.key,
        shard=shard.shard,
        part=shard.planned.part,
        rows=shard.planned.rows,
        state=state,
        reason=reason,
        attempt=attempt,
        batch_id=shard.batch_id,
        wire_prefix=ledger.lineage.prefix(shard.shard, attempt).decode() if attempt else None,
        since=shard.since,
        committed_at=None if (doubt := doubt_of(shard.state)) is None else doubt.date,
        created_at=created_at_of(shard),
    )


def resolution_of(job: JobRecord, wish: ResolveWished | LostWished) -> Resolution:
    """Return an operator's decision about a shard of a job."""
    return Resolution(job=job.key, shard=wish.shard, says=resolution_in_words(wish))


_NO_RESOLUTIONS: tuple[Resolution, ...] = ()
_NOT_PARKED: Mapping[str, str] = {}


def _resolutions(job: JobRecord) -> tuple[Resolution, ...]:
    if job.finished is not None or not (job.wishes or job.refused):
        return _NO_RESOLUTIONS
    unheld = {number for number, shard in job.open_shards.items() if not isinstance(shard.state, Held)}
    noted = [resolution_of(job, wish) for number, wish in job.wishes.items() if number in unheld]
    refused = [
        Resolution(job=job.key, shard=number, says=resolution_in_words(wish), refused=True)
        for number, wish in sorted(job.refused.items())
        if number in unheld
    ]
    return (*noted, *refused)


def _parked(job: JobRecord, driver: DriverStatus | None) -> Mapping[str, str]:
    if driver is None or not driver.parked:
        return _NOT_PARKED
    batches = {shard.batch_id for shard in job.shards.values()}
    return {batch_id: why for batch_id, why in driver.parked.items() if batch_id in batches}
