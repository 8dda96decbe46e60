"""What a process that submits a job to the driver of its journal chose for it. Pure.

The driver obeys the settings that it can apply to one job. It refuses the job if a setting holds for all jobs of a
process and differs from its own, or if the job is meant for another API key or base URL.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from abatch.config import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OTHER_TERMS", "Terms", "chosen", "obeyed", "of_driver", "refusal"]

PER_JOB: Final = (
    "requests_per_batch",
    "bytes_per_batch",
    "params",
    "refusals",
    "parked",
    "failing",
    "storage_patience",
)
"""Settings that a driver applies to one job."""
OF_THE_DRIVER: Final = ("unresolved", "grace")
"""Settings that hold for all jobs of a driver, and that decide whether a request may be paid for twice."""


OTHER_TERMS: Final = (
    "Submit the job again with the key, base URL and settings of the process that drives the journal; or end that "
    "process, and submit the job again in one of its own."
)
"""What to do about a `refusal`."""


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The choices of the process that submitted a job; the driver decides about everything else."""

    settings: dict[str, str | int | float] = {}
    """Settings that differ from the defaults of `Config`, by name; durations in seconds."""
    base_url: str = ""
    """The API that the job is meant for; empty for the driver's."""
    fingerprint: str | None = None
    """The fingerprint of the API key that the job is meant for; None for the driver's key."""
    paths: tuple[str, ...] = ()
    """The present paths of the input files, if the job was submitted again; relative to the journal's parent."""
    goes_on: bool = False
    """Whether the job continues although it stopped because its first results failed."""


def chosen(config: Config) -> dict[str, str | int | float]:
    """Return the settings that differ from their defaults, and that a driver obeys or refuses."""
    usual = Config()
    return {
        name: stored
        for name in (*PER_JOB, *OF_THE_DRIVER)
        if (stored := _stored(getattr(config, name))) is not None and stored != _stored(getattr(usual, name))
    }


def obeyed(config: Config, terms: Terms | None) -> Config:
    """Return the settings for one job: the driver's own, with those that the submitting process chose."""
    if terms is None or not terms.settings:
        return config
    given: Mapping[str, Any] = {  # Any: the fields differ in type, and Config checks them
        name: timedelta(seconds=float(value)) if isinstance(getattr(config, name), timedelta) else value
        for name in PER_JOB
        if (value := terms.settings.get(name)) is not None
    }
    return replace(config, **given) if given else config


def of_driver(config: Config) -> dict[str, str | int | float]:
    """Return the settings of a driver that hold for all of its jobs."""
    return {name: stored for name in OF_THE_DRIVER if (stored := _stored(getattr(config, name))) is not None}


def refusal(terms: Terms, own: Terms) -> str:
    """Return why a driver cannot obey these terms; empty if it can.

    Args:
        terms: the choices of the process that submitted the job.
        own: what holds for all jobs of the driver: `of_driver` of its settings, the API that it calls, and the
            fingerprint of its key; None if it has no fixed key.

    """
    if terms.base_url not in ("", own.base_url):
        return f"it was submitted for the API at {terms.base_url}, and its journal is driven with {own.base_url}"
    if None not in (terms.fingerprint, own.fingerprint) and terms.fingerprint != own.fingerprint:
        return "it was submitted with another API key than the one with which its journal is driven"
    for name in OF_THE_DRIVER:
        wanted, driven = terms.settings.get(name), own.settings.get(name)
        if wanted is not None and wanted != driven:
            return f"it was submitted with {name}={wanted}, and its journal is driven with {name}={driven}"
    return ""


def _stored(value: str | int | timedelta | None) -> str | int | float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value
