"""Serve the Batches API on loopback in the shapes of recorded traffic: a second server, independent of the sandbox.

It shares no code with abatch or its sandbox, and knows HTTP by itself, so that a mistake in the sandbox's idea of
the API does not hide the same mistake in abatch. Only shapes are recorded: names, order and casing of headers, order
and null values of fields, chunks, compression, statuses and the wording of errors. Every id, key and text is made up.
Waits that took seconds or hours are scaled down.

The server keeps an account of its own: which params were accepted in which batch, and what each came to.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

__all__ = ["ERAS", "SCENARIOS", "SHAPES", "Batch", "Era", "RecordedApi", "digest"]

ROOT = ["v1", "messages", "batches"]
PHRASES = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests",
           500: "Internal Server Error"}  # fmt: skip
REFUSED = "invalid_request_error"
DAY = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """How answers looked when they were recorded."""

    results_type: str | None = None
    newline: bool = True
    """Whether the last result line ends with one."""
    archived_at: bool = True
    polite: bool = True
    """Whether a batch in progress carries `retry-after`."""
    modern: bool = True
    """Since 2026: ids of organization and request, messages that begin with the model."""
    workspace: bool = False
    rates: bool = False
    cookie: bool = False


ERAS = {
    "2024-10": Era(results_type="text/html", newline=False, archived_at=False, polite=False, modern=False),
    "2025-01": Era(newline=False, modern=False),
    "2026-06": Era(cookie=True),
    "2026-08": Era(results_type="application/x-jsonl", workspace=True),
    "2026-09": Era(results_type="application/x-jsonl", workspace=True, rates=True),
}

SCENARIOS = {
    "clean": "every request succeeds",
    "shapes": "results of every recorded kind, among them refusals, tools, passing and final errors",
    "flap404": "a batch is a 404 right after its create and at every third look; its results are at first, too",
    "parked": "batches stand still until they are canceled; then nearly every row has succeeded",
    "cancel_slow": "a cancel takes long, and keeps the rows that were done",
    "rate50": "over the limit of calls the answer is a 429 that names the batch API",
    "credit": "create is a 400: the balance is too low",
    "usage": "create is a 400: the limit of the workspace is reached",
    "usage_list": "the list is that 400",
    "overloaded": "the first create and the first list are a 529 that did nothing",
    "overloaded_after": "the first create is a 529 that made its batch",
    "internal": "the first create is a 500 that made nothing",
    "unauthorized": "every call is a 401 without a request id in its body",
    "details_odd": "create is a 400 whose details are a list",
    "gzip_results": "a proxy compresses results in two members, though the client asks for none",
}


@dataclass(slots=True, eq=False)
class Batch:
    """One accepted create."""

    number: int
    rows: list[tuple[str, dict[str, Any], bytes]]
    """Wire id, params, digest."""
    created: datetime
    ends: datetime
    results: list[bytes]
    """The `result` of each row if nobody cancels, as JSON."""
    canceled: datetime | None = None
    looks: int = 0
    reads: int = 0

    @property
    def batch_id(self) -> str:
        return f"msgbatch_01recorded{self.number:015d}"

    def status(self, now: datetime) -> str:
        if now >= self.ends:
            return "ended"
        return "in_progress" if self.canceled is None else "canceling"


@dataclass(slots=True, kw_only=True)
class Answer:
    """What goes back; pieces are sent as chunks, None means a length."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    piece: int | None = 2**16


class Refusal(Exception):
    """The call is answered with an error's envelope."""

    def __init__(self, status: int, kind: str, text: str, **more: Any) -> None:
        super().__init__(text)
        self.status = status
        self.kind = kind
        self.text = text
        self.more = more


