"""What comes back: results read on demand, usage, summaries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from abatch import BadAnswer, Result, ResultError, Summary, Usage
from abatch.result import LONG, Block, Line, in_pieces, joined
from tests.unit.make import run


def result(body: dict[str, Any], custom_id: str = "a") -> Result:
    return Result(json.dumps({"custom_id": custom_id, "result": body}).encode())


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "hello"}, {"type": "a_new_block", "what": 1}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 5, "cache_creation": {"ephemeral_1h_input_tokens": 2}},
}
SUCCEEDED = result({"type": "succeeded", "message": MESSAGE})
ERRORED = result(
    {
        "type": "errored",
        "error": {"type": "error", "error": {"type": "api_error", "message": "m"}, "request_id": "req_1"},
    }
)


def test_a_succeeded_result_holds_the_typed_message_of_the_sdk():
    from anthropic.types import Message, TextBlock

    message = SUCCEEDED.message
    assert isinstance(message, Message)
    assert isinstance(message.content[0], TextBlock)
    assert message.content[0].text == "hello"
    assert message.usage.output_tokens == 5


def test_a_succeeded_result_tells_outcome_and_tokens_and_has_no_error():
    assert (SUCCEEDED.custom_id, SUCCEEDED.outcome, SUCCEEDED.error) == ("a", "succeeded", None)
    assert SUCCEEDED.usage == Usage(input_tokens=3, output_tokens=5, cache_creation_1h_tokens=2)


def test_an_errored_result_holds_the_api_s_words_and_no_message():
    assert ERRORED.error == ResultError(type="api_error", message="m", request_id="req_1")
    assert (ERRORED.outcome, ERRORED.message, ERRORED.usage) == ("errored", None, None)


@pytest.mark.parametrize("outcome", ["canceled", "expired", "a_new_one"])
def test_other_outcomes_hold_neither(outcome):
    other = result({"type": outcome})
    assert (other.outcome, other.message, other.error, other.usage) == (outcome, None, None, None)


@pytest.mark.parametrize("error", [None, "boom", [], {}, {"error": None}, {"error": "boom"}, {"error": {"type": None}}])
def test_an_error_of_a_form_that_nobody_knows_is_an_error_all_the_same(error):
    assert result({"type": "errored", "error": error}).error is not None


@pytest.mark.parametrize("message", [{"usage": []}, {"usage": {"cache_creation": 5}}, "text", []])
def test_a_message_of_a_form_that_nobody_knows_has_no_usage(message):
    assert result({"type": "succeeded", "message": message}).usage in (None, Usage())


def test_a_block_makes_lines_where_somebody_looks_and_keeps_those_that_are_known():
    read: list[bytes] = []

    def line(raw: bytes) -> Line:
        read.append(raw)
        return Line(raw, raw.decode(), "succeeded")

    block, odd = Block(line), Line(b"c", "odd", "errored")
    block.add([b"a\nb\n"], 2, {})
    block.add([b"c\nd\n"], 2, {0: odd})
    assert (len(block), block.weight, in_pieces(block), read) == (4, 8, [b"a\nb\nc\nd\n"], [])
    assert [each.custom_id for each in block] == ["a", "b", "odd", "d"]
    assert (block[2], block[3].raw, [each.raw for each in block[1:3]]) == (odd, b"d", [b"b", b"c"])
    assert joined([*block]) == joined(block)


def test_a_long_line_is_a_piece_of_its_own_until_somebody_looks_at_it():
    block, tail = Block(lambda raw: Line(raw, raw.decode(), "succeeded")), b"l" * LONG
    block.add([b"a\nb", tail, b"\nc\n"], 3, {})
    assert (len(block), block.weight) == (3, LONG + 6)
    assert in_pieces(block)[1] is tail
    assert [each.custom_id for each in block] == ["a", "b" + tail.decode(), "c"]
    assert in_pieces(block) == [joined(block)] == [b"a\nb" + tail + b"\nc\n"]


def test_a_long_line_alone_is_copied_once_however_often_it_is_looked_at():
    block, tail = Block(lambda raw: Line(raw, "a", "succeeded")), memoryview(b"l" * LONG)
    block.add([b"a", tail, b"\n"], 1, {})
    (line,) = block
    assert line.raw == b"a" + tail
    (again,) = block
    assert again.raw is line.raw is in_pieces(block)[0]
    assert joined(block) == b"a" + tail + b"\n"


def test_short_lines_are_joined():
    block = Block(lambda raw: Line(raw, raw.decode(), "succeeded"))
    block.add([b"a\nb", b"\nc\n"], 3, {})
    assert in_pieces(block) == [b"a\nb\nc\n"]


def test_a_lone_surrogate_in_an_answer_is_no_obstacle():
    raw = b'{"custom_id":"a","result":{"type":"succeeded","message":{"content":[{"type":"text","text":"\\ud800"}]}}}'
    message = Result(raw).message
    assert message is not None
    assert message.content[0].text == "\ud800"


def test_a_result_shows_its_id_and_outcome_but_not_the_answer():
    assert repr(SUCCEEDED) == "Result(custom_id='a', outcome='succeeded', stop_reason='end_turn')"
    assert repr(ERRORED) == "Result(custom_id='a', outcome='errored', error='api_error')"


def test_reading_everything_but_the_message_does_not_import_the_sdk():
    program = """
import sys
from abatch.result import Result
result = Result(b'{"custom_id":"a","result":{"type":"succeeded","message":{"usage":{"input_tokens":1}}}}')
assert result.usage and result.outcome and result.custom_id and result.error is None
print("anthropic" in sys.modules)
"""
    assert run(program) == "False\n"


def test_the_prompt_is_what_was_read_written_and_neither():
    usage = Usage(input_tokens=1, cache_read_tokens=20, cache_creation_tokens=300, cache_creation_1h_tokens=4)
    assert usage.prompt_tokens == 321


def test_usage_adds_up_field_by_field():
    one = Usage(
        input_tokens=1, output_tokens=2, cache_read_tokens=3, cache_creation_tokens=4, cache_creation_1h_tokens=5
    )
    assert one + one + Usage() == Usage(
        input_tokens=2, output_tokens=4, cache_read_tokens=6, cache_creation_tokens=8, cache_creation_1h_tokens=10
    )


@pytest.mark.parametrize(("succeeded", "ok"), [(10, True), (9, False)])
def test_a_summary_is_ok_when_every_request_succeeded(succeeded, ok):
    summary = Summary(
        key="k", location="x", requests=10, succeeded=succeeded, errored=10 - succeeded, canceled=0, expired=0
    )
    assert summary.ok is ok


def test_an_integer_of_thousands_of_digits_hides_nothing_else_of_its_line():
    line = b'{"custom_id":"x","result":{"type":"succeeded","message":{"usage":{"input_tokens":3},"content":[%b]}}}'
    result = Result(line % (b"9" * 5000))
    assert (result.outcome, result.usage, result.message is not None) == ("succeeded", Usage(input_tokens=3), True)


def answer(*texts: str, **more: Any) -> Result:
    content = [{"type": "thinking", "thinking": "…"}, *({"type": "text", "text": text} for text in texts)]
    return result({"type": "succeeded", "message": {**MESSAGE, "content": content, **more}})


def test_the_text_of_an_answer_is_that_of_its_text_blocks():
    assert SUCCEEDED.text == "hello"
    assert answer("one, ", "two").text == "one, two"
    assert answer("").text == ""


@pytest.mark.parametrize(
    "without",
    [
        ERRORED,
        answer(),
        result({"type": "canceled"}),
        result({"type": "succeeded", "message": {"content": "x"}}),
        result({"type": "succeeded", "message": {"content": [None, {"type": "text"}]}}),
        Result(b"nonsense"),
    ],
)
def test_a_result_without_a_text_block_has_no_text(without):
    assert without.text is None
    with pytest.raises(BadAnswer):
        without.parse(dict)


class Fact(pydantic.BaseModel):
    year: int
    what: str


@dataclass
class Plain:
    year: int
    what: str


class AsStruct(msgspec.Struct):
    year: int
    what: str


class AsDict(TypedDict):
    year: int
    what: str


@pytest.mark.parametrize("model", [Fact, Plain, AsStruct, AsDict, dict[str, Any], dict])
def test_an_answer_is_parsed_as_a_pydantic_model_or_a_type_of_json(model):
    parsed = answer('{"year": 1901, ', '"what": "é"}').parse(model)
    assert isinstance(parsed, dict if model in (AsDict, dict[str, Any]) else model)
    assert (parsed if isinstance(parsed, dict) else {"year": parsed.year, "what": parsed.what}) == {
        "year": 1901,
        "what": "é",
    }


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (answer("no JSON"), "request 'a' cannot be parsed"),
        (answer('{"year": 1901}'), "what"),
        (answer('{"year": "soon", "what": "x"}'), "year"),
        (answer('{"year": 19', stop_reason="max_tokens"), "it was cut at max_tokens; "),
        (answer(stop_reason="refusal"), "it holds no text \\(stop_reason 'refusal'\\); look at `message`"),
        (ERRORED, "it errored \\(api_error: m\\); look at `outcome` first"),
        (result({"type": "expired"}), "its outcome is 'expired'; look at `outcome` first"),
    ],
)
@pytest.mark.parametrize("model", [Fact, AsStruct])
def test_an_answer_that_cannot_be_parsed_says_why(bad, words, model):
    with pytest.raises(BadAnswer, match=words) as refused:
        bad.parse(model)
    assert refused.value.custom_id == "a"
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("model", [Fact, AsStruct])
@pytest.mark.parametrize("text", ['{"year": "a secret", "what": "x"}', "a secret"])
def test_the_text_of_a_bad_answer_does_not_hold_the_answer(text, model):
    with pytest.raises(BadAnswer) as refused:
        answer(text).parse(model)
    assert "secret" not in str(refused.value)


def test_text_and_parse_do_not_import_the_sdk():
    program = (
        "import sys, abatch\n"
        f"result = abatch.Result({answer('[1]').raw!r})\n"
        "print(result.text, result.parse(list[int]), 'anthropic' in sys.modules)"
    )
    assert run(program).split() == ["[1]", "[1]", "False"]


def test_a_summary_shows_what_is_not_zero():
    counts = {"requests": 10, "succeeded": 7, "errored": 3, "canceled": 0, "expired": 0}
    summary = Summary(key="k", location="out.jsonl", cost=1.5, **counts)
    shown = "Summary(key='k', location='out.jsonl', requests=10, succeeded=7, errored=3, cost=1.5)"
    assert repr(summary) == shown
