"""The bytes on the wire: ids, the line reader, the envelope of a result line."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from abatch.errors import LineTooLong
from abatch.protocol import facts, wire
from abatch.protocol.wire import (
    MAX_LINE,
    BlockReader,
    LineReader,
    body_size,
    fallback,
    lines_of,
    outcome_of,
    parse_id,
    prefix,
    read_line,
    read_plain,
    row_suffix,
    tag,
    with_custom_id,
)
from abatch.result import Usage
from tests.unit.make import KEY, WIRE_ID

SHARDS = st.integers(1, 2**40 - 1)
ATTEMPTS = st.integers(1, wire.MAX_ATTEMPT)
ROWS = st.integers(0, 2**20 - 1)

# ---- ids ------------------------------------------------------------------------------------------------------


@given(key=st.binary(min_size=32, max_size=32), shard=SHARDS, attempt=ATTEMPTS, row=ROWS)
@example(key=KEY, shard=2**40 - 1, attempt=wire.MAX_ATTEMPT, row=99_999)
def test_an_id_comes_back_as_it_went(key, shard, attempt, row):
    named = prefix(key, shard, attempt) + row_suffix(row)
    assert parse_id(named) == (shard, attempt, tag(key, shard, attempt), row)
    assert len(named) == wire.ID_WIDTH == 32
    assert set(named.decode()) <= set("a1-0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def test_rows_have_ids_of_their_own():
    assert len({row_suffix(row) for row in range(100_000)}) == 100_000


def test_the_tag_differs_by_key_shard_and_attempt():
    tags = {tag(key, shard, attempt) for key in (KEY, KEY[::-1]) for shard in range(1, 51) for attempt in range(1, 21)}
    assert len(tags) == 2 * 50 * 20
    assert max(tags) < 2**60


def test_shard_and_attempt_cannot_be_mistaken_for_each_other():
    assert tag(KEY, 1, 11) != tag(KEY, 11, 1)


@pytest.mark.parametrize(("shard", "attempt"), [(0, 1), (-1, 1), (2**40, 1), (1, 0), (1, 1024), (1, -1)])
def test_numbers_that_do_not_fit_have_no_id(shard, attempt):
    with pytest.raises(ValueError, match="has no id"):
        prefix(KEY, shard, attempt)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"request-1",
        WIRE_ID[:-1],
        WIRE_ID + b"0",
        WIRE_ID + b"\n",
        b" " + WIRE_ID,
        WIRE_ID.lower(),
        WIRE_ID.replace(b"a1", b"a2"),
        WIRE_ID.replace(b"-", b"_"),
        WIRE_ID.replace(b"A", b"I"),
        WIRE_ID.replace(b"A", b"L"),
        WIRE_ID.replace(b"A", b"O"),
        WIRE_ID.replace(b"A", b"U"),
        WIRE_ID.replace(b"A", b"a"),
        WIRE_ID.replace(b"A", b"\xff"),
    ],
)
def test_what_is_not_of_our_form_is_no_id(other):
    assert parse_id(WIRE_ID) is not None
    assert parse_id(other) is None


@given(st.binary(max_size=40))
def test_taking_an_id_apart_never_fails(anything):
    assert parse_id(anything) is None


def test_no_more_than_the_api_allows_stands_in_a_custom_id():
    assert len(WIRE_ID) <= 64


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20))
def test_the_size_of_a_body_is_known_before_it_is_composed(params):
    rows = [
        wire.ROW_HEAD + prefix(KEY, 7, 1) + row_suffix(row) + wire.ROW_MIDDLE + each + wire.ROW_END
        for row, each in enumerate(params)
    ]
    body = wire.BODY_HEAD + b",".join(rows) + wire.BODY_TAIL
    assert body_size(len(params), sum(map(len, params))) == len(body)


# ---- lines ----------------------------------------------------------------------------------------------------


def read_in(chunks):
    reader = LineReader()
    lines = [line for chunk in chunks for line in reader.feed(chunk)]
    return lines + reader.end()


def split(stream: bytes) -> list[bytes]:
    lines = (line[:-1] if line.endswith(b"\r") else line for line in stream.split(b"\n"))
    return [line for line in lines if line]


ALPHABET = st.lists(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"a", b"{}", "\u2028".encode(), "\u0085".encode(), b"\x0b", b"\x00", b"\xff"]
    ),
    max_size=40,
).map(b"".join)


@given(stream=ALPHABET, cuts=st.lists(st.integers(0, 80), max_size=12))
def test_however_a_stream_is_chunked_its_lines_are_those_between_newlines(stream, cuts):
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(borders)]
    assert read_in(chunks) == split(stream)


@given(ALPHABET)
def test_a_stream_in_single_bytes_has_the_same_lines(stream):
    assert read_in(stream[i : i + 1] for i in range(len(stream))) == split(stream)


def test_a_line_separator_inside_a_string_does_not_end_a_line():
    text = json.dumps({"text": "a\u2028b\u2029c\u0085d\x0be"}, ensure_ascii=False).encode()
    assert read_in([text + b"\n" + text]) == [text, text]


def test_only_one_carriage_return_belongs_to_the_line_end():
    assert read_in([b"a\r\r\n", b"\r\n", b"b\r", b"\n"]) == [b"a\r", b"b"]


def test_the_last_line_needs_no_newline():
    assert read_in([b"a\nb"]) == [b"a", b"b"]


def test_the_reader_starts_afresh_after_the_end():
    reader = LineReader()
    assert reader.feed(b"a") == []
    assert (reader.end(), reader.end(), reader.feed(b"b\n")) == ([b"a"], [], [b"b"])


def test_a_line_of_exactly_64_mib_is_read():
    chunk = b"x" * 2**20
    lines = read_in([*[chunk] * 64, b"\nnext"])
    assert [len(line) for line in lines] == [MAX_LINE, 4]


def test_a_line_over_64_mib_is_an_error_and_costs_its_length_once():
    reader, chunk = LineReader(), b"x" * 1024  # were each chunk copied with those before it: 2 TB
    for _ in range(MAX_LINE // len(chunk)):
        reader.feed(chunk)
    with pytest.raises(LineTooLong, match="67108864"):
        reader.feed(b"x")


def test_a_finished_line_makes_room_for_the_next():
    reader, half = LineReader(), b"x" * (MAX_LINE // 2 + 1)
    assert len(reader.feed(half + b"\n" + half)) == 1
    assert len(reader.feed(b"\n" + half)) == 1


@given(stream=ALPHABET, cuts=st.lists(st.integers(0, 80), max_size=12), taken=st.sets(st.integers(0, 12)))
def test_blocks_hold_the_same_lines_however_they_are_taken(stream, cuts, taken):
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader, lines = BlockReader(), []
    for number, (a, b) in enumerate(pairwise(borders)):
        reader.feed(stream[a:b])
        if number in taken:
            lines += lines_of(reader.take())
    lines += lines_of(reader.take())
    assert lines + lines_of(reader.end()) == split(stream)


def test_a_block_never_holds_a_line_over_64_mib():
    reader, chunk = BlockReader(), b"x" * 1024
    for _ in range(MAX_LINE // len(chunk)):
        reader.feed(chunk)
        assert not reader.take()
    reader.feed(b"x")
    with pytest.raises(LineTooLong, match="67108864"):
        reader.take()


# ---- envelopes ------------------------------------------------------------------------------------------------

ID = WIRE_ID.decode()
USAGE = b"""{"input_tokens":3,"output_tokens":5,"cache_read_input_tokens":7,"cache_creation_input_tokens":11,
"cache_creation":{"ephemeral_5m_input_tokens":9,"ephemeral_1h_input_tokens":2},"service_tier":"batch"}"""
COUNTED = Usage(
    input_tokens=3, output_tokens=5, cache_read_tokens=7, cache_creation_tokens=11, cache_creation_1h_tokens=2
)


def succeeded(content: bytes = b'"hello"', usage: bytes = USAGE, model: bytes = b'"claude-x"') -> bytes:
    message = b'{"type":"message","model":' + model + b',"content":' + content + b',"usage":' + usage + b"}"
    return b'{"custom_id":"' + WIRE_ID + b'","result":{"type":"succeeded","message":' + message + b"}}"


def test_a_succeeded_line_tells_model_and_tokens():
    assert read_line(succeeded()) == (ID, "succeeded", None, "claude-x", COUNTED, None)


@pytest.mark.parametrize("outcome", ["canceled", "expired", "a_new_one"])
def test_a_line_without_message_tells_its_outcome(outcome):
    line = b'{"custom_id":"x","result":{"type":"%s","more":1}}' % outcome.encode()
    assert read_line(line) == ("x", outcome, None, None, None, None)


def test_an_errored_line_tells_the_inner_type():
    line = (
        b'{"custom_id":"x","result":{"type":"errored","error":{"type":"error","error":'
        b'{"type":"overloaded_error","message":"m"},"request_id":"r"}}}'
    )
    assert read_line(line) == ("x", "errored", "overloaded_error", None, None, None)


def test_numbers_and_fields_that_are_null_count_as_nothing():
    usage = b'{"input_tokens":null,"output_tokens":2,"cache_creation":null,"server_tool_use":null}'
    assert read_line(succeeded(usage=usage)).usage == Usage(output_tokens=2)


DEEP = b"[" * 100_000 + b"]" * 100_000
HARD = {
    "a lone surrogate": succeeded(b'"\\ud800"'),
    "a reversed surrogate pair": succeeded(b'"\\udc00\\ud800"'),
    "100,000 levels": succeeded(DEEP),
    "100,000 levels, unclosed": succeeded(DEEP)[:90_000],
    "NaN": succeeded(b"NaN"),
    "infinity": succeeded(b"-Infinity"),
    "a number of 5,000 digits": succeeded(b"1" * 5_000),
    "a usage of 5,000 digits": succeeded(usage=b'{"input_tokens":' + b"1" * 5_000 + b"}"),
    "invalid UTF-8": succeeded(b'"\xff\xfe"'),
    "a raw control character": succeeded(b'"\x01"'),
    "a duplicated key": succeeded().replace(b'"result"', b'"result":{"type":"succeeded"},"result"'),
    "no content": succeeded(b""),
    "a message of another type": b'{"custom_id":"' + WIRE_ID + b'","result":{"type":"succeeded","message":7}}',
    "a usage of another type": succeeded(usage=b"[1]"),
    "a model of another type": succeeded(model=b"{}"),
    "text after the line": succeeded() + b" x",
}


@pytest.mark.parametrize("line", HARD.values(), ids=HARD)
def test_a_line_that_holds_our_id_is_never_lost(line):
    seen = read_line(line)
    assert seen is not None
    assert (seen.wire_id, seen.outcome) == (ID, "succeeded")


NOT_JSON = {"100,000 levels, unclosed", "no content", "text after the line"}


@pytest.mark.parametrize("name", HARD)
def test_a_line_is_torn_unless_it_is_json_or_something_that_only_decoders_refuse(name):
    assert isinstance(read_line(HARD[name]), wire.Torn) == (name in NOT_JSON)


@given(st.integers(len(wire.ROW_HEAD) + wire.ID_WIDTH, len(succeeded()) - 1), st.sampled_from([b"", b"\r", b" 502"]))
def test_every_part_of_a_line_that_holds_its_id_is_torn(length, end):
    seen = read_line(succeeded()[:length] + end)
    assert isinstance(seen, wire.Torn)
    assert seen.wire_id == ID


@pytest.mark.parametrize("content", [b'"x"', b'"\\ud800"', DEEP], ids=["plain", "a lone surrogate", "100,000 levels"])
@pytest.mark.parametrize(
    "around",
    [
        b"[%b]",
        b"[[%b]]",
        b'{"results":[%b]}',
        b'{"type":"error","error":{"type":"api_error","message":"x","request":%b}}',
        b'{"custom_id":null,"request":%b}',
    ],
)
def test_json_that_holds_our_id_below_its_top_is_not_the_line_of_that_id(around, content):
    assert read_line(around % succeeded(content)) is None
    assert read_line(around % b",".join([succeeded(content), succeeded(content)])) is None if b"[" in around else True


@pytest.mark.parametrize(
    "line", [b'"' + WIRE_ID + b'"', b'["' + WIRE_ID + b'"]', b'{"custom_id":["' + WIRE_ID + b'"]}']
)
def test_an_id_that_no_custom_id_names_makes_no_line_of_json_ours(line):
    assert read_line(line) is None


@pytest.mark.parametrize(
    "result", [b"7", b"null", b"[]", b'"succeeded"', b'{"type":null}', b'{"type":"new","message":[1]}']
)
def test_a_whole_line_with_a_result_of_another_form_is_its_rows(result):
    seen = read_line(b'{"result":%b,"custom_id":"%b"}' % (result, WIRE_ID))
    assert type(seen) is wire.Seen
    assert seen.wire_id == ID


def test_the_id_at_the_top_of_a_line_that_no_decoder_takes_is_found_behind_ids_below():
    quoted = b'{"a":[%b,{"custom_id":"%b"}],"custom_id":"%b"}' % (DEEP, WIRE_ID[:-1] + b"9", WIRE_ID)
    assert type(read_line(quoted)) is wire.Seen
    assert read_line(quoted).wire_id == ID


def test_a_lone_surrogate_costs_neither_model_nor_tokens():
    assert read_line(succeeded(b'"\\ud800"')) == read_line(succeeded())


@pytest.mark.parametrize("content", [b'"\xff\xfe"', b'"\x01"', b"1" * 5_000])
def test_bytes_that_decoders_refuse_cost_neither_model_nor_tokens(content):
    assert read_line(succeeded(content)) == read_line(succeeded())


ODD_USAGE = [b"1.5", b'"12"', b"NaN", b"true", b"[]", b"1" * 30, b"-1e400", b"{}"]
ODD = {
    **{f"tokens {odd[:8].decode()}": succeeded(usage=b'{"input_tokens":' + odd + b"}") for odd in ODD_USAGE},
    "cache_creation 5": succeeded(usage=b'{"cache_creation":5}'),
    "cache_creation 1.5": succeeded(usage=b'{"cache_creation":{"ephemeral_1h_input_tokens":1.5}}'),
    "model 5": succeeded(model=b"5"),
    "model with a lone surrogate": succeeded(model=b'"\\ud800"'),
    "model a list": succeeded(model=b"[]"),
}


def failed(message: object, kind: object = "invalid_request_error", custom_id: str = "x") -> bytes:
    error = {"type": "error", "error": {"type": kind, "message": message, "details": None}}
    return json.dumps({"custom_id": custom_id, "result": {"type": "errored", "error": error}}).encode()


DOWNLOAD = "The request timed out while trying to download the file. Please try again later."


@pytest.mark.parametrize("message", [DOWNLOAD, DOWNLOAD.upper(), f"https://x/a.pdf: {DOWNLOAD[12:]}"])
def test_a_download_that_timed_out_is_told_by_its_message(message):
    assert wire.is_download_timeout(failed(message))


@pytest.mark.parametrize(
    "line",
    [
        failed("messages: at least one message is required"),
        failed("the request timed out"),
        failed("no", custom_id=DOWNLOAD),
        failed(DOWNLOAD, "api_error"),
        failed([DOWNLOAD]),
        failed(None, DOWNLOAD),
        b'{"custom_id":"x","result":{"type":"errored","error":"%s"}}' % DOWNLOAD.encode(),
        b'{"custom_id":"x","result":"%s"}' % DOWNLOAD.encode(),
        b'["%s"]' % DOWNLOAD.encode(),
        DOWNLOAD.encode(),
        b"[" * 100_000 + DOWNLOAD.encode(),
    ],
    ids=lambda line: f"{len(line)} bytes",
)
def test_no_other_line_is_taken_for_a_download_that_timed_out(line):
    assert not wire.is_download_timeout(line)


@pytest.mark.parametrize("line", ODD.values(), ids=ODD)
def test_odd_tokens_never_make_a_fact_that_the_journal_cannot_take_or_read_again(line):
    seen = read_line(line)
    usage, model = seen.usage or Usage(), seen.model or "unknown"
    spend = facts.Spend(model=model, usage=Usage() + usage)
    assert msgspec.json.decode(msgspec.json.encode(spend), type=facts.Spend) == spend


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id":"' + WIRE_ID + b'","result":{"type":"errored","error":{"error":{"type":7}}}}',
        b'{"custom_id":"' + WIRE_ID + b'","result":{"type":"errored\\ud800"}}',
        b'{"custom_id":"' + WIRE_ID + b'","result":{"type":"errored","error":{"error":{"type":"\\ud800"}}}}',
    ],
    ids=["error type 7", "outcome with a lone surrogate", "error type with a lone surrogate"],
)
def test_outcome_and_error_type_are_text_that_a_sink_can_store(line):
    seen = read_line(line)
    for value in (seen.outcome, seen.error_type):
        assert value is None or (isinstance(value, str) and value.encode())


@given(st.integers(0, len(succeeded())))
def test_a_truncated_line_tells_its_id_as_soon_as_it_holds_it(length):
    seen = read_line(succeeded()[:length])
    whole_id = length >= len(b'{"custom_id":"') + wire.ID_WIDTH
    assert (seen is not None) == whole_id
    assert seen is None or seen.wire_id == ID


@given(st.binary(max_size=200))
@example(b"null")
@example(b"[]")
@example(b'{"custom_id":null,"result":{"type":"succeeded"}}')
@example(b'{"custom_id":"x"}')
@example(DEEP)
def test_whatever_a_line_is_reading_it_never_fails(line):
    seen = read_line(line)
    assert seen is None or (isinstance(seen.wire_id, str) and b"custom_id" in line)


@given(st.data())
def test_a_damaged_line_never_fails_and_its_id_is_found_while_it_stands(data):
    line = bytearray(succeeded())
    for _ in range(data.draw(st.integers(1, 5))):
        line[data.draw(st.integers(46, len(line) - 1))] = data.draw(st.integers(0, 255))
    seen = read_line(bytes(line))
    assert seen is not None
    assert seen.wire_id == ID


HEAD = wire.ROW_HEAD + WIRE_ID[:-4]


def of_row(row: int) -> bytes:
    return succeeded(usage=USAGE.replace(b"\n", b"")).replace(WIRE_ID, WIRE_ID[:-4] + row_suffix(row))


def test_plain_lines_are_read_as_a_block_as_they_are_one_by_one():
    lines = [of_row(row) for row in (3, 0, 99_999)]
    read = read_plain(b"\n".join(lines), HEAD)
    assert read.rows == [3, 0, 99_999]
    assert [HEAD + tail for tail in read.tails] == lines
    told = [wire.Seen(envelope.custom_id, *envelope.told()) for envelope in read.envelopes]
    assert told == [read_line(line) for line in lines]


@pytest.mark.parametrize(
    "odd",
    [
        *HARD.values(),
        b"",
        succeeded() + b"\r",
        b" " + succeeded(),
        succeeded().replace(WIRE_ID, b"somebody-else"),
        succeeded()[:-1] + b',"custom_id":"' + WIRE_ID[:-4] + row_suffix(9) + b'"}',
        succeeded()[:-1] + b',"custom_id":"' + WIRE_ID + b'"}',
        succeeded(usage=USAGE.replace(b"\n", b""))[:-1] + b',"custom_id":"somebody-else"}',
        succeeded().replace(b',"result"', b',\n"result"'),
        succeeded() + b"\n",
        b'{"result":{"type":"canceled"},"custom_id":"' + WIRE_ID + b'"}',
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_odd_line_leaves_its_block_to_be_read_line_by_line(odd, place):
    lines = [of_row(1), of_row(2)]
    lines.insert(place, odd)
    assert read_plain(b"\n".join(lines), HEAD) is None


# ---- the caller's id in the place of ours ---------------------------------------------------------------------

OURS = b'"my \\" id \\\\1"'


def test_in_our_own_form_nothing_but_the_id_changes():
    assert with_custom_id(succeeded(), WIRE_ID, OURS) == succeeded().replace(b'"' + WIRE_ID + b'"', OURS)


@pytest.mark.parametrize(
    "form",
    [
        b'{"result":{"type":"canceled"},"custom_id":%s}',
        b'{ "custom_id" : %s , "result":{"type":"canceled"}}',
        b'{"custom_id":%s ,"result":{"type":"canceled"}}',
        b'\t{"x":1,"custom_id":\t%s,"result":{"type":"canceled"}}',
        b'{"custom_id":%s,"result":{"type":"canceled"},"custom_id":%s}',
    ],
)
def test_in_another_order_and_with_spaces_nothing_but_the_id_changes(form):
    line = form.replace(b"%s", b'"' + WIRE_ID + b'"')
    assert with_custom_id(line, WIRE_ID, OURS) == form.replace(b"%s", OURS)


@pytest.mark.parametrize("form", [b'{"custom_id":%s,"text":%s}', b'{"text":%s,"custom_id":%s}'])
def test_an_echo_of_the_id_inside_the_text_stays(form):
    id_ = b'"' + WIRE_ID + b'"'
    echo = json.dumps('"custom_id":"' + ID + '"').encode()
    first = form.startswith(b'{"custom_id"')
    line = form % ((id_, echo) if first else (echo, id_))
    assert with_custom_id(line, WIRE_ID, OURS) == form % ((OURS, echo) if first else (echo, OURS))


def test_an_id_that_was_sent_back_with_escapes_is_replaced_too():
    line = succeeded().replace(WIRE_ID, WIRE_ID.replace(b"-", b"\\u002d"))
    seen = read_line(line)
    put = with_custom_id(line, seen.wire_id.encode(), OURS)
    assert json.loads(put)["custom_id"] == json.loads(OURS)


@given(custom_id=st.text(min_size=1, max_size=30), text=st.text(max_size=50))
def test_any_id_can_be_put_into_any_line(custom_id, text):
    line = succeeded(json.dumps(text).encode())
    put = json.loads(with_custom_id(line, WIRE_ID, json.dumps(custom_id).encode()))
    assert put["custom_id"] == custom_id
    assert put["result"] == json.loads(line)["result"]


@given(st.text(min_size=1, max_size=50))
def test_a_fallback_line_is_json_that_says_canceled(custom_id):
    line = fallback(json.dumps(custom_id).encode())
    assert json.loads(line) == {"custom_id": custom_id, "result": {"type": "canceled"}}
    assert b"\n" not in line


def test_a_fallback_line_can_carry_the_api_s_error():
    line = fallback(b'"x"', b'{"type":"errored","error":{"type":"error","error":{"type":"request_too_large"}}}')
    assert read_line(line) == ("x", "errored", "request_too_large", None, None, None)


def test_a_line_with_the_caller_s_id_is_decoded_for_a_sink():
    line = outcome_of(with_custom_id(succeeded(), WIRE_ID, b'"mine"'), "mine")
    assert (line.custom_id, line.outcome, line.model, line.usage) == ("mine", "succeeded", "claude-x", COUNTED)


@pytest.mark.parametrize(("kind", "outcome"), [(b'"succeeded"', "succeeded"), (b"7", "unreadable")])
def test_a_line_that_nobody_can_read_still_goes_to_the_sink(kind, outcome):
    """With the outcome that was made out when its id was ours: by a scan."""
    raw = b'{"custom_id":"' + WIRE_ID + b'","result":{"type":%b,"message":' % kind + DEEP
    seen = read_line(raw)
    assert seen is not None
    assert seen.outcome == outcome
    line = outcome_of(raw.replace(WIRE_ID, b"mine"), "mine")
    assert (line.custom_id, line.outcome) == ("mine", outcome)


WHOLE = b'{"custom_id":"x","result":{"type":"succeeded","message":{"content":["a \\" } ] {",-1.5e3,null]}}}'


def test_a_last_line_is_whole_wherever_it_is_not_cut():
    assert wire.is_whole(WHOLE)
    assert wire.is_whole(WHOLE + b"\r")
    assert not any(wire.is_whole(WHOLE[:end]) for end in range(len(WHOLE)))


@pytest.mark.parametrize("content", [b"9" * 5000, b"[" * 100_000 + b"]" * 100_000, b'"\xff\\ud800"'])
def test_what_python_cannot_decode_is_whole_all_the_same(content):
    line = b'{"custom_id":"x","result":{"type":"succeeded","message":{"content":%b}}}' % content
    assert wire.is_whole(line)
    assert not wire.is_whole(line[:-1])
    assert not wire.is_whole(line[:-3])


@pytest.mark.parametrize(
    "other", [b"of somebody else, and as long as ours", b"with an \\escape that JSON does not have"]
)
def test_an_id_that_is_not_ours_stays(other):
    line = b'{"custom_id":"%b","custom_id":"%b"}' % (other, WIRE_ID)
    assert with_custom_id(line, WIRE_ID, OURS) == line.replace(b'"%b"' % WIRE_ID, OURS)


def test_a_line_that_names_no_id_is_kept_as_text_under_the_caller_s():
    line = json.loads(with_custom_id(b"[1, \xff]", WIRE_ID, OURS))
    assert line == {"custom_id": json.loads(OURS), "result": {"type": "unreadable", "raw": "[1, \ufffd]"}}


# ---- lines at a destination ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "custom_id"),
    [
        (b'{"custom_id":"mail 1","result":{"type":"canceled"}}', "mail 1"),
        (b'{"custom_id":"\\ud800","result":{"type":"canceled"}}', "\ud800"),
        (b'{"custom_id": "mail \\"1\\"","result":{"type":"canceled"', 'mail "1"'),
        (b'{"custom_id":"bad \\escape","result":{', '"bad \\escape"'),
        (b'{"result":{"type":"canceled"}', ""),
    ],
    ids=["plain", "a lone surrogate", "cut off", "cut off, with an id that is no JSON", "without an id"],
)
def test_a_delivered_line_keeps_its_custom_id_and_its_bytes(line: bytes, custom_id: str) -> None:
    read = wire.delivered(line)
    assert (read.raw, read.custom_id) == (line, custom_id)


def test_a_message_without_usage_tells_its_model_and_no_tokens() -> None:
    seen = read_line(
        b'{"custom_id":"x","result":{"type":"succeeded","message":{"model":"m","stop_reason":"end_turn"}}}'
    )
    assert seen is not None
    assert (seen.model, seen.usage, seen.stop_reason) == ("m", None, "end_turn")


def test_plain_lines_that_are_long_are_read_as_a_block_too() -> None:
    lines = [of_row(1), of_row(2).replace(b"hello", b"y" * wire.LONG), of_row(3)]
    read = read_plain(b"\n".join(lines), HEAD)
    assert read is not None
    assert read.rows == [1, 2, 3]
    assert [HEAD + bytes(tail) for tail in read.tails] == lines


def test_a_long_block_with_an_odd_line_is_left_to_be_read_line_by_line() -> None:
    lines = [of_row(1).replace(b"hello", b"y" * wire.LONG), b" " + of_row(2)]
    assert read_plain(b"\n".join(lines), HEAD) is None


def test_an_id_outside_our_alphabet_leaves_its_block_to_be_read_line_by_line() -> None:
    suffix = row_suffix(1)
    assert read_plain(of_row(1).replace(HEAD + suffix, HEAD + b"!" * len(suffix)), HEAD) is None
