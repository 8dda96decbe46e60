"""One request from the caller's form to bytes: what is refused, and what passes through untouched."""

from __future__ import annotations

import io
import json
import math
from collections import OrderedDict
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import get_type_hints, is_typeddict

from abatch import BadRequest, Request
from abatch.input.plain import WHOLE, WHOLE_OF_A_TOOL, WHOLE_OF_THINKING
from abatch.input.request import Row, check_lines, from_checked_lines, from_line, from_object

GOOD: dict[str, Any] = {"model": "m", "max_tokens": 1, "messages": []}


def line(params: bytes, custom_id: bytes = b'"a"') -> bytes:
    return b'{"custom_id":' + custom_id + b',"params":' + params + b"}"


def refusal(raw: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        from_line(raw, 7)
    assert refused.value.line == 7
    return refused.value


def refusal_of(request: object) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        from_object(request, 7)
    assert refused.value.line == 7
    return refused.value


DEEP = b"[" * 100_000 + b"]" * 100_000
BAD_LINES = [
    ("not UTF-8", line(b'{"max_tokens":1,"x":"\xff"}'), "UTF-8"),
    ("not UTF-8 outside strings", b"\xff" + line(b'{"max_tokens":1}'), "UTF-8"),
    ("UTF-8 of a surrogate", line(b'{"max_tokens":1,"x":"\xed\xa0\x80"}'), "UTF-8"),
    ("not JSON", b"hello", "not JSON"),
    ("empty", b"", "not JSON"),
    ("cut short", line(b'{"max_tokens":1}')[:-1], "not JSON"),
    ("two values", line(b'{"max_tokens":1}') * 2, "not JSON"),
    ("single quotes", b"{'custom_id':'a'}", "not JSON"),
    ("trailing comma", line(b'{"max_tokens":1,}'), "not JSON"),
    ("a control character", line(b'{"max_tokens":1,"x":"\x01"}'), "not JSON"),
    ("NaN", line(b'{"max_tokens":1,"temperature":NaN}'), "not JSON"),
    ("infinity", line(b'{"max_tokens":1,"temperature":Infinity}'), "not JSON"),
    ("minus infinity", line(b'{"max_tokens":1,"temperature":-Infinity}'), "not JSON"),
    ("a lone surrogate", line(b'{"max_tokens":1,"x":"\\ud800"}'), "surrogate"),
    ("a lone low surrogate", line(b'{"max_tokens":1,"x":"\\udc00"}'), "surrogate"),
    ("a lone surrogate as id", line(b'{"max_tokens":1}', b'"\\ud800"'), "surrogate"),
    ("nested too deeply", line(b'{"max_tokens":1,"x":' + DEEP + b"}"), "nested too deeply"),
    ("an array", b"[]", "object"),
    ("null", b"null", "object"),
    ("a string", b'"a"', "object"),
    ("an unknown field", line(b'{"max_tokens":1}')[:-1] + b',"method":"POST"}', "unknown field `method`"),
    ("no params", b'{"custom_id":"a"}', "missing field `params`"),
    ("no custom_id", b'{"params":{"max_tokens":1}}', "missing field `custom_id`"),
    ("params null", line(b"null"), "object"),
    ("params an array", line(b"[]"), "object"),
    ("params a string", line(b'"x"'), "object"),
    ("custom_id a fraction", line(b'{"max_tokens":1}', b"1.5"), "a string or a whole number"),
    ("custom_id true", line(b'{"max_tokens":1}', b"true"), "a string or a whole number"),
    ("custom_id null", line(b'{"max_tokens":1}', b"null"), "custom_id"),
    ("custom_id empty", line(b'{"max_tokens":1}', b'""'), "1 to 512"),
    ("custom_id of 513 bytes", line(b'{"max_tokens":1}', b'"' + b"x" * 513 + b'"'), "513"),
    ("custom_id of 257 letters of two bytes", line(b'{"max_tokens":1}', b'"' + "é".encode() * 257 + b'"'), "514"),
    ("stream", line(b'{"max_tokens":1,"stream":true}'), "stream"),
    ("stream of another type", line(b'{"max_tokens":1,"stream":1}'), "stream"),
    ("max_tokens missing", line(b"{}"), "max_tokens is missing"),
    ("max_tokens null", line(b'{"max_tokens":null}'), "max_tokens is missing"),
    ("max_tokens 0", line(b'{"max_tokens":0}'), "at least 1"),
    ("max_tokens negative", line(b'{"max_tokens":-5}'), "at least 1"),
    ("max_tokens a fraction", line(b'{"max_tokens":1.5}'), "whole number"),
    ("max_tokens a whole float", line(b'{"max_tokens":1024.0}'), "1024, not 1024.0"),
    ("max_tokens true", line(b'{"max_tokens":true}'), "whole number"),
    ("max_tokens a string", line(b'{"max_tokens":"1"}'), "whole number"),
    ("max_tokens endless", line(b'{"max_tokens":' + b"9" * 5_000 + b"}"), "max_tokens"),
    ("the last of two max_tokens is bad", line(b'{"max_tokens":1,"max_tokens":0}'), "at least 1"),
    ("betas a string", line(b'{"max_tokens":1}')[:-1] + b',"betas":"x"}', "betas"),
    ("betas of numbers", line(b'{"max_tokens":1}')[:-1] + b',"betas":[1]}', "betas"),
]


@pytest.mark.parametrize(("raw", "words"), [bad[1:] for bad in BAD_LINES], ids=[bad[0] for bad in BAD_LINES])
def test_a_bad_line_is_refused_with_its_number_and_the_reason(raw, words):
    assert words in refusal(raw).why


@pytest.mark.parametrize(
    "raw",
    [
        line(b"{}"),
        line(b'{"max_tokens":0}'),
        line(b'{"max_tokens":1,"stream":true}'),
        line(b"[]"),
        b'{"custom_id":"a"}',
        b'{"custom_id":"a","params":{"max_tokens":1},"x":1}',
    ],
)
def test_a_bad_line_is_named_by_its_custom_id_where_it_has_one(raw):
    assert refusal(raw).custom_id == "a"


def test_a_lone_surrogate_is_called_one():
    assert "surrogate" in refusal(line(b'{"max_tokens":1,"x":"\\ud800"}')).why


def test_the_place_of_bad_utf_8_is_told():
    assert "not UTF-8 (byte 3 of the line)" in refusal(b"ab\xff").why


@pytest.mark.parametrize(
    "params",
    [
        b'{"max_tokens":1}',
        b' { "b" : 1 , "a" : 1.0e0 , "max_tokens" : 8 } ',
        b'{"max_tokens":1,"max_tokens":2}',
        b'{"max_tokens":1,"stream":false}',
        b'{"max_tokens":1,"x":"\\u00e9\\/\\ud83d\\ude00"}',
        '{"max_tokens":1,"x":"é\u2028😀"}'.encode(),
        b'{"max_tokens":1,"x":12345678901234567890123456789012345678901234567890}',
        b'{"max_tokens":1,"x":0.1000000000000000055511151231257827}',
        b'{"max_tokens":1,"x":' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"max_tokens":1,"custom_id":"b","params":{"custom_id":"c"},"whatever":null}',
    ],
)
def test_params_of_a_line_pass_through_byte_for_byte(params):
    row = from_line(b'{"params":' + params + b',"custom_id":"a"}', 1)
    assert row.params.strip() == params.strip()
    assert row.custom_id == b'"a"'


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100), st.booleans())
def test_any_text_is_a_custom_id(text, ascii_only):
    raw = json.dumps({"custom_id": text, "params": GOOD}, ensure_ascii=ascii_only).encode()
    assert json.loads(from_line(raw, 1).custom_id) == text
    assert from_object(Request(text, GOOD), 1).custom_id == from_line(raw, 1).custom_id


