"""The service under steady load: its memory, files, threads and the lateness of its event loop do not grow.

Requests are put into an open job one call after the other, jobs arrive as uploads and in the inbox folder, webhooks go
out, and readers ask for lists, single jobs, metrics, single results and events. Once a second the process is measured.
The first third of the time warms it up; the medians of the second and the last third are compared. At the end each
request has one line, and was paid for once.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median

from abatch.sandbox import Sandbox
from tests.harness.receiver import Receiver
from tests.harness.service import Service
from tests.service.receivers import SECRET

TRICKLE = "trickle"
"""The open job."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """By how much a median may grow from the second third to the last."""

    memory: float = 0.10
    """As a part."""
    files: int = 8
    """Connections come and go."""
    threads: int = 2
    late: float = 5.0
    """Seconds, of the event loop, as for `/livez`. A busy machine alone makes it late for less."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One measurement of the process."""

    memory: int
    """Resident bytes."""
    files: int
    threads: int
    late: float


@dataclass
class Report:
    """How it went."""

    seconds: float
    requests: int = 0
    jobs: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def thirds(self) -> tuple[Sample, Sample]:
        """The medians of the second third and of the last."""
        length = len(self.samples) // 3
        second, last = self.samples[length : 2 * length], self.samples[2 * length :]
        return _median(second), _median(last)


