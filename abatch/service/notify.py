"""Messages to the service manager, in the protocol of `sd_notify(3)`; nothing happens outside of systemd."""

from __future__ import annotations

import os
import socket
from typing import Final

import anyio

from abatch.log import log

__all__ = ["notify", "watchdog"]

SHARE: Final = 0.5
"""The part of systemd's limit after which it hears from the event loop again."""


def notify(**fields: str | int) -> None:
    """Send fields such as `READY=1` to the service manager; one that does not listen is only logged."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    text = "\n".join(f"{name}={value}" for name, value in fields.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.sendto(text.encode(), address)
    except OSError as refused:
        log.warning("service_manager_not_reached", why=str(refused))


async def watchdog() -> None:
    """Report that the event loop turns, as often as `WATCHDOG_USEC` demands; return at once if it demands nothing."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        notify(WATCHDOG=1)
        await anyio.sleep(SHARE * int(microseconds) / 1e6)
