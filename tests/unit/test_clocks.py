"""A wait by two clocks: the slower one counts, and a restart of the machine leaves the wall clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from abatch.protocol import clocks
from abatch.protocol.clocks import Moment, boot_id, elapsed, moment


@pytest.mark.parametrize(
    ("later", "seconds"),
    [
        (Moment(date=160.0, boot=30.0, boot_id="a", wall=900.0), 30.0),
        (Moment(date=110.0, boot=30.0, boot_id="a", wall=900.0), 10.0),
        (Moment(date=160.0, boot=1.0, boot_id="b", wall=520.0), 20.0),
        (Moment(date=90.0, boot=30.0, boot_id="a", wall=900.0), 0.0),
    ],
    ids=["the machine's clock is slower", "the server's is", "after a restart", "the server's clock was set back"],
)
def test_the_slower_clock_counts(later: Moment, seconds: float) -> None:
    assert elapsed(Moment(date=100.0, boot=0.0, boot_id="a", wall=500.0), later) == seconds


def test_a_system_that_does_not_name_its_starts_is_measured_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, encoding: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    boot_id.cache_clear()
    try:
        now = moment(100.0)
    finally:
        boot_id.cache_clear()
    assert now.boot_id == ""
    assert elapsed(clocks.Moment(date=0.0, boot=now.boot, boot_id="", wall=now.wall - 7.0), now) == 7.0
