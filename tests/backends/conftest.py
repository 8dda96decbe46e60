"""What the tests of the backends share."""

from __future__ import annotations

import pytest

from tests.servers import SeaweedS3

pytest.register_assert_rewrite("abatch.testing.contract")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    server = SeaweedS3(tmp_path_factory.mktemp("seaweed"))
    server.start()
    yield server
    server.stop()
