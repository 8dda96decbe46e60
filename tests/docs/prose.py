"""Words that the prose of the project avoids, counted by file; `python -m tests.docs.prose` prints the table.

`prose_counts.txt` holds the table, and the counts in it may only fall. After an edit that lowers one, or after a move
of a file:

    .venv/bin/python -m tests.docs.prose --write
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import ROOT

TABLE = Path(__file__).with_name("prose_counts.txt")
FOLDERS = ("abatch", "backends", "docs")
AVOIDED = {
    r"tells?|telling": "report, show, name",
    r"told": "reported, given",
    r"mend(?:s|ed|ing)?": "fix",
    r"hand(?:s|ed|ing)? (?:it |them |a job |the job |jobs )?over(?: again)?": "submit",
    r"anew|afresh": "again; reopen, reconnect",
    r"(?:one|some) of (?:his|its|their) own": "its own instance or connection",
    r"at (?:its|their) end": "finished",
    r"at hand": "available",
    r"(?:nobody|no one) (?:reads|asks|wants|waits|looks)": "ignored; nothing waits",
    r"let(?:s)? go of": "release, detach",
    r"comes? to (?:be|nothing)|came to nothing": "becomes; fails",
    r"stands? (?:in|there|at|behind|beside)": "is",
    r"behind (?:it|them|one another|the other)": "after",
    r"whoever": "a noun",
    r"(?-i:is none)": "is not one",
}
"""Each pattern, and what to write instead."""
PATTERN = re.compile(rf"\b(?:{'|'.join(AVOIDED)})\b", re.IGNORECASE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")


def _prose_of_python(source: str) -> Iterator[str]:
    """Comments and docstrings, also those of attributes; other strings are not prose for readers of the code."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


def prose_of(path: Path) -> str:
    """What a person reads in a file, without its code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = "\n".join(_prose_of_python(text))
    return CODE.sub("", FENCE.sub("", text))


def files() -> list[Path]:
    """Every file whose prose is checked."""
    found = [path for folder in FOLDERS for suffix in ("py", "md") for path in (ROOT / folder).rglob(f"*.{suffix}")]
    return sorted([*found, *ROOT.glob("*.md")])


def avoided_in(path: Path) -> list[str]:
    """Each avoided word of a file, as it is written there."""
    return [" ".join(match[0].split()) for match in PATTERN.finditer(" ".join(prose_of(path).split()))]


def counts() -> dict[str, int]:
    """How many avoided words each file has; files without one are left out."""
    found = {path.relative_to(ROOT).as_posix(): len(avoided_in(path)) for path in files()}
    return {name: count for name, count in found.items() if count}


def table() -> dict[str, int]:
    """The counts that files may have at most."""
    rows = (line.rsplit(" ", 1) for line in TABLE.read_text().splitlines())
    return {name: int(count) for name, count in rows}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.docs.prose", description="Count words to avoid, by file.")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}; a sum that rises is refused")
    parser.add_argument("file", nargs="*", type=Path, help="show the words of these files instead")
    options = parser.parse_args()
    for path in options.file:
        for word in avoided_in(path):
            print(f"{path}: {word}")
    if options.file:
        return 0
    now = counts()
    new = "".join(f"{name} {count}\n" for name, count in sorted(now.items()))
    if not options.write:
        sys.stdout.write(new)
        return 0
    before = sum(table().values()) if TABLE.exists() else sum(now.values())
    if sum(now.values()) > before:
        print(f"not written: {sum(now.values())} words to avoid, {before} before", file=sys.stderr)
        return 1
    TABLE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
