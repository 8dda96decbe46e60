"""Every event arrives at least once, with one id, whatever dies or fails; a slow receiver delays no other."""

from __future__ import annotations

import asyncio
import json
import operator
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest
import structlog

from abatch import JournalView
from abatch.journal.folder import JournalFolder
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.outbox import Message
from abatch.protocol import facts
from abatch.service import webhooks
from abatch.service.webhooks import Receiver, Webhooks, receivers
from abatch.service.webhooks_answers import WAITS, Answer, Delivered, Failed, Gone, wait_after
from abatch.system import threads
from abatch.testing.crash import Crash, CrashPoints
from tests.service.receivers import SECRET, Fake, endpoint_at, finish, listening, states, status, until
from tests.simulation.loop import SimulatedLoop
from tests.unit.make import planned, submitted

DAY = 86_400.0
LOOK = 600.0
"""Seconds between two looks in virtual time."""


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    """A journal that this process drives."""
    opened = await SqliteLog.open(JournalFolder(tmp_path / "journal"), drive=True)
    yield opened
    await opened.aclose()


@pytest.fixture
async def view(log: SqliteLog) -> AsyncIterator[JournalView]:
    async with JournalView(log.folder.path) as opened:
        yield opened


@asynccontextmanager
async def running(view: JournalView, *to: Receiver) -> AsyncIterator[list[str]]:
    """Send for the duration of a block, which gets how the attempts ended."""
    ended: list[str] = []
    async with anyio.create_task_group() as group:
        await group.start(Webhooks(view, to, on_attempt=ended.append).run)
        yield ended
        group.cancel_scope.cancel()


async def fails(_: Message) -> Answer:
    return Failed(note="503")


async def hangs(_: Message) -> Answer:
    await anyio.sleep_forever()
    raise AssertionError


# ---- what is sent -----------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_message_about_a_finished_job_has_its_counts_and_no_text(
    log: SqliteLog, view: JournalView, tmp_path: Path
) -> None:
    async with listening() as receiver:
        (to,) = receivers([endpoint_at(receiver.url, folder=tmp_path)], None, journal=view.folder)
        async with running(view, to):
            seq = await finish(log, "nightly")
            await until(lambda: receiver.received)
            await until_state(view, f"nightly {to.name}", "delivered")
    message = json.loads(receiver.received[0].body)
    data = message.pop("data")
    assert message["type"] == "event"
    assert message["id"] == receiver.received[0].headers["webhook-id"] == f"evt_{log.lineage.name}_{seq}"
    assert message["created_at"].endswith("Z")
    assert data == {
        "type": "job.finished",
        "id": "nightly",
        "seq": seq,
        "state": "done",
        "requests": 0,
        "succeeded": 0,
        "errored": 0,
        "canceled": 0,
        "expired": 0,
        "missing": 0,
        "cost_usd": 0.0,
        "results": "/results/out.jsonl",
    }


@pytest.mark.anyio
async def test_no_message_has_a_text_of_the_api_or_of_a_request(
    log: SqliteLog, view: JournalView, tmp_path: Path
) -> None:
    async with listening() as receiver:
        endpoint = endpoint_at(receiver.url, folder=tmp_path, events=["*"])
        (to,) = receivers([endpoint], None, journal=view.folder)
        async with running(view, to):
            job = (await log.add_job(submitted(key="k", to="jsonl:out.jsonl"))).job
            await log.append(
                Entry(job, planned(rows=3), 7, 0),
                Entry(job, facts.Cut(rows=3, last=True), n=0),
                Entry(job, facts.Stopped(reason="canary in a prompt", remedy="canary in a remedy")),
            )
            await until(lambda: len(receiver.received) == 4)
    bodies = b"".join(each.body for each in receiver.received)
    assert b"canary" not in bodies
    assert sorted(json.loads(each.body)["data"]["type"] for each in receiver.received) == [
        "job.planned",
        "job.stopped",
        "job.submitted",
        "shard.planned",
    ]
    assert {json.loads(each.body)["data"].get("shard") for each in receiver.received} == {None, 7}


@pytest.mark.anyio
async def test_what_happened_before_a_receiver_was_known_is_not_sent_and_what_happened_between_runs_is(
    log: SqliteLog, view: JournalView
) -> None:
    await finish(log, "before")
    one = Fake()
    async with running(view, one):
        pass
    await finish(log, "between")
    async with running(view, one):
        await until(lambda: one.messages)
    assert [message.job for message in one.messages] == ["between"]
    assert one.closed


