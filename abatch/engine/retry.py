"""Choose the requests of a finished job that should be sent again, as a new job.

A job keeps exactly one line per request. So a retry is a separate job, `KEY.retry-1`, then `-2`, with the rows of the
original files whose latest status is not a success, or is an answer that was cut. If a retry is unfinished, the same
choice returns that retry again.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypedDict, get_args

import msgspec

from abatch.config import Config
from abatch.engine.family import FAILED, FINAL, STOPPED, last_words, mark_of
from abatch.errors import ConfigError
from abatch.input.answered import retried_key, retries_of
from abatch.input.files import file_sha256, open_input
from abatch.input.request import from_line
from abatch.protocol.facts import files_of
from abatch.protocol.stops import CUT
from abatch.system import threads
from abatch.system.paths import absolute, absolute_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Generator, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from abatch.input.request import Row
    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord
    from abatch.protocol.facts import FilePart

__all__ = ["Retry", "RetryKind", "choose"]

RetryKind: TypeAlias = Literal["failed", "missing", "canceled"]
"""Requests that errored or expired, whose result could not be retrieved, or that were cancelled."""
ROWS: Final = 1000
"""The number of input rows that are examined in one turn of a worker thread."""
LONGEST: Final = 2 * Config().bytes_per_batch
"""The maximum number of bytes of one line, which may hold more blanks than the request in it."""


class RetryTerms(TypedDict):
    """The arguments of `BatchManager.submit` that a retry has in addition to its requests."""

    to: str
    key: str
    betas: tuple[str, ...]
    user_profile_id: str | None
    workspace_id: str | None
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The requests of a finished job that should be sent again, and the terms of the new job; nothing is sent yet.

    `BatchManager.submit(retry.requests(), **retry.terms)` sends them. A request is kept as a digest of 16 bytes, so
    millions fit into memory; its line is read from the files again.
    """

    key: str
    """The key of the new job."""
    to: str
    """The destination of the new job: next to the original's results, or that of an unfinished retry."""
    files: tuple[Path, ...]
    """The files of the original job."""
    betas: tuple[str, ...]
    user_profile_id: str | None
    workspace_id: str | None
    tries: int
    resumes: bool
    """Whether a job with this key exists and is not finished."""
    counts: Mapping[str, int]
    """The number of requests of each kind: a `RetryKind`, `final` if they cannot succeed unchanged, or `stopped`."""
    left_out: int
    """The number of requests that cannot succeed unchanged and were left out, because they were not asked for."""
    long_enough: int
    """The number of requests that were left out, because they were allowed as many tokens before."""
    max_tokens: int | None
    """The new `max_tokens` of the requests; None leaves it unchanged."""
    _wanted: AbstractSet[bytes] = field(repr=False)

    def __len__(self) -> int:
        return len(self._wanted)

    @property
    def terms(self) -> RetryTerms:
        """The terms of the new job, as arguments of `BatchManager.submit`: those of the original job, and its key."""
        return RetryTerms(
            to=self.to,
            key=self.key,
            betas=self.betas,
            user_profile_id=self.user_profile_id,
            workspace_id=self.workspace_id,
            tries=self.tries,
        )

    async def requests(self) -> AsyncIterator[bytes]:
        """Yield the requests as JSON lines, for `BatchManager.submit`.

        Raises:
            BadRequest, ConfigError: a file has changed.

        """
        with closing(_rows_of(self.files)) as rows:
            while block := await threads.run(_next_rows, rows):
                for line, row in block:
                    if mark_of(row.custom_id) in self._wanted:
                        yield line if self.max_tokens is None else _with_max_tokens(line, self.max_tokens)


class _Asked(msgspec.Struct):
    max_tokens: int = 0


async def choose(
    ledger: Ledger,
    job: JobRecord,
    *,
    kinds: Collection[RetryKind],
    final: bool,
    stop_reasons: Collection[str],
    max_tokens: int | None,
    to: str | None,
) -> Retry:
    """Choose the requests of a job that should be sent again.

    Raises:
        ConfigError: the arguments contradict each other, the job is not finished, or its files have changed.
        BackendError: the results cannot be read.

    """
    words = _words(kinds, final=final, stop_reasons=stop_reasons, max_tokens=max_tokens)
    files = await _same_files(ledger, job)
    folder, key, submitted = ledger.folder.path, job.key, job.submitted
    earlier = retries_of(ledger, job)
    last = earlier.pop() if earlier and earlier[-1].finished is None else None
    number = len(earlier) + 1
    found = await last_words(ledger, job, earlier, stop_reasons)
    wanted = {mark for mark, word in found.items() if word in words}
    long_enough = 0 if max_tokens is None else await _drop_long_enough(files, wanted, max_tokens)
    return Retry(
        key=f"{key}.retry-{number}",
        to=to or (_beside(absolute_url(folder, job.to), number) if last is None else absolute_url(folder, last.to)),
        files=files,
        betas=submitted.headers.betas,
        user_profile_id=submitted.headers.user_profile_id,
        workspace_id=submitted.headers.workspace_id,
        tries=submitted.tries,
        resumes=last is not None,
        counts=dict(Counter(word for word in found.values() if word in words)),
        left_out=Counter(found.values())[FINAL] * (FAILED in words and FINAL not in words),
        long_enough=long_enough,
        max_tokens=max_tokens,
        _wanted=wanted,
    )


