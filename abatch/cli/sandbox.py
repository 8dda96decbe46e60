"""`abatch sandbox`, and the sandbox that `--sandbox` runs for a command: a Batches API with synthetic answers."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import IO, TYPE_CHECKING, Annotated, Final

import typer

from abatch.cli.exit_codes import reported
from abatch.cli.paths import PORT
from abatch.cli.screen import Screen
from abatch.errors import BackendUnavailable, ConfigError, JournalLocked

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["HUSHED", "sandbox", "sandbox_beside"]

HUSHED: Final = frozenset({"grace_below_the_bounds"})
"""Log events that are not shown of a sandbox: its grace is short on purpose."""
LOCK: Final = "sandbox.lock"
"""The file that is locked by the run whose sandbox uses the folder."""
PATIENCE: Final = 8.0
"""Seconds for the sandbox of a killed run to end, and for this one to start."""
KEY: Final = "sandbox-key"
FOREIGN: Final = ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_PROFILE")
"""Settings for the real API, which are hidden from the sandbox."""


@contextmanager
def sandbox_beside(folder: Path, *, latency: str) -> Generator[str]:
    """Run a sandbox as a child that ends with this process, and point the environment at it; yields its URL.

    A journal belongs to one address, so the port is chosen once and kept in `folder`.

    Raises:
        BackendUnavailable: the sandbox's packages are not installed.
        ConfigError: it does not start, or its folder cannot be used.
        JournalLocked: another run uses the folder.

    """
    with ExitStack() as held:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            held.enter_context(_locked(folder))
            said = held.enter_context(tempfile.TemporaryFile(dir=folder))
            child, url = _start(folder, _port_of(folder), latency, said)
            held.callback(_end, child)
            (folder / PORT).touch(mode=0o600)
            (folder / PORT).write_text(f"{url.rpartition(':')[2]}\n")
        except OSError as failure:
            raise ConfigError(
                f"the sandbox cannot use the folder {folder} ({failure.strerror}); name one that can be written with "
                "--journal"
            ) from failure
        _point_at(url)
        yield url


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Keep a sandbox's folder for this run: a second one in it would accept the same batches as its own.

    Raises:
        JournalLocked: another run has it.

    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            said = os.read(descriptor, 20).strip()
            raise JournalLocked(folder, int(said) if said.isdigit() else 0) from held
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _end(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.close()
    child.terminate()
    child.wait()


def _port_of(folder: Path) -> int:
    try:
        return int((folder / PORT).read_text() or 0)
    except FileNotFoundError:
        return 0
    except ValueError as unreadable:
        raise ConfigError(f"{folder / PORT} holds no port; remove {folder} to start again") from unreadable


def _start(folder: Path, port: int, latency: str, said: IO[bytes]) -> tuple[subprocess.Popen[str], str]:
    """Start the sandbox; retry while the sandbox of a killed run is still ending."""
    until = time.monotonic() + PATIENCE
    while True:
        if _is_free(port):
            command = [sys.executable, "-m", "abatch.sandbox", "--exit-with-parent", "--port", str(port)]
            child = subprocess.Popen(  # noqa: S603 - our own module, and arguments that were checked
                [*command, "--state", str(folder / "server"), "--latency", latency],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                start_new_session=True,  # Ctrl-C is for this process; the sandbox ends when its stdin does
            )
            assert child.stdout is not None
            if url := child.stdout.readline().strip():
                return child, url
            child.wait()
            said.seek(0)
            why = said.read().decode(errors="replace").strip().rpartition("\n")[2]
            if "No module named" in why:
                raise BackendUnavailable("the sandbox", "sandbox")
        else:
            why = f"port {port} is taken"
        if time.monotonic() > until:
            raise ConfigError(
                f"the sandbox does not start: {why}. This journal belongs to port {port} (kept in {folder / PORT}): "
                f"end what holds it, or use another journal with --journal. No run uses {folder}"
            )
        time.sleep(0.1)


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def _point_at(url: str) -> None:
    for name in FOREIGN:
        os.environ.pop(name, None)
    os.environ |= {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def sandbox(
    port: Annotated[int, typer.Option(help="0 takes any free port.")] = 8790,
    state: Annotated[Path | None, typer.Option(help="A folder that keeps accepted batches.")] = None,
    latency: Annotated[str, typer.Option(help="Seconds until a batch ends, or LOW,HIGH.")] = "1,3",
    errored: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that error.")] = 0.0,
    expired: Annotated[float, typer.Option(min=0, max=1, help="Share of requests that expire.")] = 0.0,
) -> None:
    """Serve a Batches API with synthetic answers on this machine, until Ctrl-C.

    Example: abatch sandbox --port 8790 --state sandbox-state --errored 0.01
    """
    screen = Screen()
    with reported(screen):
        try:
            from abatch.sandbox.__main__ import seconds_range  # noqa: PLC0415 - an extra
            from abatch.sandbox.answers import Outcomes  # noqa: PLC0415
            from abatch.sandbox.server import Sandbox, serve  # noqa: PLC0415
        except ModuleNotFoundError as missing:
            raise BackendUnavailable("the sandbox", "sandbox") from missing
        try:
            lasting = seconds_range(latency)
        except ValueError as bad:
            raise ConfigError(f"--latency must be SECONDS or LOW,HIGH, got {latency!r}") from bad

        def announce(url: str) -> None:
            screen.output.out(url)
            screen.say(
                "Answers are synthetic. To use it from another shell:\n"
                f"  export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY={KEY}"
            )

        served = Sandbox(port=port, state=state, latency=lasting, outcome=Outcomes(errored=errored, expired=expired))
        try:
            serve(served, bound=announce)
        except OSError as taken:
            raise ConfigError(f"port {port} cannot be used: {taken.strerror}; choose another with --port") from taken
