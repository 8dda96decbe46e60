"""What must hold of any bytes whatever: shared by the Hypothesis tests and the fuzzer, which only find the bytes.

Each property takes raw input and raises AssertionError where it does not hold. No other exception may come out.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from abatch.backend import normalize
from abatch.engine.client import Client
from abatch.errors import BadRequest, ConfigError, JournalCorrupt
from abatch.input.request import Row, check_lines, from_line
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.sqlite import SqliteLog
from abatch.protocol import facts, wire
from abatch.protocol.facts import IterableSource, Planned, Submitted
from abatch.result import Result
from abatch.system.paths import absolute_url, relative_url
from abatch_backends.s3.address import parse as parse_s3

__all__ = [
    "base_url_is_taken_or_refused",
    "block_is_read_as_its_lines_are_or_not_at_all",
    "destination_is_a_url_or_refused",
    "journal_is_loaded_or_corrupt",
    "lines_are_those_between_newlines",
    "request_line_is_kept_or_refused",
    "result_line_is_delivered_or_not_ours",
    "s3_place_is_understood_or_refused",
]

KEY = bytes(range(32))
PREFIX = wire.prefix(KEY, 1, 1)
OUR_ID = PREFIX + wire.row_suffix(2)
THEIR_ID = 'a "custom" id \\ of é\u2028 theirs'
IN_JSON = json.dumps(THEIR_ID).encode()


# ---- the line reader ------------------------------------------------------------------------------------------


def lines_are_those_between_newlines(stream: bytes, cuts: Sequence[int]) -> None:
    r"""However a stream is cut into chunks, its lines are what stands between `\n`, and no byte of them is lost."""
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader = wire.LineReader()
    lines = [line for begin, end in pairwise(borders) for line in reader.feed(stream[begin:end])]
    lines += reader.end()
    pieces = stream.split(b"\n")
    assert lines == [line for line in (piece.removesuffix(b"\r") for piece in pieces) if line]
    returns = sum(piece.endswith(b"\r") for piece in pieces)
    assert sum(map(len, lines)) + stream.count(b"\n") + returns == len(stream)
    assert reader.end() == []


# ---- result lines ---------------------------------------------------------------------------------------------


def result_line_is_delivered_or_not_ours(line: bytes) -> None:
    """A line that bears an id of ours is delivered under the caller's id, on one line; and everybody can read it."""
    line = line.replace(b"\n", b"")
    seen = wire.read_line(line)
    if seen is None:
        assert b'"custom_id":"' + OUR_ID + b'"' not in line or _is_json(line)
        return
    for text in (seen.wire_id, seen.outcome, seen.error_type, seen.model):
        assert text is None or text.encode() is not None
    if not seen.wire_id.startswith(PREFIX.decode()) or wire.parse_id(seen.wire_id.encode()) is None:
        return
    assert not isinstance(seen, wire.Torn) or not _is_json(line)
    delivered = wire.with_custom_id(line, seen.wire_id.encode(), IN_JSON)
    assert b"\n" not in delivered
    kept = wire.outcome_of(delivered, THEIR_ID)
    assert (kept.custom_id, kept.raw) == (THEIR_ID, delivered)
    _can_be_looked_at(Result(delivered))
    before, after = _object(line), _object(delivered)
    if before is not None and before.get("custom_id") == seen.wire_id:
        assert after is not None
        assert {**after, "custom_id": None} == {**before, "custom_id": None}


def block_is_read_as_its_lines_are_or_not_at_all(text: bytes) -> None:
    """What is read quickly is what each line is by itself: the same rows, in the same bytes, with the same said."""
    head = wire.ROW_HEAD + PREFIX
    plain = wire.read_plain(text, head)
    if plain is None:
        return
    lines = text.split(b"\n")
    assert [head + bytes(tail) for tail in plain.tails] == lines
    careful = [wire.read_line(line) for line in lines]
    assert [wire.Seen(envelope.custom_id, *envelope.told()) for envelope in plain.envelopes] == careful
    ids = [wire.parse_id(seen.wire_id.encode()) for seen in careful if seen is not None]
    assert [wire_id.row for wire_id in ids if wire_id is not None] == plain.rows


