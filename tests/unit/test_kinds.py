"""Files of other kinds: recognized by how they begin, and the command that is named makes good lines of them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
from typing import Any

import pytest
import zstandard

from abatch import BadRequest, ConfigError
from abatch.input.check import check_file

pytestmark = pytest.mark.anyio

ROOM = 1_000_000


def asked(number: int) -> dict[str, Any]:
    return {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": f"q {number}"}]}


ROWS = [{"custom_id": f"r{number}", "params": asked(number)} for number in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
VERTEX = [{"custom_id": row["custom_id"], "request": {"anthropic_version": "v", **row["params"]}} for row in ROWS]
BEDROCK = [{"recordId": row["custom_id"], "modelInput": {"anthropic_version": "v", **row["params"]}} for row in ROWS]


def lines_of(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


CONVERTED = [
    ("array.json", json.dumps(ROWS).encode(), "is one JSON array", "jq -c '.[]'"),
    ("spaced.json", b" \n " + json.dumps(ROWS, indent=1).encode(), "is one JSON array", "jq -c '.[]'"),
    ("requests.json", json.dumps({"requests": ROWS}).encode(), '{"requests"', "jq -c '.requests[]'"),
    ("pretty.json", json.dumps({"requests": ROWS}, indent=2).encode(), '{"requests"', "jq -c '.requests[]'"),
    ("large.json", json.dumps({"requests": ROWS * 400}, indent=2).encode(), '{"requests"', "jq -c '.requests[]'"),
    ("array.json.gz", gzip.compress(json.dumps(ROWS).encode()), "is one JSON array", "gzip -dc"),
    ("rows.json", "".join(json.dumps(row, indent=2) for row in ROWS).encode(), "over several lines", "jq -c ."),
    ("half.json", LINES.replace(', "params"', ',\n "params"').encode(), "over several lines", "jq -c ."),
    ("joined.jsonl", LINES.replace("\n", "").encode(), "several objects on one line", "jq -c ."),
    ("seq.jsonl", "".join("\x1e" + json.dumps(row) + "\n" for row in ROWS).encode(), "JSON text sequence", "tr -d"),
    ("bare.jsonl", lines_of([row["params"] for row in ROWS]), "params without custom_id", "input_line_number"),
    ("it's.jsonl.bz2", bz2.compress(LINES.encode()), "compressed with bzip2", "bzip2 -dc"),
    ("in.jsonl.xz", lzma.compress(LINES.encode()), "compressed with xz", "xz -dc"),
    ("gzipped.jsonl", gzip.compress(LINES.encode()), "compressed with gzip", "ends in .gz"),
    ("zstd.jsonl", zstandard.compress(LINES.encode()), "compressed with zstd", "ends in .zst"),
    ("bom.jsonl", LINES.encode("utf-16"), "UTF-16", "iconv -f UTF-16 "),
    ("le.jsonl", LINES.encode("utf-16-le"), "UTF-16", "iconv -f UTF-16LE"),
    ("be.jsonl", LINES.encode("utf-16-be"), "UTF-16", "iconv -f UTF-16BE"),
    ("vertex.jsonl", lines_of(VERTEX), "batch file of Vertex", "MODEL"),
    ("bedrock.jsonl", lines_of(BEDROCK), "batch file of Bedrock", "MODEL"),
]


@pytest.mark.parametrize(("name", "raw", "kind", "how"), CONVERTED, ids=[each[0] for each in CONVERTED])
async def test_a_file_of_another_kind_is_named_once_and_the_command_that_is_named_converts_it(
    tmp_path, name, raw, kind, how
):
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as refused:
        await check_file(path, tmp_path, bytes_per_batch=ROOM)
    text = str(refused.value)
    assert kind in text
    assert how in text
    assert "\n" not in text
    command = text.partition("Convert it with: ")[2].partition(". Or ")[0]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    source = await check_file(tmp_path / "new.jsonl", tmp_path, bytes_per_batch=ROOM) if name != "large.json" else None
    assert source is None or source.rows == 3


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"custom_id,prompt\na,hello\n", "table (CSV)"),
        (b'"custom_id";"prompt"\n', "table (CSV)"),
        ("id\tprompt é\n".encode(), "table (CSV)"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"PK\x03\x04", "spreadsheet"),
        (b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[]}}\n', "OpenAI"),
    ],
)
async def test_a_file_that_no_command_converts_is_named_with_what_is_to_be_written(tmp_path, raw, kind):
    path = tmp_path / "in.jsonl"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match="must be JSON lines, one request on each") as refused:
        await check_file(path, tmp_path, bytes_per_batch=ROOM)
    assert kind in str(refused.value)
    assert "Convert it with" not in str(refused.value)


async def test_an_ending_in_capitals_is_an_ending(tmp_path):
    path = tmp_path / "IN.JSONL.GZ"
    path.write_bytes(gzip.compress(LINES.encode()))
    assert (await check_file(path, tmp_path, bytes_per_batch=ROOM)).rows == 3


async def problem_of(path) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        await check_file(path, path.parent, bytes_per_batch=ROOM)
    return refused.value


@pytest.mark.parametrize(
    ("raw", "line", "command"),
    [
        (LINES.replace('"custom_id": "r1"', '"custom_id": "café"').encode("cp1252"), 2, "iconv -f CP1252 -t UTF-8"),
        (b"".join(b"\xef\xbb\xbf" + each for each in LINES.encode().splitlines(keepends=True)), 2, "sed"),
    ],
    ids=["Windows-1252", "joined files with byte order marks"],
)
async def test_text_in_another_form_names_the_command_that_makes_it_right(tmp_path, raw, line, command):
    path = tmp_path / "OLD"
    path.write_bytes(raw)
    bad = await problem_of(path)
    assert bad.line == line
    assert command in bad.why
    subprocess.run(["sh", "-c", bad.why[bad.why.index(command) :]], cwd=tmp_path, check=True)
    assert (await check_file(tmp_path / "NEW", tmp_path, bytes_per_batch=ROOM)).rows == 3


async def test_bytes_behind_compressed_data_are_a_problem_whose_remedy_writes_what_is_whole(tmp_path):
    path = tmp_path / "OLD.gz"
    path.write_bytes(gzip.compress(LINES.encode()) + b"garbage after")
    bad = await problem_of(path)
    assert "gzip -dc OLD > NEW" in bad.why
    subprocess.run(["sh", "-c", "gzip -dc OLD.gz > NEW || true"], cwd=tmp_path, check=True)
    assert (await check_file(tmp_path / "NEW", tmp_path, bytes_per_batch=ROOM)).rows == 3


async def test_equal_problems_of_many_lines_are_one_line_with_a_count_and_three_examples(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(
        b"".join(b'{"custom_id":"r%d","params":{"max_tokens":%d}}\n' % (n, n % 2) for n in range(1_000)) + b"nonsense\n"
    )
    bad = await problem_of(path)
    several, single = str(bad).splitlines()
    assert several == (
        "500 lines: max_tokens must be a whole number of at least 1: "
        "line 1 (custom_id 'r0'), line 3 (custom_id 'r2'), line 5 (custom_id 'r4'), …"
    )
    assert single.startswith("line 1001: not JSON")
    assert bad.total == 501
    assert [alike.count for alike in bad.alike] == [500, 1]


async def test_duplicates_are_one_line_and_each_example_names_its_twin(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(LINES * 3)
    (text,) = str(await problem_of(path)).splitlines()
    assert text.startswith("6 lines: line 4 (custom_id 'r0'): custom_id stands on line 1 already; line 5 ")
    assert text.endswith("line 6 (custom_id 'r2'): custom_id stands on line 3 already; …")


async def test_whole_numbers_as_custom_ids_are_taken_as_their_text(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(LINES.replace('"r0"', "7").replace('"r1"', "-12345678901234567890"))
    assert (await check_file(path, tmp_path, bytes_per_batch=ROOM)).rows == 3
    path.write_text(LINES.replace('"r0"', "7").replace('"r1"', '"7"'))
    assert "custom_id stands on line 1 already" in str(await problem_of(path))
    path.write_text(LINES.replace('"r0"', "1.5").replace('"r1"', "null").replace('"r2"', "true"))
    got = [each.why.rpartition(" ")[2] for each in (await problem_of(path)).problems]
    assert got == ["`float`", "`null`", "`bool`"]
