"""Find the input that the arguments of a command name: files, patterns in quotes that name several, or stdin."""

from __future__ import annotations

import glob
import os.path
from pathlib import Path
from typing import Final

from abatch.errors import ConfigError

__all__ = ["STDIN", "files_or_stdin", "inputs"]

STDIN: Final = "-"


def files_or_stdin(names: list[str], key: str | None) -> list[Path] | None:
    """Return the named files as `inputs` does, or None for the lines of stdin.

    Raises:
        ConfigError: as `inputs`; or stdin is one of several inputs, or a job of its lines has no key.

    """
    if STDIN not in names:
        return inputs(names)
    if len(names) > 1:
        raise ConfigError("stdin cannot be one of several inputs; pass it alone, or save it as a file")
    if key is None:
        raise ConfigError("requests from stdin have no name: give the job one with --key")
    return None


def inputs(names: list[str]) -> list[Path]:
    """Return the named files, in this order; a pattern in quotes is replaced by its files, sorted by name.

    Raises:
        ConfigError: no file matches a pattern.

    """
    found: list[Path] = []
    for name in names:
        if not glob.has_magic(name) or os.path.exists(name):  # noqa: PTH110 - Path.exists raises on long names
            found.append(Path(name))
            continue
        matching = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - of a path that need not be relative
        if not matching:
            raise ConfigError(f"no file matches {name!r}")
        found += map(Path, matching)
    return found
