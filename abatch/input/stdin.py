"""Read requests from stdin: check the first lines, then pass all lines on as they arrive."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import anyio

from abatch.errors import AbatchError, BadRequest, ConfigError, LineTooLong
from abatch.input.kinds import check_kind
from abatch.input.params import check_of
from abatch.input.problems import Problems
from abatch.input.request import BLANK, BOM, from_line
from abatch.protocol.wire import MAX_LINE, LineReader
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from abatch.config import Params
    from abatch.input.params import Check

__all__ = ["begun", "read_stdin", "stdin_lines"]

BLOCK: Final = 2**20
"""Bytes read at once, and the number of bytes of a stream that are checked before it becomes a job."""


async def read_stdin(*, params: Params = "check", betas: bool = False) -> AsyncIterator[bytes]:
    """Return the requests on stdin, one JSON line each, for `BatchManager.submit`; check the first mebibyte of them.

    This prevents a job whose first lines are bad: a job of an iterable is recorded before the iterable is read.

    Args:
        params: how params are checked, as in `Config.params`.
        betas: whether the job has betas, so that params may hold fields that the SDK's types do not know.

    Raises:
        BadRequest: one of the first lines cannot be sent.
        ConfigError: there is no line at all, stdin cannot be read, or it holds input of another kind.

    """
    return await begun(stdin_lines(), check_of(params, betas=betas))


async def begun(lines: AsyncIterator[bytes], params: Check | None = None) -> AsyncIterator[bytes]:
    """Check the first lines, and return all lines; a job must not be recorded if its first lines are bad.

    Args:
        lines: the lines.
        params: checks the params; None accepts any.

    Raises:
        BadRequest: one of the first lines cannot be sent.
        ConfigError: there is no line at all, or the lines are input of another kind.

    """
    head: list[bytes] = []
    weight = 0
    async for line in lines:
        head.append(line)
        weight += len(line)
        if weight >= BLOCK:
            break
    if not head:
        raise ConfigError("stdin holds no request")
    check_kind(b"\n".join(head)[:BLOCK], None)
    if (bad := await threads.run(_problems_of, head, params)) is not None:
        raise bad
    return _joined(head, lines)


def _problems_of(lines: list[bytes], params: Check | None) -> BadRequest | None:
    problems = Problems()
    for number, line in enumerate(lines, 1):
        try:
            row = from_line(line, number)
        except BadRequest as bad:
            problems.add([bad])
        else:
            problems.add([] if params is None else params.row(row, number))
    return problems.error()


async def _joined(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while head:
        block, head = head, []
        for line in block:
            yield line
    async for line in rest:
        yield line


async def stdin_lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin as they arrive, read in blocks; waiting for more can be cancelled."""
    descriptor = sys.stdin.fileno()
    reader, waits, ends, begins = LineReader(), True, 0, BOM
    begun_to_read = False
    while True:
        if waits:
            try:
                await anyio.wait_readable(descriptor)
            except OSError:  # A plain file is always readable, so there is nothing to wait for.
                waits = False
        try:
            block = await threads.run(os.read, descriptor, BLOCK)
        except OSError as failure:
            why = f"stdin cannot be read ({failure.strerror})"
            if begun_to_read:  # Some lines may have been sent already, so the input itself is not at fault.
                raise AbatchError(f"{why}; run the same command again, with all the lines") from failure
            raise ConfigError(
                f"{why}; - needs the lines on stdin: connect a file or pipe, or name the file"
            ) from failure
        begun_to_read = True
        ends += block.count(b"\n")
        try:
            lines = reader.feed(block) if block else reader.end()
        except LineTooLong:
            why = f"the line is longer than {MAX_LINE} bytes; in a file it may be"
            raise BadRequest(ends + 1, None, why) from None
        for line in lines:
            if request := line.removeprefix(begins).strip(BLANK):
                yield request
            begins = b""
        if not block:
            return
