"""The command of `on_done` runs once per finished job, for a bounded time, without credentials."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import anyio
import pytest

from abatch.outbox import Message
from abatch.service import webhooks_command
from abatch.service.webhooks_answers import Answer, Delivered, Failed
from abatch.service.webhooks_command import CommandReceiver
from abatch.service.webhooks_settings import OnDone
from tests.service.receivers import until

pytestmark = pytest.mark.anyio
DATA = {
    "type": "job.finished",
    "id": "nightly",
    "state": "done",
    "requests": 10,
    "succeeded": 7,
    "errored": 1,
    "canceled": 0,
    "expired": 2,
    "missing": 0,
    "cost_usd": 1.25,
    "results": "/data/it's; $(out).jsonl",
}
MESSAGE = Message(3, "evt_1_3", "job.finished", "nightly", json.dumps({"data": DATA}).encode())


async def run(*program: str, without: tuple[str, ...] = ()) -> Answer:
    command = CommandReceiver(OnDone(argv=program), journal=Path("/j/.abatch"), without=without)
    return await command.deliver(MESSAGE)


async def test_the_command_gets_the_job_in_its_environment_and_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "HOOK_SECRET", "OTHER"):
        monkeypatch.setenv(name, "canary")
    out = tmp_path / "out.json"
    code = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    assert await run(sys.executable, "-c", code, str(out), without=("HOOK_SECRET",)) == Delivered(note="exit 0")
    found = json.loads(out.read_text())
    assert {name: value for name, value in found.items() if name.startswith("ABATCH_")} == {
        "ABATCH_EVENT": "job.finished",
        "ABATCH_EVENT_ID": "evt_1_3",
        "ABATCH_JOB": "nightly",
        "ABATCH_JOURNAL": "/j/.abatch",
        "ABATCH_STATE": "done",
        "ABATCH_RESULTS": "/data/it's; $(out).jsonl",
        "ABATCH_COST_USD": "1.25",
        "ABATCH_REQUESTS": "10",
        "ABATCH_SUCCEEDED": "7",
        "ABATCH_ERRORED": "1",
        "ABATCH_CANCELED": "0",
        "ABATCH_EXPIRED": "2",
        "ABATCH_MISSING": "0",
    }
    assert [name for name, value in found.items() if value == "canary"] == ["OTHER"]


async def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    await run("touch", str(tmp_path / "a; touch b $(c)"))
    assert [path.name for path in tmp_path.iterdir()] == ["a; touch b $(c)"]


async def test_a_command_that_fails_is_not_tried_again() -> None:
    assert CommandReceiver.waits == ()
    assert await run("sh", "-c", "exit 3") == Failed(note="exit 3")
    assert await run("sh", "-c", "kill -9 $$") == Failed(note="ended by signal 9")
    assert await run("/no/such/program") == Failed(note="not started: No such file or directory")


async def test_a_command_that_takes_too_long_is_ended_with_every_process_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks_command, "TERM_PATIENCE", 0.2)
    file = tmp_path / "pid"
    stubborn = f"trap '' TERM; sh -c \"trap '' TERM; echo \\$\\$ > {file}.new; mv {file}.new {file}; sleep 600\" & wait"
    ended = anyio.Event()

    async def deliver() -> None:
        assert await run("sh", "-c", stubborn) == Failed(note="ended after 1 s")
        ended.set()

    monkeypatch.setattr(webhooks_command, "PATIENCE", 1.0)
    async with anyio.create_task_group() as group:
        group.start_soon(deliver)
        await until(ended.is_set)
    if file.exists():  # unless the machine is so slow that the command ended before it began
        await until(lambda: not alive(int(file.read_text())))


async def test_a_command_is_ended_when_the_sender_is(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    async with anyio.create_task_group() as group:
        group.start_soon(run, "sh", "-c", f"echo $$ > {file}.new; mv {file}.new {file}; exec sleep 600")
        await until(file.exists)
        group.cancel_scope.cancel()
    assert not alive(int(file.read_text()))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
