"""How a command finds its journal."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Final

from abatch import JournalView
from abatch.errors import ConfigError

__all__ = [
    "DEFAULT_JOURNAL",
    "PORT",
    "SANDBOX_JOURNAL",
    "asked_for",
    "folder_of",
    "has_sandbox",
    "mark_as_sandbox",
    "place_of",
]

DEFAULT_JOURNAL: Final = Path(".abatch")
SANDBOX_JOURNAL: Final = Path(".abatch-sandbox")
PORT: Final = "port"
"""The file in a journal's folder that keeps the port of its sandbox."""


def folder_of(journal: Path) -> Path:
    """Return the absolute path of a journal's folder, which need not exist."""
    return JournalView(journal).folder


def has_sandbox(folder: Path) -> bool:
    """Return whether a journal belongs to a sandbox of `--sandbox`."""
    return os.path.exists(folder / PORT)  # noqa: PTH110 - Path.exists raises on long names


def mark_as_sandbox(folder: Path) -> None:
    """Note that a journal belongs to a sandbox, whose port is chosen when it starts."""
    (folder / PORT).touch(mode=0o600)


def asked_for(journal: Path | None, *, sandbox: bool) -> Path | None:
    """Return the journal that the options name; None if `place_of` chooses it."""
    return SANDBOX_JOURNAL if journal is None and sandbox else journal


def place_of(journal: Path | None, *, sandbox: bool) -> Path:
    """Return the journal to read: the named one, or the default.

    Raises:
        ConfigError: none was named, and there is only that of a sandbox.

    """
    if (asked := asked_for(journal, sandbox=sandbox)) is not None:
        return asked
    if not DEFAULT_JOURNAL.exists() and SANDBOX_JOURNAL.exists():
        raise ConfigError(
            f"there is no journal {DEFAULT_JOURNAL} here, but one of the sandbox: add --sandbox to see it"
        )
    return DEFAULT_JOURNAL
