"""Look at a destination before a job begins: its address, the folder made for it, whether its storage takes a job."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from abatch.backend import Checked, load, normalize
from abatch.errors import BackendError
from abatch.system import threads
from abatch.system.paths import absolute_url, folder_of, is_local, relative_url, shown

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["address", "check", "is_local", "load_backend", "missing_folder", "normalize", "shown"]


def address(destination: str) -> str:
    """The URL of a destination with its path from the root: the same string for the same place.

    Raises:
        BackendNotFound, ConfigError: as `normalize`.

    """
    here = folder_of("journal")  # any path will do: what is made relative to it is made absolute from it again
    return absolute_url(here, relative_url(here, normalize(destination)))


async def load_backend(url: str) -> None:
    """Import the backend of a URL as `normalize` made it, in a worker thread: it may take a second.

    Raises:
        BackendNotFound, BackendUnavailable, ConfigError: there is none, or it cannot be imported.

    """
    await threads.run(load, url)


def missing_folder(url: str) -> Path | None:
    """The folder that is missing above a local destination, which a run makes; None if it exists.

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


async def check(url: str) -> Path | None:
    """Check whether a job may begin at a destination, and make nothing.

    Args:
        url: the destination's URL, as `normalize` made it.

    Returns:
        the folder that is missing above it, which a run makes.

    Raises:
        BackendError: no job may begin there.
        BackendNotFound, BackendUnavailable, ConfigError: as `load_backend`.

    """
    factory = await threads.run(load, url)
    if isinstance(factory, Checked):
        await factory.check(url)
    return await threads.run(missing_folder, url)
