"""Commands and options in messages: each command works unchanged, so it names the journal unless it is the default."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING, Final

from abatch.cli.paths import DEFAULT_JOURNAL, SANDBOX_JOURNAL, folder_of, has_sandbox

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command", "completed", "in_options", "near"]

TAKE_SANDBOX: Final = frozenset({"run", "retry", "redrain", "serve", "submit", "token"})
"""Commands that have `--sandbox`; those that drive a journal need it to use a sandbox."""
SHOWN: Final = re.compile(
    r"\babatch (cancel|move|redrain|resolve|results|retry) ([A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(?![A-Za-z0-9._-]| --(?:journal|sandbox))"
)
"""A command in a text whose author does not know the journal."""
AS_OPTIONS: Final = {
    "with journal=": "with --journal",
    "key must match": "--key must match",
    "without one in abatch.sandbox": "without one by --sandbox",
    "Submit it without a limit": "Run it without --limit",
    "use lost=True": "use --lost",
    "begun with skip_answered=": "begun with --skip-answered",
    "(no skip_answered=)": "(no --skip-answered)",
    "(skip_answered=": "(--skip-answered=",
    "Submit the job again": "Run the same command again",
}
"""Arguments of Python in the texts of the library, each with the option that it is here."""


def in_options(text: str) -> str:
    """Replace the arguments of Python that a text of the library names by options."""
    for argument, option in AS_OPTIONS.items():
        text = text.replace(argument, option)
    return text


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
    return ("./" if found.startswith("-") else "") + found + ("/" if path.endswith("/") else "")


def _options(folder: Path, name: str) -> list[str]:
    in_sandbox = name in TAKE_SANDBOX and has_sandbox(folder)
    usual = SANDBOX_JOURNAL if in_sandbox else DEFAULT_JOURNAL
    named = [] if folder == folder_of(usual) else ["--journal", near(str(folder))]
    return [*(["--sandbox"] if in_sandbox else []), *named]
