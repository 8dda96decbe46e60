"""The bytes on the wire: ids that prove which attempt a result belongs to, and a fast reader of result lines. Pure.

A caller's custom_id never leaves the machine. On the wire the id of a row is `a1-SSSSSSSS-AA-MMMMMMMMMMMM-RRRR`, in
Crockford's base32: shard number, attempt, a 60-bit keyed digest over both (the *tag*), row number. The width is fixed,
so the size of a create body is known before the body is composed. One line of a batch's results proves which attempt of
which journal made the batch, and a bitmap holds which rows came back. Result lines are cut and read without parsing
them completely.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec

from abatch.charges import PLAIN, Charges, charges_of, is_plain
from abatch.errors import LineTooLong
from abatch.result import LONG, MAX_TOKENS, Line, Usage, json_of, outcome_in, usage_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "LONG",
    "MAX_LINE",
    "BlockReader",
    "Envelope",
    "LineReader",
    "Message",
    "Plain",
    "Seen",
    "Torn",
    "WireId",
    "body_size",
    "decode_id",
    "delivered",
    "error_in",
    "fallback",
    "lines_of",
    "parse_id",
    "prefix",
    "read_line",
    "read_plain",
    "row_suffix",
    "with_custom_id",
]

MAX_LINE: Final = 64 * 2**20
"""The largest size of one result line, in bytes."""
MAX_ATTEMPT: Final = 2**10 - 1
BODY_HEAD: Final = b'{"requests":['
BODY_TAIL: Final = b"]}"
"""The bytes that are held back at the gate: without them nothing can exist on the server."""
ROW_HEAD: Final = b'{"custom_id":"'
ROW_MIDDLE: Final = b'","params":'
ROW_END: Final = b"}"

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGIT: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_PAIRS: Final = [(a + b).encode() for a in _ALPHABET for b in _ALPHABET]
_VALUES: Final = {pair: value for value, pair in enumerate(_PAIRS)}
_ID: Final = re.compile(rb"a1-([0-9A-Z]{8})-([0-9A-Z]{2})-([0-9A-Z]{12})-([0-9A-Z]{4})")
ID_WIDTH: Final = 32
ROW_SUFFIX: Final = 4
NEWLINE: Final = ord("\n")


class WireId(NamedTuple):
    """The parts of an id from a result line; `tag` proves something only once it was compared."""

    shard: int
    attempt: int
    tag: int
    row: int


def tag(lineage_key: bytes, shard: int, attempt: int) -> int:
    """Return 60 bits that only the holder of the journal's key can compute for this attempt."""
    digest = hmac.digest(lineage_key, b"%d|%d" % (shard, attempt), hashlib.sha256)
    return int.from_bytes(digest[:8], "big") >> 4


def prefix(lineage_key: bytes, shard: int, attempt: int) -> bytes:
    """Return the part of the id that all rows of an attempt share: everything before the row number."""
    if not (0 < shard < 2**40 and 0 < attempt <= MAX_ATTEMPT):
        raise ValueError(f"shard {shard} attempt {attempt} has no id")
    mark = tag(lineage_key, shard, attempt)
    return f"a1-{_base32(shard, 8)}-{_base32(attempt, 2)}-{_base32(mark, 12)}-".encode()


def row_suffix(row: int) -> bytes:
    """Return the last four characters of a row's id."""
    return _PAIRS[row >> 10] + _PAIRS[row & 1023]


def parse_id(wire_id: bytes) -> WireId | None:
    """Split an id into its parts; None if it does not have our form. The caller must compare the tag."""
    match = _ID.fullmatch(wire_id)
    if match is None:
        return None
    try:
        return WireId(*(_number(group.decode()) for group in match.groups()))
    except KeyError:  # a letter outside the alphabet
        return None


def body_size(rows: int, params_bytes: int) -> int:
    """Return the Content-Length of a create body of `rows` requests whose params take `params_bytes` in total."""
    row = len(ROW_HEAD) + ID_WIDTH + len(ROW_MIDDLE) + len(ROW_END)
    return len(BODY_HEAD) + params_bytes + rows * row + (rows - 1) + len(BODY_TAIL)


