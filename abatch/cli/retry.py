"""`abatch retry`: the requests of a finished job that did not succeed, as a new job.

A job has one line per request, for ever. So a retry is a job of its own, `KEY.retry-1`, then `-2`, with the rows
of the original file whose last word so far is not a success, or is an answer that was cut. The same command again
resumes one that is unfinished.
"""

from __future__ import annotations

import resource
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import msgspec
import typer

from abatch.cli.confirm import can_ask, confirmed
from abatch.cli.drive import Order, Surroundings, config_of, drive, journal_of
from abatch.cli.exit_codes import perform, reported
from abatch.cli.options import (  # noqa: TC001 - typer reads the annotations
    FailingOption,
    JobArgument,
    JsonOption,
    QuietOption,
    StoragePatienceOption,
)
from abatch.cli.paths import job_named, ledger_of
from abatch.cli.screen import Screen
from abatch.config import Config, Tier
from abatch.engine.family import CANCELED, FAILED, FINAL, MISSING, STOPPED, last_words, mark_of
from abatch.errors import ConfigError
from abatch.input.answered import retried_key, retries_of
from abatch.input.files import file_sha256, open_input
from abatch.input.request import from_line
from abatch.protocol.facts import FilePart, files_of
from abatch.protocol.stops import CUT
from abatch.system import threads
from abatch.system.paths import absolute, absolute_url, shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from abatch.input.request import Row
    from abatch.journal.ledger import Ledger
    from abatch.protocol.facts import Headers

__all__ = ["retry"]

