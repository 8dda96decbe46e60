"""Notice the answer to a create while its body is still being sent.

This module is light: `read_ahead.py` knows the HTTP client, and is imported with it.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

__all__ = ["EarlyAnswer", "check_unanswered", "sending"]


class EarlyAnswer(Exception):
    """The body ends here, because the create was answered or its connection closed; no more of it is sent."""


class _Connection(Protocol):
    def check_unanswered(self) -> None:
        """Raise EarlyAnswer if bytes of an answer, or the end of the connection, were read."""


sending: ContextVar[_Connection | None] = ContextVar("sending", default=None)
"""The connection to which the present task wrote last; the body of a create is made in the task that sends it."""


def check_unanswered() -> None:
    """Make sure that the create that this task is sending is still open; a client that does not read ahead passes.

    Raises:
        EarlyAnswer: the create was answered, or its connection closed.

    """
    connection = sending.get()
    if connection is not None:
        connection.check_unanswered()
