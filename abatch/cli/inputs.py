"""Find the files that the arguments of a command name; a pattern in quotes names several."""

from __future__ import annotations

import glob
import os.path
from pathlib import Path

from abatch.errors import ConfigError

__all__ = ["inputs"]


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
