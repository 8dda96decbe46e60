"""Hostile values to draw from: bytes, JSON, lines and destinations that look nearly right."""

from __future__ import annotations

import gzip
import json
from functools import partial

import zstandard
from hypothesis import strategies as st

from abatch.protocol import facts
from abatch.protocol.facts import Counts, SealedRecord
from tests.hostile.properties import OUR_ID

__all__ = [
    "ANSWERS",
    "DESTINATIONS",
    "FACTS",
    "JSON_BYTES",
    "PATHS",
    "REQUEST_FILES",
    "REQUEST_LINES",
    "RESULT_LINES",
    "STREAMS",
    "TEXTS",
    "damaged",
    "packed",
]

HOSTILE_TEXT = [
    "",
    "\0",
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\x7f",
    "\u2028",
    "\u0085",
    "\u202e",
    "\u2066",
    "\ufeff",
    "é",
    "😀",
    "\r\n",
    '"',
    "\\",
    '"custom_id":"x"',
    "/../..",
]
TEXTS = st.lists(st.sampled_from(HOSTILE_TEXT) | st.text(max_size=5), max_size=6).map("".join)
"""Without half a surrogate pair: those come as escapes."""

ODD_NUMBERS = [b"0", b"-0.0", b"1e400", b"-1E+999", b"1" * 400, b"9" * 5_000, b"0." + b"1" * 400, b"1e-400", b"2" * 19]
ODD_STRINGS = [b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\x01"', b'"\\u0000"', b'"\\x"', b'"']
ODD_VALUES = [b"NaN", b"Infinity", b"nul", b"[" * 200 + b"]" * 200, b"[" * 1200, b"[" * 990 + b"]" * 990, b"{}x"]


def _texts_as_json(text: str) -> st.SearchStrategy[bytes]:
    return st.booleans().map(lambda ascii_only: json.dumps(text, ensure_ascii=ascii_only).encode("utf-8", "replace"))


STRINGS = TEXTS.flatmap(_texts_as_json)
SCALARS = (
    st.sampled_from([b"null", b"true", b"false", b"1", b"16"])
    | st.integers(-(2**70), 2**70).map(lambda number: str(number).encode())
    | STRINGS
)
ODDITIES = st.sampled_from(ODD_NUMBERS + ODD_STRINGS + ODD_VALUES)
SPACES = st.sampled_from([b"", b"", b"", b" ", b"\t", b"\r", b" \t  "])


def _spaced(open_: bytes, parts: list[bytes], close: bytes, space: bytes) -> bytes:
    return open_ + space + (space + b"," + space).join(parts) + space + close


def _lists(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(_spaced, st.just(b"["), st.lists(values, max_size=4), st.just(b"]"), SPACES)


def _objects(values: st.SearchStrategy[bytes], names: st.SearchStrategy[bytes] = STRINGS) -> st.SearchStrategy[bytes]:
    pairs = st.builds(lambda name, space, value: name + space + b":" + space + value, names, SPACES, values)
    return st.builds(_spaced, st.just(b"{"), st.lists(pairs, max_size=4), st.just(b"}"), SPACES)


GOOD_JSON = st.recursive(SCALARS, lambda values: _lists(values) | _objects(values), max_leaves=8)
JSON_BYTES = (
    GOOD_JSON
    | ODDITIES
    | st.recursive(SCALARS | ODDITIES, lambda values: _lists(values) | _objects(values), max_leaves=6)
)
"""Mostly JSON, with something odd in it."""


@st.composite
def damaged(draw: st.DrawFn, lines: st.SearchStrategy[bytes]) -> bytes:
    """A line with some bytes cut out, put in or changed; often none."""
    line = bytearray(draw(lines))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2, 4]))):
        at = draw(st.integers(0, len(line)))
        line[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b"}", b"\xff"])
        )
    return bytes(line)


def _named(*pairs: tuple[bytes, st.SearchStrategy[bytes]]) -> st.SearchStrategy[bytes]:
    """An object with these names, perhaps in another order, doubled, or with one left out or added."""
    members = [value.map(lambda value, name=name: b'"' + name + b'":' + value) for name, value in pairs]
    extra = JSON_BYTES.map(lambda value: b'"more":' + value)

    def arranged(parts: list[bytes]) -> st.SearchStrategy[bytes]:
        kept = (
            st.permutations(parts) | st.just(parts) | st.just(parts) | st.just([*parts, parts[0]]) | st.just(parts[1:])
        )
        return st.builds(_spaced, st.just(b"{"), kept, st.just(b"}"), SPACES)

    whole = st.tuples(*members).map(list)
    return (whole | whole | st.tuples(*members, extra).map(list)).flatmap(arranged)


PARAMS = _named(
    (b"max_tokens", st.just(b"16") | st.just(b"16") | JSON_BYTES),
    (b"messages", JSON_BYTES),
    (b"stream", st.just(b"false") | JSON_BYTES),
)
REQUEST_LINES = damaged(_named((b"custom_id", STRINGS | JSON_BYTES), (b"params", PARAMS | PARAMS | JSON_BYTES)))


