"""Settings are checked where they are made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import timedelta

import pytest

from abatch import Config, ConfigError


def test_the_defaults_are_those_of_the_design():
    config = Config()
    assert (config.requests_per_batch, config.bytes_per_batch) == (10_000, 240_000_000)
    assert (config.sealed_unsent, config.uploads, config.drains) == (4, 4, 8)
    assert (config.tier, config.unresolved, config.grace) == ("start", "resubmit", None)
    assert (config.refusals, config.parked) == ("believe", "wait")
    assert (config.poll_interval, config.longest_poll_interval) == (timedelta(seconds=15), timedelta(seconds=60))


@pytest.mark.parametrize(
    "setting",
    [
        {"requests_per_batch": 1},
        {"requests_per_batch": 100_000},
        {"bytes_per_batch": 1_000},
        {"bytes_per_batch": 256_000_000},
        {"sealed_unsent": 1, "uploads": 1, "drains": 1},
        {"tier": "scale"},
        {"unresolved": "hold"},
        {"refusals": "doubt"},
        {"parked": "cancel-and-retry"},
        {"poll_interval": timedelta(milliseconds=10)},
        {"poll_interval": timedelta(minutes=1), "poll_interval_max": timedelta(minutes=1)},
        {"poll_interval": timedelta(hours=1)},
        {"grace": timedelta(0)},
    ],
)
def test_what_stands_at_a_limit_is_taken(setting):
    config = Config(**setting)
    assert {name: getattr(config, name) for name in setting} == setting


@pytest.mark.parametrize(
    "setting",
    [
        {"requests_per_batch": 0},
        {"requests_per_batch": 100_001},
        {"bytes_per_batch": 999},
        {"bytes_per_batch": 256_000_001},
        {"sealed_unsent": 0},
        {"uploads": 0},
        {"drains": -1},
        {"tier": "free"},
        {"unresolved": "retry"},
        {"refusals": "ignore"},
        {"parked": "cancel"},
        {"poll_interval": timedelta(0)},
        {"poll_interval_max": timedelta(seconds=1)},
        {"grace": timedelta(seconds=-1)},
    ],
)
def test_what_cannot_work_is_refused_by_name(setting):
    with pytest.raises(ConfigError) as refused:
        Config(**setting)
    name = next(iter(setting)).replace("poll_interval_max", "poll_interval")
    assert name in str(refused.value)


@pytest.mark.parametrize(
    "name", ["poll_interval", "poll_interval_max", "grace", "storage_patience", "storage_retry_every"]
)
def test_duration_that_is_a_number_is_refused_as_any_bad_setting(name):
    with pytest.raises(ConfigError, match=rf"{name} must be a datetime\.timedelta, got 15"):
        Config(**{name: 15})


def test_a_refused_setting_is_a_value_error_too():
    with pytest.raises(ValueError, match=r"1\.\.100000, got 0"):
        Config(requests_per_batch=0)


def test_settings_do_not_change():
    with pytest.raises(FrozenInstanceError):
        Config().uploads = 9  # type: ignore[misc]


def test_the_wait_between_two_looks_grows_fourfold_if_nothing_else_is_said():
    assert Config(poll_interval=timedelta(seconds=3)).longest_poll_interval == timedelta(seconds=12)
    assert replace(Config(), poll_interval=timedelta(minutes=5)).longest_poll_interval == timedelta(minutes=20)
    assert Config(poll_interval_max=timedelta(minutes=7)).longest_poll_interval == timedelta(minutes=7)


@pytest.mark.parametrize(("old", "new"), [("poll_every", "poll_interval"), ("poll_at_most", "poll_interval_max")])
def test_deprecated_names_work_and_say_what_to_use(old, new):
    wait = timedelta(seconds=40)
    with pytest.warns(DeprecationWarning, match=rf"Config\.{old} is deprecated; use {new}") as warned:
        config = Config(**{old: wait})
    assert warned[0].filename == __file__
    assert config == Config(**{new: wait})
    with pytest.warns(DeprecationWarning, match=old):
        assert getattr(config, old) == wait
    with pytest.warns(DeprecationWarning, match=old):
        assert replace(Config(uploads=2), **{old: wait}) == Config(uploads=2, **{new: wait})


@pytest.mark.parametrize(("old", "new"), [("poll_every", "poll_interval"), ("poll_at_most", "poll_interval_max")])
def test_a_deprecated_name_beside_its_new_one_is_refused(old, new):
    with pytest.raises(ConfigError, match=f"{old} is the old name of {new}: give {new} alone"):
        Config(**{old: timedelta(seconds=5), new: timedelta(seconds=6)})


def test_an_unknown_setting_is_refused_as_python_does_it():
    with pytest.raises(TypeError, match="poll_often"):
        Config(poll_often=1)
