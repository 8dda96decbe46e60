"""The entry point of the `abatch` command; works, and says what is lacking, without the `cli` extra."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__all__ = ["main"]

LACKING = "The abatch command needs packages that are not installed: pip install 'abatch[cli]'\n"


def main() -> None:
    """Run the command line; it exits with the status described in `abatch --help`."""
    try:
        app: Any = import_module("abatch.cli.app")  # Any: typer may be missing
    except ModuleNotFoundError as missing:
        if missing.name not in {"typer", "rich"}:
            raise
        sys.stderr.write(LACKING)
        raise SystemExit(2) from None
    app.main()


if __name__ == "__main__":
    main()