def test_a_custom_id_of_512_bytes_is_taken():
    assert from_line(line(b'{"max_tokens":1}', b'"' + b"x" * 512 + b'"'), 1)


def test_a_whole_number_as_custom_id_is_taken_as_its_text():
    raw = line(b'{"max_tokens":1}', b"7")
    assert from_line(raw, 1).custom_id == b'"7"'
    assert check_lines(raw + b"\n") == ([b'"7"'], {()})
    assert from_checked_lines(raw + b"\n").custom_ids == [b'"7"']


def test_betas_of_a_line_are_kept_in_order():
    raw = line(b'{"max_tokens":1}')[:-1] + b',"betas":["b","a"]}'
    assert from_line(raw, 1).betas == ("b", "a")


@given(st.binary(max_size=100))
def test_whatever_a_line_is_it_is_refused_as_a_bad_request(raw):
    refusal(raw)


# ---- many lines at once ---------------------------------------------------------------------------------------


def betas_line(custom_id: str, *betas: str) -> bytes:
    return json.dumps({"custom_id": custom_id, "params": GOOD, "betas": betas}).encode()


def test_good_lines_are_checked_together():
    text = line(b'{"max_tokens":1}', b'"\\u00e9"') + b"\n" + betas_line("b", "y", "x") + b"\n" + betas_line("c") + b"\n"
    assert check_lines(text) == (['"é"'.encode(), b'"b"', b'"c"'], {(), ("y", "x")})


