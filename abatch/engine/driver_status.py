"""Report to other processes what only this process knows, because it drives the journal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from abatch.journal.status import DriverStatus, post
from abatch.log import log
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import Collection

    from abatch.engine.runner import JobRun
    from abatch.engine.scopes import Scopes
    from abatch.journal.folder import JournalFolder

__all__ = ["StatusReport", "status_of"]


def status_of(scopes: Scopes, runs: Collection[JobRun], *, takes_jobs: bool, seq: int) -> DriverStatus:
    """Return the status of the driving process: of its scopes and of the runs of its jobs."""
    opened = list(scopes.opened.values())
    return DriverStatus(
        pid=os.getpid(),
        takes_jobs=takes_jobs,
        base_url=scopes.terms.base_url,
        fingerprint=scopes.terms.fingerprint,
        settings=scopes.terms.settings,
        seq=seq,
        waiting={shard: why for scope in opened for shard, why in scope.doubts.waiting().items()},
        not_visible=[batch_id for scope in opened for batch_id in scope.in_flight.not_visible(scope.date)],
        parked={batch_id: why for scope in opened for batch_id, why in scope.parking.in_words().items()},
        trouble="; ".join(str(why) for scope in opened if (why := scope.availability.trouble) is not None),
        storage_down=[run.outage.down for run in runs if run.outage.down is not None],
        unread={shard: unread for run in runs for shard, unread in run.unread.items()},
        failed={run.job.key: failed for run in runs if (failed := run.failed) is not None},
        obstacles={run.job.key: obstacle for run in runs if (obstacle := run.obstacle) is not None},
    )


class StatusReport:
    """The file with the status of the driving process, which is replaced only when the status has changed."""

    def __init__(self, folder: JournalFolder) -> None:
        self._folder = folder
        self._posted: DriverStatus | None = None

    async def post(self, status: DriverStatus) -> None:
        """Write the status if it has changed; a failure is only logged, because nothing depends on the file."""
        if status == self._posted:
            return
        self._posted = status
        try:
            await threads.run(post, self._folder, status)
        except OSError as failure:  # If the disk is full, the journal reports it.
            log.warning("driver_status_not_written", why=failure.strerror)
