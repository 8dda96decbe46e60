"""Help texts, numbers and the sanitiser, in this process."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner

from abatch import Estimate
from abatch.cli.app import app
from abatch.cli.estimate import rows_to_show, submit_every
from abatch.cli.exit_codes import status_of, tell
from abatch.cli.follow import summary_table
from abatch.cli.sanitize import clean, duration, money
from abatch.cli.screen import Screen, table, tables
from abatch.errors import ApiError, BackendError, BadRequest, ConfigError, JobConflict, JobStopped
from abatch.result import Summary

COMMANDS = ("run", "status", "results", "cancel", "retry", "redrain", "resolve", "id", "estimate", "sandbox")


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "100", "TERM": "dumb"})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(command: str) -> None:
    shown = invoke(command, "--help")
    assert shown.exit_code == 0
    assert f"Example: abatch {command} " in shown.output


def test_help_names_every_command_and_the_version_is_shown() -> None:
    shown = invoke("--help").output
    assert all(f"\n  {command} " in shown for command in COMMANDS)
    assert "..." not in shown.partition("Commands:")[2]
    assert "[[" not in invoke("status", "--help").output
    assert invoke("--version").output.startswith("abatch ")


def test_no_command_takes_a_key_as_an_argument() -> None:
    for command in COMMANDS:
        assert "api-key" not in invoke(command, "--help").output


def test_estimate_says_how_large_and_how_often(tmp_path: Any, line: Any) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(line(n) for n in range(120)))
    shown = invoke("estimate", str(path), "--sla", "30h")
    assert shown.exit_code == 0, shown.output
    assert "at least every 6h" in shown.output
    assert "Below 100" not in shown.output
    assert "bytes of the requests / 4" in shown.output
    path.write_bytes(b"\n".join(line(n, model="claude-unheard-of\x07") for n in range(2)))
    small = invoke("estimate", str(path))
    assert "Below 100 requests" in small.output
    assert "cost is unknown" in small.output
    assert "no price for 'claude-unheard-of" in small.output
    assert invoke("estimate", str(path), "--sla", "24h").exit_code == 2
    assert "needs a file" in invoke("estimate", "-").stderr


def test_estimate_costs_half_and_counts_all_that_is_allowed(tmp_path: Any, line: Any) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(line(n, max_tokens=1_000_000) for n in range(10)))
    told = __import__("json").loads(invoke("estimate", str(path), "--json").output)
    low, high = told["synchronous_cost"]
    assert told["requests"] == 10
    assert told["output_tokens_at_most"] == 10_000_000
    assert high - low == pytest.approx(50.0)
    assert told["cost"] == [low / 2, high / 2]


@pytest.mark.parametrize(("sla", "seconds"), [("30h", 21_600), ("2d", 86_400), ("1500m", 3_600), ("24.5h", 1_800)])
def test_an_sla_leaves_what_is_over_a_day(sla: str, seconds: float) -> None:
    assert submit_every(sla) == seconds


@pytest.mark.parametrize("sla", ["24h", "1d", "5", "soon", "-30h"])
def test_an_sla_that_cannot_be_kept_is_refused(sla: str) -> None:
    with pytest.raises(ConfigError):
        submit_every(sla)


@pytest.mark.parametrize(
    ("hostile", "safe"),
    [
        ("a\x1b[31mb\x1b[0m", "ab"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://evil\x1b\\link", "link"),
        ("\x9b31mx\x85\x00\x7f\r", "31mx"),
        ("\u202eab\u2066\u200f\u061c", "ab"),
        ("a\nb\tc", "a b c"),
        ("half \ud83d", "half \ufffd"),
        ("Grüße 日本 🙂", "Grüße 日本 🙂"),
    ],
)
def test_nothing_hostile_stays(hostile: str, safe: str) -> None:
    assert clean(hostile) == safe


def test_newlines_stay_where_they_are_ours() -> None:
    assert clean("a\nb\x1b", lines=True) == "a\nb"


def test_numbers_are_readable() -> None:
    assert [duration(s) for s in (0, 59.6, 3_600, 90_061)] == ["0s", "1m", "1h", "1d 1h"]
    assert [money(d) for d in (None, 0.1234, 1234.5)] == ["unknown (no price for a model)", "$0.1234", "$1,234.50"]


def last_screen(today: date = date(2026, 12, 1), **more: Any) -> str:
    counts = {"requests": 9, "succeeded": 9, "errored": 0, "canceled": 0, "expired": 0}
    summary = Summary(key="k", location="out.jsonl", prices_of="2026-11-30", **{**counts, **more})
    console = Console(file=StringIO(), width=100)
    console.print(summary_table(summary, today=today))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_last_screen_says_why_the_cost_is_not_known() -> None:
    shown = last_screen(unpriced=("no price for 'claude-new'", "speed 'fast' has no price\x1b[2J"))
    assert "unknown: no price for 'claude-new'; speed 'fast' has no price" in shown
    assert "\x1b" not in shown
    assert "synchronous" not in shown
    known = last_screen(cost=1.5, synchronous_cost=3.0)
    assert "$1.50" in known
    assert "$3.00" in known
    assert "unknown" not in known


def test_the_age_of_the_price_list_is_shown_once_it_is_over_90_days() -> None:
    assert "days old" not in last_screen(date(2027, 2, 28))
    assert "the price list is of 2026-11-30, 91 days old" in last_screen(date(2027, 3, 1))
    made = Estimate(prices_of="2026-11-30")
    assert "prices" not in dict(rows_to_show(made, today=date(2027, 2, 28)))
    assert "91 days old" in dict(rows_to_show(made, today=date(2027, 3, 1)))["prices"]


def test_the_last_screen_counts_why_answers_stopped() -> None:
    assert "end_turn 7 · max_tokens 2" in last_screen(stop_reasons={"end_turn": 7, "max_tokens": 2})
    assert "stopped" not in last_screen()


def test_statuses_of_errors() -> None:
    assert [status_of(e) for e in (ConfigError("x"), JobConflict("k", "d"), BadRequest(1, None, "w"))] == [2, 2, 2]
    assert [status_of(e) for e in (ApiError("list"), JobStopped("k", "r", "m"), OSError(28, "full"))] == [3, 3, 3]
    assert "disk is full" in tell(OSError(28, "No space left on device"))


def test_an_unexpected_error_shows_where_but_no_locals_and_no_key() -> None:
    def fail() -> None:
        prompt = "a secret prompt"
        raise RuntimeError(f"bad {len(prompt)} sk-ant-api03-abc")

    with pytest.raises(RuntimeError) as caught:
        fail()
    told = tell(caught.value)
    assert "in fail" in told
    assert "RuntimeError: bad 15 [redacted]" in told
    assert "a secret prompt" not in told.replace('prompt = "a secret prompt"', "")


@pytest.mark.parametrize("width", [20, 40, 80, 240])
def test_a_table_is_never_wider_than_the_screen_and_breaks_no_cell(width: int) -> None:
    columns = ("job", "total", "batch", "wire prefix")
    cells = ("nightly", "1,000,000", "msgbatch_0123456789abcdef", "a1-0000000H-01-7C2M0Z9QKXJ4-")
    console = Console(width=width, file=StringIO())
    console.print(tables(width, *columns, rows=[cells], right=("total",)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    if width >= 40:
        assert all(any(cell in line for line in lines) for cell in cells)
        assert all(line.startswith("job") for line in lines[::2])
        assert all(line.startswith("nightly") for line in lines[1::2])
    if width == 240:
        assert len(lines) == 2


def test_a_table_that_fits_looks_as_rich_would_draw_it_and_costs_no_look_at_every_cell() -> None:
    columns = ("job", "total", "state")
    rows = [("nightly", "1,000,000", "done"), ("日本語", "1", "in doubt"), ("a\x1b[1mb", "22", "held")]
    ours, drawn = (Console(width=240, file=StringIO()) for _ in range(2))
    made = tables(240, *columns, rows=rows, right=("total",))
    assert not any(isinstance(part, Table) for part in made.renderables)
    ours.print(made)
    drawn.print(table(*columns, rows=rows, right=("total",)))
    lines, expected = (each.file.getvalue().splitlines() for each in (ours, drawn))
    assert [line.rstrip() for line in lines] == [line.rstrip() for line in expected]
    assert len(lines) == 4


def test_a_storage_error_names_its_place_once() -> None:
    taken = BackendError("jsonl:////tmp/out.jsonl", "/tmp/.out.jsonl.abatch belongs to another job")
    assert tell(taken) == "/tmp/.out.jsonl.abatch belongs to another job"
    assert tell(BackendError("sqlite:////tmp/out.db", "is locked")) == "/tmp/out.db: is locked"
    assert tell(BackendError("key", "its backend is an object")) == "key: its backend is an object"
    assert tell(BackendError("s3://bucket/x", "answered 403")) == "s3://bucket/x: answered 403"


def test_messages_are_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().say("a\x1b[1mb")
    Screen(quiet=True).say("not shown")
    Screen(quiet=True).complain("shown")
    assert capsys.readouterr().err == "ab\nshown\n"


def test_without_the_extra_the_command_says_what_brings_it() -> None:
    code = "import sys; sys.modules['typer'] = None; from abatch.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "The abatch command needs packages that are not installed: pip install 'abatch[cli]'\n"
