"""What the fuzzer feeds with bytes, and the bytes that it begins with."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import zstandard

from abatch.protocol import facts
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

__all__ = ["SEEDS", "TARGETS"]


def lines(raw: bytes) -> None:
    """The first byte says how many of those behind it are places to cut."""
    count = raw[0] % 8 if raw else 0
    properties.lines_are_those_between_newlines(raw[1 + count :], list(raw[1 : 1 + count]))


def destinations(raw: bytes) -> None:
    properties.destination_is_a_url_or_refused(raw.decode("utf-8", "surrogateescape"))


def addresses(raw: bytes) -> None:
    properties.base_url_is_taken_or_refused(raw.decode("utf-8", "replace"))


def places_in_s3(raw: bytes) -> None:
    properties.s3_place_is_understood_or_refused(raw.decode("utf-8", "replace"))


def journals(raw: bytes) -> None:
    """A newline ends a fact."""
    properties.journal_is_loaded_or_corrupt(raw.split(b"\n")[:8])


def files(raw: bytes) -> None:
    """The first byte says how the file is compressed, and how much of it is read at once."""
    how = raw[0] if raw else 0
    suffix, part = SUFFIXES[how % len(SUFFIXES)], (60, 2**16)[how // len(SUFFIXES) % 2]
    file_is_planned_as_it_was_checked(raw[1:], suffix, part=part, cut=how)


def spools(raw: bytes) -> None:
    """Which of two files, how much is cut off its end; then, three bytes each, what is changed in it and where."""
    which, cut, *changes = raw.ljust(2, b"\0")
    shard = sealed(with_fallbacks=bool(which % 2))
    content = bytearray(shard.content)
    for high, low, mask in zip(*[iter(changes)] * 3, strict=False):
        content[(high * 256 + low) % len(content)] ^= mask
    spool_file_is_what_was_sealed_or_damaged(bytes(content[: len(content) - cut]), shard)


def answers(raw: bytes) -> None:
    """The first byte chooses the status; two lines follow, `Date` and `Retry-After`; the rest is the body."""
    date, _, rest = raw[1:].partition(b"\n")
    pause, _, body = rest.partition(b"\n")
    status = STATUSES[raw[0] % len(STATUSES)] if raw else 200
    headers = [(b"date", date), (b"retry-after", pause)]
    answer_is_understood_or_an_error((status, [(name, _in_a_header(value)) for name, value in headers], body))


def _in_a_header(value: bytes) -> bytes:
    return value.translate(None, b"\r\n\0")


STATUSES = (200, 400, 404, 413, 429, 500, 301, 204)
TARGETS: dict[str, Callable[[bytes], None]] = {
    "lines": lines,
    "results": properties.result_line_is_delivered_or_not_ours,
    "blocks": properties.block_is_read_as_its_lines_are_or_not_at_all,
    "requests": properties.request_line_is_kept_or_refused,
    "destinations": destinations,
    "addresses": addresses,
    "places_in_s3": places_in_s3,
    "journals": journals,
    "checked_lines": lines_found_good_are_what_each_of_them_is,
    "files": files,
    "spools": spools,
    "answers": answers,
}
ASKED = b'{"custom_id":"%d","params":{"max_tokens":1,"x":"\xc3\xa9"},"betas":["b"]}'
TWO = ASKED % 1 + b"\n" + ASKED % 2 + b"\n"
BATCH = (
    b'{"id":"msgbatch_1","processing_status":"ended","request_counts":{"succeeded":1},'
    b'"created_at":"2026-11-21T21:00:00Z","archived_at":null}'
)
HEAD = b"Sat, 21 Nov 2026 21:00:00 GMT\n7\n"
ENVELOPE = b'{"type":"error","error":{"type":"rate_limit_error","message":"m","details":{"error_code":"x"}}}'
ROUND = facts.encode(facts.Committing(attempt=1, date=1.0, fingerprint="f"))
PLAIN = (
    b'{"custom_id":"' + OUR_ID + b'","result":{"type":"succeeded","message":{"model":"m","usage":{"input_tokens":3}}}}'
)
SEEDS: dict[str, list[bytes]] = {
    "lines": [b"\x03\x01\x02\x05a\r\nb\n\n\xe2\x80\xa8c", b"\0" + b"x" * 50],
    "results": [
        PLAIN,
        b'{"result":{"type":"errored","error":{"error":{"type":"x"}}}, "custom_id" : "' + OUR_ID + b'"}',
        b'{"custom_id":"' + OUR_ID.replace(b"-", b"\\u002d") + b'","result":{"type":"expired"}}',
        b"a page " + OUR_ID,
    ],
    "blocks": [
        PLAIN,
        b"\n".join([PLAIN, PLAIN.replace(b"m", b"\\u006d"), PLAIN[:-1] + b',"custom_id":"' + OUR_ID + b'"}']),
        b"\n".join([PLAIN, b'{"custom_id":"' + OUR_ID + b'","result":{"type":"expired"}}', PLAIN]),
    ],
    "requests": [
        b'{"custom_id":"a","params":{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"\\ud83d\\ude00"}]}}',
        b'{"params":{"max_tokens":1e2,"stream":false},"betas":["x-1"],"custom_id":"\xc3\xa9"}',
    ],
    "destinations": [b"results.jsonl", b"jsonl:////a/../b//", b"sqlite:///x.db", b"s3://b/p?region=x", b"memory:x"],
    "addresses": [b"https://api.anthropic.com", b"http://127.0.0.1:1/v1", b"http://[::1]", b"https://k:s@h/?a#b"],
    "places_in_s3": [
        b"bucket/a/b?endpoint_url=http://h:1&region=x&compression=zstd",
        b"b/?endpoint_url=http://k:s@[::1]/",
    ],
    "journals": [
        ROUND,
        b"\n".join([ROUND, facts.encode(facts.Accepted(batch_id="b", created_at=1.0))]),
        b"\n".join([ROUND, facts.encode(facts.Held(reason="x")), facts.encode(facts.Withdrawn(why="y"))]),
    ],
    "checked_lines": [TWO, TWO.replace(b"\n", b"\r\n"), TWO.replace(b"\n", b" ") + b"\n", TWO.replace(b",", b",\n")],
    "files": [
        b"\0" + TWO,
        b"\3" + b"\xef\xbb\xbf" + TWO.replace(b"\n", b" \r\n\n"),
        b"\1" + gzip.compress(TWO, mtime=0),
        b"\4" + gzip.compress(TWO[:50], mtime=0) + gzip.compress(TWO[50:], mtime=0),
        b"\2" + zstandard.compress(TWO),
        b"\5" + zstandard.compress(TWO[:50]) + zstandard.compress(TWO[50:]),
    ],
    "spools": [b"", b"\1", b"\0\1", b"\1\0\0\7\1", b"\0\0\1\0\xff\0\0\1"],
    "answers": [
        b"\0" + HEAD + BATCH,
        b"\0" + HEAD + b'{"data":[' + BATCH + b'],"has_more":false,"last_id":null}',
        b"\1" + HEAD + ENVELOPE,
        b"\4" + HEAD + ENVELOPE,
        b"\5" + HEAD,
    ],
}
