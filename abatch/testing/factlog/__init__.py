"""The test suite that every log of facts must pass: subclass `FactLogContract`, and define how to open, hold and fail.

    class TestMine(FactLogContract):
        @pytest.fixture(autouse=True)
        def place(self, tmp_path):
            self.path = tmp_path

        async def open(self, *, drive):
            return await MyLog.open(self.path / "mine", drive=drive)

        async def open_other(self):
            return await MyLog.open(self.path / "other", drive=True)

        @asynccontextmanager
        async def held(self, log):
            ...

        def fail_next_sync(self, log, *, skip=0):
            ...

        async def damage(self, seq):
            ...

The tests are plain `async def`, each with a separate loop (asyncio); run them with any plugin. For readable failures,
call `pytest.register_assert_rewrite("abatch.testing.factlog")` in your conftest. No result depends on how fast the log
is; a call that hangs fails its test after `patience` seconds.

The suite cannot show that a sync reaches the disk: a log that never syncs passes. What `FactLog` does not promise, the
suite does not demand: that numbers of facts and jobs begin at 1 or have no gaps, which process a `JournalLocked` names,
or whether `bind` counts for `version`.
"""

from __future__ import annotations

from abatch.testing.factlog.connections import ConnectionsContract
from abatch.testing.factlog.failures import FailuresContract
from abatch.testing.factlog.fence import FenceContract
from abatch.testing.factlog.inbox import InboxContract
from abatch.testing.factlog.order import OrderContract
from abatch.testing.factlog.outbox import OutboxContract

__all__ = ["FactLogContract"]


class FactLogContract(
    OrderContract, FenceContract, ConnectionsContract, InboxContract, OutboxContract, FailuresContract
):
    """The promises of `FactLog`, each as a test. A subclass defines the five methods of `Hooks`."""
