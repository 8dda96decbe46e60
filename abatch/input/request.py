"""Convert a request from the caller's form to the bytes that are sent, and check it before it costs anything.

A request that the API would refuse, or that would spoil its whole batch, raises BadRequest with its line and custom_id.
`params` is passed through unchanged, so it may hold whatever `messages.create` accepts now or later.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, SupportsIndex, TypeAlias, cast

import msgspec

from abatch.errors import BadRequest
from abatch.input.plain import exact, is_mapping, params_as_json, text_of_id

if TYPE_CHECKING:
    from uuid import UUID

__all__ = [
    "BLANK",
    "BOM",
    "Request",
    "RequestSource",
    "Row",
    "Rows",
    "check_lines",
    "exact",
    "from_checked_lines",
    "from_line",
    "from_object",
    "paths_of",
]

BLANK = b" \t\r\n"
"""Bytes allowed around a request on its line: JSON's whitespace, which is less than Python's."""
CUSTOM_ID_BYTES = 512
"""The maximum size of a custom_id in bytes of UTF-8; any other string is allowed, because it is never sent."""


@dataclass(frozen=True, slots=True)
class Request:
    """One Messages call."""

    custom_id: str | SupportsIndex | UUID
    """Any string of 1 to 512 bytes of UTF-8, unique in its job; a whole number or a UUID is converted to its text."""
    params: Mapping[str, Any]
    """The arguments of `messages.create` that are part of a request's body; JSON values are passed through unchanged,
    and other values that the SDK accepts become JSON as they do in the SDK."""
    betas: Sequence[str] = ()
    """Values of the `anthropic-beta` header for this request, in addition to those of its job."""


RequestSource: TypeAlias = (
    str
    | PathLike[str]
    | Sequence[str | PathLike[str]]
    | Iterable[Request | Mapping[str, Any] | bytes]
    | AsyncIterable[Request | Mapping[str, Any] | bytes]
)
"""The input of `submit`: a path to JSON lines (`.gz`, `.zst`), a list or tuple of such paths, or an iterable or async
iterable of requests.

