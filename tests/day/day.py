"""A day in the life of the service, in a minute: jobs from six sources into three backends, and two deaths.

`abatch serve` runs against the sandbox. Jobs come by HTTP as uploads, as paths and as open jobs, from the inbox folder,
from `abatch submit`, and from Python. Twice the service is killed with SIGKILL while a job is handed over, and started
again at once. The receiver of webhooks refuses the first attempts. At the end the results, the page of metrics, the
journal and the messages must agree with the account of the sandbox: each request has one line and was paid for once,
and each job was reported by a signed message.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abatch import JournalView
from abatch.sandbox import Sandbox
from abatch.sandbox.answers import Outcomes
from tests.harness.media import BUCKET
from tests.harness.receiver import Receiver
from tests.harness.service import PATIENCE, Service
from tests.servers import SeaweedS3
from tests.service.receivers import SECRET


@dataclass
class Report:
    """How a day went."""

    jobs: int = 0
    requests: int = 0
    deaths: int = 0
    messages: int = 0
    attempts: int = 0
    """Requests that the receiver got."""
    violations: list[str] = field(default_factory=list)

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Note a violation if the two differ."""
        if found != wanted:
            self.violations.append(f"{what}: {found!r}, not {wanted!r}")


class Day:
    """The jobs of a day, and how each gets into the service.

    Args:
        folder: an empty folder.
        jobs: how many jobs; each source gets its turn.
        rows: requests in each job at most.
        seed: chooses sizes, destinations and moments.

    """

    def __init__(self, folder: Path, *, jobs: int, rows: int, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._rows = {f"job-{number:02}": self._random.randint(2, rows) for number in range(jobs)}
        self._receiver = Receiver()
        self.report = Report(jobs=jobs, requests=sum(self._rows.values()))

    def run(self) -> Report:
        """Live through the day, and judge it."""
        outcomes = Outcomes(errored=0.02, expired=0.02)
        store = SeaweedS3(self._folder / "s3")
        store.start()
        with Sandbox(seed=5, latency=(0.3, 1.5), outcome=outcomes) as api, self._receiver.listening():
            os.environ.update(
                ANTHROPIC_BASE_URL=api.url,
                ANTHROPIC_API_KEY=api.key,
                AWS_ENDPOINT_URL_S3=store.url,
                AWS_ACCESS_KEY_ID=store.access_key,
                AWS_SECRET_ACCESS_KEY=store.secret_key,
                AWS_DEFAULT_REGION="us-east-1",
            )
            try:
                _bucket(store)
                self._live(api)
            finally:
                store.stop()
        return self.report

    def _live(self, api: Sandbox) -> None:
        service = Service(self._folder, self._settings())
        service.start()
        sources = (self._upload, self._path, self._inbox, self._command, self._python, self._open)
        deaths = set(self._random.sample(range(len(self._rows)), 2))
        for number, key in enumerate(self._rows):
            death = threading.Timer(self._random.uniform(0, 0.2), service.kill_and_start)
            if number in deaths:
                death.start()
                self.report.deaths += 1
            sources[number % len(sources)](service, key)
            if number in deaths:
                death.join()
        service.until(lambda: self._jobs(service, "done") == len(self._rows))
        service.until(lambda: len(self._receiver.delivered) >= len(self._rows))
        self._judge(service, api)
        self.report.expect("exit status of the service", service.end(), 0)

    # ---- the six sources ----------------------------------------------------------------------------------------

    def _upload(self, service: Service, key: str) -> None:
        service.call("POST", "/api/v1/jobs", params={"key": key}, content=self._content(key))

    def _path(self, service: Service, key: str) -> None:
        to = str(self._folder / "data" / f"{key}.results.jsonl")
        service.call("POST", "/api/v1/jobs", params={"key": key, "to": to}, json={"path": str(self._file(key))})

    def _inbox(self, _: Service, key: str) -> None:
        self._file(key).rename(self._folder / "inbox" / f"{key}.jsonl")

    def _command(self, _: Service, key: str) -> None:
        words = ["submit", str(self._file(key)), "--to", f"s3://{BUCKET}/{key}/", "--key", key, "--quiet"]
        subprocess.run(
            [sys.executable, "-m", "abatch", *words],
            cwd=self._folder,
            check=True,
            timeout=PATIENCE,
            stdout=subprocess.DEVNULL,
        )

    def _python(self, service: Service, key: str) -> None:
        async def submit() -> None:
            async with JournalView(service.journal) as view:
                await view.submit(self._file(key), to=f"sqlite:///{self._folder / 'data' / key}.db", key=key)

        asyncio.run(submit())

    def _open(self, service: Service, key: str) -> None:
        service.call("POST", "/api/v1/jobs", params={"key": key}, json={"open": True, "linger": 0.3})
        lines = self._content(key).splitlines(keepends=True)
        for part in (lines[: len(lines) // 2], lines[len(lines) // 3 :]):  # some are put twice
            if part:
                service.call("POST", f"/api/v1/jobs/{key}/requests", content=b"".join(part))
        service.call("POST", f"/api/v1/jobs/{key}/close")

    def _content(self, key: str) -> bytes:
        def params(row: int) -> dict[str, Any]:
            message = {"role": "user", "content": f"{key}, question {row}"}
            return {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [message]}

        rows = [{"custom_id": f"{key}/{row}", "params": params(row)} for row in range(self._rows[key])]
        return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()

    def _file(self, key: str) -> Path:
        path = self._folder / "data" / f"{key}.jsonl"
        path.write_bytes(self._content(key))
        return path

    # ---- the rest -----------------------------------------------------------------------------------------------

    def _settings(self) -> Path:
        (self._folder / "data").mkdir()
        secret = self._folder / "hook.secret"
        secret.touch(0o600)
        secret.write_text(SECRET)
        settings = self._folder / "abatch.toml"
        settings.write_text(
            f"poll_interval = 0.2\ngrace = 2\nrequests_per_batch = 40\n"
            f"[serve]\ninbox = 'inbox'\nfolders = ['data']\n"
            f"[[webhooks]]\nurl = '{self._receiver.url}'\nsecret_file = 'hook.secret'\nallow_private = true\n"
            f"events = ['job.finished']\n"
        )
        return settings

    @staticmethod
    def _jobs(service: Service, state: str) -> int:
        return len(service.call("GET", "/api/v1/jobs", params={"state": state, "limit": 1_000}).json()["jobs"])

    def _judge(self, service: Service, api: Sandbox) -> None:
        report, account = self.report, api.account
        report.expect("requests that were paid for twice", account.violated, 0)
        cost, succeeded = 0.0, 0
        for key, rows in self._rows.items():
            job = service.call("GET", f"/api/v1/jobs/{key}").json()
            lines = service.call("GET", f"/api/v1/jobs/{key}/results").content.splitlines()
            found = Counter(json.loads(line)["custom_id"] for line in lines)
            report.expect(f"lines of {key}", found, Counter({f"{key}/{row}": 1 for row in range(rows)}))
            report.expect(f"sealed requests of {key}", (job["sealed"], job["missing"], job["total"]), (rows, 0, rows))
            cost += job["cost_usd"]
            succeeded += job["succeeded"]
        gauges = _metrics(service.call("GET", "/metrics").text)
        report.expect("jobs that are done, in the metrics", gauges['abatch_jobs{state="done"}'], len(self._rows))
        report.expect("requests in flight, in the metrics", gauges["abatch_requests_in_flight"], 0)
        report.expect("duplicates, in the metrics", gauges["abatch_duplicate_submissions_total"], 0)
        summaries = asyncio.run(_summaries(service.journal))
        report.expect("successes, in the journal", sum(each.succeeded for each in summaries), succeeded)
        report.expect("cost, in the journal", round(sum(each.cost or 0 for each in summaries), 9), round(cost, 9))
        sent = [each["id"] for each in self._receiver.delivered.values()]
        report.expect("messages, one for each job", Counter(sent), Counter(dict.fromkeys(self._rows, 1)))
        report.expect("messages with a bad signature", self._receiver.forged, 0)
        report.messages = len(self._receiver.delivered)
        report.attempts = self._receiver.attempts.total()


def _bucket(store: SeaweedS3) -> None:
    from tests.harness.media import s3_client

    s3_client(store).create_bucket(Bucket=BUCKET)


def _metrics(text: str) -> dict[str, float]:
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in rows}


async def _summaries(journal: Path) -> list[Any]:
    async with JournalView(journal) as view:
        return [view.summary(job.key) for job in view.jobs()]