@pytest.mark.anyio
async def test_neither_url_nor_secret_is_logged_or_stored(log: SqliteLog, view: JournalView, tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as events:
        async with listening(status(500)) as receiver:
            (to,) = receivers([endpoint_at(receiver.url, folder=tmp_path)], None, journal=view.folder)
            async with running(view, to):
                await finish(log, "k")
                await until(lambda: events)
    assert [event["event"] for event in events] == ["webhook_failed"]
    stored = b"".join(path.read_bytes() for path in view.folder.glob("journal.db*"))
    assert b"evt_" in stored
    for secret in ("t0", SECRET, "/hook"):
        assert f"{secret}" not in str(events)
    for secret in ("token=t0", SECRET):
        assert secret.encode() not in stored


# ---- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_receiver_that_hangs_or_fails_delays_no_other(log: SqliteLog, view: JournalView) -> None:
    stuck, failing, good = Fake("stuck", hangs), Fake("failing", fails), Fake("good")
    async with running(view, stuck, failing, good):
        for number in range(20):
            await finish(log, f"k{number}")
        await until(lambda: len(good.messages) == 20 and len(failing.messages) == 20)
        assert len(stuck.messages) == webhooks.AT_ONCE
    assert len(set(good.ids)) == 20


@pytest.mark.anyio
async def test_a_backlog_is_sent_without_a_pause_and_each_message_once(
    log: SqliteLog, view: JournalView, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Fake()
    async with running(view, one):
        pass
    for number in range(50):
        await finish(log, f"k{number}")
    monkeypatch.setattr(webhooks, "LOOK_EVERY", 3600.0)
    async with running(view, one):
        await until(lambda: len(one.messages) >= 50)
    assert len(one.ids) == len(set(one.ids)) == 50


@pytest.mark.anyio
async def test_410_disables_the_receiver_until_a_message_is_sent_again(
    log: SqliteLog, view: JournalView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "LOOK_EVERY", 0.01)
    gone = True

    async def answer(_: Message) -> Answer:
        return Gone(note="410") if gone else Delivered(note="200")

    one = Fake(answer=answer)
    async with running(view, one) as ended:
        await finish(log, "first")
        await until(lambda: ended)
        await finish(log, "second")
        await anyio.sleep(20 * webhooks.LOOK_EVERY)
        assert list(await states(view)) == ["first fake"]
        assert [message.job for message in one.messages] == ["first"]
        assert [each.enabled for each in await view.outbox.receivers()] == [False]
        gone = False
        async with JournalView(view.folder) as other:  # as `abatch webhook replay` in another process
            assert await other.outbox.send_again() == 1
        await until(lambda: len(one.messages) == 3)
        await until_state(view, "second fake", "delivered")
        assert ended == ["gone", "delivered", "delivered"]
    assert one.ids[0] in one.ids[1:]


def test_the_waits_between_attempts_are_three_days_together() -> None:
    assert sum(WAITS) == pytest.approx(3 * DAY, rel=0.01)
    assert all(shorter < longer for shorter, longer in pairwise(WAITS))
    for attempts, wait in enumerate(WAITS, start=1):
        for _ in range(20):
            assert wait <= (wait_after(attempts, WAITS, Failed(note="")) or 0) <= 1.1 * wait
    assert wait_after(len(WAITS) + 1, WAITS, Failed(note="")) is None
    assert wait_after(1, WAITS, Failed(note="", not_before=1e9)) == WAITS[-1]
    assert (wait_after(1, WAITS, Failed(note="", not_before=60.0)) or 0) == 60.0
    assert wait_after(1, (), Failed(note="")) is None


def in_virtual_time(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run work on a loop whose clock jumps, which also moves the time of day; blocking work is done inline."""
    loop = SimulatedLoop(Random(1), most_steps=20_000_000)
    start = time.time()

    async def inline(work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return work(*args, **kwargs)

    monkeypatch.setattr(threads, "run", inline)
    monkeypatch.setattr(time, "time", lambda: start + loop.time())
    monkeypatch.setattr(webhooks, "LOOK_EVERY", LOOK)
    random.seed(1)
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
    assert not loop.unhandled


def test_a_receiver_that_is_down_is_tried_for_three_days_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []

    async def down(_: Message) -> Answer:
        times.append(time.time())
        return Failed(note="503")

    async def work() -> None:
        log = await SqliteLog.open(JournalFolder(tmp_path / "journal"), drive=True)
        one = Fake(answer=down)
        async with JournalView(tmp_path / "journal") as view:
            async with running(view, one):
                await finish(log, "k")
                await asyncio.sleep(DAY)
            assert await states(view) == {"k fake": ("waiting", 7, "503")}
        async with JournalView(tmp_path / "journal") as view:  # a restart continues where it was
            async with running(view, one) as ended:
                await asyncio.sleep(6 * DAY)
            assert ended == ["failed"] * 3
            assert await states(view) == {"k fake": ("failed", 10, "503")}
            assert await view.outbox.send_again() == 1
            async with running(view, one):
                await asyncio.sleep(LOOK / 2)
            assert await states(view) == {"k fake": ("waiting", 1, "503")}
        assert len(set(one.ids)) == 1
        await log.aclose()

    in_virtual_time(monkeypatch, work)
    assert len(times) == 11
    waited = [later - earlier for earlier, later in pairwise(times[:10])]
    assert all(wait <= waited_ <= 1.1 * wait + LOOK for wait, waited_ in zip(WAITS, waited, strict=True))
    assert 3 * DAY <= times[9] - times[0] <= 3.4 * DAY


def test_messages_are_kept_for_a_month_after_they_were_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        log = await SqliteLog.open(JournalFolder(tmp_path / "journal"), drive=True)
        async with JournalView(tmp_path / "journal") as view, running(view, Fake()):
            await finish(log, "k")
            await asyncio.sleep(29 * DAY)
            assert await states(view) == {"k fake": ("delivered", 1, "200")}
            await asyncio.sleep(2 * DAY)
            assert await states(view) == {}
        await log.aclose()

    monkeypatch.setattr(webhooks, "FORGET_EVERY", DAY / 2)
    in_virtual_time(monkeypatch, work)


# ---- crashes ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_at_whatever_point_the_sender_dies_each_message_arrives_with_one_id(log: SqliteLog) -> None:
    async with JournalView(log.folder.path) as view, running(view, Fake()):
        pass
    for point in count(1):
        expected = {f"evt_{log.lineage.name}_{await finish(log, f'k{point}-{n}')}" for n in range(2)}
        with CrashPoints(point) as crash:

            async def answer(_: Message, crash: CrashPoints = crash) -> Answer:
                crash.reach("after the message arrived")
                return Delivered(note="200")

            dying = Fake(answer=answer)
            try:
                async with JournalView(log.folder.path) as view, anyio.create_task_group() as group:
                    ended: list[str] = []
                    await group.start(Webhooks(view, [dying], on_attempt=ended.append).run)
                    await until(partial(operator.eq, ended, ["delivered"] * 2))
                    group.cancel_scope.cancel()
            except (Crash, BaseExceptionGroup):
                assert crash.happened
        after = Fake()
        async with JournalView(log.folder.path) as view, running(view, after):
            for n in range(2):
                await until_state(view, f"k{point}-{n} fake", "delivered")
        assert set(dying.ids) | set(after.ids) == expected, crash.where
        if not crash.happened:
            break
    assert point > 20


KILLED = """
import sys
from pathlib import Path

import anyio

from abatch import JournalView
from abatch.service.webhooks import Webhooks, receivers
from tests.service.receivers import endpoint_at


async def main():
    folder, url = sys.argv[1:]
    endpoint = endpoint_at(url, folder=Path(folder))
    async with JournalView(Path(folder) / "journal") as view:
        await Webhooks(view, receivers([endpoint], None, journal=view.folder)).run()


anyio.run(main)
"""


@pytest.mark.anyio
async def test_a_message_whose_sender_is_killed_before_the_answer_arrives_again_with_the_same_id(
    log: SqliteLog, view: JournalView, tmp_path: Path
) -> None:
    async def silence(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with listening(silence, status(200)) as receiver:
        command = [sys.executable, "-c", KILLED, str(tmp_path), receiver.url]
        root = Path(__file__).parents[2]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})

        first = start()
        try:
            with anyio.fail_after(60):
                while not await view.outbox.receivers():
                    await anyio.sleep(0.01)
            await finish(log, "k")
            await until(lambda: receiver.received)
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
        second = start()
        try:
            name = (await view.outbox.receivers())[0].name
            await until_state(view, f"k {name}", "delivered")
        finally:
            second.kill()
            second.wait()
        assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
        assert len(receiver.received) == 2
        assert receiver.received[0].body == receiver.received[1].body


async def until_state(view: JournalView, message: str, state: str) -> None:
    """Wait until a message has a state."""
    with anyio.fail_after(60):
        while (await states(view)).get(message, ("",))[0] != state:
            await anyio.sleep(0.005)
