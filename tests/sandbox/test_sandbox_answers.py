"""Structured outputs can be tested: an answer is what the test's function gives, or valid for the request's schema."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import anthropic
import msgspec
import pydantic
import pytest

from abatch import BatchManager, Config, Result
from abatch.sandbox import Sandbox, answer_text
from abatch.sandbox.schemas import NoInstance, instance
from tests.e2e.jobs import manager, params

pytestmark = pytest.mark.anyio


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tree(pydantic.BaseModel):
    name: str
    parent: Tree | None
    children: list[Tree] = []


class Circle(pydantic.BaseModel):
    kind: Literal["circle"]
    radius: Annotated[float, pydantic.Field(gt=0, lt=0.5)]


class Square(pydantic.BaseModel):
    kind: Literal["square"]
    side: Annotated[int, pydantic.Field(ge=10, multiple_of=7)]


class Everything(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    text: str
    short: Annotated[str, pydantic.Field(max_length=5)]
    long: Annotated[str, pydantic.Field(min_length=60)]
    colour: Colour
    whole: Annotated[int, pydantic.Field(gt=3, lt=5)]
    negative: Annotated[float, pydantic.Field(lt=-0.25)]
    flag: bool
    nothing: None
    maybe: int | None
    tags: Annotated[list[str], pydantic.Field(min_length=3)]
    few: Annotated[list[int], pydantic.Field(max_length=0)]
    pair: tuple[int, str]
    day: date
    at: datetime
    ident: UUID
    shape: Annotated[Circle | Square, pydantic.Field(discriminator="kind")]
    shapes: list[Square | Circle]
    scores: dict[str, float]
    tree: Tree


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    y: Annotated[float, msgspec.Meta(ge=0.5, le=0.75)]
    colour: Colour = Colour.RED
    next: Optional["Point"] = None


def with_schema(schema: object, number: int = 1) -> dict[str, Any]:
    return params(number, output_config={"format": {"type": "json_schema", "schema": schema}})


def texts(results: list[Result]) -> dict[str, str]:
    return {result.custom_id: json.loads(result.raw)["result"]["message"]["content"][0]["text"] for result in results}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def answered(api: Sandbox, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
    async with manager() as running:
        job = await running.submit(rows, to="memory:", key="job")
        return [result async for result in job.results()]


async def test_a_schema_of_a_request_is_answered_with_a_valid_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"custom_id": "model", "params": with_schema(Everything.model_json_schema())},
        {"custom_id": "struct", "params": with_schema(msgspec.json.schema(Point))},
        {"custom_id": "plain", "params": params(3)},
    ]
    with Sandbox(seed=1) as api:
        found = texts(await answered(api, rows, monkeypatch))
        assert api.account.violated == 0
    Everything.model_validate_json(found["model"], strict=True)
    assert msgspec.json.decode(found["struct"], type=Point).next is None
    assert found["plain"] == answer_text(json.dumps(rows[2]["params"], separators=(",", ":")).encode())


async def test_the_answer_function_sees_the_params_and_gives_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"page": 7}}

    def answer(given: dict[str, Any]) -> Any:
        match given["messages"][0]["content"].split():
            case ["question", "1"]:
                return 'a text with " and \n and é'
            case ["question", "2"]:
                return {"page": 7}
            case ["question", "3"]:
                return [{"type": "text", "text": "I look it up."}, call]
            case _:
                return None

    rows: list[dict[str, Any]] = [{"custom_id": f"{number}", "params": params(number)} for number in range(1, 5)]
    with Sandbox(seed=1, answer=answer) as api:
        results = {result.custom_id: result for result in await answered(api, rows, monkeypatch)}
        async with anthropic.AsyncAnthropic(base_url=api.url, api_key=api.key) as sdk:
            said = await sdk.messages.create(**rows[1]["params"])
        assert api.account.violated == 0
    messages = {custom_id: result.message for custom_id, result in results.items()}
    one, two, three, four = (messages[f"{number}"] for number in range(1, 5))
    assert one is not None
    assert two is not None
    assert three is not None
    assert four is not None
    assert [block.to_dict() for block in one.content] == [{"type": "text", "text": 'a text with " and \n and é'}]
    assert [block.to_dict() for block in two.content] == [{"type": "text", "text": '{"page":7}'}]
    assert [block.to_dict() for block in said.content] == [{"type": "text", "text": '{"page":7}'}]
    assert (one.stop_reason, three.stop_reason) == ("end_turn", "tool_use")
    assert three.content[1].to_dict() == call
    assert [block.to_dict()["text"] for block in four.content] == [  # type: ignore[typeddict-item]
        answer_text(json.dumps(rows[3]["params"], separators=(",", ":")).encode())
    ]


async def test_an_answer_function_that_raises_is_an_error_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(given: dict[str, Any]) -> str:
        return given["system"]

    rows = [{"custom_id": "a", "params": params(1)}, {"custom_id": "b", "params": params(2, system="hello")}]
    with Sandbox(seed=1, answer=answer) as api:
        found = {result.custom_id: result for result in await answered(api, rows, monkeypatch)}
        assert api.account.times(json.dumps(rows[0]["params"], separators=(",", ":")).encode()) == 1
    error = found["a"].error
    assert error is not None
    assert (error.type, error.message) == ("invalid_request_error", "[sandbox] answer= raised KeyError: 'system'")
    assert found["b"].outcome == "succeeded"


async def test_answers_of_their_own_survive_a_restart_of_the_sandbox(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [{"custom_id": "a", "params": params(1)}]
    with Sandbox(seed=1, answer=lambda _: "mine", state=tmp_path / "state", latency=3_600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        port = int(api.url.rpartition(":")[2])
        async with BatchManager(config=api.config()) as running:
            job = await running.submit(rows, to="memory:", key="job")
            while not job.progress().batches:
                await job._job.change()
    with Sandbox(seed=1, state=tmp_path / "state", port=port) as api:
        api.advance(3_601)
        assert texts(await answered(api, rows, monkeypatch)) == {"a": "mine"}
        assert (api.account.batches, api.account.violated) == (1, 0)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "string", "pattern": "^a+$"}, "'pattern' is not known"),
        ({"$ref": "https://example.com/schema"}, "leads out of the schema"),
        ({"$ref": "#/$defs/Gone"}, "leads nowhere"),
        ({"$defs": {"A": {"properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"]}}, "$ref": "#/$defs/A"}, "own"),
        ({"$defs": {"A": {"allOf": [{"$ref": "#/$defs/A"}]}}, "allOf": [{"$ref": "#/$defs/A"}]}, "its own schema"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number"),
        ({"enum": []}, "enum has no value"),
        ("text", "not an object"),
    ],
)
def test_a_schema_of_which_no_instance_is_known_is_refused_with_the_reason(schema: object, why: str) -> None:
    with pytest.raises(NoInstance, match=why):
        instance(schema, "mark")


def test_parts_of_all_of_are_one_schema() -> None:
    schema = {
        "$defs": {"Named": {"type": "object", "properties": {"name": {"const": "n"}}, "required": ["name"]}},
        "allOf": [{"$ref": "#/$defs/Named"}, {"properties": {"size": {"enum": [3, 4]}}, "required": ["size"]}],
    }
    assert instance(schema, "mark") == {"name": "n", "size": 3}


@pytest.mark.anyio
@pytest.mark.parametrize("made", ["by the sandbox", "by hand"])
async def test_the_settings_of_the_sandbox_give_no_warning_of_their_grace(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, made: str
) -> None:
    config = Sandbox.config() if made == "by the sandbox" else Config(grace=Sandbox.config().grace)
    async with (
        Sandbox() as api,
        anthropic.AsyncAnthropic(base_url=api.url, api_key=api.key) as client,
        BatchManager(tmp_path / "journal", client=client, config=config),
    ):
        pass
    assert ("grace_below_the_bounds" in caplog.text) == (made == "by hand")
    assert not Sandbox.config().is_made_for("https://api.anthropic.com")


def test_a_manager_with_the_settings_of_the_sandbox_polls_fast() -> None:
    config = Sandbox.config()
    assert config.longest_poll_interval.total_seconds() <= 0.2
    assert config.grace is not None
    assert config.grace.total_seconds() <= 2
    assert Sandbox.config(requests_per_batch=50).requests_per_batch == 50
    slower = Sandbox.config(poll_interval=timedelta(seconds=1))
    assert (slower.poll_interval, slower.longest_poll_interval) == (timedelta(seconds=1), timedelta(seconds=4))
    assert Sandbox.config(poll_interval_max=config.poll_interval).poll_interval_max == config.poll_interval
