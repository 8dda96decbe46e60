"""The service of the documentation, as a process under uvicorn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from abatch.sandbox import Sandbox

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVE = """
import uvicorn, service

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

Server(uvicorn.Config(service.app, port=0, log_level="warning")).run()
"""


def test_sigterm_ends_a_service_at_once_although_a_client_reads_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Sandbox(seed=7, latency=86_000.0) as api:  # a day, for which the client would wait
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVE],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as service:
            try:
                assert service.stdout is not None
                port = int(service.stdout.readline())
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/results", timeout=60) as answer:
                    assert answer.readline() == b"\n"  # the job was submitted, and its results are waited for
                    service.send_signal(signal.SIGTERM)
                    assert answer.read() == b""
                said = service.communicate(timeout=60)[0]
            finally:
                service.kill()
        assert (service.returncode, said) == (-signal.SIGTERM, b"")
        assert api.account.violated == 0
