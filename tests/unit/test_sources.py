"""The files that a job's requests came from, as the journal keeps them."""

from __future__ import annotations

import pytest

from abatch.protocol.facts import (
    ChangedSource,
    FilePart,
    FileSource,
    FilesSource,
    IterableSource,
    SelectedSource,
    Source,
    files_of,
    source_of,
)

ONE, OTHER = (FilePart(path=f"{name}.jsonl", size=1, mtime_ns=2, sha256="s") for name in ("one", "other"))


@pytest.mark.parametrize("files", [(ONE,), (ONE, OTHER)])
def test_files_come_back_from_the_source_that_was_made_of_them(files: tuple[FilePart, ...]) -> None:
    source = source_of(files, rows=40)
    assert isinstance(source, FileSource if len(files) == 1 else FilesSource)
    assert files_of(source) == files
    assert source.rows == 40


@pytest.mark.parametrize(
    "source",
    [
        SelectedSource(files=(ONE, OTHER), rows=40, answered_by="job", skipped=3, mask=b"m"),
        ChangedSource(files=(ONE, OTHER), rows=40, sent=10, mask=b"m"),
    ],
)
def test_a_selection_and_a_changed_input_name_their_files(source: Source) -> None:
    assert files_of(source) == (ONE, OTHER)


def test_an_iterable_has_no_files() -> None:
    assert files_of(IterableSource()) == ()
