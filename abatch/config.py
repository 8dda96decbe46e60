"""The settings of a manager, with their defaults and units; checked on construction."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Final, Literal, get_args

from abatch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["BATCH_BYTES", "Config", "Failing", "Params", "Parked", "Refusals", "Tier", "Unresolved"]

Tier = Literal["start", "build", "scale"]
Unresolved = Literal["resubmit", "hold"]
Refusals = Literal["believe", "doubt"]
Parked = Literal["wait", "cancel-and-retry"]
Params = Literal["check", "strict", "unchecked"]
Failing = Literal["stop", "go-on"]

BATCH_BYTES = 256_000_000
"""The most bytes of a create body that the API accepts."""
POLL_INTERVAL_GROWTH = 4
"""The wait between two reads of the list grows at most by this factor, unless `poll_interval_max` is set."""
GRACE_OWN_SOCKET = timedelta(minutes=30)
GRACE_FOREIGN_SOCKET = timedelta(minutes=45)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a manager cuts, sends, polls and drains. Every default is stated once, here."""

    requests_per_batch: int = 10_000
    """Requests in one batch, at most; the API accepts 100,000."""
    bytes_per_batch: int = 240_000_000
    """Bytes of one create body, at most; the API accepts 256,000,000."""
    sealed_unsent: int = 4
    """Sealed shards that may wait to be sent; beyond this number, planning pauses."""
    uploads: int = 4
    """Creates under way at once."""
    drains: int = 8
    """Result streams under way at once."""
    tier: Tier = "start"
    """The usage tier, which sets requests per minute and the queue limit."""
    poll_interval: timedelta = timedelta(seconds=15)
    """The first wait between two reads of the list."""
    poll_interval_max: timedelta | None = None
    """The wait grows up to this; None for four times `poll_interval`. `longest_poll_interval` is never None."""
    unresolved: Unresolved = "resubmit"
    """What to do with a create whose absence is established after `grace`."""
    refusals: Refusals = "believe"
    """Whether a refused create is final; with `doubt` abatch looks for its batch nevertheless."""
    parked: Parked = "wait"
    """What to do with a batch that is far older than usual and has not moved; it is reported in any case."""
    params: Params = "check"
    """What to do with params that the SDK's types do not allow: refuse those that the API certainly refuses, and warn
    of the others; with `strict` refuse all of them; with `unchecked` send them unchanged."""
    failing: Failing = "stop"
    """What to do with the rest of a job if no request succeeded and a whole batch failed with one error: hold it back
    until this is `go-on`, or send it."""
    grace: timedelta | None = None
    """How long an unanswered create may still appear: 30 minutes, 45 with a caller's own client or off Linux."""
    inbox_bytes: int = 2**30
    """Bytes of params that may wait in the inbox of an open job; beyond this, `put` waits."""
    free_disk: int = 64 * 2**20
    """Bytes that stay free on the journal's disk; below this, nothing new is planned or sent."""
    storage_patience: timedelta = timedelta(minutes=15)
    """How long a destination may fail temporarily before its job ends; 0 ends the job at the first failure."""
    storage_retry_every: timedelta = timedelta(seconds=1)
    """The first wait before a failed destination is retried; it doubles up to a minute."""

    def __post_init__(self) -> None:
        if not 1 <= self.requests_per_batch <= 100_000:
            raise ConfigError(f"requests_per_batch must be 1..100000, got {self.requests_per_batch}")
        if not 1_000 <= self.bytes_per_batch <= BATCH_BYTES:
            raise ConfigError(f"bytes_per_batch must be 1000..{BATCH_BYTES}, got {self.bytes_per_batch}")
        for name in ("sealed_unsent", "uploads", "drains", "inbox_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.tier not in get_args(Tier):
            raise ConfigError(f"tier must be one of {', '.join(get_args(Tier))}, got {self.tier!r}")
        if self.unresolved not in get_args(Unresolved):
            raise ConfigError(f"unresolved must be resubmit or hold, got {self.unresolved!r}")
        if self.refusals not in get_args(Refusals):
            raise ConfigError(f"refusals must be believe or doubt, got {self.refusals!r}")
        if self.parked not in get_args(Parked):
            raise ConfigError(f"parked must be wait or cancel-and-retry, got {self.parked!r}")
        if self.failing not in get_args(Failing):
            raise ConfigError(f"failing must be stop or go-on, got {self.failing!r}")
        if self.params not in get_args(Params):
            raise ConfigError(f"params must be one of {', '.join(get_args(Params))}, got {self.params!r}")
        for name in ("poll_interval", "poll_interval_max", "grace", "storage_patience", "storage_retry_every"):
            given: object = getattr(self, name)
            if not isinstance(given, timedelta) and not (name in ("poll_interval_max", "grace") and given is None):
                raise ConfigError(f"{name} must be a datetime.timedelta, got {given!r}")
        if not timedelta(milliseconds=10) <= self.poll_interval <= self.longest_poll_interval:
            longest = self.longest_poll_interval
            raise ConfigError(
                f"poll_interval must be from 0.01 s to poll_interval_max ({longest}), got {self.poll_interval}"
            )
        if self.grace is not None and self.grace < timedelta(0):
            raise ConfigError(f"grace must not be negative, got {self.grace}")
        if self.storage_patience < timedelta(0):
            raise ConfigError(f"storage_patience must not be negative, got {self.storage_patience}")
        if not timedelta(milliseconds=1) <= self.storage_retry_every <= timedelta(minutes=1):
            raise ConfigError(f"storage_retry_every must be from 0.001 s to 60 s, got {self.storage_retry_every}")

    def is_made_for(self, base_url: str) -> bool:
        """Return whether these settings are for this API alone, so that a shorter grace is safe: only a sandbox's are.

        Args:
            base_url: the URL of the API.

        """
        del base_url
        return False

    @property
    def longest_poll_interval(self) -> timedelta:
        """The longest wait between two reads of the list: `poll_interval_max`, or its default."""
        return POLL_INTERVAL_GROWTH * self.poll_interval if self.poll_interval_max is None else self.poll_interval_max

    @property
    def poll_every(self) -> timedelta:
        """The old name of `poll_interval`; deprecated."""
        _warn_of("poll_every", "poll_interval")
        return self.poll_interval

    @property
    def poll_at_most(self) -> timedelta:
        """The old name of `longest_poll_interval`; deprecated."""
        _warn_of("poll_at_most", "longest_poll_interval")
        return self.longest_poll_interval


OLD_NAMES: Final[Mapping[str, str]] = {"poll_every": "poll_interval", "poll_at_most": "poll_interval_max"}
"""Deprecated arguments of `Config`, each with its new name."""


def _warn_of(old: str, new: str) -> None:
    warnings.warn(f"Config.{old} is deprecated; use {new}", DeprecationWarning, stacklevel=3)


def _also_by_old_names(init: Callable[..., None]) -> Callable[..., None]:
    """Make `Config.__init__` accept deprecated names, too; type checkers refuse them."""

    @wraps(init)
    def __init__(self: Config, **settings: object) -> None:  # noqa: N807 - it replaces that method
        # `dataclasses.replace(config, poll_every=…)` passes every new name, with the value that is to be replaced.
        is_replaced = settings.keys() >= {each.name for each in fields(self)}
        for old in OLD_NAMES.keys() & settings.keys():
            new = OLD_NAMES[old]
            if new in settings and not is_replaced:
                raise ConfigError(f"{old} is the old name of {new}: give {new} alone")
            _warn_of(old, new)
            settings[new] = settings.pop(old)
        init(self, **settings)

    return __init__


Config.__init__ = _also_by_old_names(Config.__init__)  # type: ignore[method-assign]
