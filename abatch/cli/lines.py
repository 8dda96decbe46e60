"""Requests on their way in: the lines that stdin brings, and a look at how an input begins."""

from __future__ import annotations

import os
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

import anyio

from abatch import threads
from abatch.errors import AbatchError, BadRequest, ConfigError
from abatch.intake import BOM, FileInput
from abatch.request import BLANK, from_line
from abatch.wire import MAX_LINE, LineReader, LineTooLong

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["begun", "check_beginning", "stdin_lines"]

BLOCK: Final = 2**20
"""Bytes read at once; and of a stream, what is looked at before it makes a job."""


def check_beginning(path: Path, *, longest: int) -> None:
    """Make sure that a file does not begin as JSON of another kind, of which every line would be a problem.

    Raises:
        ConfigError: it does, or it cannot be read.

    """
    with closing(FileInput(path, longest=longest)) as file, suppress(BadRequest):  # that is told when it is checked
        block = file.block()
        for line, _, _ in [] if block is None else block.requests()[:1]:
            _check_first(line, str(path))


async def begun(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same lines, once the first of them are known to be good: without these there shall be no job.

    Raises:
        BadRequest: one of them cannot be sent.
        ConfigError: there is no line at all, or it is JSON of another kind.

    """
    head: list[bytes] = []
    weight = 0
    async for line in lines:
        if not head:
            _check_first(line, "from stdin")
        head.append(line)
        from_line(line, len(head))
        weight += len(line)
        if weight >= BLOCK:
            break
    if not head:
        raise ConfigError("stdin holds no request")
    return _joined(head, lines)


async def _joined(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while head:
        block, head = head, []
        for line in block:
            yield line
    async for line in rest:
        yield line


def _check_first(line: bytes, name: str) -> None:
    if line[:1] == b"[":
        kind, convert = "is one JSON array", "jq -c '.[]'"
    elif line == b"{":
        kind, convert = "has objects over several lines", "jq -c ."
    else:
        return
    raise ConfigError(f"input {name} must be JSON lines, one request on each; this {kind}. Convert it with: {convert}")


async def stdin_lines() -> AsyncIterator[bytes]:
    """The lines of stdin, in blocks as they come; waiting for more can be cancelled."""
    descriptor = sys.stdin.fileno()
    reader, waits, ends, begins = LineReader(), True, 0, BOM
    begun_to_read = False
    while True:
        if waits:
            try:
                await anyio.wait_readable(descriptor)
            except OSError:  # a plain file never makes one wait
                waits = False
        try:
            block = await threads.run(os.read, descriptor, BLOCK)
        except OSError as failure:
            why = f"stdin cannot be read ({failure.strerror})"
            if begun_to_read:  # some of it may be sent already, so this is no error of the input
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