def _base32(number: int, width: int) -> str:
    letters: list[str] = []
    for _ in range(width):
        letters.append(_ALPHABET[number & 31])
        number >>= 5
    return "".join(reversed(letters))


def _number(text: str) -> int:
    number = 0
    for letter in text:
        number = number << 5 | _DIGIT[letter]
    return number


# ---- cutting a stream into lines ------------------------------------------------------------------------------


class BlockReader:
    """Cut chunks of bytes into blocks of whole lines.

    Each chunk is searched once, and copied when its lines are taken, so the cost of a long line is linear in its
    length, however small its chunks are. The beginning of a long line is joined early, because joining it at the end
    would need the same memory a second time.
    """

    __slots__ = ("_begun", "_chunks", "_searched", "weight")

    def __init__(self) -> None:
        self._begun = BytesIO()
        """The beginning of a long line."""
        self._chunks: list[bytes] = []
        self._searched = 0
        """The number of leading chunks that are known to hold no newline."""
        self.weight = 0
        """The number of bytes in memory."""

    def feed(self, chunk: bytes) -> None:
        """Add a chunk."""
        self._chunks.append(chunk)
        self.weight += len(chunk)

    def take(self) -> bytes:
        """Return the whole lines since the last block, the last one without its newline; empty if no line is whole.

        Raises:
            LineTooLong: the unfinished line passed 64 MiB.

        """
        chunks = self._chunks
        for at in range(len(chunks) - 1, self._searched - 1, -1):
            cut = chunks[at].rfind(b"\n")
            if cut >= 0:
                text = self._behind_begun((*chunks[:at], chunks[at][:cut]))
                chunks[: at + 1] = [chunks[at][cut + 1 :]]
                self.weight -= len(text) + 1
                break
        else:
            text = b""
            if self.weight >= LONG:
                self._begun.writelines(chunks)
                chunks.clear()
        self._searched = len(chunks)
        if self.weight > MAX_LINE:
            raise LineTooLong(MAX_LINE)
        return text

    def end(self) -> bytes:
        """Return the line that no newline ended; the API sends its last line like this."""
        line = self._behind_begun(self._chunks)
        self._chunks.clear()
        self._searched = 0
        self.weight = 0
        return line

    def _behind_begun(self, chunks: Sequence[bytes]) -> bytes:
        begun = self._begun
        if not begun.tell():
            return b"".join(chunks)
        begun.writelines(chunks)
        self._begun = BytesIO()
        return begun.getvalue()


def lines_of(text: bytes) -> list[bytes]:
    r"""Split a block into its lines, only at `\n`: U+2028 and similar are part of a line. Blank lines are skipped."""
    lines = text.split(b"\n")
    return [line for line in (map(_strip, lines) if b"\r" in text else lines) if line]


def _strip(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


class LineReader:
    """Cut chunks of bytes into lines."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks = BlockReader()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add a chunk, and return the lines that it completes.

        Raises:
            LineTooLong: the unfinished line passed 64 MiB.

        """
        self._blocks.feed(chunk)
        return lines_of(self._blocks.take())

    def end(self) -> list[bytes]:
        """Return the line that no newline ended; the API sends its last line like this."""
        return lines_of(self._blocks.end())


# ---- reading a line's envelope --------------------------------------------------------------------------------


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]


class _CacheLifetimes(msgspec.Struct, gc=False):
    ephemeral_1h_input_tokens: _Tokens | None = 0


