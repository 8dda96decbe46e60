"""Check whole files before a job is recorded: each line, each custom_id, each set of headers."""

from __future__ import annotations

from contextlib import ExitStack, asynccontextmanager, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from abatch.errors import BadRequest, ConfigError
from abatch.input.duplicates import DuplicateIndex, HashPartitions, id_text
from abatch.input.files import BLOCK, FileInput, opened_input
from abatch.input.kinds import check_kind
from abatch.input.problems import Problems
from abatch.input.request import check_lines, from_checked_lines, from_line
from abatch.protocol.facts import FilePart, FileSource, source_of
from abatch.protocol.wire import body_size
from abatch.system import threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from abatch.input.files import FilesInput, Lines
    from abatch.input.params import Check
    from abatch.input.request import Row, Rows
    from abatch.protocol.facts import FilesSource

__all__ = [
    "HEADER_SETS",
    "Preview",
    "check_beginning",
    "check_file",
    "check_files",
    "check_size",
    "too_many_header_sets",
]

S = TypeVar("S", HashPartitions, DuplicateIndex)
HEADER_SETS: Final = 16
"""The maximum number of header sets in one job; each has an open shard."""


class Preview(Protocol):
    """A receiver of the requests that are about to be sent, which may refuse them before anything is recorded."""

    def add(self, rows: Rows, /) -> None:
        """Take the next requests of the input; called in a worker thread."""

    async def agree(self) -> None:
        """Accept the requests, or raise to refuse them; `submit` raises the same exception.

        It is called when all requests are valid, and before any of them is recorded or sent.
        """


def check_size(row: Row, number: int, bytes_per_batch: int) -> BadRequest | None:
    """Return the problem of a request that is too large for any batch; None if it fits."""
    size = body_size(1, len(row.params))
    if size <= bytes_per_batch:
        return None
    return BadRequest(number, id_text(row.custom_id), f"it takes {size} bytes, a batch holds {bytes_per_batch}")


def too_many_header_sets(custom_id: bytes, number: int) -> BadRequest:
    """Return the problem of a row whose betas would add a header set beyond the maximum."""
    return BadRequest(number, id_text(custom_id), f"a job has at most {HEADER_SETS} different sets of betas")


def check_beginning(path: Path, *, longest: int) -> None:
    """Make sure that a file does not begin like one of another kind, because then every line would be a problem.

    Raises:
        ConfigError: the file is of another kind, or it cannot be read.

    """
    # The check of the whole file reports a BadRequest, so it is suppressed here.
    with closing(FileInput(path, longest=longest)) as file, suppress(BadRequest):
        block = file.block()
        if block is not None:
            check_kind(block.text, path)


async def check_file(
    path: Path, folder: Path | None, *, bytes_per_batch: int, params: Check | None = None
) -> FileSource:
    """Check one file, as `check_files` checks several."""
    source = await check_files([path], folder, bytes_per_batch=bytes_per_batch, params=params)
    assert isinstance(source, FileSource)
    return source


async def check_files(
    paths: Sequence[Path],
    folder: Path | None,
    *,
    bytes_per_batch: int,
    params: Check | None = None,
    note: Callable[[Rows], None] | None = None,
) -> FileSource | FilesSource:
    """Check whole files, which in this order are one input; nothing is recorded or sent.

    Args:
        paths: the files.
        folder: the folder for a temporary file of custom_id digests; None keeps the digests in memory.
        bytes_per_batch: the size of a batch; each request must fit into one.
        params: checks the params; None accepts any.
        note: called in a worker thread with the requests that are read, in input order, as long as all are valid.

    Raises:
        BadRequest: the input has problems. It holds up to twenty of them, each with line and custom_id, and with the
            file if there are several.
        ConfigError: a file cannot be read or is of another kind, or there is no request.

    """
    named = ", ".join(map(str, paths[:3])) + (", …" if len(paths) > 3 else "")
    open_all = partial(opened_input, paths, longest=2 * bytes_per_batch)
    for path in paths:
        await threads.run(check_beginning, path, longest=2 * bytes_per_batch)
    with ExitStack() as open_:
        file = await open_all()
        open_.callback(file.close)
        stats = file.stats()
        try:
            async with _closing(HashPartitions(folder)) as partitions:
                check = await _check(file, partitions, bytes_per_batch, params, note)
                different = await partitions.all_different()
            if not different:  # Only a second read can report the lines of the duplicates.
                again = await open_all()
                open_.callback(again.close)
                async with _closing(DuplicateIndex(folder, again.place)) as seen:
                    check = await _check(again, seen, bytes_per_batch, params, None)
                if not check.problems.total or again.stats() != stats:
                    raise _changed(named)
        except OSError as failure:
            raise _cannot_check(named, folder, failure) from failure
        if (bad := check.problems.error()) is not None:
            raise bad
        if check.rows == 0:
            raise ConfigError(f"input {named} holds no request")
        sha256s = await threads.run(file.sha256s)
        if file.stats() != stats:
            raise _changed(named)
    files = [
        FilePart(path=str(path), size=size, mtime_ns=mtime_ns, sha256=sha256)
        for path, (size, mtime_ns), sha256 in zip(paths, stats, sha256s, strict=True)
    ]
    return source_of(files, check.rows)


