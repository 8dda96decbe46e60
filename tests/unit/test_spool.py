"""Sealed shards on disk: what went in comes out, and a damaged file is never sent."""

from __future__ import annotations

import json
import stat
import struct
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abatch.errors import SpoolDamaged
from abatch.input.spool import FOOTER, PIECE, SpoolReader, SpoolWriter, examine
from abatch.protocol import wire
from abatch.system.disk import remove
from tests.unit.make import KEY, names, planned_for, read_spool, rows_of, write_spool

PREFIX = wire.prefix(KEY, 1, 1)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
PARAMS = st.dictionaries(TEXT, st.integers() | TEXT, max_size=3)
ROW = st.tuples(
    TEXT.map(lambda text: json.dumps(text).encode()),
    PARAMS.map(lambda params: json.dumps(params).encode()),
    st.sampled_from([b"", b'{"custom_id":"x","result":{"type":"expired"}}', b"x"]),
)


@given(st.lists(ROW, min_size=1, max_size=30))
def test_what_was_sealed_is_read_back_row_by_row(tmp_path, rows):
    written = write_spool(tmp_path, rows)
    with closing(read_spool(tmp_path, written)) as reader:
        assert reader.rows == written.rows == len(rows)
        numbers = range(len(rows))
        assert [(reader.custom_id(n), reader.params(n), reader.own_fallback(n)) for n in numbers] == rows
        assert [reader.id_text(n) for n in numbers] == [json.loads(row[0]) for row in rows]


@given(st.lists(ROW, min_size=1, max_size=30))
def test_a_body_is_json_of_the_size_that_was_told_and_waits_for_its_tail(tmp_path, rows):
    written = write_spool(tmp_path, rows)
    with closing(read_spool(tmp_path, written)) as reader:
        body = b"".join(reader.body(PREFIX))
    assert len(body) + len(wire.BODY_TAIL) == written.body_bytes
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    requests = json.loads(body + wire.BODY_TAIL)["requests"]
    assert [request["params"] for request in requests] == [json.loads(row[1]) for row in rows]
    assert [wire.parse_id(request["custom_id"].encode()) for request in requests] == [
        (1, 1, wire.tag(KEY, 1, 1), n) for n in range(len(rows))
    ]


def test_no_custom_id_is_in_the_body(tmp_path):
    written = write_spool(tmp_path, [(b'"CANARY"', b"{}", b"")])
    with closing(read_spool(tmp_path, written)) as reader:
        assert b"CANARY" not in b"".join(reader.body(PREFIX))


def big_rows(rows: int = 30, size: int = 200_000) -> list[tuple[bytes, bytes, bytes]]:
    return [(b'"%d"' % n, b'"' + bytes([65 + n % 26]) * size + b'"', b"") for n in range(rows)]


def test_a_body_comes_in_pieces_of_bounded_size(tmp_path):
    written = write_spool(tmp_path, big_rows())
    with closing(read_spool(tmp_path, written)) as reader:
        pieces = [len(piece) for piece in reader.body(PREFIX)]
    assert len(pieces) > 4
    assert max(pieces) < PIECE + 300_000
    assert sum(pieces) == written.body_bytes - 2


@pytest.mark.parametrize("size", [10, 300_000, 3 * PIECE])
def test_rows_added_together_are_those_added_one_by_one(tmp_path, size):
    rows = big_rows(7, size)
    single = write_spool(tmp_path, rows)
    alone = (tmp_path / "00000001.spool").read_bytes()
    writer = SpoolWriter(tmp_path)
    for some in (rows[:1], rows[1:5], rows[5:]):
        writer.extend([row[0] for row in some], [row[1] for row in some])
    assert writer.seal("00000001.spool") == single
    assert (tmp_path / "00000001.spool").read_bytes() == alone


def test_a_body_can_be_composed_again_for_another_attempt(tmp_path):
    written = write_spool(tmp_path, big_rows(3))
    with closing(read_spool(tmp_path, written)) as reader:
        first, again = (b"".join(reader.body(wire.prefix(KEY, 1, n))) for n in (1, 2))
    assert first != again
    assert len(first) == len(again)


def test_fits_counts_the_body_to_the_byte(tmp_path):
    writer, params = SpoolWriter(tmp_path), b'{"max_tokens":1}'
    assert writer.room_for([10**9], 1_000) == 1  # the first always does
    writer.add(b'"a"', params)
    two = wire.body_size(2, 2 * len(params))
    assert writer.room_for([len(params)] * 2, two) == 1
    assert writer.room_for([len(params)] * 2, two - 1) == 0
    writer.add(b'"b"', params)
    assert (writer.rows, writer.body_bytes) == (2, two)
    writer.discard()