def _words(
    kinds: Collection[RetryKind], *, final: bool, stop_reasons: Collection[str], max_tokens: int | None
) -> frozenset[str]:
    """Return the statuses of the requests that the arguments ask for.

    Raises:
        ConfigError: the arguments contradict each other.

    """
    if unknown := set(kinds).difference(get_args(RetryKind)):
        raise ConfigError(f"kinds must be of {', '.join(get_args(RetryKind))}, got {', '.join(sorted(unknown))}")
    words: set[str] = set(kinds)
    if not words and not stop_reasons:
        words.update(get_args(RetryKind))
    if max_tokens is not None and (words or CUT not in stop_reasons):
        raise ConfigError(f"max_tokens is for answers that were cut: it goes with the stop reason {CUT} alone")
    if max_tokens is None and CUT in stop_reasons:
        raise ConfigError(f"the same request would be cut again: give max_tokens with the stop reason {CUT}")
    if final and FAILED in words:
        words.add(FINAL)
    if stop_reasons:
        words.add(STOPPED)
    return frozenset(words)


async def _same_files(ledger: Ledger, job: JobRecord) -> tuple[Path, ...]:
    """Return the paths of a finished job's files, which are unchanged.

    Raises:
        ConfigError: the job has no files or is not finished, or a file is gone or changed.

    """
    key = job.key
    if not (files := files_of(job.submitted.source)):
        if ledger.job(first := retried_key(key)) is not None:
            raise ConfigError(f"job {key!r} is a retry; `abatch retry {first}` sends again what is still unanswered")
        raise ConfigError(f"job {key!r} did not come from a file; only its application can submit its requests again")
    if job.finished is None:
        raise ConfigError(f"job {key!r} is not finished; run it to its end first")
    paths = tuple(absolute(ledger.folder.path, file.path) for file in files)
    for path, file in zip(paths, files, strict=True):
        if not await _is_same(path, file):
            raise ConfigError(
                f"input {path} is gone, or changed since job {key!r} was started; put the old content back"
            )
    return paths


async def _is_same(path: Path, source: FilePart) -> bool:
    try:
        now = await threads.run(path.stat)
        same = (now.st_size, now.st_mtime_ns) == (source.size, source.mtime_ns)
        return same or await file_sha256(path) == source.sha256
    except FileNotFoundError:
        return False


async def _drop_long_enough(files: tuple[Path, ...], wanted: set[bytes], max_tokens: int) -> int:
    """Drop requests that were allowed as many tokens before: they would be cut again, and paid for again."""
    dropped = 0
    decode = msgspec.json.Decoder(_Asked).decode
    with closing(_rows_of(files)) as rows:
        while block := await threads.run(_next_rows, rows):
            for _, row in block:
                mark = mark_of(row.custom_id)
                if mark in wanted and decode(row.params).max_tokens >= max_tokens:
                    wanted.discard(mark)
                    dropped += 1
    return dropped


def _beside(url: str, number: int) -> str:
    """Return a destination next to the original's; a database or bucket can hold many jobs, so it stays the same."""
    if not url.startswith("jsonl:"):
        return url
    if url.endswith("/"):
        return f"{url.rstrip('/')}.retry-{number}/"
    stem, dot, suffix = url.rpartition(".")
    return f"{stem}.retry-{number}{dot}{suffix}"


def _with_max_tokens(line: bytes, max_tokens: int) -> bytes:
    """Return the request with another `max_tokens`; every other value stays as it was written."""
    request = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    params = msgspec.json.decode(request["params"], type=dict[str, msgspec.Raw])
    params["max_tokens"] = msgspec.Raw(b"%d" % max_tokens)
    return msgspec.json.encode({**request, "params": params})


def _rows_of(files: tuple[Path, ...]) -> Generator[tuple[bytes, Row], None, None]:
    """Yield the checked rows of some files with their raw lines, with one block at a time in memory."""
    with closing(open_input(files, longest=LONGEST)) as file:
        while (block := file.block()) is not None:
            for line, number, _ in block.requests():
                yield line, from_line(line, number)


def _next_rows(rows: Iterator[tuple[bytes, Row]]) -> list[tuple[bytes, Row]]:
    return list(islice(rows, ROWS))
