"""The entry point of the `abatch` command; without the `cli` extra, it names the missing packages."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

__all__ = ["main"]

M_ARENA_MAX: Final = -8
"""An option of glibc's `mallopt`."""

DRIVING: Final = frozenset({"run", "retry", "redrain"})
"""Commands that take a while before they have something to report."""
LACKING = "The abatch command needs packages that are not installed: pip install 'abatch[cli]'\n"


def main() -> None:
    """Run the command line; it exits with the status described in `abatch --help`."""
    _use_one_arena()
    streams: Any = import_module("abatch.cli.streams")  # by its name, because the core imports no front end
    streams.secure_streams()
    if (first := _first_words(sys.argv[1:], terminal=sys.stderr.isatty())) is not None:
        sys.stderr.write(first)
    try:
        app: Any = import_module("abatch.cli.app")  # Any: typer may be missing
    except ModuleNotFoundError as missing:
        if missing.name not in {"typer", "rich"}:
            raise
        sys.stderr.write(LACKING)
        raise SystemExit(2) from None
    app.main()


def _first_words(arguments: list[str], *, terminal: bool) -> str | None:
    """Return the line to show at a terminal during the imports; None if no person needs it."""
    options = [each for each in arguments if each.startswith("-")]
    short = "".join(each for each in options if not each.startswith("--"))
    quiet = {"--quiet", "--help"}.intersection(options) or "q" in short or "h" in short
    if not terminal or not arguments or arguments[0] not in DRIVING or quiet:
        return None
    return f"abatch {arguments[0]}: starting\n"


def _use_one_arena() -> None:
    """Share memory between all threads: glibc keeps freed memory for its thread, a tenth of the use of many drains."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError, OSError, TypeError):  # another libc
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


if __name__ == "__main__":
    main()
