"""Encode params as JSON, also where they hold values of Python that the SDK takes or that numpy and pandas make.

Dicts, lists, strings and numbers are encoded as they are, at once. Only params that hold anything else are copied
first, by the rules of the SDK's own calls: `omit` and `NOT_GIVEN` are left out, pydantic models are dumped, dates
become ISO 8601 strings, and a path or file that is the `data` of a base64 source is read. No package is imported for
that: the values are recognized by what they can do. Two things that the SDK takes are refused, because a job must find
the same request when it is read again: an iterator, which is empty then, and a set, whose order may be another.
"""

from __future__ import annotations

import base64
import io
import json
import operator
import os
from collections.abc import Mapping, MappingView, Sequence
from datetime import date
from typing import IO, TYPE_CHECKING, Any, Final, TypeGuard, cast
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["exact", "is_mapping", "params_as_json", "text_of_id"]

WHOLE: Final = ("max_tokens", "top_k")
"""Parameters that are whole numbers."""
WHOLE_OF_THINKING: Final = ("budget_tokens",)
WHOLE_OF_A_TOOL: Final = ("max_characters", "max_content_tokens", "max_uses")
_SCALARS: Final = (str, int, float, bool, type(None))


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a value becomes a JSON object."""
    return isinstance(value, Mapping)


def params_as_json(params: Mapping[str, Any]) -> bytes:
    """Encode the params of a request.

    Raises:
        ValueError, TypeError: they hold something that JSON cannot.
        RecursionError: they are nested too deeply, or hold themselves.
        OSError: a file that they name cannot be read.

    """
    try:
        text = _dump(params)
    except TypeError:  # it holds something else than JSON's own values
        return _dump(_with_whole_numbers(_copy(params))).encode()
    if ".0" in text and _has_float(params):  # a look at the text is cheaper, and most params end with it
        text = _dump(_with_whole_numbers(_copy(params)))
    return text.encode()


def text_of_id(custom_id: object) -> str | None:
    """The text of a custom_id: a string as it is, a whole number or a UUID as `str` writes it; None of anything else.

    Raises:
        ValueError: it is a number of thousands of digits.

    """
    if isinstance(custom_id, str):
        return exact(custom_id)
    if isinstance(custom_id, UUID):
        return str(custom_id)
    if not isinstance(custom_id, bool) and hasattr(custom_id, "__index__"):
        try:
            return str(operator.index(cast("Any", custom_id)))  # Any: it may raise TypeError, as numpy's booleans do
        except TypeError:
            return None
    return None


def exact(text: str) -> str:
    """The text of a string whose class may be another, such as a string of numpy or a member of an enum."""
    return text if type(text) is str else str.__str__(text)


_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _copy(value: object) -> Any:  # noqa: ANN401 - any JSON
    """The same value of JSON's own types.

    Raises:
        TypeError: there is none.

    """
    if isinstance(value, _SCALARS):
        return value
    if is_mapping(value):
        copied = {name: _copy(each) for name, each in value.items() if not (_is_left_out(each) or _is_file(each))}
        for name, each in value.items():
            if _is_file(each):
                if name != "data" or value.get("type") != "base64":
                    kind = type(each).__name__
                    raise TypeError(f"{kind} is not JSON; a file can be only the `data` of a base64 source")
                copied[name] = _read(each)
        return copied
    if (dump := getattr(value, "model_dump", None)) is not None:  # a pydantic model, such as an answer's content block
        exclude: set[str] | None = getattr(value, "__api_exclude__", None)
        options = {} if exclude is None else {"exclude": exclude}
        return dump(mode="json", exclude_unset=True, by_alias=True, **options)
    if isinstance(value, date):
        return value.isoformat()
    made = type(value)
    if issubclass(made, Sequence | MappingView) and not issubclass(made, bytes | bytearray | memoryview):
        return [_copy(each) for each in cast("Sequence[object]", value)]
    if not issubclass(made, type | memoryview):
        for name in ("tolist", "item"):  # arrays and numbers of numpy
            convert: Callable[[], object] | None = getattr(value, name, None)
            if convert is not None:
                return _copy(convert())
    raise TypeError(f"{made.__name__} is not JSON")


def _is_left_out(value: object) -> bool:
    """Whether a value is the SDK's `omit` or `NOT_GIVEN`, which stand for no value."""
    kind = type(value)
    return kind.__name__ in ("Omit", "NotGiven") and kind.__module__.partition(".")[0] == "anthropic"


def _is_file(value: object) -> TypeGuard[os.PathLike[str] | IO[bytes]]:
    return isinstance(value, os.PathLike | io.IOBase)


def _read(file: os.PathLike[str] | IO[bytes]) -> str:
    """The content of a file in base64. An open file is left at its position, for a request may be read twice."""
    if isinstance(file, os.PathLike):
        with open(file, "rb") as opened:  # noqa: PTH123 - any path will do
            content = opened.read()
    else:
        position = file.tell() if file.seekable() else None
        content = file.read()
        if position is not None:
            file.seek(position)
    return base64.b64encode(content).decode("ascii")


def _parts_with_whole_numbers(params: Mapping[str, Any]) -> list[tuple[object, tuple[str, ...]]]:
    """The objects in params that have whole numbers, each with their names."""
    tools: object = params.get("tools")
    listed = cast("list[object]", tools) if isinstance(tools, list) else []
    return [(params, WHOLE), (params.get("thinking"), WHOLE_OF_THINKING), *((tool, WHOLE_OF_A_TOOL) for tool in listed)]


def _has_float(params: Mapping[str, Any]) -> bool:
    """Whether there is a float where a whole number is meant."""
    return any(
        is_mapping(part) and isinstance(part.get(name), float)
        for part, names in _parts_with_whole_numbers(params)
        for name in names
    )


def _with_whole_numbers(params: dict[str, Any]) -> dict[str, Any]:
    """Make integers of floats that are whole, where integers are meant: a column of pandas with a gap holds floats."""
    for part, names in _parts_with_whole_numbers(params):
        if isinstance(part, dict):
            for name in names:
                if isinstance(number := cast("dict[str, object]", part).get(name), float) and number.is_integer():
                    part[name] = int(number)
    return params
