"""Nothing that steers a terminal reaches one: not from a result, an id, an error, a journal or a file."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from io import RawIOBase
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from abatch.backend import JobRef, ShardRef, connect
from abatch.cli.app import app
from abatch.cli.exit_codes import tell
from abatch.cli.sanitize import clean
from abatch.cli.screen import Screen, table
from abatch.errors import ApiError, BackendError, BackendNotFound, BadRequest, JobStopped, StillInDoubt
from abatch.journal.folder import JournalFolder
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.journal.status import DriverStatus, post
from abatch.protocol import facts
from abatch.result import Line
from tests.hostile.strategies import TEXTS
from tests.unit.make import committing, planned, submitted

STEERING = {
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
} - {"\n"}
"""What a terminal obeys, besides the end of a line."""
EVIL = "no \x1b[2J\x1b]0;owned\x07 \x9b31m \x85 \u202e entry \u2066 \x7f \u2028 \r gone"


def assert_harmless(text: str) -> None:
    assert {char for char in text if char in STEERING} == set()


# ---- what everything goes through -----------------------------------------------------------------------------

TEXT = TEXTS | st.text(max_size=50) | st.text("\x1b[]\x07\x9b0;1mAB\\", max_size=50)


@given(TEXT, st.booleans())
def test_cleaned_text_steers_nothing_and_stays_as_it_is(text, lines):
    cleaned = clean(text, lines=lines)
    assert_harmless(cleaned)
    assert lines or "\n" not in cleaned
    assert clean(cleaned, lines=lines) == cleaned
    cleaned.encode()


@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=50))
def test_harmless_text_is_not_changed(text):
    assert clean(text) == text


@given(TEXT)
def test_whatever_is_said_or_shown_or_given_steers_nothing(text):
    errors = [
        ApiError("list", status=500, kind=text, message=text, request_id=text),
        BackendError(text, text),
        BackendNotFound(text, (text,)),
        BadRequest(1, text, text, more=[BadRequest(2, text, text)], total=9),
        JobStopped(text, text, text),
        StillInDoubt(text, [(1, text)]),
        RuntimeError(text),
    ]
    given_ = {"text": text.encode("utf-8", "replace").decode()}
    with contextlib.redirect_stderr(_Kept()) as err, contextlib.redirect_stdout(_Kept()) as out:
        screen = Screen()
        for error in errors:
            screen.complain(tell(error))
        screen.say(text)
        screen.show(table("a", "b", rows=[(text, 1)]))
        screen.give(given_)
    assert_harmless(err.text)
    assert_harmless(out.text)
    assert json.loads(out.text) == given_


class _Kept:
    """A stream that is no terminal and keeps what is written."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


# ---- a journal that holds hostile text ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    anyio.run(_write, tmp_path)
    return tmp_path


async def _write(folder: Path) -> None:
    """Jobs whose every text is the API's, and evil; one has results."""
    journal = await SqliteLog.open(JournalFolder(folder / ".abatch"), drive=True)

    async def job(key: str, *more: facts.JobFact, shard: int, **of: object) -> int:
        number = (await journal.add_job(submitted(key, **of))).job
        await journal.append(Entry(number, planned(part=0), shard, 0), Entry(number, committing(), shard, 1))
        await journal.append(*(Entry(number, fact) for fact in more))
        return number

    held = await job("held", shard=1)
    await journal.append(Entry(held, facts.Held(reason=EVIL), 1, 2))
    running = await job("running", shard=2)
    await journal.append(Entry(running, facts.Accepted(batch_id=EVIL, created_at=1.0), 2, 2))
    await job("stopped", facts.Stopped(reason=EVIL, remedy=EVIL), shard=3)
    done = await job("done", facts.Cut(rows=1, last=True), shard=4, to="jsonl:///results/")
    backend = await connect(f"jsonl:///{folder}/results/", JobRef(key="done", lineage=journal.lineage.name))
    sink = await backend.open(
        ShardRef(job=JobRef(key="done", lineage=journal.lineage.name), shard=4, part=0, rows=1, batch_id="b")
    )
    await sink.write([Line(f'{{"custom_id":"x","result":{{"type":"{EVIL}"}}}}'.replace("\n", "").encode(), "x", "odd")])
    sealed = await sink.seal()
    await backend.aclose()
    record = facts.SealedRecord(part=0, lines=1, detail=dict(sealed.detail))
    await journal.append(
        Entry(done, facts.Accepted(batch_id="b", created_at=1.0), 4, 2),
        Entry(done, facts.Ended(counts=facts.Counts(succeeded=1)), 4, 3),
        Entry(done, facts.Drained(counts=facts.Counts(other=1), sealed=record), 4, 4),
    )
    post(
        journal.folder,
        DriverStatus(
            pid=os.getpid(), waiting={1: EVIL}, not_visible=[EVIL], parked={EVIL: EVIL, "b": EVIL}, trouble=EVIL
        ),
    )
    await journal.aclose()


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["status", "held"],
        ["status", "--batches"],
        ["status", "--json"],
        ["status", "--json", "--batches"],
        ["status", EVIL],
        ["results", EVIL],
        ["results", "running"],
        ["id", EVIL],
        ["cancel", EVIL],
        ["resolve", "1", "--adopt", EVIL],
        ["retry", "stopped", "--yes"],
        ["run", EVIL, "--to", EVIL],
        ["run", "none.jsonl", "--to", "results.jsonl", "--key", EVIL],
        ["estimate", EVIL],
        ["estimate", "bad.jsonl"],
        ["estimate", "bad.jsonl", "--json"],
        ["estimate", "odd.jsonl"],
        ["estimate", "odd.jsonl", "--json"],
        ["run", "bad.jsonl", "--to", "results.jsonl"],
        ["run", "bad.jsonl", "--to", "results.jsonl", "--json"],
    ],
    ids=lambda command: " ".join(command).replace(EVIL, "EVIL"),
)
def test_no_command_passes_on_what_steers_a_terminal(folder, command):
    request = {"custom_id": EVIL, "params": {"model": EVIL, "max_tokens": 1}}
    (folder / "odd.jsonl").write_text(json.dumps(request, ensure_ascii=False) + "\n")
    (folder / "bad.jsonl").write_text(json.dumps({**request, EVIL: 1, "params": {}}, ensure_ascii=False) + "\n")
    env = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_API_KEY": "canary-key"}
    ended = CliRunner().invoke(app, command, env=env)
    assert ended.output
    assert_harmless(ended.output)


def test_results_go_to_a_terminal_without_what_steers_it_and_raw_to_a_pipe(folder):
    command = [sys.executable, "-m", "abatch", "results", "done"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    assert EVIL.encode() in raw
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "wb", buffering=0) as screen:
        subprocess.run(command, stdout=screen, stderr=screen, stdin=subprocess.DEVNULL, check=True)
        shown = _read_all(terminal)
    assert "entry" in shown
    assert_harmless(shown.replace("\r\n", "\n"))


def _read_all(terminal: RawIOBase) -> str:
    read = b""
    os.set_blocking(terminal.fileno(), False)
    while piece := terminal.read(4096):
        read += piece
    return read.decode()
