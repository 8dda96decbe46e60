"""Plain words in comments, docstrings and pages: a file may lose words to avoid, and never gains one."""

from __future__ import annotations

from pathlib import Path

from tests.docs import prose


def test_no_file_has_more_words_to_avoid_than_its_row_of_the_table() -> None:
    allowed = prose.table()
    risen = {name: count for name, count in prose.counts().items() if count > allowed.get(name, 0)}
    assert not risen, "python -m tests.docs.prose FILE shows the words; AVOIDED in tests/docs/prose.py what to write"


def test_words_count_in_comments_and_docstrings_and_not_in_code(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('"""It is told\nanew."""\nmended = "told"  # at hand\nx: int\n"""`told` is code."""\n')
    assert sorted(prose.avoided_in(file)) == ["anew", "at hand", "told"]


def test_words_count_in_pages_and_not_in_their_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Mended, and `mended`.\n\n```sh\nmended\n```\n")
    assert prose.avoided_in(page) == ["Mended"]
