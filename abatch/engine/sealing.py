"""Seal parts: the functions that drains, fallback lines, moves and reads of sealed parts share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.backend import Sealed
from abatch.errors import BackendError
from abatch.log import log
from abatch.protocol.facts import SealedRecord

if TYPE_CHECKING:
    from abatch.backend import JobRef, Sink

__all__ = ["WRITE_BYTES", "check_lines", "discard", "record_of", "sealed_of"]

WRITE_BYTES: Final = 2**19
"""Approximate size in bytes of the blocks of lines that are written to a sink."""


def check_lines(job: JobRef, part: int, lines: int, given: int) -> None:
    """Compare the number of lines that a backend sealed with the number that it was given.

    Raises:
        BackendError: the numbers differ.

    """
    if lines != given:
        raise BackendError(
            job.key,
            f"part {part} was sealed with {lines} lines of {given}; "
            "remove the part from the destination, then run again: it is read once more",
        )


async def discard(sink: Sink) -> None:
    """Discard a sink after a failure; if this fails too, only log it, so that the first failure is raised."""
    with anyio.CancelScope(shield=True):
        try:
            await sink.discard()
        except Exception as failure:  # noqa: BLE001 - a backend may raise anything
            log.warning("sink_not_discarded", error=type(failure).__name__)


def record_of(sealed: Sealed) -> SealedRecord:
    """Return a sealed part in the form that the journal keeps."""
    return SealedRecord(part=sealed.part, lines=sealed.lines, detail=dict(sealed.detail))


def sealed_of(record: SealedRecord) -> Sealed:
    """Return a sealed part in the form that backends use."""
    return Sealed(part=record.part, lines=record.lines, detail=record.detail)
