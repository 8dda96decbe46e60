"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.servers import SeaweedS3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedS3]:
    """A real S3 server for the session; it dies with the tests, and fails them loudly if it is not installed."""
    server = SeaweedS3(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A command that ran in this process configured the log, with a level of its own."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
