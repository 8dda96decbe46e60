"""Nothing outside `abatch/journal/` puts a path together that lies in a journal's folder."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import abatch

ROOT = Path(abatch.__file__).parent
PARTS = {"spool", "missing", "ids", "lock", "status", "database"}
"""Attributes of a `JournalFolder` that are paths."""
NAMES = {"journal.db", "driver.json"}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent.name != "journal")


def of_folder(node: ast.expr) -> bool:
    """Whether an expression is a path that a `JournalFolder` gave, as far as its text tells."""
    if not isinstance(node, ast.Attribute):
        return False
    owner = ast.unparse(node.value).rpartition(".")[2].lstrip("_")
    return owner == "folder" and node.attr in PARTS | {"path"}


def wrongs(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.BinOp(left=left, op=ast.Div()) if of_folder(left):
                found.append(ast.unparse(node))
            case ast.Call(func=ast.Attribute(value=value, attr="joinpath" | "glob" | "iterdir")) if of_folder(value):
                found.append(ast.unparse(node))
            case ast.Constant(value=str(text)) if text in NAMES or text.endswith(".spool"):
                found.append(text)
            case _:
                pass
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_path_below_a_journal_s_folder_is_known_elsewhere(module):
    assert wrongs(ast.parse(module.read_text())) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "ledger.folder.spool / name",
        "self._folder.path / 'x'",
        "folder.missing.joinpath(name)",
        "folder.ids.iterdir()",
        "open('journal.db')",
        "f'{shard:08d}.spool'",
    ],
)
def test_a_path_below_it_would_be_seen(wrong):
    assert wrongs(ast.parse(wrong))
