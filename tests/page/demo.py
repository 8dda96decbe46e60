"""A service on the sandbox with jobs of different fates."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from abatch.sandbox import Sandbox
from abatch.sandbox.answers import Outcomes
from abatch.service.tokens import Tokens
from tests.harness.service import Service

MODEL = "claude-haiku-4-5"
NIGHTS = 12
SLOW = "nightly-classification-of-support-mail"
"""A job that has just begun."""


def content(key: str, rows: int) -> bytes:
    def line(row: int) -> str:
        message = {"role": "user", "content": f"Classify this message of {key}: <b>number {row}</b>"}
        params = {"model": MODEL, "max_tokens": 64, "messages": [message]}
        return json.dumps({"custom_id": f"{key}/{row}", "params": params}) + "\n"

    return "".join(map(line, range(rows))).encode()


@contextmanager
def demo(folder: Path) -> Iterator[tuple[Service, str]]:
    """Start the service and its jobs; the block gets the service and the owner's token."""
    outcomes = Outcomes(errored=0.04, error_type="invalid_request_error", expired=0.02)
    with Sandbox(seed=3, latency=(1.5, 3.0), outcome=outcomes) as api, patch.dict(os.environ):
        os.environ.update(ANTHROPIC_BASE_URL=api.url, ANTHROPIC_API_KEY=api.key)
        settings = folder / "abatch.toml"
        settings.write_text("poll_interval = 0.3\ngrace = 2\nrequests_per_batch = 60\n")
        service = Service(folder, settings)
        service.start()
        for night in range(NIGHTS):
            key = f"reviews-{night + 1:02}"
            service.call("POST", "/api/v1/jobs", params={"key": key}, content=content(key, 40 + 13 * night))
        service.until(lambda: _done(service) == NIGHTS)
        service.call("POST", "/api/v1/jobs", params={"key": "tickets"}, json={"open": True, "linger": 600})
        service.call("POST", "/api/v1/jobs/tickets/requests", content=content("tickets", 30))
        service.call("POST", "/api/v1/jobs", params={"key": SLOW}, content=content(SLOW, 240))
        try:
            yield service, Tokens(service.journal).secret_of()
        finally:
            service.end()


def _done(service: Service) -> int:
    return len(service.call("GET", "/api/v1/jobs", params={"state": "done"}).json()["jobs"])
