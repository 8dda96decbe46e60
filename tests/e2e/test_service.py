"""The service of the documentation, as a process under uvicorn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Example:
    """The example as a process, and the sandbox that it calls."""

    api: Sandbox
    process: subprocess.Popen[bytes]
    url: str

    def call(self, method: str, path: str) -> Any:
        """Call a route; the JSON of its answer."""
        with urllib.request.urlopen(urllib.request.Request(self.url + path, method=method), timeout=60) as answer:
            return json.load(answer)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Example]]:
    """Start the example against a sandbox; it is killed with the test."""
    with ExitStack() as opened:

        def start(**settings: Any) -> Example:
            api = opened.enter_context(Sandbox(seed=7, **settings))
            monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
            monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
            process = opened.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "error", "-c", SERVE],
                    cwd=tmp_path,
                    env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
            opened.callback(process.kill)
            assert process.stdout is not None
            return Example(api, process, f"http://127.0.0.1:{int(process.stdout.readline())}")

        yield start


def test_a_topic_is_submitted_watched_and_read_over_http(example: Callable[..., Example]) -> None:
    service = example()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        service.call("GET", "/topics/herons")
    for _ in range(2):  # the same job
        begun = service.call("PUT", "/topics/herons")
        assert (begun["failed"], begun["reason"], begun["remedy"]) == (0, "", "")
    with urllib.request.urlopen(f"{service.url}/topics/herons/results", timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = answer.read().decode().split("\n\n")
    assert [event for event in events if event.startswith("event: done")] == [events[-2]]
    results = [json.loads(event.partition("data: ")[2]) for event in events if event.startswith("event: result")]
    assert {each["custom_id"] for each in results} == {f"herons/{number}" for number in range(1, 51)}
    assert len(results) == 50
    done = service.call("GET", "/topics/herons")
    assert (done["state"], done["requests"], done["answered"], done["failed"]) == ("done", 50, 50, 0)
    assert (service.api.account.requests, service.api.account.violated) == (50, 0)


def test_sigterm_ends_a_service_at_once_although_a_client_reads_results(example: Callable[..., Example]) -> None:
    service = example(latency=86_000.0)  # a day, for which the client would wait
    service.call("PUT", "/topics/herons")
    with urllib.request.urlopen(f"{service.url}/topics/herons/results", timeout=60) as answer:
        assert answer.readline() == b": results follow\n"
        service.process.send_signal(signal.SIGTERM)
        assert answer.read() == b"\n"
    said = service.process.communicate(timeout=60)[0]
    assert (service.process.returncode, said) == (-signal.SIGTERM, b"")
    assert service.api.account.violated == 0
