"""Tools for backends: blocking work off the event loop, durable names on disk, blocks of lines, the log.

Nothing here is required: a backend may use anyio, `os` and `logging` directly. abatch's own backends import from
`abatch`, `abatch.backend`, `abatch.errors` and this module, and from nothing else of abatch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec, TypeVar

from abatch.log import log
from abatch.result import LONG as LONG_LINE
from abatch.result import Block, in_pieces, joined
from abatch.system import threads
from abatch.system.disk import (
    Writeback,
    can_open_more,
    is_out_of_files,
    sync,
    sync_folder,
)
from abatch.system.disk import durable as durable_names
from abatch.system.disk import make_folders as make_private_folders
from abatch.system.disk import passes as may_pass
from abatch.system.threads import clean_up as clean_up_blocking
from abatch.system.threads import opened as open_blocking
from abatch.system.threads import whole as run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from abatch.result import Line

__all__ = [
    "LONG_LINE",
    "Block",
    "Writeback",
    "can_open_more",
    "clean_up_blocking",
    "durable_names",
    "in_pieces",
    "is_out_of_files",
    "joined",
    "log",
    "make_private_folders",
    "may_pass",
    "open_blocking",
    "run_blocking",
    "run_to_end",
    "sync",
    "sync_folder",
    "weight_of",
]

P = ParamSpec("P")
T = TypeVar("T")


async def run_blocking(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work` in one of abatch's worker threads and return what it returns.

    The work is one unit: a cancellation comes before it, or waits until it is done and is raised then. If the work
    opens something that must be closed, use `open_blocking`.
    """
    return await threads.run(work, *args, **kwargs)  # looked up at each call: a simulation replaces it


def weight_of(lines: Sequence[Line]) -> int:
    """Return about how many bytes these lines have, without making a `Line` of each."""
    return lines.weight if isinstance(lines, Block) else sum(len(line.raw) for line in lines)