A request is a `Request`, a mapping with the fields of one, or the bytes of one JSON line.
"""


HEADER_VALUE = re.compile(r"[A-Za-z0-9._:/@+=-]{1,200}")
"""The values that abatch allows in a header that it sends."""


class Row(NamedTuple):
    """A checked request, as bytes."""

    custom_id: bytes
    """The custom_id as a JSON string."""
    params: bytes
    """The params as JSON."""
    betas: tuple[str, ...] = ()


class Rows(NamedTuple):
    """Checked requests as columns: the items with one index are one request."""

    custom_ids: list[bytes]
    params: Sequence[bytes]
    """The params as bytes or views of bytes."""
    betas: list[tuple[str, ...]]
    number: int = 0
    """The number of the first request in its input, if that is known."""


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    custom_id: str | int
    params: msgspec.Raw
    betas: tuple[str, ...] = ()


class _ReadLine(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: str | int
    params: dict[str, Any]
    betas: tuple[str, ...] = ()


class _Params(msgspec.Struct):
    max_tokens: Any = None
    stream: Any = None


BOM = b"\xef\xbb\xbf"
"""The byte order mark, which is allowed at the beginning of an input."""
AS_UTF_8 = "; convert it, if it is in Windows-1252: iconv -f CP1252 -t UTF-8 OLD > NEW"

# A line is sent as it is in its file, so that planning does not search each block for such numbers.
NO_DECIMAL_POINT = (
    "max_tokens must be written without a decimal point (1024, not 1024.0); a column of pandas that has a gap holds "
    "floats: convert it with astype(int), or submit the rows from Python"
)

_NAMED = re.compile(rb'"custom_id"\s*:\s*("(?:[^"\\]|\\.){0,600}")')
_NOT_A_NUMBER = re.compile(rb"[:\[,]\s*-?(NaN|Infinity)\b")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_lines = msgspec.json.Decoder(_Line)
_decode_line, _decode_lines = _lines.decode, _lines.decode_lines
_read_lines = msgspec.json.Decoder(_ReadLine).decode_lines
_decode_params = msgspec.json.Decoder(_Params).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.encode
_encode_lines = msgspec.json.Encoder().encode_lines
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def paths_of(requests: object) -> tuple[Path, ...]:
    """Return the paths that `requests` names; none if it is neither a path nor a list or tuple of paths."""
    if isinstance(requests, str | PathLike):
        return (Path(cast("str | PathLike[str]", requests)),)
    if isinstance(requests, list | tuple):
        named = cast("Sequence[object]", requests)
        if named and all(isinstance(each, str | PathLike) for each in named):
            return tuple(map(Path, cast("Sequence[str]", named)))
    return ()


def from_line(line: bytes, number: int) -> Row:
    """Check one line of a JSONL file.

    Raises:
        BadRequest: the line is not UTF-8 JSON, not `{"custom_id", "params"}` (and `betas`), or cannot be sent.

    """
    custom_id = None
    try:
        if not line.isascii():
            line.decode()
        parsed = _decode_line(line)
        custom_id = str(parsed.custom_id)
        params = bytes(parsed.params)
        known = _decode_params(params)
        finite = _is_finite(params)
    except UnicodeDecodeError as bad:
        raise BadRequest(number, None, f"not UTF-8 (byte {bad.start + 1} of the line){AS_UTF_8}") from None
    except msgspec.ValidationError as bad:
        raise BadRequest(number, custom_id or _id_in(line), _explain(str(bad))) from None
    except msgspec.DecodeError as bad:
        raise BadRequest(number, _id_in(line), _why_not_json(line, bad)) from None
    except RecursionError:
        raise BadRequest(number, _id_in(line), "nested too deeply") from None
    if not finite:
        raise BadRequest(number, custom_id, "it holds a number that is too large for JSON's readers (infinity)")
    return Row(
        _checked_id(custom_id, number),
        _checked_params(params, known, custom_id, number),
        _checked_betas(parsed.betas, custom_id, number),
    )


class ReadLine(Protocol):
    """A decoded line."""

    custom_id: str | int
    betas: tuple[str, ...]


def check_lines(
    text: bytes, read: Callable[[bytes], Sequence[ReadLine] | None] | None = None
) -> tuple[list[bytes], set[tuple[str, ...]]] | None:
    """Check lines of a JSONL file, each with its newline, all at once.

    Args:
        text: the lines.
        read: decodes the lines, and refuses those whose params have to be examined; None accepts any params.

    Returns:
        The custom_ids as JSON strings, and the betas that occur. The result is None unless `from_line` would accept
        every line and each line holds exactly one request without spaces around it. From None it does not follow that
        any of the lines is bad.

    """
    try:
        if not text.isascii():
            text.decode()
        # Every value is decoded, so that a number too large for a double is detected.
        lines: Sequence[ReadLine] | None = _read_lines(text) if read is None else read(text)
    except _UNREADABLE:
        return None
    if lines is None or not _one_a_line(text, len(lines)):
        return None
    if read is None:
        for line in cast("list[_ReadLine]", lines):
            params = line.params
            most = params.get("max_tokens")
            if type(most) is not int or most < 1 or params.get("stream") not in (None, False):
                return None
    betas = {line.betas for line in lines}
    if not all(map(HEADER_VALUE.fullmatch, chain.from_iterable(betas))):
        return None
    custom_ids = _strings([line.custom_id for line in lines])
    if min(map(len, custom_ids)) < 3 or max(map(len, custom_ids)) > CUSTOM_ID_BYTES + 2:
        return None
    return custom_ids, betas


def from_checked_lines(text: bytes) -> Rows:
    """Split lines that were checked before into columns; this is many times as fast as a check.

    Raises:
        BadRequest: these are not the lines that were checked.

    """
    try:
        lines = _decode_lines(text)
    except _UNREADABLE as bad:
        raise BadRequest(0, None, "it is not what it was") from bad
    return Rows(
        _strings([line.custom_id for line in lines]),
        [line.params for line in lines],
        [line.betas for line in lines],
    )


def _strings(texts: list[str | int]) -> list[bytes]:
    """Return each text as a JSON string; a number is converted to its text."""
    return _encode_lines(list(map(str, texts))).split(b"\n")[:-1]


def _one_a_line(text: bytes, count: int) -> bool:
    """Return whether `count` objects, which were decoded from this text, fill exactly as many lines.

    If a line ends with a closing brace and the next line begins with an opening one, an object ends between them,
    because inside an object a comma or a colon would separate the braces.
    """
    if count == 1:  # A single line may be very long, so it is not copied.
        return text.startswith(b"{") and text.endswith((b"}", b"}\n")) and text.find(b"\n", 0, -1) < 0
    # This is several times as fast as counting.
    lines = io.BytesIO(text if text.endswith(b"\n") else text + b"\n").readlines()
    return len(lines) == count and all(line.startswith(b"{") and line.endswith(b"}\n") for line in lines)


def from_object(request: object, number: int) -> Row:
    """Check one item of a caller's iterable: a `Request`, or a mapping with the same names.

    Raises:
        BadRequest: the item is neither of these, or cannot be sent.

    """
    custom_id: object
    if isinstance(request, Request):
        custom_id, raw_params, betas = request.custom_id, request.params, request.betas
    elif is_mapping(request):
        named = request
        if unknown := sorted(str(name) for name in named.keys() - {"custom_id", "params", "betas"}):
            raise BadRequest(number, _text(named.get("custom_id")), f"unknown field {unknown[0]!r}")
        if "custom_id" not in named or "params" not in named:
            lacking = "params" if "custom_id" in named else "custom_id"
            raise BadRequest(number, _text(named.get("custom_id")), f"{lacking} is missing")
        custom_id, raw_params, betas = named["custom_id"], named["params"], named.get("betas", ())
    else:
        raise BadRequest(number, None, f"expected a Request or a mapping, got {type(request).__name__}")
    kind = type(custom_id).__name__
    try:
        custom_id = text_of_id(custom_id)
    except ValueError:  # Python refuses to convert a number of thousands of digits to text.
        raise BadRequest(number, None, f"custom_id must be 1 to {CUSTOM_ID_BYTES} bytes of UTF-8") from None
    if custom_id is None:
        raise BadRequest(number, None, f"custom_id must be a string, a whole number or a UUID, got {kind}")
    if not is_mapping(raw_params):
        raise BadRequest(number, custom_id, f"params must be a mapping, got {type(raw_params).__name__}")
    try:
        params = params_as_json(raw_params)
        known = _decode_params(params)
    except OSError as failure:
        raise BadRequest(number, custom_id, f"a file in params cannot be read: {failure}") from failure
    except (ValueError, TypeError, RecursionError) as bad:
        raise BadRequest(number, custom_id, f"params cannot be JSON: {bad}") from bad
    return Row(
        _checked_id(custom_id, number),
        _checked_params(params, known, custom_id, number),
        _checked_betas(betas, custom_id, number),
    )


def _checked_id(custom_id: str, number: int) -> bytes:
    try:
        size = len(custom_id.encode())
    except UnicodeEncodeError:
        raise BadRequest(number, None, "custom_id is not valid Unicode (a lone surrogate)") from None
    if not 1 <= size <= CUSTOM_ID_BYTES:
        raise BadRequest(number, custom_id, f"custom_id must be 1 to {CUSTOM_ID_BYTES} bytes of UTF-8, this has {size}")
    return _encode(custom_id)


def _checked_betas(betas: object, custom_id: str, number: int) -> tuple[str, ...]:
    if betas == ():
        return ()
    if isinstance(betas, Sequence) and not isinstance(betas, str):
        named = tuple(cast("Sequence[object]", betas))
        if all(isinstance(beta, str) and HEADER_VALUE.fullmatch(beta) for beta in named):
            return tuple(map(exact, cast("tuple[str, ...]", named)))
        if any(isinstance(beta, str) and "," in beta for beta in named):
            raise BadRequest(number, custom_id, "betas must be a list of single names; split the text at its commas")
    raise BadRequest(number, custom_id, "betas must be a list of names as `anthropic-beta` takes them")


def _checked_params(params: bytes, known: _Params, custom_id: str, number: int) -> bytes:
    if known.stream not in (None, False):
        raise BadRequest(number, custom_id, "stream is not possible in a batch; leave it out")
    if known.max_tokens is None:
        raise BadRequest(number, custom_id, "max_tokens is missing")
    if isinstance(known.max_tokens, float) and known.max_tokens.is_integer():
        raise BadRequest(number, custom_id, NO_DECIMAL_POINT)
    if not isinstance(known.max_tokens, int) or isinstance(known.max_tokens, bool) or known.max_tokens < 1:
        raise BadRequest(number, custom_id, "max_tokens must be a whole number of at least 1")
    return params


def _id_in(line: bytes) -> str | None:
    """Return the custom_id in a line that is not a request; None if it cannot be found."""
    named = _NAMED.search(line)
    try:
        return None if named is None else msgspec.json.decode(named[1], type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _why_not_json(line: bytes, complaint: msgspec.DecodeError) -> str:
    if line.startswith(BOM):
        return "a byte order mark stands before it, as where files were joined: sed 's/^\\xef\\xbb\\xbf//' OLD > NEW"
    if _LONE_SURROGATE.search(line):
        return "it holds half of a surrogate pair (\\ud800 to \\udfff)"
    if _NOT_A_NUMBER.search(line):
        return "not JSON: NaN and Infinity are no numbers there"
    return f"not JSON: {_lower(str(complaint))}"


def _is_finite(params: bytes) -> bool:
    """Return whether every number fits a double; the quick decoder refuses numbers that may be too large."""
    try:
        _decode_any(params)
    except (msgspec.DecodeError, ValueError):
        return _is_finite_slowly(params)
    return True


def _is_finite_slowly(params: bytes) -> bool:
    def number(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise OverflowError
        return value

    try:
        json.loads(params, parse_float=number, parse_int=str)
    except OverflowError:
        return False
    return True


def _explain(complaint: str) -> str:
    """Reword a message of msgspec, such as `Object contains unknown field `x``."""
    if complaint.endswith("`$.custom_id`") and (got := re.search(r"got `(\w+)`", complaint)):
        return f"custom_id must be a string or a whole number, got `{got[1]}`"
    if complaint.endswith("`$.betas`"):
        return 'betas must be a list of names: ["…"]'
    text = complaint.replace("Object missing required field ", "missing field ").replace(
        "Object contains unknown field ", "unknown field "
    )
    return _lower(text.replace(" - at `$.", " at `"))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:] if not text.startswith("JSON") else text


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
