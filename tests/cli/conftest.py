"""The real command line in a folder of its own, against a sandbox in this process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from typer.testing import CliRunner

from abatch.cli.app import app
from abatch.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 60.0
KEY = "canary-key-8c1f"


class Cli:
    """Runs `abatch` in a folder."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self.env = {**kept, "HOME": str(folder), "ANTHROPIC_API_KEY": KEY, **env}

    def _command(self, args: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "abatch", *map(str, args)]

    def __call__(self, *args: object, stdin: bytes = b"", **env: str) -> Ended:
        done = subprocess.run(
            self._command(args),
            cwd=self.folder,
            env={**self.env, **env},
            input=stdin,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode())

    def here(self, *args: object, **env: str) -> Ended:
        """Run it in this process, which is quicker, where the process is not what the test is about."""
        with contextlib.chdir(self.folder):
            try:
                done = CliRunner().invoke(app, [str(arg) for arg in args], env={**self.env, **env})
            finally:
                structlog.reset_defaults()  # a run sets the log of its process up
        return Ended(done.exit_code, done.stdout_bytes, done.stderr)

    def start(self, *args: object, **popen: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(args),
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            **{"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, **popen},
        )

    def write(
        self, name: str, count: int, *, first: int = 0, user: Callable[[int], str | None] = lambda _: None
    ) -> Path:
        """A file of requests r0, r1, …; `user` chooses outcomes in the sandbox."""
        path = self.folder / name
        path.write_bytes(b"".join(line(n, user(n)) + b"\n" for n in range(first, first + count)))
        return path

    def lines(self, name: str) -> dict[str, str]:
        """custom_id → outcome of every result line in a file; each stands once."""
        found = [json.loads(raw) for raw in (self.folder / name).read_bytes().splitlines()]
        outcomes = {each["custom_id"]: each["result"]["type"] for each in found}
        assert len(outcomes) == len(found)
        return outcomes


class Ended:
    """A command that ended."""

    def __init__(self, status: int, out: bytes, err: str) -> None:
        self.status, self.raw, self.out, self.err = status, out, out.decode(), err

    def __repr__(self) -> str:
        return f"exit {self.status}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def json(self) -> Any:
        """Stdout as the one JSON object that it must be."""
        assert self.out.count("\n") == 1, self
        return json.loads(self.out)


def line(n: int, user: str | None = None, **params: Any) -> bytes:
    asked: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": f"question {n}"}],
        **params,
    }
    if user is not None:
        asked["metadata"] = {"user_id": user}
    return json.dumps({"custom_id": f"r{n}", "params": asked}).encode()


def wait_for(done: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Until it is so; fails when the process ends before, or after a while."""
    until = time.monotonic() + PATIENCE
    while not done():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.01)


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """Read stderr up to the line with this word."""
    assert process.stderr is not None
    read: list[str] = []
    for each in process.stderr:
        read.append(each)
        if word in each:
            return "".join(read)
    raise AssertionError("".join(read))


@pytest.fixture
def api() -> Iterator[Sandbox]:
    with Sandbox(seed=1) as sandbox:
        yield sandbox


@pytest.fixture
def slow_api() -> Iterator[Sandbox]:
    """Batches end only when its clock is put forward."""
    with Sandbox(seed=1, latency=10_000.0) as sandbox:
        yield sandbox


@pytest.fixture
def new_cli(tmp_path: Path) -> Callable[[Sandbox], Cli]:
    return lambda sandbox: Cli(tmp_path, ANTHROPIC_BASE_URL=sandbox.url)


@pytest.fixture
def cli(tmp_path: Path, api: Sandbox) -> Cli:
    return Cli(tmp_path, ANTHROPIC_BASE_URL=api.url)


@pytest.fixture
def alone(tmp_path: Path) -> Cli:
    """Without an API."""
    return Cli(tmp_path, ANTHROPIC_BASE_URL="http://127.0.0.1:9")


@pytest.fixture(scope="session", name="line")
def line_of() -> Callable[..., bytes]:
    return line


@pytest.fixture(scope="session", name="wait_for")
def waiting() -> Callable[..., None]:
    return wait_for


@pytest.fixture(scope="session", name="read_until")
def reading() -> Callable[..., str]:
    return read_until
