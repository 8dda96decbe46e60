"""A receiver of webhooks on loopback that refuses some first attempts, and counts what is forged."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

from tests.service.receivers import SECRET

REFUSED = 6
"""Messages whose first attempt the receiver refuses."""


class Receiver:
    """Receives webhooks on loopback, and refuses the first attempt of the first messages."""

    def __init__(self) -> None:
        receiver = self
        self.attempts: Counter[str] = Counter()
        self.delivered: dict[str, dict[str, Any]] = {}
        self.forged = 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(receiver.take(body, dict(self.headers.items())))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def take(self, body: bytes, headers: dict[str, str]) -> int:
        """Take one attempt, and return the status of the answer."""
        name = headers["webhook-id"]
        self.attempts[name] += 1
        if self.attempts[name] == 1 and len(self.attempts) <= REFUSED:
            return 503
        try:
            message = Webhook(SECRET).verify(body, {key.lower(): value for key, value in headers.items()})
        except Exception:  # noqa: BLE001 - any reason to refuse a message is a violation, counted here
            self.forged += 1
            return 400
        self.delivered[name] = message["data"]
        return 204

    @contextmanager
    def listening(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()