class _Iteration(msgspec.Struct, gc=False):
    type: str | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: _Tokens | None = 0
    output_tokens: _Tokens | None = 0
    cache_read_input_tokens: _Tokens | None = 0
    cache_creation_input_tokens: _Tokens | None = 0
    cache_creation: _CacheLifetimes | None = None
    inference_geo: str | None = None
    service_tier: str | None = None
    speed: str | None = None
    server_tool_use: dict[str, Any] | None = None  # Any: tools that are not known yet
    iterations: list[_Iteration] | None = None

    def charges(self) -> Charges:
        """Return what is charged in addition to the tokens."""
        plain = is_plain(self.inference_geo, self.service_tier, self.speed)
        if plain and self.server_tool_use is None and self.iterations is None:
            return PLAIN
        return charges_of(
            geo=self.inference_geo,
            tier=self.service_tier,
            speed=self.speed,
            server_tools=self.server_tool_use,
            iterations=None if self.iterations is None else [each.type for each in self.iterations],
        )

    def numbers(self) -> tuple[int, int, int, int, int]:
        """Return the fields of `Usage` that count tokens, in their order."""
        lifetimes = self.cache_creation
        return (
            self.input_tokens or 0,
            self.output_tokens or 0,
            self.cache_read_input_tokens or 0,
            self.cache_creation_input_tokens or 0,
            (lifetimes and lifetimes.ephemeral_1h_input_tokens) or 0,
        )

    def counted(self) -> Usage:
        """Return the same numbers as a `Usage`, with the charges."""
        fresh, output, read, written, hour = self.numbers()
        charges = self.charges()
        return Usage(
            input_tokens=fresh,
            output_tokens=output,
            cache_read_tokens=read,
            cache_creation_tokens=written,
            cache_creation_1h_tokens=hour,
            web_search_requests=charges.web_search_requests,
            inference_geo=charges.inference_geo,
            unpriced=charges.unpriced,
        )


class Message(msgspec.Struct, gc=False):
    """The message of a row that succeeded."""

    model: str | None = None
    usage: _Usage | None = None
    stop_reason: str | None = None


class _Error(msgspec.Struct, gc=False):
    type: str | None = None


class _ErrorEnvelope(msgspec.Struct, gc=False):
    error: _Error | None = None


class _Result(msgspec.Struct, gc=False):
    type: str
    message: Message | None = None
    error: _ErrorEnvelope | None = None


class Envelope(msgspec.Struct, gc=False):
    """The part of a result line that is decoded; the decoder skips the rest."""

    custom_id: str
    result: _Result

    def told(self) -> tuple[str, str | None, str | None, Usage | None, str | None]:
        """Return outcome, error type, model, usage and stop reason."""
        result = self.result
        message, error = result.message, result.error
        model = usage = kind = stop = None
        if message is not None:
            model, stop = message.model, message.stop_reason
            if message.usage is not None:
                usage = message.usage.counted()
        if error is not None and error.error is not None:
            kind = error.error.type
        return result.type, kind, model, usage, stop


class Seen(NamedTuple):
    """The content of a result line's envelope."""

    wire_id: str
    outcome: str
    error_type: str | None
    model: str | None
    usage: Usage | None
    stop_reason: str | None = None


class Torn(Seen):
    """The readable content of a line that is not JSON but holds one of our ids: usually a part of a line."""

    __slots__ = ()


decode_id: Final = msgspec.json.Decoder(str).decode
"""Return the string of a custom_id that is given as a JSON string."""
_decoder = msgspec.json.Decoder(Envelope)
_decode, _decode_lines = _decoder.decode, _decoder.decode_lines
_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_NAMES_ID: Final = re.compile(rb'(?<!\\)"custom_id"\s*:\s*"(%b)"' % _ID.pattern)
_NAMED: Final = re.compile(rb'"custom_id"\s*:\s*("(?:[^"\\]|\\.){32,192}")')
_DOWNLOAD_TIMEOUT: Final = re.compile(rb"timed out while trying to download", re.IGNORECASE)
_DELIVERED: Final = re.compile(rb'"custom_id"\s*:\s*("(?:[^"\\]|\\.)*")')
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


def read_line(line: bytes) -> Seen | None:
    """Read a line's envelope; None if no custom_id can be found in it.

    `json` reads a line that the strict decoder refuses (a lone surrogate, deep nesting, an unexpected type). A JSON
    line belongs to the id at its top level: an array of results, or an error that quotes an id, belongs to no row. A
    line that is not JSON is scanned for our fixed-width id, so that no answer is ever dropped, and becomes `Torn`.
    """
    try:
        envelope = _decode(line)
    except _UNREADABLE:
        return _read_leniently(line)
    return Seen(envelope.custom_id, *envelope.told())


