"""Answers other than the usual one: from the test's function, or an instance of the schema that a request asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec

from abatch.sandbox.answers import Errored, OwnAnswer, answer_text
from abatch.sandbox.schemas import NoInstance, instance

__all__ = ["AnswerOf", "own_answer"]

Content = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | None  # Any: JSON
BYTES_PER_TOKEN = 4


class AnswerOf(Protocol):
    """Gives the answer to a request that succeeds."""

    def __call__(self, params: dict[str, Any], /) -> Content:
        """Return the answer to these params.

        Returns:
            a text; or an object, whose JSON is the text; or a list of content blocks as in the API, such as
            `[{"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {}}]`; or None for the usual answer.

        """
        ...


def own_answer(params: bytes, answer: AnswerOf | None) -> OwnAnswer | Errored | None:
    """Return the special answer of a request; None for the usual one; an error with the reason if none can be made."""
    if answer is not None:
        try:
            given = answer(msgspec.json.decode(params))
            if given is not None:
                return _with_content(given)
        except Exception as error:  # noqa: BLE001 - the function is the test's: the result line reports its error
            return _no_answer(f"answer= raised {type(error).__name__}: {error}")
    if b"json_schema" in params and (schema := _schema_of(params)) is not None:
        try:
            return _with_content(msgspec.json.encode(instance(schema, answer_text(params))).decode())
        except (NoInstance, TypeError, AttributeError, RecursionError) as error:
            return _no_answer(f"no instance of the schema can be made: {error}; give the sandbox answer=")
    return None


def _no_answer(why: str) -> Errored:
    return Errored("invalid_request_error", f"[sandbox] {why}")


def _with_content(given: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> OwnAnswer:
    match given:
        case str():
            blocks: list[Any] = [{"type": "text", "text": given}]
        case Mapping():
            blocks = [{"type": "text", "text": msgspec.json.encode(given).decode()}]
        case _:
            blocks = list(given)
    content = msgspec.json.encode(blocks)
    calls_a_tool = any(block.get("type") == "tool_use" for block in blocks)
    return OwnAnswer(
        content=content.decode(),
        stop_reason="tool_use" if calls_a_tool else "end_turn",
        output_tokens=max(1, len(content) // BYTES_PER_TOKEN),
    )


def _schema_of(params: bytes) -> object:
    """Return the schema in `output_config`, or in the older `output_format`."""
    read: Any = msgspec.json.decode(params)  # Any: JSON
    match read:
        case {"output_config": {"format": {"type": "json_schema", "schema": schema}}}:
            return cast("object", schema)
        case {"output_format": {"type": "json_schema", "schema": schema}}:
            return cast("object", schema)
        case _:
            return None
