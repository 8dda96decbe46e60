"""The status of the driving process, for other processes: why a doubt waits, and which batches are not visible.

Only the driving process knows it. It is in `driver.json` in the journal's folder, and each change replaces the whole
file. Nothing depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from abatch.journal.lock import holder
from abatch.system.drafts import replaced

if TYPE_CHECKING:
    from abatch.journal.folder import JournalFolder

__all__ = ["DriverStatus", "Obstacle", "ResultsUnread", "RunFailed", "StorageDown", "driver_status", "post", "read"]


class StorageDown(msgspec.Struct, frozen=True, kw_only=True):
    """A destination that fails at the moment, and is tried again."""

    job: str
    """The job's key."""
    since: float
    """Seconds since the epoch."""
    why: str
    until: float = 0.0
    """When the job ends if the destination still fails; seconds since the epoch, 0 if that is not known."""


class RunFailed(msgspec.Struct, frozen=True, kw_only=True):
    """Why the run of a job ended with an error, and what to do."""

    reason: str
    remedy: str


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job that goes on gets no further at the moment, and what to do."""

    reason: str
    remedy: str


class ResultsUnread(msgspec.Struct, frozen=True, kw_only=True):
    """Results that could not be read completely, and are read again."""

    job: str
    """The job's key."""
    batch_id: str
    since: float
    """Seconds since the epoch."""
    why: str


class DriverStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status that the driver reports."""

    pid: int
    waiting: dict[int, str] = {}
    """Per shard in doubt: what it waits for."""
    not_visible: list[str] = []
    """Accepted batches that the API has not shown for an hour."""
    parked: dict[str, str] = {}
    """Per batch that is far older than usual and has not moved: how long it has not moved."""
    trouble: str = ""
    """Why the API cannot be called at the moment."""
    storage_down: list[StorageDown] = []
    """Destinations that fail at the moment, and are tried again."""
    unread: dict[int, ResultsUnread] = {}
    """Per shard whose results could not be read completely: why."""
    takes_jobs: bool | None = None
    """Whether it sends jobs that other processes submit; None if it has not reported that, as an older abatch."""
    base_url: str = ""
    """The API that it calls; empty if an older abatch drives, which does not report it."""
    fingerprint: str | None = None
    """The fingerprint of its API key; None if it has no fixed key."""
    settings: dict[str, str | int | float] = {}
    """The settings that hold for all of its jobs, and that a submission may ask for: see `abatch.protocol.terms`."""
    seq: int = 0
    """The number of the last fact of another process on which it acts."""
    failed: dict[str, RunFailed] = {}
    """Per key of an unfinished job whose run ended with an error: why, and what to do."""
    obstacles: dict[str, Obstacle] = {}
    """Per key of a job that goes on and gets no further at the moment: why, and what to do."""

    def acts_on(self, seq: int) -> bool:
        """Return whether it takes jobs that other processes submit, and knows the submission of this number."""
        return bool(self.takes_jobs) and self.seq >= seq


def post(folder: JournalFolder, status: DriverStatus) -> None:
    """Replace the status of the journal in `folder`."""
    with replaced(folder.status, durably=False, prefix=".driver-") as file:
        file.write(msgspec.json.encode(status))


def read(folder: JournalFolder) -> DriverStatus | None:
    """Read the status; None if it does not exist or cannot be read."""
    try:
        return msgspec.json.decode(folder.status.read_bytes(), type=DriverStatus)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def driver_status(folder: JournalFolder) -> DriverStatus | None:
    """Return the status of the process that drives the journal now; only its id if it has reported none yet."""
    if not folder.is_driven():
        return None
    pid = holder(folder.lock)
    status = read(folder)
    return status if status is not None and status.pid == pid else DriverStatus(pid=pid)
