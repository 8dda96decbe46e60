"""A database for temporary data that may not fit into memory: an SQLite file without a name.

Nothing of it remains after a crash, so nothing is synced. These calls block: see `threads.run`.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["scratch_database"]

CACHE_KIB: Final = 16_000
"""The part of a database that is kept in memory; the rest is in its file."""


def scratch_database(folder: Path | None, schema: str) -> sqlite3.Connection:
    """Make a database with these tables: in a nameless file in this folder, or in memory without a folder.

    Several threads may use it, one at a time.

    Raises:
        OSError, sqlite3.OperationalError: the file cannot be made in the folder.

    """
    name = ":memory:"
    if folder is not None:
        descriptor, name = tempfile.mkstemp(prefix=".seen-", suffix=".tmp", dir=folder)
        os.close(descriptor)
    database = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "locking_mode = EXCLUSIVE",
            f"cache_size = -{CACHE_KIB}",
        ):
            database.execute(f"PRAGMA {pragma}")
        database.execute(schema)
    except sqlite3.Error:
        database.close()
        raise
    finally:
        if folder is not None:
            Path(name).unlink()
    return database
