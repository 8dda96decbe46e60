"""Where clients may read and write: the service's own store, and the places that its settings allow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from abatch.service.replies import Refusal

if TYPE_CHECKING:
    from abatch.service.settings import Serve

__all__ = ["destination", "input_file", "own_destination"]

RESULTS: Final = "results"
PARAMETERS: Final = frozenset("?&#")
"""Characters that begin parameters of a URL."""


def own_destination(folder: Path, key: str) -> str:
    """Return the destination of a job whose client named none: a database below the folder of the journal."""
    return f"sqlite:///{folder / RESULTS / key}.db"


def input_file(path: str, serve: Serve) -> Path:
    """Return an input file that a client named.

    Raises:
        Refusal: it is outside of the allowed folders, also by a link.

    """
    real = Path(os.path.realpath(path))
    if not _is_allowed(real, serve):
        raise Refusal(403, f"the service does not read {path!r}: no folder under [serve] contains it")
    return real


def destination(to: str, serve: Serve) -> str:
    """Return a destination that a client named.

    Raises:
        Refusal: it is not one of the allowed places.

    """
    if ":" in to and not to.startswith(("jsonl:///", "sqlite:///")):
        rests = [to[len(beginning) :] for beginning in serve.destinations if to.startswith(beginning)]
        if not rests:
            raise Refusal(403, f"the service does not write to {to!r}: no beginning under [serve] destinations fits")
        if all(PARAMETERS.intersection(rest) for rest in rests):  # endpoint_url would send the results elsewhere
            raise Refusal(
                403, f"the service takes no parameters from a client, got {to!r}; [serve] destinations may have them"
            )
        return to
    scheme, _, path = to.partition(":///") if to.startswith(("jsonl:///", "sqlite:///")) else ("", "", to)
    if "?" in path or not path.startswith("/"):
        raise Refusal(400, f"a destination must be an absolute path or a URL, got {to!r}")
    if not _is_allowed(Path(os.path.realpath(path)), serve):
        raise Refusal(403, f"the service does not write to {to!r}: no folder under [serve] contains it")
    return f"{scheme}:///{path}" if scheme else path


def _is_allowed(real: Path, serve: Serve) -> bool:
    return any(real.is_relative_to(os.path.realpath(folder)) and real != folder for folder in serve.folders)
