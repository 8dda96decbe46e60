"""Commands in messages: each works unchanged, so it names the journal unless that is the default one."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Final

from abatch.cli.paths import DEFAULT_JOURNAL, SANDBOX_JOURNAL, has_sandbox
from abatch.view import folder_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command", "completed", "near"]

TAKE_SANDBOX: Final = frozenset({"run", "retry", "redrain"})
"""Commands that drive a journal, and need an option to use a sandbox."""
SHOWN: Final = re.compile(
    r"\babatch (cancel|move|redrain|resolve|results|retry) ([A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(?![A-Za-z0-9._-]| --(?:journal|sandbox))"
)
"""A command in a text whose author does not know the journal."""


def command(folder: Path, *words: str) -> str:
    """Return a command line for this journal."""
    return shlex.join(["abatch", *words, *_options(folder, words[0])])


def completed(text: str, folder: Path) -> str:
    """Add the options of this journal to each command in a text."""

    def complete(shown: re.Match[str]) -> str:
        argument = shown[2].rstrip(".")
        return shlex.join(["abatch", shown[1], argument, *_options(folder, shown[1])]) + shown[2][len(argument) :]

    return SHOWN.sub(complete, text)


def near(path: str) -> str:
    """Return a relative path, if the path is below the current folder."""
    found = os.path.relpath(path)
    if found.startswith("..") or "://" in path:
        return path
    return ("./" if found.startswith("-") else "") + found + "/" * path.endswith("/")


def _options(folder: Path, name: str) -> list[str]:
    in_sandbox = name in TAKE_SANDBOX and has_sandbox(folder)
    usual = SANDBOX_JOURNAL if in_sandbox else DEFAULT_JOURNAL
    named = [] if folder == folder_of(usual) else ["--journal", near(str(folder))]
    return [*["--sandbox"] * in_sandbox, *named]
