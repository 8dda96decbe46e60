"""A Batches API that costs almost nothing, in a process of its own: `python server.py --answer-bytes 900`.

What a benchmark measures must be the client, so everything is made beforehand: the results of a batch are written
to a file, in their chunked encoding, while it is `in_progress`; after that the kernel sends the file. The first
line on standard output is the address; the server ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path

CHUNK = 64 * 1024
"""Bytes of one chunk of the encoding, about."""
ID = re.compile(rb'"custom_id": ?"([^"]+)"')
QUESTION = re.compile(rb'"(?:content|text)": ?"(\d+)')
"""How the prompts of `write_requests` begin, whatever the client makes of their form."""
SENTENCE = 'The answer is "yes",\n\nbecause of what was said in the question — and so on. '
LINE = (
    b'{"custom_id":"%b","result":{"type":"succeeded","message":{"model":"claude-haiku-4-5-20251001",'
    b'"id":"msg_01%022d","type":"message","role":"assistant","content":[{"type":"text","text":"%b"}],'
    b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":%d,"cache_creation_input_tokens":0,'
    b'"cache_read_input_tokens":0,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},'
    b'"output_tokens":%d,"service_tier":"batch"}}}}'
)


def text(size: int) -> bytes:
    """Text of an answer as it stands in JSON, about `size` bytes, with the escapes that text has."""
    sentence = json.dumps(SENTENCE, ensure_ascii=False).encode()[1:-1]
    return sentence * max(1, size // len(sentence))


@dataclass(kw_only=True)
class Batch:
    number: int
    key: bytes
    """Of its workspace: a list shows no other's batches."""
    count: int
    file: Path
    created_at: datetime
    composed: bool = False
    ended: bool = False

    @property
    def name(self) -> str:
        return f"msgbatch_{self.number:020d}"

    def compose(self, ids: list[bytes], answer: bytes, longest: int) -> None:
        """Write the results in chunked encoding; `longest` is the size of the first line's text."""
        with self.file.open("wb") as out:
            held: list[bytes] = []
            size = 0

            def flush(tail: bytes = b"") -> None:
                data = b"\n".join(held) + tail
                step = CHUNK if len(data) > 2 * CHUNK else max(len(data), 1)
                for at in range(0, len(data), step):
                    piece = data[at : at + step]
                    out.write(b"%x\r\n%b\r\n" % (len(piece), piece))

            for row, custom_id in enumerate(ids):
                said = text(longest) if longest and not row else answer
                held.append(LINE % (custom_id, row, said, 100 + row % 50, len(said) // 4))
                size += len(held[-1])
                if size >= CHUNK:
                    flush(b"\n")
                    held.clear()
                    size = 0
            flush()
            out.write(b"0\r\n\r\n")

    def shown(self, base: str) -> dict[str, object]:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts["succeeded" if self.ended else "processing"] = self.count
        return {
            "id": self.name,
            "type": "message_batch",
            "processing_status": "ended" if self.ended else "in_progress",
            "request_counts": counts,
            "created_at": self.created_at.isoformat(),
            "expires_at": (self.created_at + timedelta(days=1)).isoformat(),
            "ended_at": self.created_at.isoformat() if self.ended else None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": f"{base}/v1/messages/batches/{self.name}/results" if self.ended else None,
        }


class Server:
    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.answer = folder, text(options.answer_bytes)
        self.longest: int = options.longest
        self.pause: float = options.pause
        self.at_once: bool = options.at_once
        self.lose: int = options.lose
        self.cut: bool = options.cut
        self.drop: bool = options.drop
        self.created = 0.0
        self.asked: set[bytes] | None = set() if options.questions else None
        self.again = 0
        self.batches: list[Batch] = []
        self.base = ""
        self.looks = self.retrieves = 0
        self.working: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        # asyncio sets it only on sockets that name their protocol; without it every answer in two pieces takes 40 ms
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = await asyncio.start_server(self.serve, sock=listener, limit=2**20)
        sys.stdout.write(self.base + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.buffer.read)
        server.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self.answer_one(head, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer_one(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        named = re.search(rb"(?i)\r\n(?:x-api-key|authorization): *([^\r]+)", head)
        key = named[1] if named else b""
        path = target.partition("?")[0]
        if method == "POST" and path == "/v1/messages/batches":
            assert found is not None
            return await self.create(int(found[1]), key, reader, writer)
        if path == "/v1/messages/batches":
            self.looks += "limit=1" not in target.split("?")[-1].split("&")
            data = [batch.shown(self.base) for batch in reversed(self.batches) if batch.key == key][:1000]
            last = data[-1]["id"] if data else None
            return self.reply(writer, {"data": data, "has_more": False, "first_id": None, "last_id": last})
        if path == "/account":
            names = [batch.name for batch in self.batches]
            return self.reply(
                writer, {"looks": self.looks, "retrieves": self.retrieves, "batches": names, "again": self.again}
            )
        name, _, what = path.removeprefix("/v1/messages/batches/").partition("/")
        batch = next((batch for batch in self.batches if batch.name == name), None)
        if batch is None or (what == "results" and not batch.ended):
            error = {"type": "error", "error": {"type": "not_found_error", "message": "no such batch"}}
            return self.reply(writer, error, "404 Not Found")
        if what == "results":
            return await self.send_results(batch, writer)
        self.retrieves += 1
        return self.reply(writer, batch.shown(self.base))

    async def create(self, size: int, key: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = bytearray()
        while len(body) < size:
            body += await reader.read(min(2**20, size - len(body)))
            if reader.at_eof():
                return
        number = len(self.batches) + 1
        file = self.folder / f"{number}.chunked"
        count = body.count(b'"custom_id"')
        batch = Batch(number=number, key=key, count=count, file=file, created_at=datetime.now(UTC))
        self.batches.append(batch)
        self.created = asyncio.get_running_loop().time()
        if self.asked is not None:
            asked = set(QUESTION.findall(body))
            self.again += not self.asked.isdisjoint(asked)
            self.asked |= asked
        task = asyncio.create_task(self.compose(batch, body))
        self.working.add(task)
        task.add_done_callback(self.working.discard)
        if self.at_once:
            await asyncio.wait([task])
        if self.lose:
            self.lose -= 1
            writer.transport.abort()
            return
        self.reply(writer, batch.shown(self.base))

    async def compose(self, batch: Batch, body: bytearray) -> None:
        await asyncio.to_thread(batch.compose, ID.findall(body), self.answer, self.longest)
        batch.composed = True
        if self.pause:
            while not self.calm():
                await asyncio.sleep(0.01)
        batch.ended = True

    def calm(self) -> bool:
        """Whether nothing was created for the pause, and everything that was could end now."""
        quiet = asyncio.get_running_loop().time() >= self.created + self.pause
        return quiet and all(batch.composed for batch in self.batches)

    async def send_results(self, batch: Batch, writer: asyncio.StreamWriter) -> None:
        self.head(writer, "200 OK", b"Content-Type: application/x-jsonl\r\nTransfer-Encoding: chunked\r\n")
        await writer.drain()
        cut, self.cut = self.cut, False
        if cut:
            self.send_half(batch, writer)
            return
        with batch.file.open("rb") as file:
            await asyncio.get_running_loop().sendfile(writer.transport, file, fallback=False)
        if self.drop:
            batch.file.unlink()

    def send_half(self, batch: Batch, writer: asyncio.StreamWriter) -> None:
        """Half of the results, up to the end of a line, and then the end, as if that were all."""
        with batch.file.open("rb") as file:
            kept = bytearray()
            while len(kept) < batch.file.stat().st_size // 2 and (size := int(file.readline(), 16)):
                kept += file.read(size)
                file.readline()
        kept = kept[: kept.rindex(b"\n") + 1]
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(kept), kept))

    def reply(self, writer: asyncio.StreamWriter, answer: object, status: str = "200 OK") -> None:
        body = json.dumps(answer).encode()
        self.head(writer, status, b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body))
        writer.write(body)

    def head(self, writer: asyncio.StreamWriter, status: str, more: bytes) -> None:
        date = formatdate(usegmt=True)
        writer.write(f"HTTP/1.1 {status}\r\nDate: {date}\r\nrequest-id: req_1\r\n".encode() + more + b"\r\n")


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--answer-bytes", type=int, default=900)
    options.add_argument("--longest", type=int, default=0)
    options.add_argument(
        "--pause", type=float, default=0.0, help="seconds without a create before batches end, all at once"
    )
    options.add_argument("--at-once", action="store_true", help="answer a create when its batch has ended")
    options.add_argument("--questions", action="store_true", help="count batches that ask what was asked before")
    options.add_argument("--lose", type=int, default=0, help="creates that are taken, and whose answer is lost")
    options.add_argument("--cut", action="store_true", help="end the first results early, though cleanly")
    options.add_argument(
        "--drop", action="store_true", help="remove results once they are sent, or they fill disk and page cache"
    )
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        asyncio.run(Server(Path(folder), chosen).run())


main()
