"""Hostile values to draw from: bytes, JSON, lines and destinations that look nearly right."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from abatch import facts
from abatch.facts import Counts, SealedRecord
from tests.hostile.properties import OUR_ID

__all__ = [
    "DESTINATIONS",
    "FACTS",
    "JSON_BYTES",
    "PATHS",
    "REQUEST_LINES",
    "RESULT_LINES",
    "STREAMS",
    "TEXTS",
    "damaged",
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
    facts.Held(reason="x"),
    facts.Cut(rows=1),
    facts.Planned(part=1, rows=1, body_bytes=1, spool="s", params_digest="p", ids_digest="i"),
    facts.Submitted(key="k", to="", source=facts.IterableSource()),
    facts.Finished(location="x"),
]
FACTS = damaged(st.sampled_from(SOME_FACTS).map(facts.encode)) | JSON_BYTES