def _can_be_looked_at(result: Result) -> None:
    for part in (result.custom_id, result.outcome, result.error, result.usage):
        repr(part)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    except RecursionError:
        return wire.is_whole(line)
    return True


def _object(line: bytes) -> dict | None:
    """The line as JSON, where it is an object that does not hold what is unequal to itself."""
    try:
        value = json.loads(line, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


# ---- request lines --------------------------------------------------------------------------------------------


def request_line_is_kept_or_refused(line: bytes) -> None:
    """An accepted line is JSON; its `params` are its own bytes, alone in the body they go into; else BadRequest."""
    at_a_glance = check_lines(line)
    try:
        row = from_line(line, 7)
    except BadRequest as refused:
        assert at_a_glance is None
        _tells(refused)
        return
    assert at_a_glance in (None, ([row.custom_id], {row.betas}))
    assert row.params in line
    with deeper():
        _is_sent_as_it_stands(line, row)


def _tells(refused: BadRequest) -> None:
    assert refused.line == 7
    assert refused.why
    assert "line 7" in str(refused)


def _is_sent_as_it_stands(line: bytes, row: Row) -> None:
    said = json.loads(line, parse_int=str, parse_float=str)
    assert json.loads(row.custom_id) == said["custom_id"]
    assert json.loads(row.params, parse_int=str, parse_float=str) == said["params"]
    assert 1 <= len(said["custom_id"].encode()) <= 512
    body = b"".join(
        (
            wire.BODY_HEAD,
            b",".join(
                wire.ROW_HEAD + PREFIX + wire.row_suffix(number) + wire.ROW_MIDDLE + row.params + wire.ROW_END
                for number in range(2)
            ),
            wire.BODY_TAIL,
        )
    )
    assert len(body) == wire.body_size(2, 2 * len(row.params))
    sent = json.loads(body, parse_int=str, parse_float=str)
    assert list(sent) == ["requests"]
    assert [set(each) for each in sent["requests"]] == [{"custom_id", "params"}] * 2
    assert [each["params"] for each in sent["requests"]] == [said["params"]] * 2


@contextmanager
def deeper() -> Iterator[None]:
    """What was read at the limit of nesting can be read again from further down."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(4 * limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


# ---- destinations and addresses -------------------------------------------------------------------------------


def destination_is_a_url_or_refused(text: str) -> None:
    """A destination stands for one URL, which stands for itself, carries no credentials, and survives the journal."""
    try:
        url = normalize(text)
    except ConfigError as refused:
        str(refused)
        return
    assert normalize(url) == url
    assert "@" not in urlsplit(url).netloc
    assert "\0" not in url
    journal = Path("/somewhere/of its own/.abatch")
    kept = relative_url(journal, url)
    back = absolute_url(journal, kept)
    assert relative_url(journal, back) == kept
    scheme, _, path = back.partition(":///")
    if scheme in {"jsonl", "sqlite"} and path:
        named = url.partition(":///")[2]
        assert _from_the_root(path) == _from_the_root(named)
    facts.encode(Submitted(key="job", to=kept, source=IterableSource()))


def _from_the_root(path: str) -> str:
    absolute = os.path.abspath(path.partition("?")[0])  # noqa: PTH100 - links are not followed
    return "/" + absolute.lstrip("/")  # two slashes at the beginning are as good as one


def s3_place_is_understood_or_refused(text: str) -> None:
    """Whatever stands behind `s3://`, it names a bucket or is a ConfigError that does not repeat credentials."""
    try:
        place = parse_s3(f"s3://{text}")
    except ConfigError as refused:
        if "endpoint_url=http://KEY:SECRET@" in text:
            _does_not_tell("SECRET", refused)
        return
    assert place.bucket
    assert {"", ".", ".."}.isdisjoint(place.prefix.split("/")) or not place.prefix


def _does_not_tell(secret: str, refused: ConfigError) -> None:
    assert secret not in str(refused)


def base_url_is_taken_or_refused(text: str) -> None:
    """An address of the API is taken, or a ConfigError; in the clear the key goes to this machine alone."""
    os.environ.pop("ANTHROPIC_BASE_URL", None)
    os.environ["ANTHROPIC_API_KEY"] = "canary-key"
    if text and "\0" not in text:
        os.environ["ANTHROPIC_BASE_URL"] = text
    try:
        client = Client.from_environment()
    except ConfigError as refused:
        _does_not_tell("canary-key", refused)
        return
    finally:
        os.environ.pop("ANTHROPIC_BASE_URL", None)
        os.environ.pop("ANTHROPIC_API_KEY", None)
    address = urlsplit(client.base_url)
    assert address.scheme == "https" or address.hostname in {"localhost", "::1"} or address.hostname.startswith("127.")


# ---- the journal ----------------------------------------------------------------------------------------------

Cell = bytes | str | int | float | None
"""What may stand in a column of SQLite."""


def journal_is_loaded_or_corrupt(blobs: Sequence[Cell], *, shard: Cell = 1) -> None:
    """A journal with these facts behind a good beginning is loaded, each fact as it stands there, or is corrupt."""
    with tempfile.TemporaryDirectory(dir=roomy()) as name:
        folder = Path(name)
        shutil.copyfile(_template() / "journal.db", folder / "journal.db")
        with closing(sqlite3.connect(folder / "journal.db")) as db, db:
            for number, blob in enumerate(blobs):
                values = (shard, 1 + number, blob)
                db.execute(
                    "INSERT OR IGNORE INTO facts (job, shard, n, at, writer, fact) VALUES (1, ?, ?, 2.0, 1, ?)", values
                )
            (written,) = db.execute("SELECT count(*) FROM facts").fetchone()
        try:
            told = anyio.run(partial(_load, folder))
        except (JournalCorrupt, ConfigError) as refused:
            str(refused)
            return
    assert len(told) == written
    for blob, fact in zip(blobs, told[2:], strict=False):
        text = blob.decode("utf-8", "replace") if isinstance(blob, bytes) else blob
        assert json.loads(text, parse_int=str)["type"] == type(fact).__name__
        assert facts.decode(facts.encode(fact)) == fact


async def _load(folder: Path) -> list[facts.Fact]:
    told: list[facts.Fact] = []
    journal = await SqliteLog.open(JournalFolder(folder), drive=False)
    try:
        ledger = await Ledger.load(journal, journal.folder)
        for job in ledger.jobs.values():
            job.progress()
        await journal.replay(lambda recorded: told.append(recorded.fact))
    finally:
        await journal.aclose()
    return told


def roomy() -> str | None:
    """A folder in memory, where there is one: what is made there lives for a moment."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def folder_until_exit() -> Path:
    """A new folder."""
    folder = Path(tempfile.mkdtemp(prefix="abatch-hostile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _template() -> Path:
    """A journal with one job and one planned shard."""
    folder = folder_until_exit()

    async def make() -> None:
        journal = await SqliteLog.open(JournalFolder(folder), drive=True)
        await journal.add_job(Submitted(key="job", to="memory:", source=IterableSource()))
        await journal.aclose()

    anyio.run(make)
    planned = Planned(part=0, rows=1, body_bytes=1, spool="s", params_digest="p", ids_digest="i")
    with closing(sqlite3.connect(folder / "journal.db")) as db, db:
        values = (facts.encode(planned),)
        db.execute("INSERT INTO facts (job, shard, n, at, writer, fact) VALUES (1, 1, 0, 1.0, 1, ?)", values)
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder
