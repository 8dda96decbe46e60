"""What the fuzzer feeds with bytes, and the bytes that it begins with."""

from __future__ import annotations

from collections.abc import Callable

from abatch import facts
from tests.hostile import properties
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


TARGETS: dict[str, Callable[[bytes], None]] = {
    "lines": lines,
    "results": properties.result_line_is_delivered_or_not_ours,
    "blocks": properties.block_is_read_as_its_lines_are_or_not_at_all,
    "requests": properties.request_line_is_kept_or_refused,
    "destinations": destinations,
    "addresses": addresses,
    "places_in_s3": places_in_s3,
    "journals": journals,
}
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
}
