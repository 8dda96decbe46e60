"""`abatch serve` as a process: signals, a second start, death and restart."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from abatch.sandbox import Sandbox
from abatch.service.tokens import Tokens
from tests.service.test_http_api import lines

PATIENCE = 60


class Daemon:
    """A running `abatch serve`."""

    def __init__(self, folder: Path, *options: str, **env: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "abatch", "serve", "--listen", "127.0.0.1:0", "--poll-interval", "0.05", *options],
            cwd=folder,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        self.url = ""
        self._hangs = threading.Timer(PATIENCE, self.process.kill)
        self._hangs.start()

    def until_said(self, words: str) -> str:
        """Read what it says up to a line with these words; a process that hangs is killed."""
        assert self.process.stderr is not None
        while True:
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
            if words in line:
                return line

    def until_ready(self) -> Daemon:
        self.until_said("/api/v1/jobs")
        found = re.search(r"http://127\.0\.0\.1:\d+", self.said)
        assert found is not None
        self.url = found[0]
        return self

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}{path}", data=body, method=method)
        request.add_header("Authorization", f"Bearer {Tokens(self.folder / '.abatch').secret_of()}")
        if body is not None:
            request.add_header("Content-Type", "application/x-ndjson")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def until(self, condition: Callable[[], Any]) -> None:
        due = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < due
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE)
        assert out == ""
        return self.process.returncode, err

    def close(self) -> None:
        self._hangs.cancel()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Daemon]]:
    started: list[Daemon] = []

    def begin(*options: str, **env: str) -> Daemon:
        started.append(Daemon(tmp_path, *options, **env))
        return started[-1]

    yield begin
    for daemon in started:
        daemon.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Batches end when the test moves the clock."""
    with Sandbox(seed=7, latency=3_600) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", sandbox.key)
        yield sandbox


def test_sigterm_ends_it_in_good_order_and_a_reader_of_events_does_not_hold_it(
    api: Sandbox, start: Callable[..., Daemon]
) -> None:
    daemon = start().until_ready()
    request = urllib.request.Request(f"{daemon.url}/api/v1/events")
    request.add_header("Authorization", f"Bearer {Tokens(daemon.folder / '.abatch').secret_of()}")
    with urllib.request.urlopen(request, timeout=PATIENCE) as stream:
        assert stream.readline() == b": abatch\n"
        code, said = daemon.end()
    assert code == 0, said
    assert said.startswith("Ending: nothing new is sent")
    assert "Traceback" not in said


def test_what_it_prints_names_the_url_and_no_token(api: Sandbox, start: Callable[..., Daemon]) -> None:
    daemon = start().until_ready()
    assert "journal      .abatch\n" in daemon.said
    assert 'curl -H "Authorization: Bearer $(abatch token)"' in daemon.said
    assert Tokens(daemon.folder / ".abatch").secret_of() not in daemon.said
    asked = subprocess.run(
        [sys.executable, "-m", "abatch", "token"], cwd=daemon.folder, check=True, capture_output=True, text=True
    )
    assert asked.stdout.strip() == Tokens(daemon.folder / ".abatch").secret_of()


def test_a_second_start_exits_75_and_names_the_holder(api: Sandbox, start: Callable[..., Daemon]) -> None:
    first = start().until_ready()
    second = start()
    _, said = second.process.communicate(timeout=PATIENCE)
    assert second.process.returncode == 75
    assert str(first.process.pid) in said
    assert first.call("GET", "/api/v1/jobs")["jobs"] == []


def test_killed_in_the_middle_it_goes_on_at_the_next_start(slow: Sandbox, start: Callable[..., Daemon]) -> None:
    first = start().until_ready()
    assert first.call("POST", "/api/v1/jobs?key=birds", lines(5))["key"] == "birds"
    first.until(lambda: slow.account.batches == 1)
    first.process.kill()
    first.process.communicate()
    slow.advance(7_200)
    second = start().until_ready()
    second.until(lambda: second.call("GET", "/api/v1/jobs/birds")["done"])
    assert second.call("GET", "/api/v1/jobs/birds")["succeeded"] == 5
    assert (slow.account.requests, slow.account.violated) == (5, 0)


def test_sighup_reads_the_settings_again_and_says_what_needs_a_restart(
    api: Sandbox, start: Callable[..., Daemon], tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "in.jsonl").write_bytes(lines(1))
    settings = tmp_path / "abatch.toml"
    settings.write_text("")
    daemon = start("--config", "abatch.toml", ABATCH_LOG="info").until_ready()

    def reload(text: str, event: str) -> str:
        settings.write_text(text)
        daemon.process.send_signal(signal.SIGHUP)
        return daemon.until_said(event)

    assert "uploads" in reload('uploads = 2\n[serve]\nfolders = ["allowed"]', "settings_reloaded")
    request = urllib.request.Request(
        f"{daemon.url}/api/v1/jobs?key=a", data=json.dumps({"path": str(allowed / "in.jsonl")}).encode()
    )
    request.add_header("Authorization", f"Bearer {Tokens(tmp_path / '.abatch').secret_of()}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.status == 201
    assert "did you mean uploads?" in reload("upload = 2", "settings_not_reloaded")
    assert daemon.end()[0] == 0


def test_the_service_manager_hears_when_it_is_ready_alive_and_ending(
    api: Sandbox, start: Callable[..., Daemon], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        daemon = start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000").until_ready()
        assert manager.recv(1000).startswith(b"READY=1\n")
        assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        daemon.process.send_signal(signal.SIGTERM)
        while (message := manager.recv(1000)) == b"WATCHDOG=1":
            pass
        assert message == b"STOPPING=1"
        assert daemon.process.wait(PATIENCE) == 0


def test_a_service_manager_that_does_not_listen_stops_nothing(
    api: Sandbox, start: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start(NOTIFY_SOCKET=str(tmp_path / "nothing")).until_ready()
    assert daemon.call("GET", "/api/v1/jobs")["jobs"] == []
    code, _ = daemon.end()
    assert code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--listen", "0.0.0.0:0"), "reachable from other machines"),
        (("--listen", "nonsense"), "listen must be HOST:PORT"),
        (("--config", "missing.toml"), "missing.toml cannot be used"),
        (("--inbox", "file"), "the inbox folder"),
    ],
)
def test_a_setting_that_cannot_work_is_an_error_at_the_start(
    api: Sandbox, start: Callable[..., Daemon], tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    (tmp_path / "file").write_text("")
    daemon = start(*options)
    _, said = daemon.process.communicate(timeout=PATIENCE)
    assert daemon.process.returncode == 2, said
    assert words in said
    assert "Traceback" not in said


def test_files_of_the_inbox_folder_become_jobs(api: Sandbox, start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start("--inbox", "inbox").until_ready()
    (tmp_path / "birds.jsonl").write_bytes(lines(3))
    (tmp_path / "birds.jsonl").rename(tmp_path / "inbox" / "birds.jsonl")
    daemon.until((tmp_path / "inbox" / "done" / "birds.jsonl").exists)
    assert len((tmp_path / "inbox" / "results" / "birds.jsonl").read_bytes().splitlines()) == 3
    assert daemon.call("GET", "/api/v1/jobs/birds")["succeeded"] == 3
    assert daemon.end()[0] == 0
