"""How a journal names files: relative to the folder it stands in, so that both can be moved together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from abatch.errors import ConfigError

__all__ = ["absolute", "absolute_url", "folder_of", "is_local", "is_text", "relative", "relative_url", "shown"]

LOCAL: Final = frozenset({"jsonl", "sqlite"})
"""Schemes whose URL is a path on this machine."""


def folder_of(journal: str | os.PathLike[str]) -> Path:
    """A journal's folder from the root; links stay as they were given.

    Raises:
        ConfigError: it is relative to a folder that is gone.

    """
    try:
        return Path(os.path.abspath(journal))  # noqa: PTH100 - that would follow links
    except FileNotFoundError as gone:
        raise ConfigError("the current folder was removed; change to one that exists") from gone


def relative(journal: Path, path: Path) -> str:
    """A path as the journal keeps it."""
    return os.path.relpath(path, journal.parent)


def absolute(journal: Path, path: str) -> Path:
    """A path that the journal keeps, from the root."""
    return Path(os.path.normpath(journal.parent / path))


def relative_url(journal: Path, url: str) -> str:
    """A destination as the journal keeps it."""
    scheme, path, rest = _taken_apart(url)
    if scheme not in LOCAL:
        return url
    return f"{scheme}:///{relative(journal, Path(path))}{'/' * path.endswith('/')}{rest}"


def absolute_url(journal: Path, url: str) -> str:
    """A destination that the journal keeps, to connect to."""
    scheme, path, rest = _taken_apart(url)
    if scheme not in LOCAL:
        return url
    return f"{scheme}:///{absolute(journal, path)}{'/' * path.endswith('/')}{rest}"


def is_local(url: str) -> bool:
    """Whether a destination is a path on this machine."""
    return _taken_apart(url)[0] in LOCAL


def is_text(name: str) -> bool:
    """Whether a name can be written down as UTF-8; that of a file need not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(url: str) -> str:
    """A destination's URL as people write it: a path where it is one."""
    scheme, path, rest = _taken_apart(url)
    return path + rest if scheme in LOCAL else url


def _taken_apart(url: str) -> tuple[str, str, str]:
    scheme, _, rest = url.partition(":///")
    path, mark, query = rest.partition("?")
    return scheme, path, mark + query
