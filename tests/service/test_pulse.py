"""The lateness of the event loop."""

from __future__ import annotations

import time

import anyio
import pytest

from abatch.service import pulse

pytestmark = pytest.mark.anyio


async def test_a_loop_that_was_blocked_is_told_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT", 0.01)
    measured = pulse.Pulse()
    async with anyio.create_task_group() as group:
        group.start_soon(measured.run)
        await anyio.sleep(0.02)
        time.sleep(0.2)
        assert measured.late >= 0.15
        await anyio.sleep(0.05)
        assert measured.worst >= 0.15
        group.cancel_scope.cancel()
