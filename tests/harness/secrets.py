"""What must not be found: the API key and the storage's secret anywhere, the prompts outside the spool."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

KEY = "canary-key-5d2e81f0"
"""Of no form that a redaction could know."""
PROMPT = "canary-prompt-93c7a4"
STORAGE = "test-secret-0123456789"
"""The secret of the S3 server of the tests."""
INPUT = "input.jsonl"


def found_in_files(folder: Path, *, at_rest: bool) -> Iterator[str]:
    """Secrets in the files of a run; prompts may stand in the input, and while shards are in flight in the spool."""
    for path in files_of(folder):
        if path.name == INPUT:
            continue
        allowed = [] if at_rest or path.parent.name != "spool" else [PROMPT]
        with suppress(FileNotFoundError):  # SQLite's, whose dead run is collected just now
            yield from found_in(path.relative_to(folder), path.read_bytes(), allowed=allowed)


def found_in(where: object, content: bytes, *, allowed: Iterable[str] = ()) -> Iterator[str]:
    """Secrets in bytes, whatever these are: a file, a stream, an object."""
    for name, secret in (("API key", KEY), ("prompt", PROMPT), ("storage secret", STORAGE)):
        if secret not in allowed and secret.encode() in content:
            yield f"the {name} stands in {where}"


def open_to_others(folder: Path) -> Iterator[str]:
    """Files and folders made by a run that somebody else may read."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if path.name != INPUT and mode & 0o077:
                yield f"{path.relative_to(folder)} has mode {mode:o}"


def files_of(folder: Path) -> list[Path]:
    """Every file below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]
