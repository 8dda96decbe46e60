"""The public names, and what importing them costs."""

from __future__ import annotations

import abatch
from tests.unit.make import run

PUBLIC = [
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


def test_the_public_names_are_these():
    assert abatch.__all__ == PUBLIC == sorted(PUBLIC)


def test_every_public_name_is_there_and_says_what_it_is():
    for name in PUBLIC:
        assert getattr(abatch, name).__doc__


def test_importing_abatch_loads_neither_the_sdk_nor_a_backend():
    program = "import sys, abatch; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(run(program).split())
    heavy = {"anthropic", "abatch_backends", "aioboto3", "boto3", "httpx", "httpx2", "zstandard", "typer", "starlette"}
    assert "abatch" in loaded
    assert loaded & heavy == set()


def test_importing_abatch_loads_neither_sandbox_nor_testing_nor_cli():
    program = "import sys, abatch; print(*sorted(sys.modules))"
    loaded = run(program).split()
    assert not [name for name in loaded if name.startswith(("abatch.sandbox", "abatch.testing", "abatch.cli"))]
