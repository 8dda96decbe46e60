"""What the options of a command that sends or follows jobs ask for: the jobs, their journal, and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from abatch.cli.paths import DEFAULT_JOURNAL, SANDBOX_JOURNAL, folder_of
from abatch.config import Config
from abatch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from abatch.cli.screen import Screen
    from abatch.cli.spending import Spending
    from abatch.config import Failing, Params, Parked, Refusals, Tier, Unresolved

__all__ = ["Order", "Redrain", "Surroundings", "Watch", "config_of", "journal_of"]

SHORTEST: Final = 0.01
LONGEST: Final = 7 * 86_400
"""The bounds of an interval in seconds; a grace may be 0."""
SANDBOX_POLL, SANDBOX_GRACE = 0.2, 2.0
"""Nothing is late on one machine, so a doubt is settled at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The job to submit."""

    journal: Path
    """The journal's folder, as the command line names it."""
    requests: list[Path] | AsyncIterator[bytes] | None
    """The input's files, or the requests of a retry; None for the lines of stdin."""
    to: str
    key: str | None = None
    betas: tuple[str, ...] = ()
    user_profile_id: str | None = None
    workspace_id: str | None = None
    tries: int = 3
    limit: int | None = None
    """Only this many requests are sent, the first ones."""
    pilot: int = 0
    """This many requests are sent alone, the first ones; 0 for no pilot."""
    spending: Spending | None = None
    """Shows what the job may cost before anything is sent."""
    skip_answered: str | None = None
    """The job whose answered requests are not sent."""
    changed_input: bool = False
    """Whether an unfinished job takes the requests that it has not sent from a changed input."""
    again: bool = False
    """Whether requests that another job has, too, are sent, and paid for, again."""

    @property
    def folder(self) -> Path:
        """The absolute path of the journal's folder."""
        return folder_of(self.journal)

    @property
    def files(self) -> list[Path]:
        """The input's files; none if the requests come from elsewhere."""
        return self.requests if isinstance(self.requests, list) else []

    @property
    def from_files(self) -> bool:
        """Whether the requests are in files."""
        return isinstance(self.requests, list)

    @property
    def from_stdin(self) -> bool:
        """Whether the requests are the lines of stdin."""
        return self.requests is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrain:
    """The job whose missing parts are to be read again."""

    journal: Path
    """The journal's folder, as the command line names it."""
    key: str
    workspace_id: str | None = None

    @property
    def folder(self) -> Path:
        """The absolute path of the journal's folder."""
        return folder_of(self.journal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """The jobs that are followed, and not submitted."""

    journal: Path
    """The journal's folder, as the command line names it."""

    @property
    def folder(self) -> Path:
        """The absolute path of the journal's folder."""
        return folder_of(self.journal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """How a job runs, and where the command writes."""

    config: Config
    screen: Screen
    prices: str | None = None
    sandbox: str | None = None
    """The latency of the sandbox of `--sandbox`; None for the real API."""
    json: bool = False


def journal_of(journal: Path | None, *, sandbox: bool) -> Path:
    """Return the named journal, or the default one."""
    return journal or (SANDBOX_JOURNAL if sandbox else DEFAULT_JOURNAL)


def config_of(
    *,
    sandbox: bool,
    requests_per_batch: int | None = None,
    bytes_per_batch: int | None = None,
    poll_interval: float | None = None,
    grace: float | None = None,
    storage_patience: float | None = None,
    unresolved: Unresolved = "resubmit",
    refusals: Refusals = "believe",
    parked: Parked = "wait",
    failing: Failing = "stop",
    tier: Tier = "start",
    params: Params = "check",
) -> Config:
    """Return the settings of the options.

    Raises:
        ConfigError: one of them cannot work.

    """
    poll = SANDBOX_POLL if poll_interval is None and sandbox else poll_interval
    grace = SANDBOX_GRACE if grace is None and sandbox else grace
    for option, seconds, least in (
        ("--poll-interval", poll, SHORTEST),
        ("--grace", grace, 0),
        ("--storage-patience", storage_patience, 0),
    ):
        if seconds is not None and not least <= seconds <= LONGEST:
            raise ConfigError(f"{option} must be a number of seconds from {least} to {LONGEST}, got {seconds}")
    given: dict[str, Any] = {  # Any: the fields differ in type, and Config checks them
        "requests_per_batch": requests_per_batch,
        "bytes_per_batch": bytes_per_batch,
        "poll_interval": None if poll is None else timedelta(seconds=poll),
        "grace": None if grace is None else timedelta(seconds=grace),
        "storage_patience": None if storage_patience is None else timedelta(seconds=storage_patience),
    }
    return Config(
        unresolved=unresolved,
        refusals=refusals,
        parked=parked,
        failing=failing,
        tier=tier,
        params=params,
        **{name: value for name, value in given.items() if value is not None},
    )
