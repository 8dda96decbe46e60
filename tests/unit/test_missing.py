"""The lists of rows without a result."""

from __future__ import annotations

import json
import stat

from abatch.journal.missing import count_missing, read_missing, write_missing
from tests.unit.make import names


def test_the_list_of_missing_rows_is_json_lines_for_its_owner_alone(tmp_path):
    write_missing(tmp_path / "00000001.jsonl", [(b'"a"', 'it "was" deleted'), (b'"b"', "archived")])
    path = tmp_path / "00000001.jsonl"
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [
        {"custom_id": "a", "reason": 'it "was" deleted'},
        {"custom_id": "b", "reason": "archived"},
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["00000001.jsonl"]


def test_a_list_is_counted_and_read_and_a_later_one_replaces_it(tmp_path):
    path = tmp_path / "00000001.jsonl"
    assert count_missing(path) == 0
    for ids in ([b'"a"', b'"b"'], ['"\u00fc"'.encode()]):
        write_missing(path, [(custom_id, "archived") for custom_id in ids])
        assert (count_missing(path), read_missing(path)) == (len(ids), ids)