@asynccontextmanager
async def _closing(seen: S) -> AsyncGenerator[S, None]:
    try:
        yield seen
    finally:
        await threads.clean_up(seen.close)  # Closing frees a large file, which blocks.


async def _check(
    file: FileInput | FilesInput,
    seen: HashPartitions | DuplicateIndex,
    bytes_per_batch: int,
    params: Check | None,
    note: Callable[[Rows], None] | None,
) -> _Check:
    if params is not None:
        params.begin(file.place)
    check = _Check(seen, bytes_per_batch, params, Problems(file.place), note)
    while await threads.run(check.turn, file):
        pass
    return check


class _Check:
    """The state of the check of one input: its problems and the number of its requests so far."""

    def __init__(
        self,
        seen: HashPartitions | DuplicateIndex,
        bytes_per_batch: int,
        params: Check | None,
        problems: Problems,
        rows_read: Callable[[Rows], None] | None,
    ) -> None:
        self._seen = seen
        self._rows_read = rows_read
        self._bytes_per_batch = bytes_per_batch
        self._params = params
        self._header_sets: set[frozenset[str]] = set()
        self.rows = 0
        """Number of requests that can be read."""
        self.problems = problems

    def turn(self, file: FileInput | FilesInput) -> bool:
        """Check about a megabyte; return False if nothing more can be read."""
        weight = 0
        while weight < BLOCK:
            try:
                block = file.block()
            except BadRequest as bad:  # Nothing after this line can be read.
                self.problems.add([bad])
                return False
            if block is None:
                return False
            weight += len(block.text)
            if not self._takes(block):
                self._look_at_each(block)
            if self._rows_read is not None and not self.problems.total:
                self._rows_read(from_checked_lines(block.text))
        return True

    def _takes(self, block: Lines) -> bool:
        """Note all rows of the block; return False if its lines have to be checked one by one."""
        if body_size(1, len(block.text)) > self._bytes_per_batch or (checked := self._read(block.text)) is None:
            return False
        custom_ids, betas = checked
        header_sets = self._header_sets.union(map(frozenset, betas))
        if len(header_sets) > HEADER_SETS:
            return False
        self._header_sets = header_sets
        self._note(custom_ids, range(block.before + 1, block.before + 1 + len(custom_ids)), [])
        return True

    def _read(self, text: bytes) -> tuple[list[bytes], set[tuple[str, ...]]] | None:
        return check_lines(text, None if self._params is None else self._params.lines)

    def _look_at_each(self, block: Lines) -> None:
        custom_ids: list[bytes] = []
        numbers: list[int] = []
        found: list[BadRequest] = []
        for line, number, _ in block.requests():
            try:
                row = from_line(line, number)
            except BadRequest as bad:
                found.append(bad)
                continue
            self._header_sets.add(frozenset(row.betas))
            if len(self._header_sets) > HEADER_SETS:
                self._header_sets.remove(frozenset(row.betas))
                found.append(too_many_header_sets(row.custom_id, number))
            if (too_large := check_size(row, number, self._bytes_per_batch)) is not None:
                found.append(too_large)
            if self._params is not None:
                found += self._params.row(row, number)
            custom_ids.append(row.custom_id)
            numbers.append(number)
        self._note(custom_ids, numbers, found)

    def _note(self, custom_ids: Sequence[bytes], numbers: Sequence[int], found: list[BadRequest]) -> None:
        self.rows += len(custom_ids)
        self.problems.add([*found, *self._seen.add(custom_ids, numbers)])


def _changed(named: str) -> ConfigError:
    return ConfigError(f"input {named} changed while it was checked; run again once it is complete")


def _cannot_check(named: str, folder: Path | None, failure: OSError) -> ConfigError:
    if folder is None:
        return ConfigError(f"input {named} cannot be checked: {failure}")
    return ConfigError(f"input {named} cannot be checked in {folder}: {failure}; free the disk")
