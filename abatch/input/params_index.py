"""Keep digests of the params of many requests, by custom_id, in a file without a name.

Memory does not grow with the number of requests; ten million take about half a gigabyte of disk. The calls block, so
they are made through `threads.run`.
"""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

from abatch.errors import ConfigError
from abatch.journal.kept import mark_of
from abatch.system import threads
from abatch.system.scratch import scratch_database

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable
    from pathlib import Path

__all__ = ["ParamsIndex", "opened_params_index"]

SCHEMA: Final = "CREATE TABLE known (id BLOB, job INTEGER, params BLOB NOT NULL, PRIMARY KEY (id, job)) WITHOUT ROWID"


@asynccontextmanager
async def opened_params_index(folder: Path) -> AsyncGenerator[ParamsIndex, None]:
    """Open an empty ParamsIndex with its file in this folder; the file is freed at the end of the block.

    Raises:
        ConfigError: no file can be created in the folder.

    """
    known = await threads.opened(ParamsIndex.close, ParamsIndex, folder)
    try:
        yield known
    finally:
        await threads.clean_up(known.close)


class ParamsIndex:
    """Digests of params per job and custom_id. Each method raises ConfigError if the disk fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0
        """The number of custom_ids; each is counted once per job."""
        with self._guarded():
            self._db = scratch_database(folder, SCHEMA)

    def close(self) -> None:
        """Free the file."""
        self._db.close()

    def add(self, job: int, params: Iterable[tuple[bytes, bytes]]) -> None:
        """Add custom_ids of a job (JSON strings), each with the digest of its params or with an empty one."""
        rows = sorted((mark_of(custom_id), job, each) for custom_id, each in params)
        self.count += self._write("INSERT INTO known VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def note(self, job: int, params: Iterable[tuple[bytes, bytes]]) -> None:
        """Set the digests of params for these custom_ids if the job has them; empty digests are ignored."""
        rows = sorted((mark_of(custom_id), job, each) for custom_id, each in params if each)
        self._write("UPDATE known SET params = ?3 WHERE id = ?1 AND job = ?2", rows)

    def drop(self, custom_ids: Iterable[bytes]) -> None:
        """Remove these custom_ids."""
        rows = sorted((mark_of(custom_id),) for custom_id in custom_ids)
        self.count -= self._write("DELETE FROM known WHERE id = ?", rows)

    def of(self, custom_id: bytes) -> list[bytes] | None:
        """Return the known digests for a custom_id, which may be none; None if no job has the custom_id."""
        with self._guarded():
            found = self._db.execute("SELECT params FROM known WHERE id = ?", (mark_of(custom_id),)).fetchall()
        return [params for (params,) in found if params] if found else None

    def _write(self, statement: str, rows: list[tuple[bytes, int, bytes]] | list[tuple[bytes]]) -> int:
        """Execute a statement for each of these rows; return how many rows it changed."""
        before = self._db.total_changes
        with self._guarded():
            self._db.execute("BEGIN")
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        return self._db.total_changes - before

    @contextmanager
    def _guarded(self) -> Generator[None, None, None]:
        try:
            yield
        except (OSError, sqlite3.OperationalError) as failure:
            raise ConfigError(
                f"the input cannot be compared with what was sent before in {self._folder}: {failure}; free the disk"
            ) from failure