class Plain(NamedTuple):
    """The lines of a block in the API's own form: for each its row, its bytes after the head, and its envelope."""

    rows: list[int]
    tails: Sequence[bytes | memoryview]
    envelopes: list[Envelope]


def read_plain(text: bytes, head: bytes) -> Plain | None:
    """Read every line of a block; None if any line is not in the API's own form or not ours.

    None says nothing about the other lines of the block. Nearly all lines take this fast path: the block is decoded and
    cut as a whole, and makes no object that the garbage collector would have to track. `text` holds whole lines, the
    last without its newline; `head` is `ROW_HEAD` followed by the prefix of the attempt.
    """
    # A copy is faster than a view, which the garbage collector tracks. But a long line is not copied.
    short = len(text) < LONG
    tails: list[Any] = text.split(b"\n" + head) if short else _views(text, b"\n" + head)  # Any: bytes or views of them
    try:
        envelopes = _decode_lines(text)
    except _UNREADABLE:
        return None
    prefix = head[len(ROW_HEAD) :]
    if not text.startswith(head) or b"\r" in text or not len(envelopes) == len(tails) == text.count(prefix):
        return None
    tails[0] = tails[0][len(head) :]
    if short and any(NEWLINE in tail for tail in tails):
        return None
    # The ids found by position must equal the decoded custom_ids. A quote can only stand where an id ends.
    ends = [tail[: ROW_SUFFIX + 1] for tail in tails]
    if not short:
        ends = [bytes(end) for end in ends]
    named = '"'.join([envelope.custom_id for envelope in envelopes]).encode() + b'"'
    if prefix + prefix.join(ends) != named:
        return None
    values = _VALUES
    try:
        rows = [values[end[:2]] << 10 | values[end[2:4]] for end in ends]
    except KeyError:  # a letter outside the alphabet
        return None
    return Plain(rows, tails, envelopes)


def _views(text: bytes, separator: bytes) -> list[memoryview]:
    """Return the parts of `text.split(separator)` without copying; empty if there is a newline elsewhere."""
    whole, views, begin = memoryview(text), list[memoryview](), 0
    while (end := text.find(NEWLINE, begin)) >= 0:
        if not text.startswith(separator, end):
            return []
        views.append(whole[begin:end])
        begin = end + len(separator)
    return [*views, whole[begin:]]


def is_download_timeout(line: bytes) -> bool:
    """Return whether a line's error reports that the API did not get a file in time.

    The type of this error is `invalid_request_error`, as if the request had to be changed, but the error passes. Only
    lines of that type get here, so the message is decoded here and not with every envelope.
    """
    if _DOWNLOAD_TIMEOUT.search(line) is None:
        return False
    kind, message = error_in(line)
    said = _DOWNLOAD_TIMEOUT.search(message.encode("utf-8", "replace")) is not None
    return said and kind == "invalid_request_error"


