"""Ask a person at a terminal a yes-or-no question."""

from __future__ import annotations

import sys

import anyio

from abatch.cli.sanitize import clean

__all__ = ["can_ask", "confirmed"]


def can_ask() -> bool:
    """Whether a person can be asked: stdin and stderr are both a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def confirmed(question: str) -> bool:
    """Return whether the answer is yes; False without a terminal. The event loop runs on, so signals are handled."""
    if not can_ask():
        return False
    _put(question)
    await anyio.wait_readable(sys.stdin)  # a terminal returns whole lines, so reading one does not block
    return _is_yes(sys.stdin.readline())


def _put(question: str) -> None:
    sys.stderr.write(f"{clean(question)} [y/N] ")
    sys.stderr.flush()


def _is_yes(answer: str) -> bool:
    if not answer.endswith("\n"):  # the end of the input, where no newline was echoed
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")
