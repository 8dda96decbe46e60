"""The server's two clocks: what creates and lists show of them, and bound A6."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from abatch.engine.skew import ClockSkew
from tests.unit.make import NOON


def events(*creates: tuple[float, float]) -> list[str]:
    skew = ClockSkew()
    with capture_logs() as logged:
        for gate, answer in creates:
            skew.note_create(NOON, gate=NOON + gate, answer=NOON + answer)
    return [event["event"] for event in logged]


def test_equal_clocks_are_not_reported() -> None:
    assert events((-1, 1), (-1, 1)) == []


@pytest.mark.parametrize("ahead", [100.0, -100.0])
def test_clocks_that_differ_are_reported_once(ahead: float) -> None:
    assert events((ahead - 1, ahead + 1), (ahead - 1, ahead + 1)) == ["clocks_differ"]


def test_a_difference_that_changes_breaks_the_bound() -> None:
    assert "bound_A6_broken" in events((-1, 1), (999, 1001))


def test_the_offset_is_the_least_that_creates_and_lists_allow() -> None:
    skew = ClockSkew()
    assert skew.offset == 0.0
    assert skew.note_create(NOON, gate=NOON - 3, answer=NOON + 2) == 2
    assert skew.offset == -3
