"""The test suite that every log of facts must pass: subclass `FactLogContract`, and define how to open, hold and fail.

    class TestMine(FactLogContract):
        @pytest.fixture(autouse=True)
        def place(self, tmp_path):
            self.path = tmp_path

        async def open(self, *, drive):
            return await MyLog.open(self.path, drive=drive)

        @asynccontextmanager
        async def held(self, log):
            ...

        def fail_next_sync(self, log):
            ...

The tests are plain `async def`, each with a separate loop (asyncio); run them with any plugin. For readable failures,
call `pytest.register_assert_rewrite("abatch.testing.factlog")` in your conftest. No test uses a clock.
"""

from __future__ import annotations

from abatch.testing.factlog.connections import ConnectionsContract
from abatch.testing.factlog.failures import FailuresContract
from abatch.testing.factlog.fence import FenceContract
from abatch.testing.factlog.order import OrderContract

__all__ = ["FactLogContract"]


class FactLogContract(OrderContract, FenceContract, ConnectionsContract, FailuresContract):
    """The promises of `FactLog`, each as a test. A subclass defines `open`, `held` and `fail_next_sync`."""
