"""The entry point of the `abatch` command; works, and says what is lacking, without the `cli` extra."""

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

LACKING = "The abatch command needs packages that are not installed: pip install 'abatch[cli]'\n"


def main() -> None:
    """Run the command line; it exits with the status described in `abatch --help`."""
    _use_one_arena()
    streams: Any = import_module("abatch.cli.streams")  # by its name: the core knows no front end
    streams.secure_streams()
    try:
        app: Any = import_module("abatch.cli.app")  # Any: typer may be missing
    except ModuleNotFoundError as missing:
        if missing.name not in {"typer", "rich"}:
            raise
        sys.stderr.write(LACKING)
        raise SystemExit(2) from None
    app.main()


def _use_one_arena() -> None:
    """Let all threads share memory: glibc keeps what each freed for that thread, a tenth of what many drains take."""
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError, OSError, TypeError):  # another libc
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


if __name__ == "__main__":
    main()
