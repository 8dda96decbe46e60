"""The names that a journal keeps of files: relative to its parent folder, so that both can be moved together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from abatch.errors import ConfigError

__all__ = ["absolute", "absolute_url", "folder_of", "is_local", "is_text", "relative", "relative_url", "shown"]

LOCAL: Final = frozenset({"jsonl", "sqlite"})
"""Schemes whose URL is a path on this machine."""


def folder_of(journal: str | os.PathLike[str]) -> Path:
    """Return a journal's folder as an absolute path; links are not resolved.

    Raises:
        ConfigError: the path is relative to a folder that was removed.

    """
    try:
        return Path(os.path.abspath(journal))  # noqa: PTH100 - Path.resolve would resolve links
    except FileNotFoundError as gone:
        raise ConfigError("the current folder was removed; change to one that exists") from gone


def relative(journal: Path, path: Path) -> str:
    """Return a path in the form that the journal keeps."""
    return os.path.relpath(path, journal.parent)


def absolute(journal: Path, path: str) -> Path:
    """Return a path that the journal keeps as an absolute path."""
    return Path(os.path.normpath(journal.parent / path))


def relative_url(journal: Path, url: str) -> str:
    """Return a destination in the form that the journal keeps."""
    scheme, path, rest = _taken_apart(url)
    if scheme not in LOCAL:
        return url
    return f"{scheme}:///{relative(journal, Path(path))}{'/' * path.endswith('/')}{rest}"


def absolute_url(journal: Path, url: str) -> str:
    """Return a destination that the journal keeps as a URL to connect to."""
    scheme, path, rest = _taken_apart(url)
    if scheme not in LOCAL:
        return url
    return f"{scheme}:///{absolute(journal, path)}{'/' * path.endswith('/')}{rest}"


def is_local(url: str) -> bool:
    """Return whether a destination is a path on this machine."""
    return _taken_apart(url)[0] in LOCAL


def is_text(name: str) -> bool:
    """Return whether a name can be encoded as UTF-8; not every file name can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(url: str) -> str:
    """Return a destination as people write it: as a path if it is one, otherwise as a URL."""
    scheme, path, rest = _taken_apart(url)
    return path + rest if scheme in LOCAL else url


def _taken_apart(url: str) -> tuple[str, str, str]:
    scheme, _, rest = url.partition(":///")
    path, mark, query = rest.partition("?")
    return scheme, path, mark + query
