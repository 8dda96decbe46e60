"""Change what is on record of an attempt in doubt, for tests that break or vary a rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from msgspec import structs

from abatch.protocol.reconcile import Doubt

__all__ = ["committed_with"]


def committed_with(doubt: Doubt, **changes: Any) -> Doubt:
    """The same doubt, with these fields of its attempt changed."""
    return replace(doubt, committed=structs.replace(doubt.committed, **changes))