def error_in(line: bytes) -> tuple[str | None, str]:
    """Return type and message of a line's error; None and an empty text if they are missing or not text."""
    try:
        envelope: Any = json.loads(line)  # Any: the line may hold any JSON
        error: Any = envelope["result"]["error"]["error"]
        kind, message = error["type"], error["message"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None, ""
    return (kind if isinstance(kind, str) else None), (message if isinstance(message, str) else "")


def _read_leniently(line: bytes) -> Seen | None:
    try:
        envelope = json_of(line)
    except ValueError:
        return _scan(line)
    except RecursionError:
        return _read_deep(line) if is_whole(line) else _scan(line)
    try:
        wire_id = _text(envelope["custom_id"])
    except (LookupError, TypeError):
        return None
    if wire_id is None:
        return None
    try:
        result: Any = envelope["result"]  # Any: the line may hold any JSON
        message: Any = result.get("message") or {}
        envelope_of_error: Any = result.get("error") or {}
        error: Any = envelope_of_error.get("error") or {}
        usage: Any = message.get("usage")
        return Seen(
            wire_id,
            _text(result["type"]) or "unreadable",
            _text(error.get("type")),
            _text(message.get("model")),
            None if usage is None else usage_of(usage),
            _text(message.get("stop_reason")),
        )
    except (LookupError, TypeError, AttributeError):  # the result has another form, but our id makes it ours
        return _undecoded(line, wire_id) if _ID.fullmatch(wire_id.encode()) else None


def _read_deep(line: bytes) -> Seen | None:
    """Find the id at the top level of a whole line that is nested too deeply for any decoder."""
    depth = begin = 0
    for named in _NAMES_ID.finditer(line):
        bare = _STRING.sub(b"", line[begin : named.start()])
        depth += bare.count(b"{") + bare.count(b"[") - bare.count(b"}") - bare.count(b"]")
        if depth == 1:
            return _undecoded(line, named[1].decode())
        begin = named.end()
    return None


def _undecoded(line: bytes, wire_id: str) -> Seen:
    return Seen(wire_id, outcome_in(line), None, None, None)


def _text(value: object) -> str | None:
    """Return the value if it is text that can be encoded as UTF-8."""
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def is_whole(line: bytes) -> bool:
    """Return whether a line that no newline ended is complete: a cut inside a line leaves a bracket or quote open."""
    bare = _STRING.sub(b"", line).strip()
    closed = bare.endswith((b"}", b"]")) if bare else line.strip() != b""
    return closed and b'"' not in bare and all(bare.count(a) == bare.count(b) for a, b in ((b"{", b"}"), (b"[", b"]")))


def _scan(line: bytes) -> Torn | None:
    named = _ID.search(line)
    if named is None:
        return None
    return Torn(named[0].decode(), outcome_in(line), None, None, None)


def with_custom_id(line: bytes, wire_id: bytes, custom_id: bytes) -> bytes:
    """Return the line with `custom_id` (as a JSON string, quotes included) in the place of our wire id."""
    end = len(ROW_HEAD) + ID_WIDTH
    if line.startswith(ROW_HEAD) and line[len(ROW_HEAD) : end] == wire_id and line.count(wire_id) == 1:
        return b"".join((ROW_HEAD[:-1], custom_id, line[end + 1 :]))
    pieces: list[bytes] = []
    begin = 0
    for named in _NAMED.finditer(line):  # the id may come later, with spaces, with escapes, or twice
        if _unquoted(named[1]) == wire_id:
            pieces += (line[begin : named.start(1)], custom_id)
            begin = named.end(1)
    if pieces:
        return b"".join((*pieces, line[begin:]))
    # The line is not an object with a custom_id, so the row gets a new object that holds the line.
    raw = json.dumps(line.decode("utf-8", "replace")).encode()
    return fallback(custom_id, b'{"type":"unreadable","raw":%b}' % raw)


def _unquoted(text: bytes) -> bytes:
    try:
        return msgspec.json.decode(text, type=str).encode()
    except (msgspec.DecodeError, UnicodeError):
        return b""


def fallback(custom_id: bytes, result: bytes = b'{"type":"canceled"}') -> bytes:
    """Make a line for a row that will get none from the API; `custom_id` is a JSON string."""
    return b"".join((b'{"custom_id":', custom_id, b',"result":', result, b"}"))


def outcome_of(line: bytes, custom_id: str) -> Line:
    """Decode a line that already carries the caller's id, for a sink."""
    seen = read_line(line)
    if seen is None:  # no JSON reader accepts it, and none accepted it with our id
        return Line(line, custom_id, outcome_in(line))
    return Line(line, custom_id, *seen[1:])


def delivered(line: bytes) -> Line:
    """Decode a line from a destination, with the caller's custom_id, once more for a sink."""
    try:
        envelope = _decode(line)
    except _UNREADABLE:
        seen = _read_leniently(line)
    else:
        seen = Seen(envelope.custom_id, *envelope.told())
    if seen is not None and not isinstance(seen, Torn):
        return Line(line, *seen)
    named = _DELIVERED.search(line)  # no JSON reader accepts it; a scan for our ids might match the model's text
    return Line(line, "" if named is None else _as_text(named[1]), outcome_in(line))


def _as_text(quoted: bytes) -> str:
    try:
        text: str = json.loads(quoted)
    except ValueError:
        return quoted.decode(errors="replace")
    return text
