"""Params against the SDK's own types: what is refused, what is doubted, and what costs nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from hypothesis import given
from hypothesis import strategies as st

from abatch.input.params import OLDER, Check, check_of, table
from abatch.input.request import Row, check_lines, from_line

GOOD: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 16,
    "messages": [{"role": "user", "content": "hello"}],
}
HELLO = {"type": "text", "text": "hello"}
TOOL = {"name": "get", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}


def said(*messages: object) -> dict[str, Any]:
    return {**GOOD, "messages": list(messages)}


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def row(params: dict[str, Any], betas: tuple[str, ...] = ()) -> Row:
    return Row(b'"a"', json.dumps(params).encode(), betas)


def problems(params: dict[str, Any], *, betas: tuple[str, ...] = ()) -> list[str]:
    return [bad.why for bad in Check().row(row(params, betas), 1)]


def doubts(params: dict[str, Any], *, betas: tuple[str, ...] = ()) -> list[str]:
    check = Check()
    assert check.row(row(params, betas), 1) == []
    return [doubt.examples[0].why for doubt in check.doubts.alike()]


REFUSED = [
    (without("messages"), "messages is missing"),
    (without("model"), "model is missing"),
    ({**GOOD, "messages": None}, "messages is missing"),
    ({**GOOD, "messages": "hello"}, "messages must be a list, it is a string"),
    ({**GOOD, "messages": []}, "messages is empty"),
    (said("hello"), "messages[0] must be an object, it is a string"),
    (said(user("")), "messages[0].content is empty"),
    (said(user([])), "messages[0].content is empty"),
    (said(user([{"type": "text", "text": ""}])), "messages[0].content[0].text is empty"),
    (said(user("x"), user([HELLO, "x"])), "messages[1].content[1] must be an object, it is a string"),
    (said(user([{"text": "x"}])), "messages[0].content[0].type is missing"),
    (said(user([{"type": "text"}])), "messages[0].content[0].text is missing"),
    (said({"content": "x"}), "messages[0].role is missing"),
    (said({"role": "user"}), "messages[0].content is missing"),
    ({**GOOD, "model": 5}, "model must be a string, it is a number"),
    ({**GOOD, "temperature": "hot"}, "temperature must be a number, it is a string"),
    ({**GOOD, "stop_sequences": "x"}, "stop_sequences must be a list, it is a string"),
    ({**GOOD, "system": 5}, "system must be a string or a list, it is a number"),
    ({**GOOD, "tool_choice": "auto"}, "tool_choice must be an object, it is a string"),
    ({**GOOD, "tools": [{"name": "get"}]}, "tools[0].input_schema is missing"),
    ({**GOOD, "betas": ["x"]}, "put `betas` on the line's top level, beside params, or use --beta"),
    ({**GOOD, "extra_headers": {"anthropic-beta": "x"}}, "--beta"),
    ({**GOOD, "extra_body": {"a": 1}}, "put its fields into params themselves"),
    ({**GOOD, "extra_query": {}}, "has no query"),
    ({**GOOD, "timeout": 600}, "no time limit of its own"),
    ({**GOOD, "workspace_id": "w"}, "--workspace-id"),
    ({**GOOD, "speed": "fast"}, "`speed` is not possible in a batch"),
]


@pytest.mark.parametrize(("params", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_params_that_the_api_is_certain_to_refuse_are_a_problem(params, why):
    (told,) = problems(params)
    assert why in told


DOUBTED = [
    ({**GOOD, "temprature": 0.5}, "`temprature` is not a name that anthropic", "did you mean `temperature`?"),
    (said(user([{**HELLO, "cach_control": None}])), "`cach_control` in messages[0].content[0]", "`cache_control`"),
    (said(user([{"type": "image_url"}])), "messages[0].content[0].type `image_url`", "`image`"),
    (said({"role": "asistant", "content": "x"}), "messages[0].role `asistant`", "`assistant`"),
    (said({"role": "system", "content": "x"}, user("x")), "messages[0].role is `system`", "the parameter `system`"),
    ({**GOOD, "model": "claude-hiaku-4-5"}, "model `claude-hiaku-4-5`", "did you mean `claude-haiku-4-5`?"),
    ({**GOOD, "model": "anthropic/claude-opus-5"}, "model `anthropic/", "did you mean `claude-opus-5`?"),
    ({**GOOD, "service_tier": "slow"}, "service_tier `slow`", "is not one"),
    ({**GOOD, "tools": [{"type": "web_serch_20250305", "name": "web_search"}]}, "tools[0].type", "web_search_20250305"),
    ({**GOOD, "system": None}, "system is null", "leave it out"),
    ({**GOOD, "mcp_servers": []}, "`mcp_servers` needs a beta", "--beta"),
    ({**GOOD, "thinking": {"type": "enabled"}}, "thinking.budget_tokens is missing", ""),
]


@pytest.mark.parametrize(("params", "why", "hint"), DOUBTED, ids=[why for _, why, _ in DOUBTED])
def test_what_a_newer_api_may_take_is_a_warning_that_names_the_nearest(params, why, hint):
    (told,) = doubts(params)
    assert why in told
    assert hint in told
    strict = Check(strict=True)
    assert [bad.why for bad in strict.row(row(params), 1)] == [told]
    assert strict.doubts.total == 0


TAKEN = [
    {**GOOD, "temperature": 0, "top_p": 0.5, "top_k": 5},
    {**GOOD, "stream": False, "stop_sequences": ["x"], "metadata": {"user_id": "u"}, "service_tier": "auto"},
    {**GOOD, "system": [{**HELLO, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
    {**GOOD, "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}], "tool_choice": {"type": "any"}},
    {**GOOD, "thinking": {"type": "enabled", "budget_tokens": 1024}},
    {**GOOD, "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
    {**GOOD, "user_profile_id": "u"},
    said(user("x"), {"role": "assistant", "content": ""}),
    said(user([HELLO, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}}])),
    said(
        user("x"),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "get", "input": {"a": 1}}]},
        user([{"type": "tool_result", "tool_use_id": "t", "content": [HELLO]}]),
    ),
]


@pytest.mark.parametrize("params", TAKEN)
def test_what_the_api_takes_is_neither_a_problem_nor_a_doubt(params):
    assert doubts(params) == []


def test_a_parameter_of_a_beta_is_taken_where_the_line_or_the_job_names_one():
    params = {**GOOD, "mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}
    assert doubts(params, betas=("mcp-client-2025-11-20",)) == []
    check = Check(betas=True)
    assert check.row(row(params), 1) == []
    assert check.doubts.total == 0


@pytest.mark.parametrize("name", sorted({*MessageCreateParamsNonStreaming.__annotations__, *OLDER}))
def test_every_parameter_of_the_sdk_is_known(name):
    found = table().look({**GOOD, name: GOOD.get(name)}, betas=False)
    assert not [each.why for each in found if "is not a name" in each.why]


def test_nothing_is_looked_at_where_params_go_unchecked():
    assert check_of("unchecked", betas=False) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
CONTENT = st.one_of(
    st.sampled_from(["", "x"]),
    st.lists(
        st.one_of(
            st.just(HELLO),
            JSON,
            st.fixed_dictionaries(
                {"type": st.sampled_from(["text", "image", "tool_use", "new"])},
                optional={"text": JSON, "source": JSON, "id": JSON, "name": JSON, "input": JSON},
            ),
        ),
        max_size=3,
    ),
    JSON,
)
MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": CONTENT}), JSON
    ),
    max_size=3,
)
PARAMS = st.fixed_dictionaries(
    {"model": st.sampled_from(["claude-haiku-4-5", "m"]) | JSON, "max_tokens": st.just(1), "messages": MESSAGES | JSON},
    optional={
        "system": CONTENT,
        "tools": st.lists(st.sampled_from([TOOL, {"name": "x"}]) | JSON, max_size=2) | JSON,
        "temperature": JSON,
        "thinking": JSON,
        "metadata": JSON,
        "stream": st.sampled_from([False, None]),
        "other": JSON,
    },
)


@given(PARAMS)
def test_what_is_taken_in_bulk_is_taken_by_itself(params):
    line = json.dumps({"custom_id": "a", "params": params}).encode() + b"\n"
    check = Check()
    if check_lines(line, check.lines) is None:
        return
    assert table().look(params, betas=False) == []
    assert check.row(from_line(line[:-1], 1), 1) == []
    assert check.doubts.total == 0


@given(PARAMS)
def test_whatever_params_are_they_are_looked_at(params):
    problems(params)


def test_usual_params_are_checked_in_bulk():
    text = b"".join(msgspec.json.encode({"custom_id": "a", "params": params}) + b"\n" for params in TAKEN[:6])
    tools = msgspec.json.encode({"custom_id": "a", "params": {**GOOD, "tools": [TOOL]}}) + b"\n"
    taken = [line for line in text.splitlines(keepends=True) if check_lines(line, Check().lines) is not None]
    assert len(taken) == 5  # but for that with a server's tool
    assert check_lines(tools, Check().lines) is not None
