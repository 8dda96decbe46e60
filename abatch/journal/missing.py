"""The lists of rows without a result, one per shard: JSON lines `{"custom_id", "reason"}`.

`JournalFolder.missing_list` returns the path of a list. These calls block: see `threads.run`.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from abatch.system.drafts import replaced

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["count_missing", "read_missing", "read_reasons", "write_missing"]


def write_missing(path: Path, entries: Sequence[tuple[bytes, str]]) -> None:
    """Write the list of a shard's rows without a line durably; an existing list is replaced."""
    with replaced(path) as file:
        for custom_id, reason in entries:
            file.write(b'{"custom_id":' + custom_id + b',"reason":' + msgspec.json.encode(reason) + b"}\n")


def count_missing(path: Path) -> int:
    """Return the number of rows in such a list; 0 if there is no list."""
    with suppress(FileNotFoundError):
        return path.read_bytes().count(b"\n")
    return 0


def read_missing(path: Path) -> list[bytes]:
    """Return the custom_ids in such a list, as JSON strings; the list must exist."""
    with path.open("rb") as file:
        return [msgspec.json.encode(json.loads(line)["custom_id"]) for line in file]


def read_reasons(path: Path) -> dict[str, str]:
    """Return why each row of such a list has no result, by custom_id; the list must exist."""
    with path.open("rb") as file:
        return {entry["custom_id"]: entry["reason"] for entry in map(json.loads, file)}
