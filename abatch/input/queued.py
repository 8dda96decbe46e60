"""Keep the requests of an iterable in a file of the journal, because another process sends them.

The file is named after its content, so the same requests make the same file, in any process.
"""

from __future__ import annotations

from contextlib import aclosing
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from abatch.errors import ConfigError, JournalError
from abatch.input.iterables import IterableInput
from abatch.system import threads
from abatch.system.drafts import Draft

if TYPE_CHECKING:
    from pathlib import Path

    from abatch.input.iterables import Numbered
    from abatch.journal.folder import JournalFolder
    from abatch.journal.records import JobRecord

__all__ = ["is_kept", "keep_requests"]

ROWS_AT_ONCE: Final = 10_000
"""Requests in memory at once, at most; a block of them ends earlier, at about a megabyte."""


async def keep_requests(folder: JournalFolder, requests: object) -> Path:
    """Write the requests of an iterable to a file of the journal, durably; return its path.

    Raises:
        BadRequest: a request cannot be sent; no file is left.
        ConfigError: there is no request, or `requests` is not an iterable.
        JournalError: the file cannot be written.
        Exception: whatever the caller's iterable raises.

    """
    digest = sha256()

    def write(block: list[Numbered]) -> None:
        lines = b"".join(map(_line, block))
        digest.update(lines)
        draft.file.write(lines)

    try:
        await threads.run(folder.prepare_inputs)
        draft = await threads.opened(Draft.discard, Draft, folder.inputs)
        try:
            count = 0
            async with aclosing(IterableInput(requests).blocks(most=ROWS_AT_ONCE)) as blocks:
                async for block in blocks:
                    await threads.run(write, block)
                    count += len(block)
            name = f"{digest.hexdigest()}.jsonl"
            if count:
                await threads.run(draft.publish, name)
        except BaseException:
            await threads.clean_up(draft.discard)
            raise
        if not count:
            await threads.clean_up(draft.discard)
    except OSError as failure:
        raise JournalError(
            f"journal {folder} cannot keep the requests: {failure.strerror}; nothing was submitted. "
            "Free the disk or repair it, then submit them again"
        ) from failure
    if not count:
        raise ConfigError("the iterable holds no request; nothing was submitted")
    return folder.inputs / name


def is_kept(folder: JournalFolder, job: JobRecord) -> bool:
    """Return whether a job reads requests that `keep_requests` wrote."""
    return any(path.parent == folder.inputs for path in job.input_paths)


def _line(numbered: Numbered) -> bytes:
    row = numbered.row
    betas = b',"betas":' + msgspec.json.encode(row.betas) if row.betas else b""
    return b'{"custom_id":%b,"params":%b%b}\n' % (row.custom_id, row.params.replace(b"\n", b" "), betas)
