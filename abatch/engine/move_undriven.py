"""Move a job of a journal that no manager drives."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from abatch.engine.access import open_client
from abatch.engine.move import move
from abatch.journal.ledger import Ledger
from abatch.protocol.facts import files_of
from abatch.system.paths import absolute, relative_url

if TYPE_CHECKING:
    from abatch.engine.client import Client
    from abatch.journal.folder import JournalFolder
    from abatch.journal.log import FactLog

__all__ = ["Relocation", "move_undriven"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relocation:
    """The outcome of a move to another destination."""

    copied: tuple[int, ...]
    """Numbers of the shards whose results were copied; the old destination keeps its copy."""
    to_read_again: tuple[int, ...]
    """Numbers of the shards that could not be read at the old destination; the next run reads them from the API."""


async def move_undriven(facts: FactLog, folder: JournalFolder, key: str, url: str) -> Relocation:
    """Move an unfinished job to the destination `url`, which must be normalized.

    Args:
        facts: the log of the journal, opened to drive.
        folder: the folder of the journal.
        key: the key of the job.
        url: the destination, as `normalize` returns it.

    Raises:
        JobNotFound: there is no such job.
        ConfigError, BackendError, JobStopped, ApiError: as `move` raises them.

    """
    ledger = await Ledger.load(facts, folder)
    job = ledger.named(key)
    sealed = {number for number, shard in job.shards.items() if shard.sealed is not None and shard.sealed.lines}
    async with AsyncExitStack() as opened:
        again = await move(
            ledger,
            job,
            relative_url(folder.path, url),
            api=partial(_client, facts, opened),
            input_paths=[absolute(folder.path, file.path) for file in files_of(job.submitted.source)],
        )
    return Relocation(copied=tuple(sorted(sealed.difference(again))), to_read_again=tuple(again))


async def _client(facts: FactLog, opened: AsyncExitStack) -> Client:
    """Open a client of the API that the journal belongs to; only a move that needs the API needs a key."""
    client = await open_client(None)
    opened.push_async_callback(client.aclose)
    await facts.bind(client.base_url)
    return client
