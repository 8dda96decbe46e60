"""The progress of a run: percent, rate and time left, on lines that fit, and a first line before anything is slow."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from abatch import Failure, Forecast, Progress
from abatch.__main__ import _first_words
from abatch.cli.follow import AT_LEAST, LINE, _View, failures_table
from abatch.cli.progress import Pace, counts, flowed, percent, times
from abatch.cli.screen import Screen, tables
from abatch.protocol.forecast import LATE, NO_HISTORY, NOTHING_SENT, OPEN_INPUT, OPERATOR, STOPPED

WIDTHS = pytest.mark.parametrize("width", [60, 80, 120])
WHYS = pytest.mark.parametrize("why", [NO_HISTORY, LATE, NOTHING_SENT, OPEN_INPUT, OPERATOR, STOPPED])
LARGE = Progress(
    planned=9_876_543,
    submitted=9_876_543,
    in_flight=8_765_432,
    sealed=1_111_111,
    failed=123_456,
    missing=12_345,
    batches=988,
    batches_in_flight=877,
    in_doubt=12,
    held=3,
    total=98_765_432,
)


@dataclass
class Clock:
    """A clock that a test puts forward."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Standing:
    """A job as the view asks for it."""

    at: Progress
    left: Forecast = field(default_factory=lambda: Forecast(why=NO_HISTORY))
    snapshots: int = 0
    forecasts: int = 0

    def progress(self) -> Progress:
        self.snapshots += 1
        return self.at

    def forecast(self, progress: Progress | None = None) -> Forecast:
        assert progress == self.at
        self.forecasts += 1
        return self.left


def drawn(what: Any, width: int) -> list[str]:
    console = Console(width=width, file=StringIO(), force_terminal=True, color_system=None)
    console.print(what)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


@WIDTHS
@WHYS
def test_no_line_of_the_progress_is_wider_than_the_screen_and_no_piece_is_divided(width: int, why: str) -> None:
    clock = Clock()
    job = Standing(Progress(total=LARGE.total), Forecast(why=why))
    view = _View(job, clock)
    job.at, clock.now = LARGE, clock.now + 12_345
    lines = drawn(view.render(width), width)
    assert max(map(cell_len, lines)) <= width
    told = flowed(counts(LARGE), width) + flowed(["90/s", "running for 3h 25m", f"time left: {why}"], width)
    assert lines[1:] == told
    assert all(any(piece in line for line in lines) for piece in counts(LARGE))
    assert lines[0].endswith("1%")


def test_a_frame_takes_one_snapshot_and_a_second_one_forecast() -> None:
    clock = Clock()
    job = Standing(LARGE)
    view = _View(job, clock)
    job.snapshots = 0
    for frame in range(1, 13):
        view.render(80)
        assert job.snapshots == frame
        clock.now += 0.25
    assert job.forecasts == 3


def test_the_share_of_a_trial_is_of_the_requests_that_its_limit_allows() -> None:
    trial = Progress(planned=100, submitted=100, sealed=50, total=1_000_000, limit=100)
    assert percent(trial) == "50%"
    assert drawn(_View(Standing(trial), Clock()).render(80), 80)[0].endswith("50%")
    assert percent(Progress(planned=40, sealed=20, total=40, limit=100)) == "50%"
    assert percent(Progress(planned=100, sealed=50, limit=100)) == "50%"  # of an iterable that may be longer
    assert percent(Progress(planned=40, sealed=20, limit=100)) == ""  # it may be shorter


@WIDTHS
@WHYS
def test_a_line_of_the_log_fits_a_terminal_that_has_no_bar(
    width: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen()
    screen.messages.width = width
    _View(Standing(LARGE, Forecast(why=why)), Clock()).write(screen)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0][20:].startswith("1% · planned 9,876,543 of 98,765,432")
    assert all(line.startswith(" " * 20) for line in lines[1:])


@pytest.mark.parametrize("columns", [60, 120])
def test_a_dumb_terminal_has_no_bar_and_its_real_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "dumb")
        screen = Screen()
        assert (screen.live, screen.messages.width) == (False, columns)
        monkeypatch.setenv("TERM", "xterm")
        assert Screen().live
    os.close(ours)


@WIDTHS
def test_long_names_stay_inside_the_screen(width: int) -> None:
    name = "the-nightly-evaluation-of-everything-that-we-ever-asked-" + "x" * 43
    failures = [Failure(type="e" * 60, message="a message " * 20, count=1_000_000, example="custom-" * 70)]
    row = (name, "in doubt", *["98,765,432"] * 7, "2026-11-30 18:30:00")
    shown = (
        failures_table(failures),
        tables(width, "job", "state", "total", *"abcdef", "since", rows=[row]),
    )
    for each in shown:
        assert max(cell_len(line) for line in drawn(each, width)) <= width


def test_rate_and_percent_come_from_the_results_of_this_run() -> None:
    clock = Clock()
    pace = Pace(1_000, clock)
    assert pace.rate(1_000) == ""
    clock.now += 100
    assert pace.rate(1_000) == ""  # nothing came: no rate is better than 0/s
    assert [pace.rate(1_000 + new) for new in (250_000, 100, 50, 1)] == ["2,500/s", "1/s", "30/min", "36/h"]
    shares = [percent(Progress(sealed=sealed, total=total)) for sealed, total in ((0, 3), (2, 3), (299, 300), (3, 3))]
    assert shares == ["0%", "66%", "99%", "100%"]
    assert percent(Progress(sealed=5)) == ""


def test_the_time_left_is_a_guess_or_the_reason_why_there_is_none() -> None:
    pace = Pace(0, Clock())
    guessed = [times(LARGE, pace, Forecast(seconds=seconds))[-1] for seconds in (7_260.0, 0.0)]
    assert guessed == ["about 2h 1m left", "about to end"]
    assert times(LARGE, pace, Forecast(why=NO_HISTORY))[-1] == "time left: no history yet"


def test_a_line_is_written_when_numbers_change_and_not_because_time_passes(capsys: pytest.CaptureFixture[str]) -> None:
    clock, screen = Clock(), Screen()
    job = Standing(Progress(planned=10, total=10))
    view = _View(job, clock)
    for _ in range(3):
        view.write(screen)
        clock.now += LINE
    assert capsys.readouterr().err.count("\n") == 1
    clock.now += AT_LEAST
    view.write(screen)
    assert "running for" in capsys.readouterr().err
    job.at = Progress(planned=10, sealed=10, total=10)
    view.write(screen, last=True)
    last = capsys.readouterr().err
    assert "100% · planned 10 of 10" in last
    assert "left" not in last


def test_a_person_reads_something_before_anything_slow_is_imported(tmp_path: Any) -> None:
    """The commands are kept from being imported at all: what is read comes before them."""
    code = "import sys; sys.modules['abatch.cli.app'] = None; from abatch.__main__ import main; main()"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code, "run", "in.jsonl", "--to", "out.jsonl"]
    done = subprocess.run(command, stderr=theirs, stdout=subprocess.DEVNULL, cwd=tmp_path, check=False)
    os.close(theirs)
    first = b"abatch run: starting\r\n"
    assert os.read(ours, len(first)) == first
    os.close(ours)
    assert done.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["status"], ["run", "in.jsonl", "-q"], ["retry", "job", "-yq"], ["run", "--quiet"], ["run", "--help"]],
)
def test_where_nobody_waits_there_is_no_first_line(arguments: list[str]) -> None:
    assert _first_words(arguments, terminal=True) is None
    assert _first_words(["run", "in.jsonl"], terminal=False) is None
    assert _first_words(["run", "in.jsonl"], terminal=True) is not None