# ---- fallback lines -------------------------------------------------------------------------------------------


def test_fallback_lines_of_a_retry_shard_are_kept_and_others_say_canceled(tmp_path):
    line = b'{"custom_id":"b","result":{"type":"expired"}}'
    rows = [(b'"a"', b"{}", b""), (b'"b"', b"{}", line), (b'"c"', b"{}", b"")]
    with closing(read_spool(tmp_path, write_spool(tmp_path, rows))) as reader:
        lines = [reader.fallback(n) for n in range(3)]
    assert lines[1] == line
    assert [json.loads(each)["custom_id"] for each in lines] == ["a", "b", "c"]
    assert [json.loads(each)["result"]["type"] for each in lines] == ["canceled", "expired", "canceled"]


def test_ids_and_fallback_lines_beyond_memory_are_kept_too(tmp_path):
    rows = [(b'"%0500d"' % n, b"{}", b'"%0500d"' % -n) for n in range(1, 12_000)]
    written = write_spool(tmp_path, rows)
    with closing(read_spool(tmp_path, written)) as reader:
        assert [(reader.custom_id(n), b"{}", reader.own_fallback(n)) for n in range(len(rows))] == rows
    assert names(tmp_path) == ["00000001.spool"]


# ---- names and modes ------------------------------------------------------------------------------------------


def test_a_sealed_file_is_for_its_owner_alone_and_nothing_else_is_left(tmp_path):
    write_spool(tmp_path, rows_of("a"))
    assert names(tmp_path) == ["00000001.spool"]
    assert stat.S_IMODE((tmp_path / "00000001.spool").stat().st_mode) == 0o600


def test_until_the_seal_the_file_has_no_name_of_a_shard_and_is_for_its_owner_alone(tmp_path):
    writer = SpoolWriter(tmp_path)
    writer.add(b'"a"', b"{}")
    for name in names(tmp_path):
        assert name.startswith(".")
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    writer.discard()


@pytest.mark.parametrize("rows", [0, 1, 12_000])
def test_discard_leaves_nothing(tmp_path, rows):
    writer = SpoolWriter(tmp_path)
    for n in range(rows):
        writer.add(b'"%0500d"' % n, b"{}", b"x")
    writer.discard()
    assert names(tmp_path) == []


def test_discard_after_the_seal_takes_nothing_away(tmp_path):
    writer = SpoolWriter(tmp_path)
    writer.add(b'"a"', b"{}")
    writer.seal("00000001.spool")
    writer.discard()
    assert names(tmp_path) == ["00000001.spool"]


def test_a_seal_goes_over_what_an_earlier_run_left_under_the_name(tmp_path):
    write_spool(tmp_path, rows_of("old", "older"))
    written = write_spool(tmp_path, rows_of("new"))
    with closing(read_spool(tmp_path, written)) as reader:
        assert [reader.id_text(n) for n in range(reader.rows)] == ["new"]


def test_a_reader_that_is_open_keeps_what_it_opened(tmp_path):
    with closing(read_spool(tmp_path, write_spool(tmp_path, rows_of("old")))) as reader:
        write_spool(tmp_path, rows_of("new"))
        assert reader.id_text(0) == "old"


def test_removing_twice_is_harmless(tmp_path):
    write_spool(tmp_path, rows_of("a"))
    for _ in range(2):
        remove(tmp_path / "00000001.spool")
    assert names(tmp_path) == []


# ---- damage ---------------------------------------------------------------------------------------------------

FALLEN = [(b'"id-%d"' % n, b'{"max_tokens":1,"n":%d}' % n, b'{"fallback":%d}' % n) for n in range(3)]


def sent_of(reader: SpoolReader) -> list[bytes]:
    """The pieces of a body that came before the damage was seen."""
    sent: list[bytes] = []
    with pytest.raises(SpoolDamaged) as damage:
        sent.extend(reader.body(PREFIX))
    assert damage.value.path.name == "00000001.spool"
    return sent


def test_a_flip_of_any_bit_is_seen_before_the_last_piece(tmp_path):
    written = write_spool(tmp_path, FALLEN)
    path = tmp_path / "00000001.spool"
    good = path.read_bytes()
    body = written.body_bytes - len(wire.BODY_TAIL) - len(FALLEN) * (len(PREFIX) - 1)
    for at in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            if at >= body:
                with pytest.raises(SpoolDamaged):
                    read_spool(tmp_path, written)
                continue
            with closing(read_spool(tmp_path, written)) as reader, pytest.raises(SpoolDamaged):
                next(reader.body(PREFIX))