_IN_WORDS: Final = {FINAL: "failed for good", STOPPED: "of that stop reason"}
ROWS: Final = 1000
"""Rows of the input looked at in one turn of a worker thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """Which requests somebody wants to send again, and how."""

    kinds: frozenset[str]
    stops: frozenset[str]
    max_tokens: int | None


@dataclass(slots=True, kw_only=True)
class _Retry:
    """What is to be sent again. A request is kept as a digest of 16 bytes, so millions fit into memory."""

    key: str
    to: str
    paths: list[Path]
    headers: Headers
    tries: int
    resumes: bool
    max_tokens: int | None = None
    wanted: set[bytes] = field(default_factory=set[bytes])
    counts: Counter[str] = field(default_factory=Counter[str])
    """How many of each kind were found."""
    left_out: int = 0
    """Requests that cannot succeed as they are."""
    long_enough: int = 0
    """Requests that were allowed as many tokens before."""


class _Asked(msgspec.Struct):
    max_tokens: int = 0


def _wish_of(*, kinds: dict[str, bool], all_: bool, stops: list[str], max_tokens: int | None) -> _Wish:
    """What the options come to.

    Raises:
        ConfigError: they do not go together.

    """
    chosen = {kind for kind, is_chosen in kinds.items() if is_chosen}
    if not chosen and not stops:
        chosen = set(kinds)
    if max_tokens is not None and (chosen or CUT not in stops):
        raise ConfigError(f"--max-tokens is for answers that were cut: it goes with --stop-reason {CUT} alone")
    if max_tokens is None and CUT in stops:
        raise ConfigError(f"the same request would be cut again: say --max-tokens N with --stop-reason {CUT}")
    if all_ and FAILED in chosen:
        chosen.add(FINAL)
    if stops:
        chosen.add(STOPPED)
    return _Wish(kinds=frozenset(chosen), stops=frozenset(stops), max_tokens=max_tokens)


def retry(
    key: JobArgument,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Those that errored or expired.")] = False,
    missing: Annotated[bool, typer.Option("--missing", help="Those whose result could not be got.")] = False,
    canceled: Annotated[bool, typer.Option("--canceled", help="Those that were cancelled.")] = False,
    all_: Annotated[
        bool, typer.Option("--all", help="Also those that cannot succeed as they are, such as bad requests.")
    ] = False,
    stop_reason: Annotated[
        list[str] | None,
        typer.Option(metavar="REASON", help="Answers that stopped for this reason; may be repeated."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --stop-reason max_tokens: how long they may be now.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="DEST", help="Where to; beside the original's results if not given.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    journal: Annotated[Path | None, typer.Option(file_okay=False, help="The journal's folder.")] = None,
    tier: Annotated[Tier, typer.Option(help="The usage tier of the account.")] = "start",
    poll_interval: Annotated[float | None, typer.Option(help="Seconds between two looks; grows fourfold. [15]")] = None,
    storage_patience: StoragePatienceOption = None,
    failing: FailingOption = "stop",
    sandbox: Annotated[bool, typer.Option("--sandbox", help="The job was run with --sandbox.")] = False,
    sandbox_latency: Annotated[str, typer.Option(hidden=True, envvar="ABATCH_SANDBOX_LATENCY")] = "1,3",
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send what did not succeed again, as a new job with results of its own: JOB.retry-1, then -2.

    Without --failed, --missing, --canceled or --stop-reason: all that did not succeed. Requests that an earlier retry
    got answered stay out. So do those that cannot succeed as they are, unless --all is given.

    Example: abatch retry nightly --failed
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold the API key
    screen = Screen(quiet=quiet)
    place = journal_of(journal, sandbox=sandbox)
    with reported(screen):
        kinds = {FAILED: failed, MISSING: missing, CANCELED: canceled}
        wish = _wish_of(kinds=kinds, all_=all_, stops=stop_reason or [], max_tokens=max_tokens)

    async def work() -> _Retry:
        async with ledger_of(place) as ledger:
            return await _prepare(ledger, key, to, wish)

    made = perform(work, place)
    with reported(screen, place):
        config = config_of(
            sandbox=sandbox,
            poll_interval=poll_interval,
            storage_patience=storage_patience,
            failing=failing,
            tier=tier,
            params="unchecked",  # they were checked, or sent unchecked, when the job was made
        )
        if made.left_out:
            screen.say(
                f"{made.left_out:,} requests cannot succeed as they are, and are left out: change them; or send them "
                "all the same with --all."
            )
        if made.long_enough:
            screen.say(
                f"{made.long_enough:,} requests are left out: they were allowed {made.max_tokens:,} tokens before."
            )
        if not made.wanted:
            screen.say(f"Job {key} has nothing to send again.")
            raise typer.Exit
        counts = ", ".join(f"{count:,} {_IN_WORDS.get(kind, kind)}" for kind, count in made.counts.items())
        screen.say(f"{len(made.wanted):,} requests to send again ({counts}) as job {made.key}, to {shown(made.to)}")
        if not (yes or made.resumes):
            if not can_ask():
                raise ConfigError("this sends requests that cost money; say --yes where nobody can be asked")
            if not anyio.run(confirmed, "Send them?"):
                raise ConfigError("you did not answer yes, so nothing was sent; --yes skips the question")
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


async def _prepare(ledger: Ledger, key: str, to: str | None, wish: _Wish) -> _Retry:
    job = job_named(ledger, key)
    source = job.submitted.source
    if not (files := files_of(source)):
        if ledger.job(first := retried_key(key)) is not None:
            raise ConfigError(f"job {key!r} is a retry; `abatch retry {first}` sends again what is still unanswered")
        raise ConfigError(f"job {key!r} did not come from a file; only its application can hand its requests over")
    if job.finished is None:
        raise ConfigError(f"job {key!r} is not finished; run it to its end first")
    folder = ledger.folder.path
    paths = [absolute(folder, file.path) for file in files]
    for path, file in zip(paths, files, strict=True):
        if await _is_same(path, file):
            continue
        raise ConfigError(f"input {path} is gone, or changed since job {key!r} was started; put the old content back")
    earlier = retries_of(ledger, job)
    last = earlier.pop() if earlier and earlier[-1].finished is None else None
    number = len(earlier) + 1
    url = absolute_url(folder, job.to)
    made = _Retry(
        key=f"{key}.retry-{number}",
        to=to or (_beside(url, number) if last is None else absolute_url(folder, last.to)),
        paths=paths,
        headers=job.submitted.headers,
        tries=job.submitted.tries,
        resumes=last is not None,
        max_tokens=wish.max_tokens,
    )
    words = await last_words(ledger, job, earlier, wish.stops)
    made.counts.update(word for word in words.values() if word in wish.kinds)
    made.left_out = Counter(words.values())[FINAL] * (FAILED in wish.kinds and FINAL not in wish.kinds)
    made.wanted.update(mark for mark, word in words.items() if word in wish.kinds)
    if wish.max_tokens is not None:
        await _drop_long_enough(made)
    return made


async def _drop_long_enough(made: _Retry) -> None:
    """Leave out what was allowed as much before: it would be cut at the same place, and paid for again."""
    assert made.max_tokens is not None
    decode = msgspec.json.Decoder(_Asked).decode
    with closing(_rows_of(*made.paths, longest=2 * Config().bytes_per_batch)) as rows:
        while block := await threads.run(_next_rows, rows):
            for _, row in block:
                mark = mark_of(row.custom_id)
                if mark in made.wanted and decode(row.params).max_tokens >= made.max_tokens:
                    made.wanted.discard(mark)
                    made.long_enough += 1


async def _is_same(path: Path, source: FilePart) -> bool:
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


async def _rows_again(made: _Retry, *, longest: int) -> AsyncIterator[bytes]:
    with closing(_rows_of(*made.paths, longest=longest)) as rows:
        while block := await threads.run(_next_rows, rows):
            for line, row in block:
                if mark_of(row.custom_id) in made.wanted:
                    yield line if made.max_tokens is None else _with_max_tokens(line, made.max_tokens)


def _with_max_tokens(line: bytes, max_tokens: int) -> bytes:
    """The request with another `max_tokens`; every other value stands as it was written."""
    request = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    params = msgspec.json.decode(request["params"], type=dict[str, msgspec.Raw])
    params["max_tokens"] = msgspec.Raw(b"%d" % max_tokens)
    return msgspec.json.encode({**request, "params": params})


def _rows_of(*paths: Path, longest: int) -> Generator[tuple[bytes, Row], None, None]:
    """The checked rows of some files with their raw lines, a block at a time in memory."""
    with closing(open_input(paths, longest=longest)) as file:
        while (block := file.block()) is not None:
            for line, number, _ in block.requests():
                yield line, from_line(line, number)


def _next_rows(rows: Iterator[tuple[bytes, Row]]) -> list[tuple[bytes, Row]]:
    return list(islice(rows, ROWS))
