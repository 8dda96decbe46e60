"""Put a question to whoever sits at the terminal."""

from __future__ import annotations

import sys

import typer

__all__ = ["confirmed"]


def confirmed(question: str) -> bool:
    """Whether the answer is yes; without a terminal on stdin and stderr nobody is asked, and it is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return typer.confirm(question, err=True)
