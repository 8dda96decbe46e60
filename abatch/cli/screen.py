"""Where a command writes: messages and logs to stderr, its output to stdout. Only this module configures logs."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog
from rich.cells import cell_len
from rich.console import Console, Group
from rich.segment import Segment
from rich.style import Style
from rich.table import Table

from abatch.cli.sanitize import clean, json_line
from abatch.errors import ConfigError
from abatch.log import redact, without_none

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping, Sequence

    from rich.console import ConsoleOptions, RenderableType, RenderResult

__all__ = ["Screen", "configure_logs", "table", "tables"]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30}
GAP: Final = 2
"""Columns between two of a table's."""
HEIGHT: Final = 25
"""Lines of a screen whose number does not matter, because nothing on it is drawn again."""
WIDE: Final = 240
"""Columns if no terminal reports their number, so that no row of a table is folded."""


def _columns(terminal: TextIO) -> int | None:
    """Return the width of a dumb terminal, which rich assumes to have 80 columns; rich knows the width of any other."""
    if os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
        return None
    try:
        return os.get_terminal_size(terminal.fileno()).columns or None
    except OSError:
        return None


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = _columns(stream) if stream.isatty() else WIDE
    height = None if width is None else HEIGHT  # on a dumb terminal, rich ignores a width without a height
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width, height=height)


IN_WORDS: Final = {
    "journal_folder_was_open": "other users could read {folder}; it is closed to them now",
}
"""Events that short lines show as sentences."""
SAID: Final = frozenset({"job_stopped", "shards_reopened"})
"""Events that short lines leave out, because the command reports them itself."""


class Screen:
    """The two streams of a command; `quiet` suppresses all messages except errors and warnings.

    Where ABATCH_LOG asks for a log and stderr is no terminal, messages are JSON lines like the log's.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.messages = _console(stderr=True)
        self.output = _console(stderr=False)
        self.as_json = os.environ.get("ABATCH_LOG", "") in LEVELS and not self.messages.is_terminal

    @property
    def live(self) -> bool:
        """Whether a person watches the messages on a terminal that can move a bar."""
        return self.messages.is_terminal and not self.messages.is_dumb_terminal and not self.quiet

    def say(self, text: str) -> None:
        """Write a message."""
        if not self.quiet:
            self._write(text, "info")

    def complain(self, text: str) -> None:
        """Write a message that even `quiet` does not suppress."""
        self._write(text, "error" if text.startswith("error:") else "warning")

    def show(self, what: RenderableType) -> None:
        """Write a table or other rendering to the stream of messages."""
        if self.as_json:
            with self.messages.capture() as rendered:
                self.messages.print(what)
            self.say(rendered.get().rstrip())
        elif not self.quiet:
            self.messages.print(what)

    def give(self, what: object) -> None:
        """Write one JSON object, on one line, to stdout: the same data, and nothing that a terminal obeys.

        It is UTF-8 where stdout is, and ASCII elsewhere, so that every reader of JSON takes it.
        """
        encoding = sys.stdout.encoding.lower().replace("_", "-")
        sys.stdout.write(json_line(what, ascii_only=encoding not in ("utf-8", "utf8")) + "\n")
        sys.stdout.flush()

    def _write(self, text: str, level: str) -> None:
        text = clean(text, lines=True)
        if self.as_json:
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")  # as structlog writes it
            text = json_line({"event": "message", "text": text, "level": level, "timestamp": now}, ascii_only=True)
        self.messages.out(text, highlight=False)


def table(*columns: str, rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> Table:
    """A plain table; every cell is cleaned."""
    made = Table(*(), box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(clean(cell) for cell in row))
    return made


def tables(width: int, *columns: str, rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> Group:
    """A table that is never wider than the screen: columns that do not fit follow below, after the first column."""
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(columns, *cells, strict=True)]
    parts: list[list[int]] = [[0]]
    left = width - widths[0]
    for at, wide in enumerate(widths[1:], 1):
        if len(parts[-1]) > 1 and wide + GAP > left:
            parts.append([0])
            left = width - widths[0]
        parts[-1].append(at)
        left -= wide + GAP

    def line(part: list[int], row: Sequence[str]) -> str:
        return (" " * GAP).join([_padded(row[at], widths[at], right=columns[at] in right) for at in part])

    def rendered(part: list[int]) -> RenderableType:
        if sum(widths[at] + GAP for at in part) - GAP > width:  # a cell must be folded
            return table(*(columns[at] for at in part), rows=([row[at] for at in part] for row in cells), right=right)
        return _Lines(line(part, columns), [line(part, row) for row in cells])

    return Group(*map(rendered, parts))


def _width(cell: str) -> int:
    return len(cell) if cell.isascii() else cell_len(cell)


def _padded(cell: str, width: int, *, right: bool) -> str:
    blank = " " * (width - _width(cell))
    return blank + cell if right else cell + blank


class _Lines:
    """Lines that fit the screen under a bold one; a table of rich would read every cell several times."""

    def __init__(self, head: str, lines: list[str]) -> None:
        self._head = head
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self._head, Style(bold=True))
        yield Segment.line()
        for line in self._lines:
            yield Segment(f"{line}\n")


def configure_logs(screen: Screen, *, hush: frozenset[str] = frozenset()) -> None:
    """Send abatch's own warnings to stderr as short lines; as much of its log as ABATCH_LOG asks for, as JSON lines.

    On a terminal all lines are short. `Screen.quiet` keeps messages back, and no part of a log that was asked for. No
    other library's log is shown.

    Args:
        screen: where to.
        hush: names of events that mean nothing here.

    Raises:
        ConfigError: ABATCH_LOG is not a level.

    """
    wish = os.environ.get("ABATCH_LOG", "")
    if wish and wish not in LEVELS:
        raise ConfigError(f"ABATCH_LOG must be one of {', '.join(LEVELS)}, got {wish!r}")
    level = LEVELS[wish or "warning"]

    def drop(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event["event"] in hush or (not screen.as_json and event["event"] in SAID):
            raise structlog.DropEvent
        return event

    structlog.configure(
        processors=[
            drop,
            without_none,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            redact,
            structlog.processors.JSONRenderer() if screen.as_json else _short_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Logger(screen),
    )


def _short_line(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    level, name = event.pop("level"), event.pop("event")
    event.pop("timestamp")
    if name == "params_doubtful":  # in words, for people
        count = event["requests"]
        return clean(f"{level}: {count:,} request{'s' * (count != 1)}: {event['why']} (line {event['lines']})")
    if name in IN_WORDS:
        return clean(f"{level}: {IN_WORDS[name].format_map(event)}")
    said = " ".join(f"{key}={value}" for key, value in event.items())
    return clean(f"{level}: {name} {said}".rstrip())


class _Logger:
    """Writes rendered events through the screen, so that they do not break its bar."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def msg(self, line: str) -> None:
        self._screen.messages.out(line, highlight=False)

    debug = info = warning = error = critical = msg