@pytest.mark.parametrize("raw", [bad[1] for bad in BAD_LINES], ids=[bad[0] for bad in BAD_LINES])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_bad_line_among_good_ones_is_left_to_be_looked_at_by_itself(raw, before):
    some = [line(b'{"max_tokens":1}', b'"%d"' % n) for n in range(2)]
    some.insert(before, raw)
    assert check_lines(b"\n".join(some) + b"\n") is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        betas_line("a") + betas_line("b") + b"\n",
        betas_line("a") + b" " + betas_line("b") + b"\n\n",
        betas_line("a").replace(b":", b":\n", 1) + betas_line("b") + b"\n",
        betas_line("a") + b"\r\n" + betas_line("b") + b"\r\n",
        betas_line("a") + b"\n \n" + betas_line("b"),
    ],
    ids=["nothing", "a blank line", "two on a line", "two and a blank", "over two lines", "CRLF", "blank between"],
)
def test_what_is_not_one_request_a_line_is_left_to_be_looked_at(text):
    assert check_lines(text) is None


ODD_LINES = st.one_of(
    st.builds(lambda custom_id: line(b'{"max_tokens":1}', json.dumps(custom_id).encode()), st.text(max_size=3)),
    st.lists(st.sampled_from(["x", "y", "a b"]), max_size=3).map(lambda betas: betas_line("a", *betas)),
    st.builds(
        lambda name, value: line(b'{"max_tokens":1,"%b":%b}' % (name, value)),
        st.sampled_from([b"max_tokens", b"stream", b"x"]),
        st.sampled_from([b"0", b"1.0", b"1e400", b"false", b"true", b"null", b"\n{}\n", b"[]", b'"\xff"', b"9" * 400]),
    ),
    st.sampled_from([b"", b"{}", b" ", betas_line("x") + b"\r", betas_line("x") * 2, betas_line("x")[:9]]),
)


@given(st.lists(ODD_LINES, max_size=4))
def test_lines_that_are_good_together_are_good_one_by_one_and_say_the_same(some):
    text = b"\n".join(some)
    checked = check_lines(text)
    if checked is None:
        return
    rows = [from_line(each, 1) for each in text.split(b"\n") if each]
    assert checked == ([row.custom_id for row in rows], {row.betas for row in rows})


def test_checked_lines_are_taken_apart_into_the_same_rows():
    text = (
        line(b' {"max_tokens":1} ', b'"\\u00e9"') + b"\n\r\n " + betas_line("b", "y", "x") + b"\r\n" + betas_line("c")
    )
    rows = [from_line(each.strip(), 1) for each in text.split(b"\n") if each.strip()]
    told = from_checked_lines(text)
    assert (told.custom_ids, told.betas) == ([row.custom_id for row in rows], [row.betas for row in rows])
    assert list(map(bytes, told.params)) == [row.params for row in rows]


@pytest.mark.parametrize("text", [b"x", b'{"custom_id":"a"}', b"\xff", line(b"[" * 100_000)])
def test_lines_that_are_not_what_they_were_are_refused(text):
    with pytest.raises(BadRequest, match="not what it was"):
        from_checked_lines(text)


# ---- objects --------------------------------------------------------------------------------------------------


class Block:
    """An answer of the SDK, put back into a conversation."""

    def model_dump(self, *, mode: str, exclude_unset: bool, by_alias: bool) -> dict[str, object]:
        assert (mode, exclude_unset, by_alias) == ("json", True, True)
        return {"type": "text", "text": "hello"}


