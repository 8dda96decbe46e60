"""Check a destination before a job begins: its address, its missing folder, whether its storage accepts a job."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from abatch.backend import Checked, load, normalize
from abatch.errors import BackendError
from abatch.system import threads
from abatch.system.paths import absolute_url, folder_of, is_local, relative_url, shown

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["address", "check", "is_local", "load_backend", "missing_folder", "normalize", "shown"]


def address(destination: str) -> str:
    """Return the URL of a destination with an absolute path: the same string for the same place.

    Raises:
        BackendNotFound, ConfigError: as `normalize`.

    """
    here = folder_of("journal")  # any path works, because the URL is made relative to it and then absolute again
    return absolute_url(here, relative_url(here, normalize(destination)))


async def load_backend(url: str) -> None:
    """Import the backend of a URL as `normalize` made it, in a worker thread: it may take a second.

    Raises:
        BackendNotFound, BackendUnavailable, ConfigError: there is no backend, or it cannot be imported.

    """
    await threads.run(load, url)


def missing_folder(url: str) -> Path | None:
    """Find the missing folder of a local destination, which a run would create; None if it exists.

    Raises:
        BackendError: the folder cannot be created.

    """
    if not is_local(url):
        return None
    place = folder_of(shown(url).rstrip("/"))
    try:
        is_folder = stat.S_ISDIR(place.stat().st_mode)
    except OSError as refused:
        if refused.errno == errno.ENAMETOOLONG:
            raise BackendError(url, f"{refused.strerror}; choose a shorter name") from refused
        is_folder = False
    folder = place if is_folder else place.parent  # an existing folder is filled, and its parent left alone
    above = folder
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise BackendError(url, f"{above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise BackendError(url, f"{above} cannot be written; change its permissions, or choose another destination")
    return None if above == folder else folder


async def check(url: str) -> Path | None:
    """Check whether a job may begin at a destination, and create nothing.

    Args:
        url: the destination's URL, as `normalize` made it.

    Returns:
        the missing folder of the destination, which a run would create.

    Raises:
        BackendError: no job may begin there.
        BackendNotFound, BackendUnavailable, ConfigError: as `load_backend`.

    """
    factory = await threads.run(load, url)
    if isinstance(factory, Checked):
        await factory.check(url)
    return await threads.run(missing_folder, url)
