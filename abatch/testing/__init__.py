"""Tools for the tests of programs that use abatch, and of backends made for it.

`memory` is the backend behind `memory:NAME`. `BackendContract` is the test suite that every backend must pass, and
`OutageContract` adds tests for a backend that reports which of its failures pass. `FactLogContract` is the suite that
every log of facts must pass. Nothing here imports pytest.
"""

from abatch.testing import memory
from abatch.testing.contract import BackendContract, OutageContract
from abatch.testing.factlog import FactLogContract

__all__ = ["BackendContract", "FactLogContract", "OutageContract", "memory"]
