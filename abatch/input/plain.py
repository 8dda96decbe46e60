"""Encode params as JSON, including Python values that the SDK accepts or that numpy and pandas produce.

Dicts, lists, strings and numbers are encoded directly. Only params with other values are copied first, by the rules of
the SDK's own calls: `omit` and `NOT_GIVEN` are left out, pydantic models are dumped, dates become ISO 8601 strings, and
a path or file that is the `data` of a base64 source is read. No package is imported for that, because the values are
recognized by their attributes. Two kinds of values that the SDK accepts are refused, because a second read must find
the same request: an iterator, which is empty by then, and a set, whose order may differ.
"""

from __future__ import annotations

import base64
import io
import json
import math
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
"""Parameters that must be whole numbers."""
WHOLE_OF_THINKING: Final = ("budget_tokens",)
WHOLE_OF_A_TOOL: Final = ("max_characters", "max_content_tokens", "max_uses")
_SCALARS: Final = (str, int, float, bool, type(None))


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether a value becomes a JSON object."""
    return isinstance(value, Mapping)


def params_as_json(params: Mapping[str, Any]) -> bytes:
    """Encode the params of a request.

    Raises:
        ValueError, TypeError: the params hold a value that JSON cannot represent.
        RecursionError: the params are nested too deeply, or contain themselves.
        OSError: a file in the params cannot be read.

    """
    try:
        text = _dump(params)
    except TypeError:  # The params hold a value that is not one of JSON's types.
        params = _with_whole_numbers(_copy(params))
        try:
            return _dump(params).encode()
        except ValueError:
            _refuse_not_a_number(params)
            raise
    except ValueError:
        _refuse_not_a_number(params)
        raise
    if ".0" in text and _has_float(params):  # Searching the text is cheap, and it excludes most params.
        text = _dump(_with_whole_numbers(_copy(params)))
    return text.encode()


def _refuse_not_a_number(value: object, path: str = "") -> None:
    """Refuse NaN and infinity by the path of their field; the encoder reports them without it.

    Raises:
        ValueError: the value holds such a number.

    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} is {value}, which is not a number in JSON; leave it out")
    if is_mapping(value):
        for name, each in value.items():
            _refuse_not_a_number(each, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(cast("Sequence[object]", value)):
            _refuse_not_a_number(each, f"{path}[{number}]")


def text_of_id(custom_id: object) -> str | None:
    """Return the text of a custom_id: a string unchanged, a whole number or UUID as `str` gives it; else None.

    Raises:
        ValueError: the custom_id is a number of thousands of digits.

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
    """Return a plain `str` for a string of a subclass, such as a numpy string or an enum member."""
    return text if type(text) is str else str.__str__(text)


_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _copy(value: object) -> Any:  # noqa: ANN401 - any JSON
    """Copy a value to JSON's own types.

    Raises:
        TypeError: the value has no such copy.

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
    # A pydantic model may be in params if it is, for example, a content block of an earlier answer.
    if (dump := getattr(value, "model_dump", None)) is not None:
        exclude: set[str] | None = getattr(value, "__api_exclude__", None)
        options = {} if exclude is None else {"exclude": exclude}
        return dump(mode="json", exclude_unset=True, by_alias=True, **options)
    if isinstance(value, date):
        return value.isoformat()
    made = type(value)
    if issubclass(made, Sequence | MappingView) and not issubclass(made, bytes | bytearray | memoryview):
        return [_copy(each) for each in cast("Sequence[object]", value)]
    if not issubclass(made, type | memoryview):
        for name in ("tolist", "item"):  # These convert arrays and numbers of numpy.
            convert: Callable[[], object] | None = getattr(value, name, None)
            if convert is not None:
                return _copy(convert())
    raise TypeError(f"{made.__name__} is not JSON")


def _is_left_out(value: object) -> bool:
    """Return whether a value is the SDK's `omit` or `NOT_GIVEN`, which mean no value."""
    kind = type(value)
    return kind.__name__ in ("Omit", "NotGiven") and kind.__module__.partition(".")[0] == "anthropic"


def _is_file(value: object) -> TypeGuard[os.PathLike[str] | IO[bytes]]:
    return isinstance(value, os.PathLike | io.IOBase)


def _read(file: os.PathLike[str] | IO[bytes]) -> str:
    """Return the content of a file in base64; an open file keeps its position, because a request may be read twice."""
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
    """Return the objects in params that hold whole numbers, each with the names of these."""
    tools: object = params.get("tools")
    listed = cast("list[object]", tools) if isinstance(tools, list) else []
    return [(params, WHOLE), (params.get("thinking"), WHOLE_OF_THINKING), *((tool, WHOLE_OF_A_TOOL) for tool in listed)]


def _has_float(params: Mapping[str, Any]) -> bool:
    """Return whether a parameter that must be a whole number is a float."""
    return any(
        is_mapping(part) and isinstance(part.get(name), float)
        for part, names in _parts_with_whole_numbers(params)
        for name in names
    )


def _with_whole_numbers(params: dict[str, Any]) -> dict[str, Any]:
    """Make whole floats integers where integers are required, because a pandas column with a gap holds floats."""
    for part, names in _parts_with_whole_numbers(params):
        if isinstance(part, dict):
            for name in names:
                if isinstance(number := cast("dict[str, object]", part).get(name), float) and number.is_integer():
                    part[name] = int(number)
    return params
