"""Tools for the tests of programs that use abatch, and of backends made for it.

`memory` is the backend behind `memory:NAME`. `BackendContract` is the test suite that every backend must pass, and
`OutageContract` and `LookupContract` add tests for a backend that reports which of its failures pass, and for one that
finds single results. `FactLogContract` is the suite that every log of facts must pass. Nothing here imports pytest,
except `pytest_plugin`, which a project enables in its `conftest.py`.
"""

from abatch.testing import memory
from abatch.testing.contract import BackendContract, OutageContract
from abatch.testing.factlog import FactLogContract
from abatch.testing.lookup import LookupContract

__all__ = ["BackendContract", "FactLogContract", "LookupContract", "OutageContract", "memory"]
