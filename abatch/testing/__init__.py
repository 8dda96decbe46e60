"""For the tests of programs that use abatch, and of backends made for it.

`memory` holds the backend behind `memory:NAME`; `BackendContract` is what every backend must pass. Nothing
here imports pytest.
"""

from abatch.testing import memory
from abatch.testing.contract import BackendContract

__all__ = ["BackendContract", "memory"]
