"""`abatch serve` as a process that is killed, started again on the same port, and called until it answers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2

from abatch.service.tokens import Tokens

PATIENCE = 300
"""Seconds after which a step that does not end is a hang."""


class Service:
    """`abatch serve`, which can be killed and started again on the same port."""

    def __init__(self, folder: Path, settings: Path) -> None:
        self.folder = folder
        self._settings = settings
        self._log = (folder / "service.log").open("ab")
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def journal(self) -> Path:
        return self.folder / ".abatch"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @cached_property
    def client(self) -> httpx2.Client:
        """A client with the owner's token."""
        headers = {"authorization": f"Bearer {Tokens(self.journal).secret_of()}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not self._port:
            with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
                self._port = free.server_address[1]
        listen = f"127.0.0.1:{self._port}"
        command = [sys.executable, "-m", "abatch", "serve", "--listen", listen, "--config", str(self._settings)]
        self._process = subprocess.Popen(command, cwd=self.folder, stdout=self._log, stderr=self._log)
        self.until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "service.log").read_text()[-3_000:]
        with suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/livez", trust_env=False).status_code == 200
        return False

    def kill_and_start(self) -> None:
        """Kill it, and start it again at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.start()

    def end(self) -> int:
        """End it in good order; return its exit status."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(PATIENCE)
        self.client.close()
        self._log.close()
        return status

    def call(self, method: str, path: str, **more: Any) -> Any:
        """Make a call that may be repeated, until it is answered."""
        due = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self.client.request(method, path, **more)
            except httpx2.TransportError:
                assert time.monotonic() < due, f"{method} {path} is not answered"
                time.sleep(0.05)
                continue
            if answer.status_code == 503:
                time.sleep(0.05)
                continue
            assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
            return answer

    @staticmethod
    def until(condition: Callable[[], object]) -> None:
        due = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < due, "a step hangs"
            time.sleep(0.05)
