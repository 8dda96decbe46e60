"""Choose the grace: how long an unanswered create may still appear in the list, at least the sum of bounds A1 to A4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from abatch.config import GRACE_FOREIGN_SOCKET, GRACE_OWN_SOCKET
from abatch.log import log

if TYPE_CHECKING:
    from abatch.config import Config

__all__ = ["grace_of"]


def grace_of(config: Config, base_url: str, *, owns_socket: bool) -> float:
    """Return the seconds of grace: those of the config, or the shortest that are safe with this socket.

    Args:
        config: the settings of the manager.
        base_url: the URL of the API.
        owns_socket: whether the socket of the client is abatch's own, so that its time-outs are known.

    """
    needed = GRACE_OWN_SOCKET if owns_socket else GRACE_FOREIGN_SOCKET
    if config.grace is None:
        return needed.total_seconds()
    if config.grace < needed and not config.is_made_for(base_url):
        log.warning(
            "grace_below_the_bounds",
            seconds=config.grace.total_seconds(),
            needed_seconds=needed.total_seconds(),
        )
    return config.grace.total_seconds()
