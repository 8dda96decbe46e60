"""Look at a destination before a job begins: which folders are made for it, and whether its storage takes a job."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from abatch.backend import Checked, load
from abatch.errors import BackendError
from abatch.system import threads
from abatch.system.paths import folder_of, is_local, shown

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_destination", "folder_to_make"]


def folder_to_make(url: str) -> Path | None:
    """The folder that is missing above a local destination, which a run makes; None if it is there.

    Raises:
        BackendError: it cannot be made.

    """
    if not is_local(url):
        return None
    place = folder_of(shown(url).rstrip("/"))
    folder = place if place.is_dir() else place.parent  # a folder that is there is filled, and its parent left alone
    above = folder
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise BackendError(url, f"{above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise BackendError(url, f"{above} cannot be written; change its permissions, or choose another destination")
    return None if above == folder else folder


async def check_destination(url: str) -> list[str]:
    """Look whether a job may begin at a destination, and make nothing; remarks for people.

    Raises:
        BackendError: it may not.
        BackendNotFound, BackendUnavailable, ConfigError: as `load`.

    """
    factory = await threads.run(load, url)
    if isinstance(factory, Checked):
        await factory.check(url)
    missing = await threads.run(folder_to_make, url)
    return [] if missing is None else [f"The folder {missing} does not exist; the run makes it."]
