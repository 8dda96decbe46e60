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

__all__ = ["Terms", "chosen", "obeyed", "refusal"]

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


def refusal(terms: Terms, config: Config, *, base_url: str, fingerprint: str | None) -> str:
    """Return why a driver cannot obey these terms; empty if it can.

    Args:
        terms: the choices of the process that submitted the job.
        config: the settings of the driver.
        base_url: the API that the driver calls.
        fingerprint: the fingerprint of the driver's API key; None if it has no fixed key.

    """
    if terms.base_url not in ("", base_url):
        return f"it was submitted for the API at {terms.base_url}, and its journal is driven with {base_url}"
    if None not in (terms.fingerprint, fingerprint) and terms.fingerprint != fingerprint:
        return "it was submitted with another API key than the one with which its journal is driven"
    for name in OF_THE_DRIVER:
        wanted, own = terms.settings.get(name), getattr(config, name)
        if wanted is not None and wanted != _stored(own):
            return f"it was submitted with {name}={wanted}, and its journal is driven with {name}={_stored(own)}"
    return ""


def _stored(value: str | int | timedelta | None) -> str | int | float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value