@pytest.mark.parametrize(
    "request_",
    [
        Request("a", GOOD),
        {"custom_id": "a", "params": GOOD},
        {"custom_id": "a", "params": GOOD, "betas": []},
        OrderedDict(params=GOOD, custom_id="a"),
        MappingProxyType({"custom_id": "a", "params": MappingProxyType(GOOD)}),
    ],
    ids=["Request", "dict", "dict with betas", "OrderedDict", "proxies"],
)
def test_a_request_or_any_mapping_with_its_names_is_taken(request_):
    assert from_object(request_, 1) == Row(b'"a"', b'{"model":"m","max_tokens":1,"messages":[]}')


def test_tuples_nested_mappings_and_models_become_json():
    params = {**GOOD, "messages": ({"role": "assistant", "content": [Block()]}, MappingProxyType({"x": (1, 2)}))}
    row = from_object(Request("a", params), 1)
    assert json.loads(row.params)["messages"] == [
        {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
        {"x": [1, 2]},
    ]


def test_an_answer_of_the_sdk_can_be_put_back_into_a_conversation():
    from anthropic.types import TextBlock

    params = {**GOOD, "messages": [{"role": "assistant", "content": [TextBlock(type="text", text="é")]}]}
    content = json.loads(from_object(Request("a", params), 1).params)["messages"][0]["content"]
    assert content == [{"type": "text", "text": "é"}]


class Text(str):
    """A string of another class, such as numpy's; its own text is not trusted."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"Text({super().__str__()})"


class Whole(int):
    """A whole number of another class."""


@pytest.mark.parametrize(
    ("custom_id", "text"),
    [
        (Text("é"), "é"),
        (7, "7"),
        (-7, "-7"),
        (Whole(7), "7"),
        (HTTPStatus.OK, "200"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    ],
    ids=["a string", "an int", "a negative int", "a class of int", "an enum", "a UUID"],
)
def test_a_string_or_whole_number_of_any_class_is_a_custom_id(custom_id, text):
    for request in (Request(custom_id, GOOD), {"custom_id": custom_id, "params": {**GOOD, "model": Text("m")}}):
        assert from_object(request, 1).custom_id == json.dumps(text, ensure_ascii=False).encode()
    assert [type(beta) for beta in from_object(Request("a", GOOD, betas=[Text("b")]), 1).betas] == [str]


def test_betas_of_an_object_are_kept_in_order():
    assert from_object(Request("a", GOOD, betas=["b", "a"]), 1).betas == ("b", "a")
    assert from_object({"custom_id": "a", "params": GOOD, "betas": ("c",)}, 1).betas == ("c",)


def test_objects_become_compact_utf_8():
    assert from_object(Request("a", {"max_tokens": 1, "x": "é\u2028"}), 1).params == (
        '{"max_tokens":1,"x":"é\u2028"}'.encode()
    )


def endless() -> dict[str, Any]:
    top: dict[str, Any] = {"max_tokens": 1}
    inner = top
    for _ in range(100_000):
        inner["x"] = {}
        inner = inner["x"]
    return top


def circle() -> dict[str, Any]:
    top: dict[str, Any] = {"max_tokens": 1}
    top["x"] = top
    return top


class Number:
    """A number as numpy has them: no number of Python's."""

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        return self.value


class WholeNumber(Number):
    def __index__(self) -> int:
        return int(self.value)


class Truth(Number):
    def __init__(self) -> None:
        super().__init__(True)

    def __index__(self) -> int:
        raise TypeError


class Array:
    def tolist(self) -> list[float]:
        return [0.5, 1.0]


def image(data: object) -> dict[str, object]:
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


def params_of(**more: object) -> dict[str, Any]:
    return json.loads(from_object(Request("a", {**GOOD, **more}), 1).params)


def test_what_the_sdk_leaves_out_is_left_out():
    from anthropic import NOT_GIVEN, omit

    made = params_of(system=omit, temperature=NOT_GIVEN, stream=omit, messages=[{"role": "user", "name": omit}])
    assert made == {**GOOD, "messages": [{"role": "user"}]}


def test_the_sdk_s_own_request_is_taken():
    from anthropic.types import TextBlockParam
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
    from anthropic.types.messages.batch_create_params import Request as OfTheSdk

    content = [TextBlockParam(type="text", text="é")]
    params = MessageCreateParamsNonStreaming(model="m", max_tokens=1, messages=[{"role": "user", "content": content}])
    assert from_object(OfTheSdk(custom_id="a", params=params), 1) == from_object(Request("a", dict(params)), 1)


def test_a_parsed_answer_is_put_back_without_what_was_parsed():
    from anthropic.types import ParsedTextBlock

    block = ParsedTextBlock[Any](type="text", text="{}", parsed_output={"a": 1})
    made = params_of(messages=[{"role": "assistant", "content": [block]}])
    assert made["messages"][0]["content"] == [{"type": "text", "text": "{}"}]


def test_a_path_or_file_is_read_where_it_is_the_data_of_a_base64_source(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG")
    expected = image("iVBORw==")
    assert params_of(messages=[{"content": [image(path)]}])["messages"] == [{"content": [expected]}]
    with path.open("rb") as opened:
        for _ in range(2):  # a request may be read again, for instance to compare it with the journal
            assert params_of(messages=[image(opened)])["messages"] == [expected]
    assert params_of(messages=[image(io.BytesIO(b"\x89PNG"))])["messages"] == [expected]


def test_numbers_and_arrays_of_numpy_are_numbers_and_lists():
    made = params_of(temperature=Number(0.5), top_k=WholeNumber(3), stop_sequences=Array(), stream=Number(False))
    assert made == {**GOOD, "temperature": 0.5, "top_k": 3, "stop_sequences": [0.5, 1.0], "stream": False}


def test_a_float_that_is_whole_is_an_integer_where_one_is_meant():
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2.0, "x": 2.0}
    made = from_object(
        Request(
            "a",
            {
                "max_tokens": 1024.0,
                "top_k": 5.0,
                "top_p": 1.0,
                "thinking": {"budget_tokens": Number(2048.0)},
                "tools": [tool],
                "messages": [{"content": "version 2.0"}],
            },
        ),
        1,
    )
    assert made.params == (
        b'{"max_tokens":1024,"top_k":5,"top_p":1.0,"thinking":{"budget_tokens":2048},"tools":[{"type":'
        b'"web_search_20250305","name":"web_search","max_uses":2,"x":2.0}],"messages":[{"content":"version 2.0"}]}'
    )


def test_the_whole_numbers_are_those_of_the_sdk_s_types():
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

    params = dict(fields(MessageCreateParamsNonStreaming))
    assert set(WHOLE) == {name for name, kind in params.items() if kind is int} | {"top_k"}
    assert set(WHOLE_OF_A_TOOL) == whole_of(params["tools"])
    assert set(WHOLE_OF_THINKING) == whole_of(params["thinking"])


def whole_of(hint: Any) -> set[str]:
    """The fields that are whole numbers, of all objects that a hint allows."""
    return {name for each in parts(hint) if is_typeddict(each) for name, kind in fields(each) if int in parts(kind)}


def fields(kind: Any) -> list[tuple[str, Any]]:
    return list(get_type_hints(kind).items())


def parts(hint: Any) -> list[Any]:
    """A hint, and the hints inside of it."""
    return [hint, *(part for each in get_args(hint) for part in parts(each))]


def test_numpy_itself_is_taken():
    import numpy as np

    request = {
        "custom_id": np.int64(17),
        "params": {**GOOD, "max_tokens": np.float64(9), "top_k": np.int32(2)},
    }
    row = from_object(request, 1)
    assert (row.custom_id, json.loads(row.params)) == (b'"17"', {**GOOD, "max_tokens": 9, "top_k": 2})
    made = params_of(x=np.float32(0.5), y=np.array([1, 2]), z=np.True_)
    assert made == {**GOOD, "x": 0.5, "y": [1, 2], "z": True}
    assert "custom_id must be" in refusal_of(Request(np.True_, GOOD)).why


BAD_OBJECTS = [
    ("a string", "a", "expected a Request"),
    ("None", None, "expected a Request"),
    ("a pair", ("a", GOOD), "expected a Request"),
    ("an unknown field", {"custom_id": "a", "params": GOOD, "url": "x"}, "unknown field 'url'"),
    ("a field that is no text", {"custom_id": "a", "params": GOOD, 5: "x"}, "unknown field '5'"),
    ("no params", {"custom_id": "a"}, "params is missing"),
    ("no custom_id", {"params": GOOD}, "custom_id is missing"),
    ("custom_id bytes", Request(b"a", GOOD), "string"),
    ("custom_id a fraction", {"custom_id": 1.5, "params": GOOD}, "string"),
    ("custom_id True", {"custom_id": True, "params": GOOD}, "string"),
    ("custom_id endless", {"custom_id": 10**5_000, "params": GOOD}, "1 to 512"),
    ("custom_id empty", Request("", GOOD), "1 to 512"),
    ("custom_id too long", Request("x" * 513, GOOD), "513"),
    ("custom_id a lone surrogate", Request("\ud800", GOOD), "surrogate"),
    ("params None", Request("a", None), "mapping"),
    ("params a list", Request("a", [GOOD]), "mapping"),
    ("max_tokens missing", Request("a", {"model": "m"}), "max_tokens is missing"),
    ("max_tokens 0", Request("a", {"max_tokens": 0}), "at least 1"),
    ("max_tokens True", Request("a", {"max_tokens": True}), "whole number"),
    ("max_tokens 1.5", Request("a", {"max_tokens": 1.5}), "whole number"),
    ("a file that is no source", Request("a", {**GOOD, "system": Path("x")}), "`data` of a base64 source"),
    ("a file that is not there", Request("a", {**GOOD, "system": image(Path("gone.png"))}), "cannot be read"),
    ("an iterator", Request("a", {**GOOD, "messages": iter([])}), "JSON"),
    ("a number of numpy that is NaN", Request("a", {**GOOD, "temperature": Number(math.nan)}), "temperature is nan"),
    ("custom_id a truth of numpy", Request(Truth(), GOOD), "a whole number or a UUID, got Truth"),
    ("stream", Request("a", {**GOOD, "stream": True}), "stream"),
    (
        "NaN",
        Request("a", {**GOOD, "temperature": float("nan")}),
        "JSON: temperature is nan",
    ),
    ("infinity in a list", Request("a", {**GOOD, "tools": [{"n": 1}, {"n": math.inf}]}), "tools[1].n is inf"),
    ("infinity", Request("a", {**GOOD, "temperature": float("inf")}), "JSON"),
    ("a lone surrogate", Request("a", {**GOOD, "system": "\ud800"}), "JSON"),
    ("a lone surrogate as a name", Request("a", {**GOOD, "\udfff": 1}), "JSON"),
    ("bytes", Request("a", {**GOOD, "system": b"x"}), "JSON"),
    ("a set", Request("a", {**GOOD, "system": {"x"}}), "JSON"),
    ("a function", Request("a", {**GOOD, "system": print}), "JSON"),
    ("a name that is no text", Request("a", {**GOOD, (1,): 2}), "JSON"),
    ("nested too deeply", Request("a", endless()), "JSON"),
    ("a circle", Request("a", circle()), "JSON"),
    ("betas a string", Request("a", GOOD, betas="x"), "betas"),
    ("betas of numbers", Request("a", GOOD, betas=[1]), "betas"),
    ("betas None", Request("a", GOOD, betas=None), "betas"),
    ("betas None in a mapping", {"custom_id": "a", "params": GOOD, "betas": None}, "betas"),
    ("betas a number", Request("a", GOOD, betas=5), "betas"),
]


@pytest.mark.parametrize(("bad", "words"), [bad[1:] for bad in BAD_OBJECTS], ids=[bad[0] for bad in BAD_OBJECTS])
def test_a_bad_object_is_refused_with_its_number_and_the_reason(bad, words):
    assert words in refusal_of(bad).why


@pytest.mark.parametrize("beta", ["a\r\nx-other: 1", "a\nb", "a\0b"])
def test_a_beta_that_cannot_stand_in_a_header_is_refused_before_it_spoils_its_batch(beta):
    assert "beta" in refusal_of(Request("a", GOOD, betas=[beta])).why


def test_a_line_s_beta_that_cannot_stand_in_a_header_is_refused_too():
    assert "beta" in refusal(line(b'{"max_tokens":1}')[:-1] + b',"betas":["a\\nb"]}').why


@pytest.mark.parametrize(("bad", "named"), [({"custom_id": "a"}, "a"), (Request("a", {}), "a"), ({"params": {}}, None)])
def test_a_bad_object_is_named_by_its_custom_id_where_it_has_one(bad, named):
    assert refusal_of(bad).custom_id == named
