"""Whatever bytes come, from a file, the API or a damaged disk: what must hold of them holds, and nothing is raised."""

from __future__ import annotations

import gzip
from itertools import pairwise

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from abatch.errors import LineTooLong
from abatch.protocol import wire
from tests.hostile import properties
from tests.hostile.answers import answer_is_understood_or_an_error
from tests.hostile.files import (
    SUFFIXES,
    file_is_planned_as_it_was_checked,
    lines_found_good_are_what_each_of_them_is,
    sealed,
    spool_file_is_what_was_sealed_or_damaged,
)
from tests.hostile.properties import OUR_ID
from tests.hostile.strategies import (
    ANSWERS,
    DESTINATIONS,
    FACTS,
    PATHS,
    REQUEST_FILES,
    REQUEST_LINES,
    RESULT_LINES,
    STREAMS,
    TEXTS,
    packed,
)

ESCAPED = (
    b'{"custom_id":"' + OUR_ID.replace(b"-", b"\\u002d") + b'","result":{"type":"succeeded","message":{"content":%b}}}'
)


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 300), max_size=20))
@example(stream=b"\r\n\r\r\n\n\r", cuts=[1, 2, 3, 4])
def test_however_a_stream_is_cut_its_lines_are_those_between_newlines(stream, cuts):
    properties.lines_are_those_between_newlines(stream, cuts)


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 300), max_size=20))
def test_a_reader_never_holds_more_than_a_line_may_have_and_one_chunk(stream, cuts):
    reader, most = wire.LineReader(), max(map(len, stream.split(b"\n")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "MAX_LINE", 20)
        borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        try:
            for begin, end in pairwise(borders):
                for line in reader.feed(stream[begin:end]):
                    assert len(line) <= 20 + (end - begin)
        except LineTooLong:
            assert most > 20
        else:
            assert len(b"".join(reader.end())) <= 20


@given(RESULT_LINES | st.binary(max_size=200))
@example(b"a proxy's page " + OUR_ID + b" of our row")
@example(ESCAPED % (b"1" * 5_000))
@example(ESCAPED % b'"\xff"')
@example(ESCAPED % (b"[" * 990 + b"]" * 990))
@example(b'{"custom_id":"' + OUR_ID + b'","result":{"type":"canceled"},"custom_id":"' + OUR_ID + b'"}')
def test_a_result_line_with_our_id_is_delivered_whatever_else_it_holds(line):
    properties.result_line_is_delivered_or_not_ours(line)


PLAIN = b'{"custom_id":"' + OUR_ID + b'","result":{"type":"succeeded","message":{"model":"m","usage":{}}}}'


@given(st.lists(st.just(PLAIN) | RESULT_LINES, min_size=1, max_size=4), st.booleans())
@example([PLAIN, PLAIN], True)
@example([PLAIN, b'{"custom_id":"' + OUR_ID + b'",\n"result":{"type":"expired"}}'], False)
@example([PLAIN[:-1] + b',"x":[', PLAIN + b"]}" + PLAIN], False)
def test_a_block_is_read_as_its_lines_are_or_not_at_all(lines, long):
    with pytest.MonkeyPatch.context() as patch:
        if long:
            patch.setattr(wire, "LONG", 0)
        properties.block_is_read_as_its_lines_are_or_not_at_all(b"\n".join(lines))


@given(REQUEST_LINES)
@example(b'{"custom_id":"a","params":{"max_tokens":1,"x":' + b"9" * 5_000 + b"}}")
@example(b'{"custom_id":"a","params":{"max_tokens":1,"x":"1e999","y":' + b"[" * 990 + b"]" * 990 + b"}}")
@example(b'{"custom_id":"a","params":{"max_tokens":1}}]}{"requests":[')
def test_a_request_line_is_kept_byte_for_byte_or_is_a_bad_request(line):
    properties.request_line_is_kept_or_refused(line)


ASKED = b'{"custom_id":"%d","params":{"max_tokens":1}}'
ODDLY_PUT = [
    *(ASKED % 1 + odd + b"\n" + ASKED % 2 for odd in (b"\x0b", b"\x0c", b"\x1c", b"\0", b"\x85", b"\r", b" ", b"\t")),
    *(
        odd + ASKED % 1 + b"\n" + ASKED % 2 + b"\n"
        for odd in (b"\x0b", b"\x0c", b"\xef\xbb\xbf", b"\n", b" \n\r\n", b"\r")
    ),
    ASKED % 1 + b"\n\x0b\n" + ASKED % 2,
    ASKED % 1 + ASKED % 2 + b"\n",
    ASKED % 1 + b" " + ASKED % 2 + b"\n\n",
    ASKED % 1 + b"\r" + ASKED % 2,
    (ASKED % 1).replace(b",", b",\n") + b"\n" + ASKED % 2 + ASKED % 3,
    b"\xef\xbb\xbf" + ASKED % 1 + b"\n\xef\xbb\xbf" + ASKED % 2,
    b"",
]


@given(REQUEST_FILES)
def test_lines_found_good_all_at_once_are_what_each_of_them_is(text):
    lines_found_good_are_what_each_of_them_is(text)


@pytest.mark.parametrize("text", ODDLY_PUT)
def test_lines_oddly_put_are_found_good_only_for_what_they_are(text):
    lines_found_good_are_what_each_of_them_is(text)


@given(REQUEST_FILES, st.sampled_from([1, 60, 2**16]), st.integers(0, 5))
def test_whatever_file_is_accepted_is_planned_as_it_was_checked(content, part, cut):
    file_is_planned_as_it_was_checked(content, "", part=part, cut=cut)


@pytest.mark.parametrize("part", [60, 2**16])
@pytest.mark.parametrize("content", ODDLY_PUT)
def test_whatever_odd_file_is_accepted_is_planned_as_it_was_checked(content, part):
    file_is_planned_as_it_was_checked(content, "", part=part, cut=0)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
@given(data=st.data(), part=st.sampled_from([60, 2**16]), cut=st.integers(0, 5))
def test_whatever_compressed_file_is_accepted_is_planned_as_it_was_checked(data, suffix, part, cut):
    file_is_planned_as_it_was_checked(data.draw(packed(suffix)), suffix, part=part, cut=cut)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_compressed_file_that_is_cut_short_is_not_taken_for_a_shorter_one(suffix, pack):
    content = pack(ASKED % 1 + b"\n") + pack(ASKED % 2 + b"\n")
    for end in range(len(content) + 1):
        file_is_planned_as_it_was_checked(content[:end], suffix, part=2**16, cut=0)


@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), max_size=3),
    st.none() | st.integers(0, 2_000),
    st.binary(max_size=3),
)
def test_nothing_comes_from_a_spool_file_but_what_was_sealed(with_fallbacks, changed, end, more):
    shard = sealed(with_fallbacks=with_fallbacks)
    content = bytearray(shard.content)
    for at, mask in changed:
        content[at % len(content)] ^= mask
    spool_file_is_what_was_sealed_or_damaged(bytes(content[:end]) + more, shard)