class Soak:
    """A service, and the clients that load it.

    Args:
        folder: an empty folder.
        seconds: how long the load lasts.

    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._rows: dict[str, int] = {TRICKLE: 0}
        self._numbers = count()
        self._receiver = Receiver()
        self.report = Report(seconds)

    def run(self, limits: Limits | None = None) -> Report:
        """Load the service, and judge it."""
        with Sandbox(seed=5, latency=(0.3, 1.5)) as api, self._receiver.listening():
            os.environ.update(ANTHROPIC_BASE_URL=api.url, ANTHROPIC_API_KEY=api.key)
            service = Service(self._folder, self._settings())
            service.start()
            service.call("POST", "/api/v1/jobs", params={"key": TRICKLE}, json={"open": True, "linger": 1})
            self._load(service)
            service.call("POST", f"/api/v1/jobs/{TRICKLE}/close")
            service.until(lambda: self._done(service))
            service.until(lambda: len(self._receiver.delivered) >= len(self._rows))
            self._judge(service, api, limits or Limits())
            if (status := service.end()) != 0:
                self.report.violations.append(f"the service ended with {status}")
        return self.report

    def _load(self, service: Service) -> None:
        works: tuple[tuple[float, Callable[[Service], None]], ...] = (
            (0.1, self._put),
            (2.0, self._upload),
            (3.0, self._move_in),
            (0.5, self._read),
            (1.0, self._follow),
            (1.0, self._measure),
        )
        threads = [threading.Thread(target=self._repeat, args=(service, *work)) for work in works]
        for thread in threads:
            thread.start()
        time.sleep(self.report.seconds)
        self._over.set()
        for thread in threads:
            thread.join()

    def _repeat(self, service: Service, every: float, work: Callable[[Service], None]) -> None:
        while not self._over.wait(every):
            try:
                work(service)
            except Exception as error:  # noqa: BLE001 - any failure of a client is a violation
                self.report.violations.append(f"{work.__name__}: {error!r}")
                return
            self.report.calls[work.__name__.strip("_")] += 1

    # ---- the clients --------------------------------------------------------------------------------------------

    def _put(self, service: Service) -> None:
        first = self._rows[TRICKLE]
        service.call("POST", f"/api/v1/jobs/{TRICKLE}/requests", content=_content(TRICKLE, range(first, first + 5)))
        self._rows[TRICKLE] += 5

    def _upload(self, service: Service) -> None:
        key = f"upload-{next(self._numbers)}"
        service.call("POST", "/api/v1/jobs", params={"key": key}, content=_content(key, range(20)))
        self._rows[key] = 20

    def _move_in(self, _: Service) -> None:
        key = f"file-{next(self._numbers)}"
        draft = self._folder / f"{key}.tmp"
        draft.write_bytes(_content(key, range(10)))
        draft.rename(self._folder / "inbox" / f"{key}.jsonl")
        self._rows[key] = 10

    def _read(self, service: Service) -> None:
        service.call("GET", "/api/v1/jobs", params={"limit": 50})
        service.call("GET", f"/api/v1/jobs/{TRICKLE}", params={"shards": 1})
        service.call("GET", "/metrics")
        if row := self._rows[TRICKLE]:
            service.call("GET", f"/api/v1/jobs/{TRICKLE}/requests/{TRICKLE}%2F{row // 2}", params={"wait": 20})

    def _follow(self, service: Service) -> None:
        with service.client.stream("GET", "/api/v1/events", params={"since": 0}) as events:
            lines = events.iter_lines()
            for _ in range(100):
                next(lines)

    def _measure(self, service: Service) -> None:
        process = Path("/proc", str(service.pid))
        pages = int((process / "statm").read_text().split()[1])
        text = service.call("GET", "/metrics").text
        (late,) = (line.split()[1] for line in text.splitlines() if line.startswith("abatch_event_loop_late_seconds "))
        self.report.samples.append(
            Sample(
                memory=pages * os.sysconf("SC_PAGE_SIZE"),
                files=len(list((process / "fd").iterdir())),
                threads=len(list((process / "task").iterdir())),
                late=float(late),
            )
        )

    # ---- the rest -----------------------------------------------------------------------------------------------

    def _settings(self) -> Path:
        secret = self._folder / "hook.secret"
        secret.touch(0o600)
        secret.write_text(SECRET)
        settings = self._folder / "abatch.toml"
        settings.write_text(
            f"poll_interval = 0.5\ngrace = 2\n[serve]\ninbox = 'inbox'\n"
            f"[[webhooks]]\nurl = '{self._receiver.url}'\nsecret_file = 'hook.secret'\nallow_private = true\n"
            f"events = ['job.finished']\n"
        )
        return settings

    def _done(self, service: Service) -> bool:
        jobs = service.call("GET", "/api/v1/jobs", params={"state": "done", "limit": 10_000}).json()["jobs"]
        return len(jobs) == len(self._rows)

    def _judge(self, service: Service, api: Sandbox, limits: Limits) -> None:
        report, account = self.report, api.account
        report.jobs, report.requests = len(self._rows), sum(self._rows.values())
        if account.violated:
            report.violations.append(f"{account.violated} requests were paid for twice")
        for key, rows in self._rows.items():
            lines = service.call("GET", f"/api/v1/jobs/{key}/results").content.splitlines()
            found = Counter(json.loads(line)["custom_id"] for line in lines)
            if found != Counter({f"{key}/{row}": 1 for row in range(rows)}):
                report.violations.append(f"{key}: {found.total()} lines of {len(found)} requests, not {rows}")
        before, after = report.thirds()
        growths = {
            "memory": (after.memory / before.memory - 1, limits.memory),
            "files": (after.files - before.files, limits.files),
            "threads": (after.threads - before.threads, limits.threads),
            "late": (after.late - before.late, limits.late),
        }
        report.violations += [
            f"{name} grew by {growth:.3g}, more than {most}"
            for name, (growth, most) in growths.items()
            if growth > most
        ]


def _content(key: str, rows: range) -> bytes:
    def line(row: int) -> str:
        message = {"role": "user", "content": f"{key}, question {row}"}
        params = {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [message]}
        return json.dumps({"custom_id": f"{key}/{row}", "params": params}, separators=(",", ":")) + "\n"

    return "".join(map(line, rows)).encode()


def _median(samples: list[Sample]) -> Sample:
    return Sample(
        memory=round(median(sample.memory for sample in samples)),
        files=round(median(sample.files for sample in samples)),
        threads=round(median(sample.threads for sample in samples)),
        late=median(sample.late for sample in samples),
    )
