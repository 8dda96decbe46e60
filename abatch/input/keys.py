"""Make the key of a job without one from its input and its destination."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from abatch.errors import ConfigError
from abatch.system.paths import relative

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["default_key"]


def default_key(folder: Path, paths: Sequence[Path], url: str) -> str:
    """Make the key of a job without one: the first input's name, and a digest of the inputs and the destination.

    Args:
        folder: the journal's folder.
        paths: the input files.
        url: the destination, relative to that folder.

    Raises:
        ConfigError: there is no input path.

    """
    if not paths:
        raise ConfigError("an iterable has no name: give the job a key")
    named = "\0".join([*(relative(folder, path) for path in paths), url])
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", paths[0].name.split(".")[0]).lstrip("._-")[:80] or "job"
    return f"{stem}-{hashlib.sha256(os.fsencode(named)).hexdigest()[:8]}"
