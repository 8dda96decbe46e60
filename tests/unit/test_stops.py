"""Stop reasons are counted under few names."""

from __future__ import annotations

from abatch.protocol.stops import MOST, add_stops


def test_stop_reasons_are_added_up():
    sums: dict[str, int] = {}
    add_stops(sums, {"end_turn": 3})
    add_stops(sums, {"max_tokens": 1, "end_turn": 2})
    assert sums == {"end_turn": 5, "max_tokens": 1}


def test_names_that_the_api_makes_up_are_counted_and_stay_few():
    sums: dict[str, int] = {}
    for n in range(500):
        add_stops(sums, {f"reason_{n}": 1, "x" * 5_000: 1, "end_turn": 1})
    assert len(sums) <= MOST + 1
    assert all(len(name) <= 40 for name in sums)
    assert (sum(sums.values()), sums["end_turn"]) == (1_500, 500)
