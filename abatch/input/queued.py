"""Keep the requests of a job in a file of the journal, because another process sends them, or because no file has them.

The file is named after its content, so the same requests make the same file, in any process.
"""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager, contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from abatch.errors import ConfigError, JournalError
from abatch.input.iterables import IterableInput
from abatch.system import threads
from abatch.system.drafts import Draft

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

    from abatch.input.iterables import Numbered
    from abatch.journal.folder import JournalFolder
    from abatch.journal.records import JobRecord

__all__ = ["KeptInput", "is_kept", "keep_requests", "kept_input"]

ROWS_AT_ONCE: Final = 10_000
"""Requests in memory at once, at most; a block of them ends earlier, at about a megabyte."""


class KeptInput:
    """A kept input that is being written.

    Args:
        folder: the journal.
        draft: the file, which has no name yet.

    """

    def __init__(self, folder: JournalFolder, draft: Draft) -> None:
        self._folder = folder
        self._draft = draft
        self._digest = sha256()
        self.size = 0
        """Bytes that were written."""

    @property
    def path(self) -> Path:
        """The file's place, once the block has ended."""
        return self._folder.inputs / f"{self._digest.hexdigest()}.jsonl"

    async def write(self, lines: bytes) -> None:
        """Append bytes.

        Raises:
            JournalError: the file cannot be written.

        """
        self._digest.update(lines)
        self.size += len(lines)
        with _errors_of(self._folder):
            await threads.run(self._draft.file.write, lines)


@asynccontextmanager
async def kept_input(folder: JournalFolder) -> AsyncGenerator[KeptInput]:
    """Write a kept input; at the end of the block it is durable. If the block fails or writes nothing, no file is left.

    Raises:
        JournalError: the file cannot be written.

    """
    with _errors_of(folder):
        await threads.run(folder.prepare_inputs)
        draft = await threads.opened(Draft.discard, Draft, folder.inputs)
    kept = KeptInput(folder, draft)
    try:
        yield kept
        if kept.size:
            with _errors_of(folder):
                await threads.run(draft.publish, kept.path.name)
    except BaseException:
        await threads.clean_up(draft.discard)
        raise
    if not kept.size:
        await threads.clean_up(draft.discard)


async def keep_requests(folder: JournalFolder, requests: object) -> Path:
    """Write the requests of an iterable to a file of the journal, durably; return its path.

    Raises:
        BadRequest: a request cannot be sent; no file is left.
        ConfigError: there is no request, or `requests` is not an iterable.
        JournalError: the file cannot be written.
        Exception: whatever the caller's iterable raises.

    """
    async with kept_input(folder) as kept, aclosing(IterableInput(requests).blocks(most=ROWS_AT_ONCE)) as blocks:
        async for block in blocks:
            await kept.write(await threads.run(_lines, block))
    if not kept.size:
        raise ConfigError("the iterable holds no request; nothing was submitted")
    return kept.path


def is_kept(folder: JournalFolder, job: JobRecord) -> bool:
    """Return whether a job reads a kept input."""
    return any(path.parent == folder.inputs for path in job.input_paths)


@contextmanager
def _errors_of(folder: JournalFolder) -> Generator[None]:
    try:
        yield
    except OSError as failure:
        raise JournalError(
            f"journal {folder} cannot keep the requests: {failure.strerror}; nothing was submitted. "
            "Free the disk or repair it, then submit them again"
        ) from failure


def _lines(block: list[Numbered]) -> bytes:
    return b"".join(map(_line, block))


def _line(numbered: Numbered) -> bytes:
    row = numbered.row
    betas = b',"betas":' + msgspec.json.encode(row.betas) if row.betas else b""
    return b'{"custom_id":%b,"params":%b%b}\n' % (row.custom_id, row.params.replace(b"\n", b" "), betas)
