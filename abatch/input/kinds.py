"""Recognize by its beginning an input that is not JSON lines of requests, and name the command that converts it.

Without this, every line of such an input would be reported as a separate problem.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from abatch.errors import ConfigError
from abatch.input.request import BLANK, BOM

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_kind", "is_gzip", "is_zstd"]


class Kind(NamedTuple):
    """A known kind of file that is not JSON lines of requests."""

    text: str
    """The description of the file, which follows the word "this"."""
    filter: str
    """A command that reads the file and writes JSON lines of requests; empty if there is none."""
    remedy: str = ""
    """Another remedy, if there is one."""


LOOKED_AT: Final = 2**16
"""Bytes at the beginning of an input from which its kind is recognized."""
EACH_OBJECT: Final = "jq -c ."
OTHER_PARAMS: Final = 'write each as {"custom_id": …, "params": …} with the params of messages.create'
_MAGIC: Final = (
    (b"BZh", Kind("is compressed with bzip2", "bzip2 -dc")),
    (b"\xfd7zXZ\0", Kind("is compressed with xz", "xz -dc")),
    (b"\x1f\x8b", Kind("is compressed with gzip", "gzip -dc", "give it a name that ends in .gz")),
    (b"\x28\xb5\x2f\xfd", Kind("is compressed with zstd", "zstd -dc", "give it a name that ends in .zst")),
    (b"PAR1", Kind("is a Parquet file", "", f"read its rows, and {OTHER_PARAMS}")),
    (b"PK\x03\x04", Kind("is a zip archive or a spreadsheet", "", "unpack it, or save it as JSON lines")),
    (b"\xff\xfe", Kind("is UTF-16", "iconv -f UTF-16 -t UTF-8")),
    (b"\xfe\xff", Kind("is UTF-16", "iconv -f UTF-16 -t UTF-8")),
    (b"{\0", Kind("is UTF-16", "iconv -f UTF-16LE -t UTF-8")),
    (b"\0{", Kind("is UTF-16", "iconv -f UTF-16BE -t UTF-8")),
    (b"\x1e", Kind("is a JSON text sequence", r"tr -d '\036'")),
)
_REQUESTS: Final = re.compile(rb'\{\s*"requests"\s*:\s*\[')
_ONE_OBJECT: Final = Kind('is one object {"requests": […]}', "jq -c '.requests[]'")
_TABLE: Final = re.compile(rb"[^{}\[\]:,;\t]+([,;\t][^{}\[\]:,;\t]*)+")


def is_gzip(path: Path) -> bool:
    """Return whether the name of a file says that it is compressed with gzip."""
    return path.suffix.lower() == ".gz"


def is_zstd(path: Path) -> bool:
    """Return whether the name of a file says that it is compressed with zstd."""
    return path.suffix.lower() == ".zst"


def check_kind(head: bytes, path: Path | None) -> None:
    """Raise if an input begins like a file of another kind.

    Args:
        head: its first lines, decompressed.
        path: the path of the input; None for stdin.

    Raises:
        ConfigError: the input is of another kind.

    """
    kind = _kind_of(head[:LOOKED_AT].removeprefix(BOM))
    if kind is None:
        return
    told = f"input {'from stdin' if path is None else path} must be JSON lines, one request on each; this {kind.text}."
    remedies = [f"Convert it with: {_command(kind.filter, path)}"] if kind.filter else []
    remedies += [kind.remedy[:1].upper() + kind.remedy[1:]] if kind.remedy else []
    raise ConfigError(f"{told} {'. Or '.join(remedies)}")


def _command(filter_: str, path: Path | None) -> str:
    if path is None:
        return filter_
    name = shlex.quote(str(path))
    if is_gzip(path) or is_zstd(path):
        return f"{'gzip' if is_gzip(path) else 'zstd'} -dc {name} | {filter_} > new.jsonl"
    return f"{filter_} < {name} > new.jsonl"


def _kind_of(head: bytes) -> Kind | None:
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    text = head.lstrip(BLANK)
    line = text.partition(b"\n")[0].strip(BLANK)
    if text.startswith(b"["):
        return Kind("is one JSON array", "jq -c '.[]'")
    if not text.startswith(b"{"):
        return _table(line)
    try:
        first, end = json.JSONDecoder().raw_decode(text.decode(errors="replace"))
    except (ValueError, RecursionError):
        return _cut_short(text, line)
    if _REQUESTS.match(text):
        return _ONE_OBJECT
    if end > len(line.decode(errors="replace")):
        return Kind("has objects over several lines", EACH_OBJECT)
    if line.decode(errors="replace")[end:].lstrip().startswith("{"):
        return Kind("has several objects on one line", EACH_OBJECT)
    return _of_another_api(cast("dict[str, Any]", first))


def _cut_short(text: bytes, line: bytes) -> Kind | None:
    """Return the kind of a file whose first object is longer than the examined bytes, or is not JSON."""
    if _REQUESTS.match(text):
        return _ONE_OBJECT
    goes_on = line.endswith((b"{", b"[", b",", b":")) and b"\n" in text
    return Kind("has objects over several lines", EACH_OBJECT) if goes_on else None


def _of_another_api(first: dict[str, Any]) -> Kind | None:
    """Return the kind of a file whose JSON lines are those of another API; None if they are not recognized as such."""
    match first:
        case {"custom_id": _, "params": _}:
            return None
        case {"body": _, "url": _} | {"body": _, "method": _}:
            return Kind("is a batch file of OpenAI", "", f"its bodies are not those of this API: {OTHER_PARAMS}")
        case {"recordId": _, "modelInput": _}:
            convert = '{custom_id: .recordId, params: (.modelInput | del(.anthropic_version) + {model: "MODEL"})}'
            return Kind("is a batch file of Bedrock", f"jq -c '{convert}'")
        case {"request": {"messages": _} | {"contents": _}}:
            convert = '{custom_id, params: (.request | del(.anthropic_version) + {model: "MODEL"})}'
            return Kind("is a batch file of Vertex", f"jq -c '{convert}'")
        case {"messages": _}:
            convert = '{custom_id: "row-\\(input_line_number)", params: .}'
            return Kind("has params without custom_id", f"jq -c '{convert}'")
        case _:
            return None


def _table(line: bytes) -> Kind | None:
    if _TABLE.fullmatch(line) is None:
        return None
    return Kind("looks like a table (CSV)", "", f"read its rows, and {OTHER_PARAMS}")
