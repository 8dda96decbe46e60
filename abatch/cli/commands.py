"""Commands as texts show them: each works as it stands, so it names the journal unless that goes without saying."""

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
"""Commands that drive, and have to be told that the API is a sandbox beside them."""
SHOWN: Final = re.compile(
    r"\babatch (cancel|move|redrain|resolve|results|retry) ([A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(?![A-Za-z0-9._-]| --(?:journal|sandbox))"
)
"""A command in a text that was written by what does not know the journal."""


def command(folder: Path, *words: str) -> str:
    """A command line for this journal."""
    return shlex.join(["abatch", *words, *_options(folder, words[0])])


def completed(text: str, folder: Path) -> str:
    """The text, with the options of this journal in each command that it shows."""

    def complete(shown: re.Match[str]) -> str:
        argument = shown[2].rstrip(".")
        return shlex.join(["abatch", shown[1], argument, *_options(folder, shown[1])]) + shown[2][len(argument) :]

    return SHOWN.sub(complete, text)


def near(path: str) -> str:
    """A path from here, if it is below."""
    found = os.path.relpath(path)
    if found.startswith("..") or "://" in path:
        return path
    return ("./" if found.startswith("-") else "") + found + "/" * path.endswith("/")


def _options(folder: Path, name: str) -> list[str]:
    in_sandbox = name in TAKE_SANDBOX and has_sandbox(folder)
    usual = SANDBOX_JOURNAL if in_sandbox else DEFAULT_JOURNAL
    named = [] if folder == folder_of(usual) else ["--journal", near(str(folder))]
    return [*["--sandbox"] * in_sandbox, *named]
