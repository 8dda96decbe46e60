"""Make a journal that does not exist, for a process that does not drive it."""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING, Final

import anyio

from abatch.errors import JournalLocked
from abatch.journal.sqlite import SqliteLog
from abatch.system import threads

if TYPE_CHECKING:
    from abatch.journal.folder import JournalFolder

__all__ = ["make_if_missing"]

LOOK_EVERY: Final = 0.05
LOOKS: Final = 100
"""How often, and how many seconds apart, to look for the journal of a process that is just making it."""


async def make_if_missing(folder: JournalFolder) -> None:
    """Make the journal, unless it exists or another process makes it.

    Raises:
        JournalLocked: another process has the lock, and makes no journal.
        JournalError: the folder cannot be used.

    """
    for looks_left in reversed(range(LOOKS)):
        if await threads.run(os.path.exists, folder.database):  # Path.exists raises on long names
            return
        try:
            facts = await SqliteLog.open(folder, drive=True)
        except JournalLocked:
            if not looks_left:
                raise
            await anyio.sleep(LOOK_EVERY)
        else:
            with anyio.CancelScope(shield=True):
                await facts.aclose()
