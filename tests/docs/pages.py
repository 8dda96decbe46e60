"""Where the documentation and the code are, and what stands in the pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import abatch

ROOT = Path(__file__).parents[2]
PACKAGE = Path(abatch.__file__).parent
"""Of the checkout, or installed."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and the marker comment on the line before it, if any.

    `fragment: WHY` is not run; `notebook` is a cell, run behind those before it; `file: PATH` is that file; without a
    mark it is run.
    """

    page: Path
    line: int
    language: str
    mark: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start("code"))
                found.append(Block(page, line, language, match["mark"] or "", match["code"]))
    return found
