"""No custom_id stands twice: in memory or on disk, each repetition is found and named."""

from __future__ import annotations

import sqlite3
import tracemalloc
from contextlib import closing

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abatch.input import duplicates
from abatch.input.duplicates import IDS_IN_MEMORY, DuplicateIndex, HashPartitions
from tests.unit.make import names

pytestmark = pytest.mark.anyio


def numbered(*custom_ids: str, first: int = 1) -> tuple[list[bytes], range]:
    return [msgspec.json.encode(custom_id) for custom_id in custom_ids], range(first, first + len(custom_ids))


def test_ids_are_noted_across_calls(tmp_path):
    with closing(DuplicateIndex(tmp_path)) as seen:
        assert seen.add(*numbered("a", "b")) == []
        assert seen.add(*numbered("c", first=3)) == []
        (problem,) = seen.add(*numbered("d", "b", first=4))
    assert (problem.line, problem.custom_id, problem.why) == (5, "b", "custom_id stands on line 2 already")


def test_many_ids_are_told_apart(tmp_path):
    with closing(DuplicateIndex(tmp_path)) as seen:
        assert seen.add(*numbered(*map(str, range(20_000)))) == []
        assert len(seen.add(*numbered(*map(str, range(19_990, 20_010)), first=20_001))) == 10


@pytest.mark.parametrize("room", [0, 2_000, IDS_IN_MEMORY])
@given(st.lists(st.lists(st.integers(0, 60).map(str), max_size=20), max_size=8))
def test_in_memory_or_on_disk_each_repetition_names_the_first(tmp_path, room, blocks):
    first: dict[str, int] = {}
    number = 1
    with pytest.MonkeyPatch.context() as less, closing(DuplicateIndex(tmp_path)) as seen:
        less.setattr(duplicates, "IDS_IN_MEMORY", room)
        for block in blocks:
            expected = [n for n, text in enumerate(block, number) if first.setdefault(text, n) != n]
            problems = seen.add(*numbered(*block, first=number))
            assert [problem.line for problem in problems] == expected
            assert all(f"line {first[str(problem.custom_id)]} " in problem.why for problem in problems)
            number += len(block)


def test_nothing_of_it_has_a_name_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "IDS_IN_MEMORY", 1_000)
    with closing(DuplicateIndex(tmp_path)) as seen:
        seen.add(*numbered(*map(str, range(5_000))))
        assert names(tmp_path) == []
        (problem,) = seen.add(*numbered("7", first=5_001))
        assert problem.why == "custom_id stands on line 8 already"


def test_nothing_of_it_stays_where_the_disk_takes_no_table(tmp_path, monkeypatch):
    class Full(sqlite3.Connection):
        def execute(self, statement, *values):
            if statement.startswith("CREATE"):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **more, factory=Full))
    monkeypatch.setattr(duplicates, "IDS_IN_MEMORY", 0)
    with (
        closing(DuplicateIndex(tmp_path)) as seen,
        pytest.raises(OSError, match="cannot be noted: database or disk is full"),
    ):
        seen.add(*numbered("a"))
    assert names(tmp_path) == []


def test_few_ids_need_no_file(tmp_path):
    with closing(DuplicateIndex(tmp_path / "not there")) as seen:
        assert seen.add(*numbered("a", "b")) == []
        with pytest.raises(OSError, match="not there"):
            seen.add(*numbered("b", first=3))


@given(st.lists(st.integers(0, 10_000).map(str), max_size=60), st.integers(0, 200))
def test_partitions_tell_at_the_end_whether_all_are_different(tmp_path, custom_ids, in_memory):
    with pytest.MonkeyPatch.context() as less, closing(HashPartitions(tmp_path)) as heaps:
        less.setattr(duplicates, "PARTITIONS_IN_MEMORY", in_memory)
        for custom_id in custom_ids:
            assert heaps.add(*numbered(custom_id)) == []
        assert anyio.run(heaps.all_different) == (len(set(custom_ids)) == len(custom_ids))
    assert names(tmp_path) == []


async def test_an_id_that_stands_everywhere_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "PARTITIONS_IN_MEMORY", 2**14)
    with closing(HashPartitions(tmp_path)) as heaps:
        for _ in range(200):
            heaps.add(*numbered(*["same"] * 1_000))
        tracemalloc.start()
        try:
            assert not await heaps.all_different()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 2**20  # its digests have three times as much