IN_UTF_16, IN_HEX = ([(b"content-type", b"text/html; charset=" + name)] for name in (b"utf-16", b"hex"))
DATED = [(b"date", b"Sat, 21 Nov 2026 21:00:00 GMT")]
NAMED_ODDLY = b'{"id":"a\\nb","processing_status":"ended","request_counts":{},"created_at":"2026-11-21T21:00:00Z"}'


@given(ANSWERS)
@example((400, IN_UTF_16, b"a page"))
@example((400, IN_HEX, b"\xff"))
@example((200, [], NAMED_ODDLY))
@example((200, DATED, b'{"data":[{},null,7,{"id":"b"},{"id":7}],"has_more":false,"last_id":null}'))
@example((400, [], b'{"error":{"type":"of a proxy"}}'))
@example((429, [], b'{"type":"a proxy\'s","error":{"type":"rate_limit_error"}}'))
def test_whatever_the_api_answers_is_understood_or_an_error(answer):
    answer_is_understood_or_an_error(answer)


@given(DESTINATIONS | TEXTS | st.text(max_size=40))
@example("x" * 5_000)
@example("x" * 300 + ".jsonl")
@example("\ud800.jsonl")
def test_a_destination_stands_for_one_url_or_is_refused(destination):
    properties.destination_is_a_url_or_refused(destination)


QUERIES = st.sampled_from(
    [
        "",
        "?",
        "?region=x",
        "?region=",
        "?x=1",
        "?compression=gz",
        "?region=a&region=b",
        "?endpoint_url=",
        "?endpoint_url=http://",
    ]
)


@given(
    st.builds("".join, st.tuples(PATHS | st.text(max_size=10), QUERIES, PATHS | st.sampled_from(["[", "KEY:SECRET@h"])))
)
@example("b/p?endpoint_url=http://[")
@example("b/p?endpoint_url=http://\u2100")
@example("b?x=1?endpoint_url=http://KEY:SECRET@h")
@example("b?endpoint_url=http://KEY:SECRET@h&endpoint_url=h")
def test_a_place_in_s3_is_understood_or_refused(text):
    properties.s3_place_is_understood_or_refused(text)


@given(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["", "http://", "https://", "HTTPS://", "ftp://", "//", "https:"]),
            st.sampled_from(
                [
                    "",
                    "localhost",
                    "127.0.0.1",
                    "[::1]",
                    "[",
                    "example.com",
                    "key:secret@",
                    "\x1b",
                    "é",
                    "127.0.0.1.evil.com",
                ]
            ),
            st.sampled_from(["", ":0", ":99999", ":x", "/v1/", "?q", "#f", "\n", " ", "@evil.com", "\\@evil.com"]),
        ),
    )
    | st.text(max_size=20)
)
def test_an_address_of_the_api_is_taken_or_refused_and_never_gets_the_key_in_the_clear(address):
    properties.base_url_is_taken_or_refused(address)


INTEGERS = st.integers(-(2**63), 2**63 - 1)
CELLS = FACTS | FACTS | INTEGERS | st.floats(allow_nan=False) | TEXTS


@given(st.lists(CELLS, min_size=1, max_size=6))
@example([b'{"type":"Held","reason":"\xff"}'])
@example([b'{"type":"Held","reason":"x","more":' + b"[" * 100_000])
@example([5])
def test_a_journal_is_loaded_as_it_stands_or_is_corrupt(cells):
    properties.journal_is_loaded_or_corrupt(cells)


@given(shard=st.none() | INTEGERS | TEXTS | st.binary(max_size=3) | st.floats(allow_nan=False), cell=FACTS)
def test_a_journal_whose_rows_name_odd_shards_is_loaded_or_corrupt(shard, cell):
    properties.journal_is_loaded_or_corrupt([cell], shard=shard)
