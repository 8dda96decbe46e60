"""For the tests of programs that use abatch, and of backends made for it.

`memory` holds the backend behind `memory:NAME`; `BackendContract` is what every backend must pass,
`OutageContract` the same for one that says which of its failures pass. `FactLogContract` is what every log of facts
must pass. Nothing here imports pytest.
"""

from abatch.testing import memory
from abatch.testing.contract import BackendContract, OutageContract
from abatch.testing.factlog import FactLogContract

__all__ = ["BackendContract", "FactLogContract", "OutageContract", "memory"]