@dataclass(slots=True)
class Account:
    """What the server accepted, and what was wrong about it."""

    acceptances: dict[bytes, list[Batch]] = field(default_factory=lambda: defaultdict(list))
    paid_twice: list[bytes] = field(default_factory=list)
    said: dict[bytes, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """For each request, the results that were sent for it."""
    creates: int = 0
    """Complete bodies that came."""
    met: int = 0
    """Answers that were other than in the scenario clean."""
    trapped: int = 0
    """Connections to the host that `results_url` names."""


class RecordedApi:
    """The server for the length of a block, on the loop of its caller."""

    def __init__(self, era: str, scenario: str, *, seconds: float = 0.05) -> None:
        assert scenario in SCENARIOS
        self.era = ERAS[era]
        self.scenario = scenario
        self.account = Account()
        self.batches: list[Batch] = []
        self.accepted = asyncio.Event()
        """Set at the first acceptance."""
        self.url = ""
        self._seconds = seconds
        self._rng = random.Random(f"{era} {scenario}")
        self._calls = 0
        self._done_once: set[str] = set()
        self._window: list[float] = []
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self._trap = await asyncio.start_server(self._trapped, "127.0.0.1", 0)
        self.url = self._address(self._server)
        self._elsewhere = self._address(self._trap)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in (self._server, self._trap):
            server.close()
        for writer in self._open:
            writer.transport.abort()
        for server in (self._server, self._trap):
            await server.wait_closed()

    @staticmethod
    def _address(server: asyncio.Server) -> str:
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    # ---- HTTP --------------------------------------------------------------------------------------------------

    async def _trapped(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.account.trapped += 1
        writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                begin, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
                method, target, _ = begin.split()
                asked = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
                assert "transfer-encoding" not in asked, "a create names its length"
                body = await reader.readexactly(int(asked.get("content-length", "0")))
                await self._send(writer, self._answer(method, target, asked, body))
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the client is gone; what it did not finish was not looked at
        finally:
            self._open.discard(writer)
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer) -> None:
        lines = [f"HTTP/1.1 {answer.status} {PHRASES.get(answer.status, '')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if answer.piece is None:
            writer.write(answer.body)
        else:
            for at in range(0, len(answer.body), answer.piece):
                piece = answer.body[at : at + answer.piece]
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _answer(self, method: str, target: str, asked: dict[str, str], body: bytes) -> Answer:
        self._calls += 1
        now = datetime.now(UTC)
        try:
            return self._route(method, target, asked, body, now)
        except Refusal as refusal:
            self.account.met += 1
            return self._error(asked, now, refusal)

    # ---- answers -----------------------------------------------------------------------------------------------

    @property
    def _request_id(self) -> str:
        return f"req_01recorded{self._calls:014d}"

    def _headers(self, now: datetime, kind: str | None, special: list[tuple[str, str]]) -> list[tuple[str, str]]:
        era = self.era
        headers = [("Date", format_datetime(now.replace(microsecond=0), usegmt=True))]
        if kind is not None:
            headers.append(("Content-Type", kind))
        headers += [("Connection", "keep-alive"), *special, ("request-id", self._request_id)]
        if era.modern:
            headers.append(("anthropic-organization-id", "11111111-2222-4333-8444-555555555555"))
        if era.workspace:
            headers.append(("anthropic-workspace-id", "wrkspc_01recorded"))
        if era.rates:
            reset = (now + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            numbers = {"limit": "4000", "remaining": "3999", "reset": reset}
            headers += [(f"anthropic-ratelimit-requests-{name}", value) for name, value in numbers.items()]
        if era.modern:
            headers += [("Server", "cloudflare"), ("vary", "Accept-Encoding")]
        else:
            headers += [("via", "1.1 google"), ("Server", "cloudflare")]
        if era.cookie:
            headers.append(("set-cookie", "_cfuvid=recorded; path=/; HttpOnly; Secure"))
        return [*headers, ("CF-Cache-Status", "DYNAMIC"), ("X-Robots-Tag", "none")]

    def _json(
        self, asked: dict[str, str], now: datetime, told: object, *special: tuple[str, str], status: int = 200
    ) -> Answer:
        body = _compact(told)
        encoding = [("Transfer-Encoding", "chunked")]
        if "gzip" in asked.get("accept-encoding", ""):
            body = gzip.compress(body, mtime=0)
            encoding.append(("Content-Encoding", "gzip"))
        headers = self._headers(now, "application/json", [*encoding, *special])
        return Answer(status=status, headers=headers, body=body)

    def _error(self, asked: dict[str, str], now: datetime, refusal: Refusal) -> Answer:
        bare = refusal.more.get("bare", False)
        error = {"type": refusal.kind, "message": refusal.text}
        if "details" in refusal.more:
            error = {"details": refusal.more["details"], **error}
        envelope = {"type": "error", "error": error}
        if self.era.modern and not bare:
            envelope["request_id"] = self._request_id
        passes = refusal.status == 429 or refusal.status >= 500
        special = [("x-should-retry", "true" if passes else "false")]
        if "retry_after" in refusal.more:
            special.append(("retry-after", str(refusal.more["retry_after"])))
        if not bare:
            return self._json(asked, now, envelope, *special, status=refusal.status)
        body = _compact(envelope)  # 401 and 529 came with a length, neither chunked nor compressed
        headers = self._headers(now, "application/json", [("Content-Length", str(len(body))), *special])
        return Answer(status=refusal.status, headers=headers, body=body, piece=None)

    # ---- calls -------------------------------------------------------------------------------------------------

    def _route(self, method: str, target: str, asked: dict[str, str], body: bytes, now: datetime) -> Answer:
        url = urlsplit(target)
        path = url.path.strip("/").split("/")
        if self.scenario == "unauthorized" or not asked.keys() & {"authorization", "x-api-key"}:
            raise Refusal(401, "authentication_error", "invalid x-api-key", bare=True)
        if path[:3] != ROOT or url.path.endswith("/"):
            raise Refusal(404, "not_found_error", "Not Found")
        self._count_calls()
        if len(path) == 3:
            if method == "POST":
                return self._create(asked, body, now)
            return self._list(asked, parse_qs(url.query), now)
        batch = next((batch for batch in self.batches if batch.batch_id == path[3]), None)
        if batch is None:
            raise Refusal(404, "not_found_error", f"Message Batch {path[3]} not found.")
        match method, path[4:]:
            case "GET", []:
                return self._retrieve(asked, batch, now)
            case "GET", ["results"]:
                return self._results(asked, batch, now)
            case "POST", ["cancel"]:
                return self._cancel(asked, batch, now)
            case _:
                raise Refusal(404, "not_found_error", "Not Found")

    def _count_calls(self) -> None:
        """In the scenario rate50, take twelve calls in a second, in place of fifty in a minute."""
        if self.scenario != "rate50":
            return
        now = time.monotonic()
        self._window = [at for at in self._window if at > now - 1]
        if len(self._window) >= 12:
            text = (
                "This request would exceed your organization's rate limit of 50 requests per minute "
                "(limit_type: Message Batches API)."
            )
            raise Refusal(429, "rate_limit_error", text, retry_after=1)
        self._window.append(now)

    def _once(self, scenario: str, call: str) -> bool:
        """Whether a scenario that disturbs the first call of a kind is on, and this is that call."""
        if self.scenario != scenario or call in self._done_once:
            return False
        self._done_once.add(call)
        return True

    def _create(self, asked: dict[str, str], body: bytes, now: datetime) -> Answer:
        self.account.creates += 1
        overloaded = Refusal(529, "overloaded_error", "Overloaded", bare=True)
        match self.scenario:
            case "credit":
                raise Refusal(400, REFUSED, "Your credit balance is too low to access the Anthropic API.")
            case "usage":
                raise Refusal(400, REFUSED, USAGE)
            case "details_odd":
                raise Refusal(400, REFUSED, "requests: made up", details=["odd"])
            case "overloaded" if self._once("overloaded", "create"):
                raise overloaded
            case "internal" if self._once("internal", "create"):
                raise Refusal(500, "api_error", "Internal server error")
            case _:
                pass
        batch = self._accept(json.loads(body)["requests"], now)
        if self._once("overloaded_after", "create"):
            raise overloaded
        if self.scenario in ("shapes", "parked", "cancel_slow"):
            self.account.met += 1
        return self._json(asked, now, self._shown(batch, now))

    def _accept(self, requests: list[dict[str, Any]], now: datetime) -> Batch:
        rows = [(each["custom_id"], each["params"], digest(each["params"])) for each in requests]
        results = [
            _compact(self._result(params, nth=len(self.account.acceptances[of]) + 1, now=now)) for _, params, of in rows
        ]
        forever = self.scenario in ("parked", "cancel_slow")
        ends = now + (DAY if forever else timedelta(seconds=self._seconds))
        batch = Batch(len(self.batches) + 1, rows, now, ends, results)
        for _, _, of in rows:
            earlier = self.account.acceptances[of]
            if any(not self._came_to_nothing(each, of, now) for each in earlier):
                self.account.paid_twice.append(of)
            earlier.append(batch)
        self.batches.append(batch)
        self.accepted.set()
        return batch

    def _came_to_nothing(self, batch: Batch, of: bytes, now: datetime) -> bool:
        """Whether an acceptance has ended otherwise than succeeded, so that it may be sent again."""
        if batch.status(now) != "ended":
            return False
        row = next(row for row, (_, _, each) in enumerate(batch.rows) if each == of)
        return not self._final(batch, row).startswith(b'{"type":"succeeded"')

    def _final(self, batch: Batch, row: int) -> bytes:
        """The result of a row; of a canceled batch nearly all rows are done if it was parked, else half of them."""
        done = row % 60 != 59 if self.scenario == "parked" else row % 2 == 0
        if batch.canceled is not None and not done:
            return b'{"type":"canceled"}'
        return batch.results[row]

    def _list(self, asked: dict[str, str], query: dict[str, list[str]], now: datetime) -> Answer:
        if self.scenario == "usage_list":
            raise Refusal(400, REFUSED, USAGE)
        if self._once("overloaded", "list"):
            raise Refusal(529, "overloaded_error", "Overloaded", bare=True)
        newest_first = self.batches[::-1]
        for after in query.get("after_id", []):
            places = [place for place, batch in enumerate(newest_first) if batch.batch_id == after]
            newest_first = newest_first[places[0] + 1 :] if places else []
        page = newest_first[: int(query.get("limit", ["20"])[0])]
        told = {
            "data": [self._shown(batch, now) for batch in page],
            "has_more": len(page) < len(newest_first),
            "first_id": page[0].batch_id if page else None,
            "last_id": page[-1].batch_id if page else None,
        }
        return self._json(asked, now, told)

    def _retrieve(self, asked: dict[str, str], batch: Batch, now: datetime) -> Answer:
        batch.looks += 1
        if self.scenario == "flap404" and (now - batch.created < timedelta(seconds=0.03) or batch.looks % 3 == 0):
            raise Refusal(404, "not_found_error", f"Message Batch {batch.batch_id} not found.")
        waits = self.era.polite and batch.status(now) != "ended"
        return self._json(asked, now, self._shown(batch, now), *([("retry-after", "10")] if waits else []))

    def _cancel(self, asked: dict[str, str], batch: Batch, now: datetime) -> Answer:
        if batch.status(now) == "in_progress":
            batch.canceled = now
            batch.ends = now + timedelta(seconds=0.6 if self.scenario == "cancel_slow" else 0.05)
        return self._json(asked, now, self._shown(batch, now))

    def _results(self, asked: dict[str, str], batch: Batch, now: datetime) -> Answer:
        batch.reads += 1
        if batch.status(now) != "ended":
            raise Refusal(404, "not_found_error", f"Message Batch {batch.batch_id} has no available results.")
        if self.scenario == "flap404" and batch.reads == 1:
            raise Refusal(404, "not_found_error", f"Message Batch {batch.batch_id} not found.")
        lines: list[bytes] = []
        for row, (wire_id, _, of) in enumerate(batch.rows):
            result = self._final(batch, row)
            self.account.said[of].append(result)
            lines.append(b'{"custom_id":%b,"result":%b}' % (json.dumps(wire_id).encode(), result))
        self._rng.shuffle(lines)  # another order at every reading
        body = b"\n".join(lines) + (b"\n" if self.era.newline else b"")
        name = f"{batch.batch_id}_results.jsonl"
        special = [
            ("Transfer-Encoding", "chunked"),
            (
                "content-disposition",
                f"attachment; filename*=utf-8''{name}" if self.era.modern else f"attachment; filename={name}",
            ),
        ]
        if self.scenario == "gzip_results":
            self.account.met += 1
            special.append(("Content-Encoding", "gzip"))
            half = len(body) // 2
            body = gzip.compress(body[:half], mtime=0) + gzip.compress(body[half:], mtime=0)
        # chunks that end inside lines and inside characters
        return Answer(status=200, headers=self._headers(now, self.era.results_type, special), body=body, piece=997)

    # ---- what is told of batches and requests --------------------------------------------------------------------

    def _shown(self, batch: Batch, now: datetime) -> dict[str, Any]:
        status = batch.status(now)
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if status == "ended":
            for row in range(len(batch.rows)):
                counts[json.loads(self._final(batch, row))["type"]] += 1
        else:
            counts["processing"] = len(batch.rows)
        results = f"{self._elsewhere}/v1/messages/batches/{batch.batch_id}/results"
        told = {
            "id": batch.batch_id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": counts,
            "ended_at": _time(batch.ends) if status == "ended" else None,
            "created_at": _time(batch.created),
            "expires_at": _time(batch.created + DAY),
            "archived_at": None,
            "cancel_initiated_at": None if batch.canceled is None else _time(batch.canceled),
            "results_url": results if status == "ended" else None,
        }
        if not self.era.archived_at:
            del told["archived_at"]
        return told

    def _result(self, params: dict[str, Any], *, nth: int, now: datetime) -> dict[str, Any]:
        """What a request comes to when it is accepted for the nth time: in `shapes` its number decides."""
        text = params["messages"][0]["content"]
        shape = int(text.rsplit(" ", 1)[1]) % len(SHAPES) if self.scenario == "shapes" else 0
        kind, told = SHAPES[shape]
        if kind == "passing" and nth > 1:
            kind, told = SHAPES[0]
        if kind in ("passing", "final"):
            return told
        content, stop = told["content"], told["stop"]
        if kind == "text":
            content = [{"type": "text", "text": f"answer to {text}"}]
        return {"type": "succeeded", "message": self._message(params["model"], content, stop, told.get("usage", {}))}

    def _message(self, model: str, content: list[dict[str, Any]], stop: str, charged: dict[str, Any]) -> dict[str, Any]:
        usage: dict[str, Any] = {"input_tokens": 21, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
        usage |= charged
        named = {"id": "msg_01recorded", "type": "message", "role": "assistant"}
        behind = {"content": content, "stop_reason": stop, "stop_sequence": None}
        if not self.era.modern:
            return {**named, "model": model, **behind, "usage": usage | {"output_tokens": 8}}
        usage["cache_creation"] = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
        usage |= {"output_tokens": 8, "service_tier": "batch", "inference_geo": "not_available"}
        refused = {"type": "refusal", "category": None, "explanation": "made up"} if stop == "refusal" else None
        return {"model": model, **named, **behind, "stop_details": refused, "usage": usage}


USAGE = "You have reached your specified workspace API usage limits. You will regain access when the next month begins."


def _errored(kind: str, text: str, request_id: str | None, **details: Any) -> dict[str, Any]:
    error = {**details, "type": kind, "message": text}
    return {"type": "errored", "error": {"type": "error", "error": error, "request_id": request_id}}


VISIBLE = {"details": {"error_visibility": "user_facing"}}
WORKER = "workerreq_01recorded"
SHAPES: list[tuple[str, Any]] = [
    ("text", {"content": [], "stop": "end_turn"}),
    ("final", _errored("not_found_error", "model: made-up-9", None, **VISIBLE)),
    ("final", _errored(REFUSED, "Could not process image", WORKER, details=None)),
    ("final", _errored(REFUSED, "messages: Field required", None, **VISIBLE)),
    ("final", _errored(REFUSED, "Unable to download the file. Please verify the URL.", WORKER, **VISIBLE)),
    ("final", {"type": "canceled"}),
    ("passing", {"type": "expired"}),
    ("passing", _errored("overloaded_error", "Overloaded", WORKER, details=None)),
    ("passing", _errored("api_error", "Internal server error", WORKER, details=None)),
    ("message", {"content": [], "stop": "refusal"}),
    (
        "message",
        {
            "content": [
                {"type": "thinking", "thinking": "", "signature": "bWFkZSB1cA=="},
                {
                    "type": "tool_use",
                    "id": "toolu_01recorded",
                    "name": "look",
                    "input": {},
                    "caller": {"type": "direct"},
                },
            ],
            "stop": "tool_use",
        },
    ),
    ("message", {"content": [{"type": "text", "text": "made up \u2028 \x85 é \U0001f600"}], "stop": "max_tokens"}),
    (
        "message",
        {
            "content": [{"type": "text", "text": "found"}],
            "stop": "end_turn",
            "usage": {"server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 2}},
        },
    ),
]
"""How a request ends: a text of its own, a message, an error that is final, or one that passes."""


def digest(params: dict[str, Any]) -> bytes:
    """By which a request is known, whatever its id on the wire."""
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).digest()


def _compact(told: object) -> bytes:
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def _time(at: datetime) -> str:
    return at.isoformat(timespec="microseconds")
