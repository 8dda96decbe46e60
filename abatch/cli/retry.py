"""`abatch retry`: the requests of a finished job that did not succeed, as a new job.

A job has one line per request, for ever. So a retry is a job of its own, `KEY.retry-1`, then `-2`, with the rows
of the original file whose last word so far is not a success. The same command again resumes one that is unfinished.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from abatch import threads, wire
from abatch.cli.drive import Order, Surroundings, config_of, drive, journal_of
from abatch.cli.estimate import rows_of
from abatch.cli.exits import perform, reported
from abatch.cli.options import (  # noqa: TC001 - typer reads the annotations
    JobArgument,
    JsonOption,
    QuietOption,
    StoragePatienceOption,
)
from abatch.cli.places import job_named, ledger_of
from abatch.cli.results import read_results
from abatch.cli.screen import Screen
from abatch.config import Tier  # noqa: TC001 - typer reads the annotations
from abatch.errors import ConfigError
from abatch.facts import FileSource
from abatch.intake import file_sha256
from abatch.places import absolute, absolute_url, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from abatch.facts import Headers
    from abatch.ledger import JobRecord, Ledger
    from abatch.request import Row

__all__ = ["retry"]

KINDS: Final = ("failed", "missing", "canceled")
ROWS: Final = 1000
"""Rows of the input looked at in one turn of a worker thread."""


@dataclass(slots=True, kw_only=True)
class _Retry:
    """What is to be sent again. A request is kept as a digest of 16 bytes, so millions fit into memory."""

    key: str
    to: str
    path: Path
    headers: Headers
    tries: int
    resumes: bool
    wanted: dict[str, set[bytes]] = field(default_factory=lambda: {kind: set[bytes]() for kind in KINDS})

    @property
    def count(self) -> int:
        """Requests to send."""
        return sum(map(len, self.wanted.values()))

    def has(self, mark: bytes) -> bool:
        """Whether this request is to be sent again."""
        return any(mark in marks for marks in self.wanted.values())

    def drop(self, mark: bytes) -> None:
        """It succeeded meanwhile."""
        for marks in self.wanted.values():
            marks.discard(mark)


def retry(
    key: JobArgument,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Those that errored or expired.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Those whose result could not be got.")] = False,
    canceled: Annotated[bool, typer.Option("--canceled", help="Those that were cancelled.")] = False,
    to: Annotated[
        str | None, typer.Option(metavar="DEST", help="Where to; beside the original's results if not given.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    journal: Annotated[Path | None, typer.Option(file_okay=False, help="The journal's folder.")] = None,
    tier: Annotated[Tier, typer.Option(help="The usage tier of the account.")] = "start",
    poll_interval: Annotated[float | None, typer.Option(help="Seconds between two looks; grows fourfold. [15]")] = None,
    storage_patience: StoragePatienceOption = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="The job was run with --sandbox.")] = False,
    sandbox_latency: Annotated[str, typer.Option(hidden=True, envvar="ABATCH_SANDBOX_LATENCY")] = "1,3",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send what did not succeed again, as a new job with results of its own: JOB.retry-1, then -2.

    Without --failed, --missing or --canceled: all of them. Requests that an earlier retry got answered stay out.

    Example: abatch retry nightly --failed
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the API key
    screen = Screen(quiet=quiet)
    place = journal_of(journal, sandbox=sandbox)
    chosen = [kind for kind, is_chosen in zip(KINDS, (failed, missing, canceled), strict=True) if is_chosen]

    async def work() -> _Retry:
        async with ledger_of(place) as ledger:
            return await _prepare(ledger, key, chosen or list(KINDS), to)

    made = perform(work, place)
    with reported(screen, place):
        config = config_of(sandbox=sandbox, poll_interval=poll_interval, storage_patience=storage_patience, tier=tier)
        counts = ", ".join(f"{len(marks):,} {kind}" for kind, marks in made.wanted.items() if marks)
        if not made.count:
            screen.say(f"Job {key} has nothing to send again.")
            raise typer.Exit
        screen.say(f"{made.count:,} requests to send again ({counts}) as job {made.key}, to {shown(made.to)}")
        if not (yes or made.resumes):
            if not sys.stdin.isatty():
                raise ConfigError("this sends requests that cost money; say --yes where nobody can be asked")
            if not typer.confirm("Send them?", err=True):
                screen.say("Nothing was sent.")
                raise typer.Exit
    headers = made.headers
    drive(
        Order(
            requests=_rows_again(made, longest=2 * config.bytes_per_batch),
            to=made.to,
            key=made.key,
            betas=headers.betas,
            user_profile_id=headers.user_profile_id,
            workspace_id=headers.workspace_id,
            tries=made.tries,
        ),
        Surroundings(
            journal=place,
            config=config,
            screen=screen,
            sandbox=sandbox_latency if sandbox else None,
            json=as_json,
        ),
    )


async def _prepare(ledger: Ledger, key: str, kinds: list[str], to: str | None) -> _Retry:
    job = job_named(ledger, key)
    source = job.submitted.source
    if not isinstance(source, FileSource):
        first, is_retry, _ = key.rpartition(".retry-")
        if is_retry and ledger.job(first) is not None:
            raise ConfigError(f"job {key!r} is a retry; `abatch retry {first}` sends again what is still unanswered")
        raise ConfigError(f"job {key!r} did not come from a file; only its application can hand its requests over")
    if job.finished is None:
        raise ConfigError(f"job {key!r} is not finished; run it to its end first")
    folder = ledger.journal.folder
    path = absolute(folder, source.path)
    if not await _is_same(path, source):
        raise ConfigError(f"input {path} is gone, or changed since job {key!r} was started; put the old content back")
    earlier: list[JobRecord] = []
    number = 1
    while (last := ledger.job(f"{key}.retry-{number}")) is not None and last.finished is not None:
        earlier.append(last)
        number += 1
    url = absolute_url(folder, job.to)
    made = _Retry(
        key=f"{key}.retry-{number}",
        to=to or (_beside(url, number) if last is None else absolute_url(folder, last.to)),
        path=path,
        headers=job.submitted.headers,
        tries=job.submitted.tries,
        resumes=last is not None,
    )
    async for mark, kind in _unsuccessful(ledger, job):
        if kind in kinds:
            made.wanted[kind].add(mark)
    for done in earlier:
        async with aclosing(read_results(ledger, done)) as lines:
            async for line in lines:
                seen = wire.read_line(line)
                if seen is not None and seen.outcome == "succeeded":
                    made.drop(_mark(msgspec.json.encode(seen.wire_id)))
    return made


async def _is_same(path: Path, source: FileSource) -> bool:
    try:
        now = await threads.run(path.stat)
        same = (now.st_size, now.st_mtime_ns) == (source.size, source.mtime_ns)
        return same or await file_sha256(path) == source.sha256
    except FileNotFoundError:
        return False


def _beside(url: str, number: int) -> str:
    """A destination next to the original's; a database or bucket holds many jobs, so it stays."""
    if not url.startswith("jsonl:"):
        return url
    if url.endswith("/"):
        return f"{url.rstrip('/')}.retry-{number}/"
    stem, dot, suffix = url.rpartition(".")
    return f"{stem}.retry-{number}{dot}{suffix}"


