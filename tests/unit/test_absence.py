"""When a batch that is looked for in vain has vanished, and when it is lost."""

from __future__ import annotations

import pytest

from abatch.protocol.absence import Absence
from abatch.protocol.clocks import Moment
from abatch.protocol.durations import LOST_AFTER, VANISHED_AFTER
from abatch.protocol.facts import Lost, Reappeared, Vanished
from tests.unit.make import NOON

HOUR = 3600.0


def at(date: float, boot: float | None = None, *, boot_id: str = "b", wall: float | None = None) -> Moment:
    """So many seconds after noon by the server's clock, and by this machine's if nothing else is said."""
    here = date if boot is None else boot
    return Moment(date=NOON + date, boot=here, boot_id=boot_id, wall=NOON + (here if wall is None else wall))


def looks(*moments: Moment, vanished: Moment | None = None) -> list[Vanished | Lost | None]:
    absence = Absence()
    return [absence.missed(moment, vanished) for moment in moments]


def test_a_batch_that_is_missed_for_less_than_an_hour_is_nothing_to_record():
    assert looks(at(0), at(HOUR - 1)) == [None, None]


def test_after_an_hour_it_has_vanished_since_the_first_look_in_vain():
    assert looks(at(0), at(60), at(HOUR))[-1] == Vanished(since=at(0))


def test_one_look_that_shows_it_begins_the_hour_anew():
    absence = Absence()
    absence.missed(at(0), None)
    assert absence.seen(None) is None
    assert absence.missed(at(HOUR), None) is None
    assert absence.missed(at(2 * HOUR), None) == Vanished(since=at(HOUR))


def test_one_that_is_seen_again_is_put_on_record_as_seen():
    assert Absence().seen(at(0)) == Reappeared()


def test_after_two_days_it_is_lost():
    first, later = looks(at(47 * HOUR), at(48 * HOUR), vanished=at(0))
    assert first is None
    assert isinstance(later, Lost)


def test_a_process_that_has_missed_it_for_less_than_an_hour_gives_nothing_up():
    """The API hides a batch for moments, and this may be one: what an earlier process saw is two days old."""
    first, second, third = looks(at(90 * HOUR), at(91 * HOUR - 1), at(91 * HOUR), vanished=at(0))
    assert (first, second) == (None, None)
    assert isinstance(third, Lost)


def test_two_blips_with_a_suspended_machine_between_them_are_no_absence():
    before, woken = [at(0)], [at(100 * HOUR), at(100 * HOUR + 60)]
    assert looks(*before, *woken) == [None, None, None]
    assert looks(*before, *woken, vanished=at(-HOUR)) == [None, None, None]
    looked_on = [at((100 + hours) * HOUR) for hours in (0, 1)]
    assert isinstance(looks(*before, *looked_on, vanished=at(-HOUR))[-1], Lost)


@pytest.mark.parametrize("last", [at(300 * HOUR, 47 * HOUR), at(47 * HOUR, 300 * HOUR)])
def test_one_clock_that_runs_ahead_loses_nothing(last):
    assert looks(at(HOUR), last, vanished=at(0)) == [None, None]


def test_after_a_restart_of_the_machine_the_wall_clock_stands_in():
    before = at(0, 5_000_000, wall=0)
    after = [at(hours * HOUR, (hours - 48) * HOUR, boot_id="c", wall=hours * HOUR) for hours in (48, 49)]
    first, second = looks(*after, vanished=before)
    assert first is None
    assert isinstance(second, Lost)


def test_how_long_it_was_missed_can_be_asked():
    absence = Absence()
    assert not absence.lasts(at(0))
    absence.missed(at(0), None)
    assert (absence.lasts(at(VANISHED_AFTER - 1)), absence.lasts(at(VANISHED_AFTER))) == (False, True)
    assert LOST_AFTER == 48 * HOUR