REQUESTS = st.sampled_from(
    [
        b'{"custom_id":"%d","params":{"max_tokens":1}}',
        b'{"params":{"max_tokens":1,"x":"\xc3\xa9 \xe2\x80\xa8 \x7f"},"betas":["b-%d"],"custom_id":"\\u0000 %d"}',
        b'{ "custom_id" : "r%d" ,\t"params":{"max_tokens":16,"x":[1.5,{}]}\r}',
    ]
)
BETWEEN_LINES = [
    b"\r\n",
    b"\n\n",
    b"\n \n",
    b"\n\t\r\n",
    b"\r",
    b"",
    b" ",
    b",",
    b"\n\x0b\n",
    b"\n\0\n",
    b"\n\xef\xbb\xbf",
]
AROUND_LINES = [
    b" ",
    b"\t",
    b"\r",
    b"\x0b",
    b"\x0c",
    b"\x1c",
    b"\0",
    b"\x85",
    b"\xc2\x85",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
]


@st.composite
def request_files(draw: st.DrawFn) -> bytes:
    """Lines of requests with different ids, most of them good, and something odd between or around a few of them."""
    text = draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\n", b" "]))
    around = st.just(b"") | st.just(b"") | st.just(b"") | st.sampled_from(AROUND_LINES)
    between = st.just(b"\n") | st.just(b"\n") | st.just(b"\n") | st.sampled_from(BETWEEN_LINES)
    for number in range(draw(st.integers(1, 6))):
        request = draw(REQUESTS)
        line = request % ((number,) * request.count(b"%d"))
        if not draw(st.integers(0, 9)):
            line = draw(st.sampled_from([line.replace(b",", b",\n", 1), line[:-1] + b"\n}"]) | REQUEST_LINES)
        text += draw(around) + line + draw(around) + draw(between)
    return text


REQUEST_FILES = request_files()


@st.composite
def packed(draw: st.DrawFn, suffix: str) -> bytes:
    """Such a file, compressed in one frame or two; often damaged."""
    pack = partial(gzip.compress, mtime=0) if suffix == ".gz" else zstandard.compress
    text = draw(REQUEST_FILES)
    at = draw(st.integers(0, len(text)))
    frames = pack(text[:at]) + pack(text[at:]) if draw(st.booleans()) else pack(text)
    return draw(damaged(st.just(frames)))


OUR_IDS = st.sampled_from(
    [
        b'"' + OUR_ID + b'"',
        b'"' + OUR_ID + b'"',
        b'"' + OUR_ID.replace(b"-", b"\\u002d") + b'"',
        b'"' + OUR_ID[:-1] + b'"',
        b'"' + OUR_ID.replace(b"0001", b"0002") + b'"',
    ]
)
USAGE = _named((b"input_tokens", JSON_BYTES), (b"cache_creation", JSON_BYTES))
MESSAGES = _named((b"model", STRINGS | JSON_BYTES), (b"content", JSON_BYTES), (b"usage", USAGE | JSON_BYTES))
RESULTS = _named(
    (b"type", st.sampled_from([b'"succeeded"', b'"errored"']) | JSON_BYTES), (b"message", MESSAGES | JSON_BYTES)
)
RESULT_LINES = damaged(_named((b"custom_id", OUR_IDS | JSON_BYTES), (b"result", RESULTS | JSON_BYTES))) | st.builds(
    b"".join, st.tuples(st.binary(max_size=20), OUR_IDS, st.binary(max_size=20))
)
STREAMS = st.lists(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"\0", b"\xff", "\u2028".encode(), "\u0085".encode(), b"\x0b", b"\x0c", b"\x1c"]
    )
    | st.binary(max_size=8),
    max_size=40,
).map(b"".join)

PATH_PARTS = [
    "",
    ".",
    "..",
    "a",
    "é",
    " ",
    "a b",
    "%2e%2e",
    "a?x=1",
    "#x",
    "~",
    "-",
    "x" * 300,
    "\n",
    "\t",
    "@",
    ":",
    "\\",
]
PATHS = st.lists(st.sampled_from(PATH_PARTS) | TEXTS, max_size=5).map("/".join)
DESTINATIONS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(
            ["", "", "jsonl:///", "jsonl://", "jsonl:", "sqlite:///", "s3://", "S3://", "memory:", "ftp://"]
        ),
        st.sampled_from(["", "", "KEY:SECRET@", "[", "[::1]", "/"]),
        PATHS | st.text(max_size=20),
        st.sampled_from(["", ".jsonl", ".ndjson", ".db", "/", "//", ".gz", "?x=/../y", "#f"]),
    ),
)

