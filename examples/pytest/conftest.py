import pytest

pytest_plugins = ["abatch.testing.pytest_plugin"]


@pytest.fixture
def anyio_backend():
    return "asyncio"