@pytest.mark.parametrize("row", [0, 7, 28])
def test_the_last_piece_of_a_large_body_with_a_flip_is_never_given_out(tmp_path, row):
    written = write_spool(tmp_path, big_rows(29))
    with closing(read_spool(tmp_path, written)) as reader:
        whole = [len(piece) for piece in reader.body(PREFIX)]
    with (tmp_path / "00000001.spool").open("r+b") as file:
        file.seek(row * 200_002 + 5)
        file.write(b"!")
    with closing(read_spool(tmp_path, written)) as reader:
        assert [len(piece) for piece in sent_of(reader)] == whole[:-1]


def test_a_page_of_zeros_is_never_sent_as_ids(tmp_path):
    written = write_spool(tmp_path, big_rows(29))
    with (tmp_path / "00000001.spool").open("r+b") as file:
        file.seek(2 * PIECE)
        file.write(bytes(4_096))
    with closing(read_spool(tmp_path, written)) as reader:
        assert 0 < sum(map(len, sent_of(reader))) < 2 * PIECE + 29 * len(PREFIX)


@pytest.mark.parametrize("kept", [0, 1, FOOTER.size - 1, FOOTER.size, 100, -1])
def test_a_truncated_file_is_damaged(tmp_path, kept):
    written = write_spool(tmp_path, FALLEN)
    path = tmp_path / "00000001.spool"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SpoolDamaged, match=r"cut short|not the file"):
        read_spool(tmp_path, written)


def test_a_longer_file_is_damaged(tmp_path):
    written = write_spool(tmp_path, FALLEN)
    with (tmp_path / "00000001.spool").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SpoolDamaged):
        read_spool(tmp_path, written)


def test_a_missing_file_is_damaged(tmp_path):
    written = write_spool(tmp_path, FALLEN)
    remove(tmp_path / "00000001.spool")
    with pytest.raises(SpoolDamaged, match="is gone"):
        read_spool(tmp_path, written)


def test_the_file_of_another_shard_under_this_name_is_damaged(tmp_path):
    written = write_spool(tmp_path, rows_of("a", "b"))
    write_spool(tmp_path, rows_of("c", "d"), "00000002.spool")
    (tmp_path / "00000002.spool").rename(tmp_path / "00000001.spool")
    with pytest.raises(SpoolDamaged):
        read_spool(tmp_path, written)


def test_a_file_that_a_planned_fact_with_other_params_describes_is_not_sent(tmp_path):
    written = write_spool(tmp_path, FALLEN)
    fact = planned_for(written)
    other = type(fact)(**{**{name: getattr(fact, name) for name in fact.__struct_fields__}, "params_digest": "00"})
    with closing(SpoolReader(tmp_path, other)) as reader:
        assert sent_of(reader) == []


def test_a_footer_of_huge_numbers_is_damaged_and_costs_no_memory(tmp_path):
    written = write_spool(tmp_path, FALLEN)
    path = tmp_path / "00000001.spool"
    raw = path.read_bytes()
    huge = struct.pack("<QQQQ", 3, 2**63, 2**63, 0) + raw[-16:]
    path.write_bytes(raw[: -FOOTER.size] + huge)
    with pytest.raises(SpoolDamaged):
        read_spool(tmp_path, written)


def test_a_damaged_file_is_closed_again(tmp_path):
    written = write_spool(tmp_path, FALLEN)
    (tmp_path / "00000001.spool").write_bytes(b"")
    before = len(names(Path("/proc/self/fd")))
    with pytest.raises(SpoolDamaged):
        read_spool(tmp_path, written)
    assert len(names(Path("/proc/self/fd"))) == before


# ---- examine --------------------------------------------------------------------------------------------------


@given(st.lists(ROW, min_size=1, max_size=10))
def test_examine_tells_what_the_seal_told(tmp_path, rows):
    assert examine(write_spool(tmp_path, rows) and tmp_path / "00000001.spool") == write_spool(tmp_path, rows)


def test_examine_tells_what_the_seal_told_of_a_large_file(tmp_path):
    written = write_spool(tmp_path, big_rows())
    assert examine(tmp_path / "00000001.spool") == written


def test_examine_of_nothing_is_nothing(tmp_path):
    assert examine(tmp_path / "none.spool") is None


@pytest.mark.parametrize("raw", [b"", b"x" * 10, b"x" * 1_000])
def test_examine_of_something_else_is_damage(tmp_path, raw):
    (tmp_path / "x.spool").write_bytes(raw)
    with pytest.raises(SpoolDamaged):
        examine(tmp_path / "x.spool")
