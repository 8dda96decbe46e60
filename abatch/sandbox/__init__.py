"""A local server that speaks the Message Batches API: for demos, for users' CI, and for tests with faults.

    from abatch.sandbox import Sandbox

    async with Sandbox() as api:
        ...  # api.url, api.key, api.account, api.faults

The machine itself (`abatch.sandbox.api`) needs no HTTP stack. `Sandbox` and `serve` need `abatch[sandbox]`
and are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from abatch.sandbox.answers import answer_text, digest

if TYPE_CHECKING:
    from abatch.sandbox.server import Sandbox, serve

__all__ = ["Sandbox", "answer_text", "digest", "serve"]


def __getattr__(name: str) -> object:
    if name in ("Sandbox", "serve"):
        return getattr(import_module("abatch.sandbox.server"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
