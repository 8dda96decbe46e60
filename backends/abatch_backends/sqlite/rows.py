"""Convert a line to a row: the text of the result is cut from the line and never serialized again."""

from __future__ import annotations

import re
from codecs import iterdecode
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from abatch.storage import LONG_LINE

if TYPE_CHECKING:
    from abatch import Usage

__all__ = ["UNKNOWN", "Text", "result_of", "text_of", "tokens_of"]

Text: TypeAlias = bytes | memoryview
UNKNOWN: Final = (None, None, None, None)


class _Envelope(msgspec.Struct):
    result: msgspec.Raw


_decode = msgspec.json.Decoder(_Envelope).decode
# The pattern expects the keys in the API's own order.
_HEAD: Final = re.compile(rb'\s*\{\s*"custom_id"\s*:\s*"[^"\\]*(?:\\.[^"\\]*)*"\s*,\s*"result"\s*:\s*', re.DOTALL)


def result_of(line: bytes) -> tuple[Text | None, Text | None]:
    """Return a line's result as text, or as a BLOB if it is not UTF-8, because no reader could fetch it as text."""
    result: Text
    try:
        raw = _decode(line).result
        result = bytes(raw) if len(line) < LONG_LINE else memoryview(raw)
    except (msgspec.MsgspecError, RecursionError):  # a lone surrogate or deep nesting: not decodable, but an answer
        result = _cut(line)
    return (result, None) if _is_utf8(result) else (None, result)


def _is_utf8(text: Text) -> bool:
    try:
        if isinstance(text, memoryview):  # a long text is checked in pieces, as a str may need four times its memory
            pieces = (bytes(text[begin : begin + LONG_LINE]) for begin in range(0, len(text), LONG_LINE))
            for _ in iterdecode(pieces, "utf-8"):
                pass
        elif not text.isascii():
            text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(line: bytes) -> bytes:
    """Return everything after `"result":`, without the last brace; the whole line if its form is unknown."""
    head, whole = _HEAD.match(line), line.rstrip()
    return whole[head.end() : -1].rstrip() if head and whole.endswith(b"}") else line


def text_of(value: str) -> str:
    """Return a text without lone surrogates, which SQLite cannot store."""
    return value.encode(errors="replace").decode()


def tokens_of(usage: Usage) -> tuple[int, int, int, int]:
    """Return the tokens in the order of the columns."""
    return usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_creation_tokens
