"""One request, from the caller's form to the bytes that go on the wire, checked where it costs nothing.

A request that the API would refuse, or that would spoil its whole batch, is a BadRequest here, with its line and
custom_id. `params` is passed through untouched: what `messages.create` takes today or tomorrow, it may hold.
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
"""What may stand around a request on its line: JSON's blanks, fewer than Python's."""
CUSTOM_ID_BYTES = 512
"""A custom_id is 1 to this many bytes of UTF-8; any string will do, for it never goes on the wire."""


@dataclass(frozen=True, slots=True)
class Request:
    """One Messages call."""

    custom_id: str | SupportsIndex | UUID
    """Any string of 1 to 512 bytes of UTF-8, unique in its job; of a whole number or a UUID its text is taken."""
    params: Mapping[str, Any]
    """What `messages.create` takes, but for what is no part of a request's body; JSON's own values are passed through
    untouched, and others that the SDK takes become JSON as they do there."""
    betas: Sequence[str] = ()
    """Values of the `anthropic-beta` header for this request, besides those of its job."""


RequestSource: TypeAlias = (
    str
    | PathLike[str]
    | Sequence[str | PathLike[str]]
    | Iterable[Request | Mapping[str, Any] | bytes]
    | AsyncIterable[Request | Mapping[str, Any] | bytes]
)
"""What `submit` takes: a path to JSON lines (`.gz`, `.zst`), a list or tuple of such paths, or an iterable or async
iterable of requests.

A request is a `Request`, a mapping with its names, or the bytes of one JSON line.
"""


HEADER_VALUE = re.compile(r"[A-Za-z0-9._:/@+=-]{1,200}")
"""What may stand in one of our headers."""


class Row(NamedTuple):
    """A checked request, as bytes."""

    custom_id: bytes
    """As a JSON string."""
    params: bytes
    """As JSON."""
    betas: tuple[str, ...] = ()


class Rows(NamedTuple):
    """Checked requests as columns: a place in each list is a request."""

    custom_ids: list[bytes]
    params: Sequence[bytes]
    """Bytes, or views of them."""
    betas: list[tuple[str, ...]]
    number: int = 0
    """Of the first in its input, where that is known."""


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
"""The byte order mark, which may stand at the beginning of an input."""
AS_UTF_8 = "; convert it, if it is in Windows-1252: iconv -f CP1252 -t UTF-8 OLD > NEW"

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
    """The files that are meant; none if it is no path, and no list or tuple of paths."""
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
        BadRequest: it is not UTF-8 JSON, not `{"custom_id", "params"}` (and `betas`), or cannot be sent.

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
    """A line that was read."""

    custom_id: str | int
    betas: tuple[str, ...]


def check_lines(
    text: bytes, read: Callable[[bytes], Sequence[ReadLine] | None] | None = None
) -> tuple[list[bytes], set[tuple[str, ...]]] | None:
    """Check lines of a JSONL file, each with its newline, all at once.

    Args:
        text: the lines.
        read: reads them, and refuses lines whose params have to be looked at; else any params will do.

    Returns:
        Their custom_ids as JSON strings, and the betas that occur; None unless `from_line` would take every line
        and each holds just one request, without spaces around it. None says nothing of any of them.

    """
    try:
        if not text.isascii():
            text.decode()
        # every value is made, so that a number too large for a reader with doubles is seen
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
    """Take lines apart that were found good before; many times as fast.

    Raises:
        BadRequest: they are not those lines.

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
    """Each as a JSON string; a number as its text."""
    return _encode_lines(list(map(str, texts))).split(b"\n")[:-1]


def _one_a_line(text: bytes, count: int) -> bool:
    """Whether `count` objects, which were read from this text, stand on as many lines and fill them.

    Where a line ends with a brace that closes and the next begins with one that opens, there an object ends: inside
    of one, a comma or a colon would stand between them.
    """
    if count == 1:  # perhaps a very long one, of which no copy is made
        return text.startswith(b"{") and text.endswith((b"}", b"}\n")) and text.find(b"\n", 0, -1) < 0
    # several times as fast as counting
    lines = io.BytesIO(text if text.endswith(b"\n") else text + b"\n").readlines()
    return len(lines) == count and all(line.startswith(b"{") and line.endswith(b"}\n") for line in lines)


def from_object(request: object, number: int) -> Row:
    """Check one item of a caller's iterable: a `Request`, or a mapping with the same names.

    Raises:
        BadRequest: it is neither, or cannot be sent.

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
    except ValueError:  # Python writes no number of thousands of digits
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
    if not isinstance(known.max_tokens, int) or isinstance(known.max_tokens, bool) or known.max_tokens < 1:
        raise BadRequest(number, custom_id, "max_tokens must be a whole number of at least 1")
    return params


def _id_in(line: bytes) -> str | None:
    """The custom_id of a line that is not a request, if one can be made out."""
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
    """Whether every number is one for a reader with doubles; the quick decoder refuses those that may not be."""
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
    """The words of msgspec, in ours: `Object contains unknown field `x`` and its like."""
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
