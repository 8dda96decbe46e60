"""What the tests of the backends share."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("abatch.testing.contract")
