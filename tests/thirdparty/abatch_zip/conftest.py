"""As if the package were installed: its module can be imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("abatch.testing.contract")
sys.path.append(str(Path(__file__).parent))
