"""Each promise of the README stands in docs/promises.md with tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.docs.pages import PACKAGE, PAGES, ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text()
NAMED = sorted({name for page in PAGES for name in re.findall(r"`([\w/]+\.py::\w+)`", page.read_text())})
WORDS = (
    "Without a server that cooperates, exactly-once is impossible. abatch guarantees at-most-once with no timing "
    'assumption (`unresolved="hold"`), exactly-once under the stated and monitored bounds A1\u2013A7 '
    '(`unresolved="resubmit"`, the default), and exactly one result line per request in every sink, always.'
)


@cache
def defined_in(path):
    """The names of the tests of a file, in classes too."""
    file = PACKAGE.parent / path if path.startswith("abatch/") else ROOT / path
    defined = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in defined if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_is_named_exists(named):
    path, _, test = named.partition("::")
    assert test.startswith("test_")
    assert test in defined_in(path)


def test_every_promise_of_the_readme_has_its_tests():
    readme = (ROOT / "README.md").read_text().partition("## What is promised")[2].partition("\n## ")[0]
    promises = [" ".join(found.split()) for found in re.findall(r"^- \*\*(.*?)\*\*", readme, re.MULTILINE | re.DOTALL)]
    table = PAGE.partition("\n## ")[0]
    kept = dict(re.findall(r"^\| ([^|]*[^|-]) \| (`tests/[^|]*|`abatch/[^|]*) \|$", table, re.MULTILINE))
    assert len(promises) > 5
    assert sorted(promises) == sorted(kept)


@pytest.mark.parametrize("name", ["README.md", "docs/reliability.md"])
def test_the_promise_is_given_in_the_words_that_hold(name):
    assert WORDS in " ".join((ROOT / name).read_text().split())


def test_what_is_outside_the_promise_is_said():
    said = " ".join((ROOT / "README.md").read_text().split())
    for caveat in ("copying or restoring a journal", "losing the journal and its inputs", "a broken bound A1\u2013A7"):
        assert caveat in said
