"""`abatch serve` sends the webhooks of its settings file, runs `on_done`, and takes new secrets at a reload."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import structlog
from standardwebhooks import Webhook

from abatch.errors import ConfigError
from abatch.sandbox import Sandbox
from abatch.service import daemon
from abatch.service.metrics import Metrics
from abatch.service.settings import load, reloaded
from tests.service.receivers import OTHER_SECRET, SECRET, Loopback, listening, until

pytestmark = pytest.mark.anyio
PARAMS = {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "canary"}]}
COMMAND = """
import json, os, sys
with open(sys.argv[1] + ".new", "w") as file:
    json.dump(dict(os.environ), file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def settings_at(folder: Path, receiver: Loopback, *, on_done: str = "true", secret: str = SECRET) -> Path:
    """Write a settings file with one webhook."""
    file = folder / "abatch.toml"
    (folder / "hook.secret").write_text(secret)
    (folder / "hook.secret").chmod(0o600)
    file.write_text(
        f"[serve]\nlisten = '127.0.0.1:0'\ninbox = 'inbox'\non_done = {json.dumps(on_done)}\n"
        f"[[webhooks]]\nurl = '{receiver.url}'\nsecret_file = 'hook.secret'\nallow_private = true\n"
        "events = ['job.finished']\n"
    )
    return file


@asynccontextmanager
async def serving(journal: Path, file: Path, api: Sandbox) -> AsyncIterator[None]:
    """Run the service for the duration of a block."""
    ready = anyio.Event()
    settings = replace(load(file), config=api.config())
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await daemon.serve(journal, settings, file=file, ready=lambda _: ready.set())

        group.start_soon(run)
        await ready.wait()
        yield
        group.cancel_scope.cancel()


def submit(folder: Path, name: str) -> None:
    """Move a file of one request into the inbox folder."""
    made = folder / f"{name}.tmp"
    made.write_text(json.dumps({"custom_id": "r", "params": PARAMS}) + "\n")
    made.rename(folder / "inbox" / f"{name}.jsonl")


async def test_a_job_from_the_inbox_is_reported_and_its_command_runs(
    api: Sandbox, journal: Path, tmp_path: Path
) -> None:
    out = tmp_path / "done.json"
    script = tmp_path / "done.py"
    script.write_text(COMMAND)
    command = f"{sys.executable} {script} {out}"
    async with listening() as receiver, serving(journal, settings_at(tmp_path, receiver, on_done=command), api):
        submit(tmp_path, "nightly")
        await until(lambda: receiver.received and out.exists())
    (got,) = receiver.received
    data = Webhook(SECRET).verify(got.body, got.headers)["data"]
    assert (data["type"], data["id"], data["state"], data["requests"]) == ("job.finished", "nightly", "done", 1)
    assert data["cost_usd"] > 0
    assert Path(data["results"]).read_bytes()
    for secret in (b"canary", api.key.encode()):
        assert secret not in got.body
    environment = json.loads(out.read_text())
    assert environment["ABATCH_RESULTS"] == data["results"]
    assert environment["ABATCH_SUCCEEDED"] == "1"
    assert "ANTHROPIC_API_KEY" not in environment


async def test_a_new_secret_is_used_after_a_reload(api: Sandbox, journal: Path, tmp_path: Path) -> None:
    async with listening() as receiver:
        file = settings_at(tmp_path, receiver)
        async with serving(journal, file, api):
            submit(tmp_path, "first")
            await until(lambda: receiver.received)
            settings_at(tmp_path, receiver, secret=f"{OTHER_SECRET}\n{SECRET}")
            with structlog.testing.capture_logs() as logged:
                os.kill(os.getpid(), signal.SIGHUP)
                await until(lambda: "settings_reloaded" in {each["event"] for each in logged})
            submit(tmp_path, "second")
            await until(lambda: len(receiver.received) == 2)
    assert Webhook(OTHER_SECRET).verify(receiver.received[1].body, receiver.received[1].headers)
    assert Webhook(SECRET).verify(receiver.received[1].body, receiver.received[1].headers)


async def test_a_reload_needs_no_restart_for_webhooks(tmp_path: Path) -> None:
    async with listening() as receiver:
        before = load(settings_at(tmp_path, receiver))
        file = settings_at(tmp_path, receiver, on_done="false")
        file.write_text(file.read_text().replace("token=t0", "token=t1"))
        after, waiting = reloaded(before, load(file))
    assert waiting == ()
    assert after.serve.on_done is not None
    assert after.serve.on_done.argv == ("false",)
    assert [each.url.query for each in after.webhooks] == [b"token=t1"]


def test_attempts_are_counted_without_a_name_of_a_receiver(tmp_path: Path) -> None:
    metrics = Metrics()
    for outcome in ("delivered", "failed", "failed"):
        metrics.count_webhook(outcome)
    shown = metrics.exposition([], [], folder=tmp_path, late=0.0, now=0.0).decode()
    counted = [line for line in shown.splitlines() if line.startswith("abatch_webhook_attempts_total")]
    assert counted == [
        'abatch_webhook_attempts_total{outcome="delivered"} 1.0',
        'abatch_webhook_attempts_total{outcome="failed"} 2.0',
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("webhooks = 1", r"abatch.toml: webhooks must be tables: write \[\[webhooks\]\]"),
        ("[[webhooks]]\nurl = 'https://x.example'", r"webhooks\[1\] needs one of secret_env and secret_file"),
        ("[[webhook]]\nurl = 'x'", "unknown name 'webhook'; did you mean webhooks"),
        ("[serve]\non_done = 'no-such-program-7'", "on_done: there is no program"),
    ],
)
def test_a_setting_that_cannot_work_is_named_with_its_file(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "abatch.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(file)
