"""The public names, and what importing them costs."""

from __future__ import annotations

import ast
from importlib.metadata import version
from pathlib import Path

import pytest

import abatch
import abatch.storage
from tests.unit.make import run

PUBLIC = [
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

PUBLIC_FOR_BACKENDS = [
    "Backend",
    "BackendFactory",
    "Checked",
    "JobRef",
    "Lookup",
    "Places",
    "Sealed",
    "ShardRef",
    "Sink",
    "connect",
    "normalize",
]
TOOLS_FOR_BACKENDS = [
    "LONG_LINE",
    "Block",
    "Writeback",
    "can_open_more",
    "clean_up_blocking",
    "durable_names",
    "in_pieces",
    "is_out_of_files",
    "joined",
    "log",
    "make_private_folders",
    "may_pass",
    "open_blocking",
    "run_blocking",
    "run_to_end",
    "sync",
    "sync_folder",
    "weight_of",
]


def test_the_names_for_backends_are_these():
    assert abatch.backend.__all__ == PUBLIC_FOR_BACKENDS
    assert abatch.storage.__all__ == TOOLS_FOR_BACKENDS
    for module in (abatch.backend, abatch.storage):
        assert all(getattr(module, name).__doc__ for name in module.__all__)


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


def test_the_version_is_that_of_the_package_and_is_read_only_when_asked_for():
    assert abatch.__version__ == version("abatch")
    assert run("import abatch; print('__version__' in vars(abatch))").split() == ["False"]
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = abatch.nope


def test_names_that_only_the_engine_needs_are_not_public():
    assert not hasattr(abatch, "IllegalTransition")
    assert not hasattr(abatch.BatchManager, "default_key")


def test_the_command_line_stands_on_public_names_alone_also_for_types():
    folder = Path(abatch.__file__).parent / "cli"
    inner = {"charges", "engine", "input", "journal", "protocol", "system"}
    found = set[str]()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom(module=str(module), names=names) if module.partition(".")[0] == "abatch":
                    named = [module] if module != "abatch" else [f"abatch.{each.name}" for each in names]
                case ast.Import(names=names):
                    named = [each.name for each in names]
                case _:
                    continue
            found |= {
                f"{path.name} -> {name}" for name in named if name.split(".")[1:2] and name.split(".")[1] in inner
            }
    assert not found
