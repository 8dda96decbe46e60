"""The page and the reference for authors of backends name what is published for them, and nothing else."""

from __future__ import annotations

import re

from abatch import storage
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "write-a-backend.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def test_every_tool_is_in_the_reference():
    listed = REFERENCE.partition("::: abatch.storage\n")[2].partition("\n\n")[0]
    assert re.findall(r"- (\w+)", listed) == storage.__all__


def test_every_tool_is_in_the_table_of_the_page():
    table = PAGE.partition("## Tools")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", table.partition("| to | use |")[2]))
    assert named - {"TooManyOpenFiles"} == set(storage.__all__)


def test_the_page_names_no_other_module_of_abatch_than_those_that_backends_may_import():
    modules = set(re.findall(r"`?(abatch\.[a-z]+)\b", PAGE)) - {"abatch.backends"}  # the entry-point group
    assert modules <= {"abatch.backend", "abatch.errors", "abatch.storage", "abatch.testing"}