COUNTS = _named(
    (b"processing", st.just(b"0") | JSON_BYTES),
    (b"succeeded", st.integers(-(2**70), 2**70).map(lambda count: str(count).encode()) | JSON_BYTES),
)
BATCHES = _named(
    (b"id", st.just(b'"msgbatch_1"') | STRINGS | JSON_BYTES),
    (b"processing_status", st.sampled_from([b'"ended"', b'"in_progress"']) | JSON_BYTES),
    (b"request_counts", COUNTS | COUNTS | JSON_BYTES),
    (
        b"created_at",
        st.sampled_from(
            [
                b'"2026-11-21T21:00:00Z"',
                b'"2026-11-21T21:00:00.123456+00:00"',
                b'"0001-01-01T00:00:00+14:00"',
                b'"9999-12-31T23:59:59-14:00"',
                b'"0001-01-01"',
                b'"20261121T21"',
                b'""',
            ]
        )
        | STRINGS,
    ),
    (b"archived_at", st.just(b"null") | JSON_BYTES),
)
LISTS = _named(
    (b"data", st.lists(BATCHES, max_size=3).map(lambda batches: b"[" + b",".join(batches) + b"]") | JSON_BYTES),
    (b"has_more", st.just(b"false") | JSON_BYTES),
    (b"last_id", st.just(b"null") | STRINGS | JSON_BYTES),
)
ENVELOPES = _named(
    (b"type", st.just(b'"error"') | JSON_BYTES),
    (
        b"error",
        _named(
            (b"type", st.sampled_from([b'"rate_limit_error"', b'"invalid_request_error"']) | STRINGS | JSON_BYTES),
            (b"message", STRINGS | JSON_BYTES),
            (b"details", _named((b"error_code", STRINGS | JSON_BYTES)) | JSON_BYTES),
        )
        | JSON_BYTES,
    ),
)
STATUSES = [
    200,
    201,
    204,
    206,
    299,
    301,
    304,
    307,
    400,
    401,
    402,
    403,
    404,
    408,
    409,
    413,
    422,
    425,
    429,
    499,
    500,
    503,
    529,
    599,
]
FREE_VALUES = st.binary(max_size=30).map(lambda value: value.translate(None, b"\r\n\0"))
DATE = b"Sat, 21 Nov 2026 21:00:00 GMT"
DATES = st.sampled_from(
    [
        b"Sat, 21 Nov 2026 21:00:00 -0000",
        b"Sat, 99 Nov 2026 21:00:00 GMT",
        b"1 Jan 0001 00:00:00 +9999",
        b"1 Jan 0001 00:00:00 -0000",
        b"31 Dec 9999 23:59:59 -9999",
        b"Sat, 21 Nov 2026 21:00:00 +99999999999999999999",
        b"0",
        b"",
    ]
)
PAUSES = st.sampled_from([b"7", b"-1", b"1e999", b"nan", b"9999999", DATE, b"\xb2"])
OTHERS = st.sampled_from(
    [
        (b"content-type", b"application/json; charset=utf-16"),
        (b"content-type", b"text/html; charset=hex"),
        (b"content-type", b"text/html; charset=\xff"),
        (b"content-encoding", b"gzip"),
        (b"content-encoding", b"zstd"),
        (b"location", b"http://["),
        (b"location", b"//\xff"),
        (b"request-id", b"\x1b[2J\xff"),
    ]
)


def _at_most_one(name: bytes, values: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    return st.lists(values.map(lambda value: (name, value)), max_size=1)


HEADERS = st.tuples(
    _at_most_one(b"date", st.just(DATE) | st.just(DATE) | DATES | FREE_VALUES),
    _at_most_one(b"retry-after", PAUSES | FREE_VALUES),
    st.just([]) | st.just([]) | OTHERS.map(lambda header: [header]),
).map(lambda parts: [header for part in parts for header in part])
ANSWERS = st.tuples(
    st.sampled_from([200, 200, 200, *STATUSES]),
    HEADERS,
    damaged(BATCHES | LISTS | ENVELOPES) | JSON_BYTES | st.binary(max_size=40),
)


SOME_FACTS = [
    facts.Committing(attempt=1, date=1.0, fingerprint="f"),
    facts.Committing(attempt=2, date=1.0, fingerprint=None),
    facts.Unreadable(status=200),
    facts.Accepted(batch_id="msgbatch_1", created_at=1.0),
    facts.Found(batch_id="msgbatch_1", created_at=1.0, by="tag"),
    facts.Withdrawn(why="x"),
    facts.Ended(counts=Counts(succeeded=1)),
    facts.Drained(counts=Counts(succeeded=1), sealed=SealedRecord(part=0, lines=1)),
    facts.Split(into=(2, 3)),
    facts.Unplanned(),
    facts.Held(reason="x"),
    facts.Cut(rows=1),
    facts.Planned(part=1, rows=1, body_bytes=1, spool="s", params_digest="p", ids_digest="i"),
    facts.Submitted(key="k", to="", source=facts.IterableSource()),
    facts.Finished(location="x"),
]
FACTS = damaged(st.sampled_from(SOME_FACTS).map(facts.encode)) | JSON_BYTES
