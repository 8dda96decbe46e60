"""Define how jobs, shards and a journal stand at one moment: frozen values for programs outside of abatch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from abatch.input.answered import retried_key
from abatch.journal.states import attempt_of, standing_of, state_of, wish_in_words
from abatch.protocol.facts import SelectedSource, files_of
from abatch.protocol.lifecycle import Held
from abatch.system.paths import absolute, absolute_url, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord, ShardRecord
    from abatch.journal.status import DriverStatus
    from abatch.journal.sums import Progress
    from abatch.protocol.facts import LostWished, ResolveWished, Submitted

__all__ = [
    "JobStatus",
    "JournalStatus",
    "OperatorWord",
    "ShardStatus",
    "job_status",
    "retried_key",
    "shard_status",
    "word_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorWord:
    """What an operator said of a shard."""

    job: str
    """The key of the shard's job."""
    shard: int
    says: str
    """`was not created`, `is lost` or `is batch ID`; empty once it was refused."""
    refused: bool = False
    """The API said otherwise. Else it is noted, and not done yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStatus:
    """How a shard stands."""

    shard: int
    part: int
    """The shard's number in its job, from 0; it is in the names of files."""
    rows: int
    state: str
    """`ready`, `in doubt`, `held`, `processing`, `draining`, `done`, …"""
    reason: str
    """Why, where there is something to say; else empty."""
    attempt: int
    """The number of its last attempt; 0 before the first."""
    batch_id: str | None
    wire_prefix: str | None
    """What the custom_ids of the attempt begin with on the wire."""
    since: float
    """When its last fact was recorded, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """How a job stands, and the terms it was handed over with."""

    key: str
    state: str
    """`planning`, `running`, `in doubt`, `held`, `stopped`, `cancelling` or `done`."""
    reason: str
    """Why, where there is something to say; else empty."""
    remedy: str
    """What helps, where something does; else empty."""
    done: bool
    failing: bool
    """It is stopped because its first results failed: it goes on only once `Config.failing` is `go-on`."""
    progress: Progress
    not_sent: int | None
    """Requests that it never took up because it was cancelled; None if their number is not known."""
    since: float
    """When its last fact was recorded, in seconds since the epoch."""
    started_at: float
    """When it was handed over, in seconds since the epoch."""
    limit_open: bool
    """A limit holds requests back, and not all that it allows are sealed yet."""
    retry_of: str | None
    """The key of the job that it retries."""
    words: tuple[OperatorWord, ...]
    """What operators said of shards that are not held, and what is not done yet or was refused."""
    parked: Mapping[str, str]
    """Its batches that are far older than usual and have not moved: for how long, as the driver says."""
    shards: tuple[ShardStatus, ...] | None
    """Every shard, where they were asked for; else None."""
    _folder: Path = field(repr=False)
    _to: str = field(repr=False)
    _submitted: Submitted = field(repr=False)

    @property
    def destination(self) -> str:
        """The URL of the destination, where the job is now; empty for a backend object."""
        return absolute_url(self._folder, self._to) if self._to else ""

    @property
    def place(self) -> str:
        """The destination as people write it: a path, relative to the folder around the journal's, or a URL."""
        return shown(self._to)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that its requests come from; none for an iterable."""
        return tuple(absolute(self._folder, file.path) for file in files_of(self._submitted.source))

    @property
    def limit(self) -> int | None:
        """How many of its requests are sent at most, the first ones; None for all."""
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
    """How the jobs of a journal stand, and what the process that drives it says."""

    folder: Path
    jobs: tuple[JobStatus, ...]
    driver: DriverStatus | None
    """None if no process drives the journal."""
    at: float
    """When it was taken, in seconds since the epoch."""

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
    """How a job stands now.

    Args:
        ledger: the journal's jobs.
        job: the job.
        driver: what the process that drives the journal says.
        attempts: the last attempt of every shard, if the shards are to be in it.

    """
    standing, original = standing_of(job), retried_key(job.key)
    return JobStatus(
        key=job.key,
        state=standing.state,
        reason=standing.reason,
        remedy=standing.remedy,
        done=job.finished is not None,
        failing=job.stopped is not None and job.stopped.failing,
        progress=job.progress(),
        not_sent=job.not_sent,
        since=job.changed_at,
        started_at=job.started_at,
        limit_open=job.limit is not None and bool(job.open_shards or not job.limit_reached),
        retry_of=original if original and ledger.job(original) is not None else None,
        words=_words(job),
        parked=_parked(job, driver),
        shards=None
        if attempts is None
        else tuple(shard_status(ledger, shard, attempts) for shard in job.shards.values()),
        _folder=job.folder,
        _to=job.to,
        _submitted=job.submitted,
    )


def shard_status(ledger: Ledger, shard: ShardRecord, attempts: Mapping[int, int]) -> ShardStatus:
    """How a shard stands now; its last attempt is in `attempts` where its state does not tell it."""
    attempt = attempt_of(shard)
    attempt = attempts.get(shard.shard, 0) if attempt is None else attempt
    state, reason = state_of(shard)
    return ShardStatus(
        shard=shard.shard,
        part=shard.planned.part,
        rows=shard.planned.rows,
        state=state,
        reason=reason,
        attempt=attempt,
        batch_id=shard.batch_id,
        wire_prefix=ledger.lineage.prefix(shard.shard, attempt).decode() if attempt else None,
        since=shard.since,
    )


def word_of(job: JobRecord, wish: ResolveWished | LostWished) -> OperatorWord:
    """An operator's word on a shard of a job."""
    return OperatorWord(job=job.key, shard=wish.shard, says=wish_in_words(wish))


_NO_WORDS: tuple[OperatorWord, ...] = ()
_NOT_PARKED: Mapping[str, str] = {}


def _words(job: JobRecord) -> tuple[OperatorWord, ...]:
    if job.finished is not None or not (job.wishes or job.refused):
        return _NO_WORDS
    unheld = {number for number, shard in job.open_shards.items() if not isinstance(shard.state, Held)}
    noted = [word_of(job, wish) for number, wish in job.wishes.items() if number in unheld]
    refused = sorted(job.refused & unheld)
    return (*noted, *(OperatorWord(job=job.key, shard=number, says="", refused=True) for number in refused))


def _parked(job: JobRecord, driver: DriverStatus | None) -> Mapping[str, str]:
    if driver is None or not driver.parked:
        return _NOT_PARKED
    batches = {shard.batch_id for shard in job.shards.values()}
    return {batch_id: why for batch_id, why in driver.parked.items() if batch_id in batches}
