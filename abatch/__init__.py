"""Very large jobs on the Message Batches API from asyncio: streamed, resumable, and never paid for twice.

    async with abatch.BatchManager() as manager:
        job = await manager.submit("requests.jsonl", to="results.jsonl")
        summary = await job.wait()

Importing this imports neither the SDK nor a backend.
"""

from abatch.backend import Backend, BackendFactory, JobRef, Sealed, ShardRef, Sink
from abatch.config import Config
from abatch.errors import (
    AbatchError,
    ApiError,
    BackendError,
    BackendNotFound,
    BackendUnavailable,
    BadRequest,
    ConfigError,
    IllegalTransition,
    JobConflict,
    JobFailed,
    JobStopped,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    LimitReached,
    ManagerClosed,
    StillInDoubt,
)
from abatch.input.request import Request
from abatch.job import Job
from abatch.journal.ledger import Progress
from abatch.manager import BatchManager
from abatch.protocol.forecast import Forecast
from abatch.result import Failure, Line, Result, ResultError, Summary, Usage

__all__ = [
    "AbatchError",
    "ApiError",
    "Backend",
    "BackendError",
    "BackendFactory",
    "BackendNotFound",
    "BackendUnavailable",
    "BadRequest",
    "BatchManager",
    "Config",
    "ConfigError",
    "Failure",
    "Forecast",
    "IllegalTransition",
    "Job",
    "JobConflict",
    "JobFailed",
    "JobRef",
    "JobStopped",
    "JournalCorrupt",
    "JournalError",
    "JournalLocked",
    "LimitReached",
    "Line",
    "ManagerClosed",
    "Progress",
    "Request",
    "Result",
    "ResultError",
    "Sealed",
    "ShardRef",
    "Sink",
    "StillInDoubt",
    "Summary",
    "Usage",
]