async def _unsuccessful(ledger: Ledger, job: JobRecord) -> AsyncIterator[tuple[bytes, str]]:
    """The marks of the requests whose last word is not a success, each with its kind."""
    async with aclosing(read_results(ledger, job)) as lines:
        async for line in lines:
            seen = wire.read_line(line)
            if seen is not None and seen.outcome != "succeeded":
                kind = "canceled" if seen.outcome == "canceled" else "failed"
                yield _mark(msgspec.json.encode(seen.wire_id)), kind
    for shard in job.missing_shards:
        for mark in await threads.run(_missing_of, ledger.journal.missing / f"{shard:08d}.jsonl"):
            yield mark, "missing"


def _missing_of(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return [_mark(msgspec.json.encode(json.loads(line)["custom_id"])) for line in file]


def _mark(custom_id: bytes) -> bytes:
    """What stands for a custom_id, given as a JSON string."""
    return blake2b(custom_id, digest_size=16).digest()


async def _rows_again(made: _Retry, *, longest: int) -> AsyncIterator[bytes]:
    with closing(rows_of(made.path, longest=longest)) as rows:
        while block := await threads.run(_next_rows, rows):
            for line, custom_id in block:
                if made.has(_mark(custom_id)):
                    yield line


def _next_rows(rows: Iterator[tuple[bytes, Row]]) -> list[tuple[bytes, bytes]]:
    return [(line, row.custom_id) for line, row in islice(rows, ROWS)]
