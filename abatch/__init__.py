"""Very large jobs on the Message Batches API from asyncio: streamed, resumable, and never paid for twice.

    async with abatch.BatchManager() as manager:
        job = await manager.submit("requests.jsonl", to="results.jsonl")
        summary = await job.wait()

Importing this imports neither the SDK nor a backend.
"""

from typing import TYPE_CHECKING

from abatch.backend import Backend, BackendFactory, JobRef, Lookup, Sealed, ShardRef, Sink
from abatch.config import Config
from abatch.engine.move_undriven import Relocation
from abatch.engine.retry import Retry
from abatch.errors import (
    AbatchError,
    ApiError,
    BackendError,
    BackendNotFound,
    BackendUnavailable,
    BadAnswer,
    BadRequest,
    ConfigError,
    InboxClosed,
    JobConflict,
    JobFailed,
    JobNotFound,
    JobStopped,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    LimitReached,
    ManagerClosed,
    NoResult,
    RequestConflict,
    RequestNotFound,
    StillInDoubt,
)
from abatch.input.check import Preview
from abatch.input.estimate import Estimate, Estimator
from abatch.input.origin import RequestOrigin
from abatch.input.request import Request, Rows
from abatch.input.stdin import read_stdin
from abatch.job import Job
from abatch.journal.status import DriverStatus, Obstacle, RunFailed, StorageDown
from abatch.journal.sums import Progress
from abatch.manager import BatchManager
from abatch.open_job import Inbox, OpenJob
from abatch.protocol.forecast import Forecast
from abatch.result import Failure, Line, Result, ResultError, Summary, Usage
from abatch.snapshot import JobStatus, JournalStatus, Resolution, ShardStatus
from abatch.sync import cancel, estimate, identify, move, resolve, results, run, status
from abatch.view import JournalView

__all__ = [
    "AbatchError",
    "ApiError",
    "Backend",
    "BackendError",
    "BackendFactory",
    "BackendNotFound",
    "BackendUnavailable",
    "BadAnswer",
    "BadRequest",
    "BatchManager",
    "Config",
    "ConfigError",
    "DriverStatus",
    "Estimate",
    "Estimator",
    "Failure",
    "Forecast",
    "Inbox",
    "InboxClosed",
    "Job",
    "JobConflict",
    "JobFailed",
    "JobNotFound",
    "JobRef",
    "JobStatus",
    "JobStopped",
    "JournalCorrupt",
    "JournalError",
    "JournalLocked",
    "JournalStatus",
    "JournalView",
    "LimitReached",
    "Line",
    "Lookup",
    "ManagerClosed",
    "NoResult",
    "Obstacle",
    "OpenJob",
    "Preview",
    "Progress",
    "Relocation",
    "Request",
    "RequestConflict",
    "RequestNotFound",
    "RequestOrigin",
    "Resolution",
    "Result",
    "ResultError",
    "Retry",
    "Rows",
    "RunFailed",
    "Sealed",
    "ShardRef",
    "ShardStatus",
    "Sink",
    "StillInDoubt",
    "StorageDown",
    "Summary",
    "Usage",
    "cancel",
    "estimate",
    "identify",
    "move",
    "read_stdin",
    "resolve",
    "results",
    "run",
    "status",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Read `__version__` from the package's metadata when it is asked for: most programs never do."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version  # noqa: PLC0415 - as said above

        globals()[name] = found = version(__name__)
        return found
