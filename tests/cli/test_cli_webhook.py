"""`abatch webhook`: a test message, the messages of a journal, and messages that are sent again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from standardwebhooks import Webhook

from abatch import JournalView
from abatch.journal.folder import JournalFolder
from abatch.journal.sqlite import SqliteLog
from abatch.service.webhooks import Webhooks
from abatch.service.webhooks_answers import Answer, Delivered, Failed, Gone
from tests.cli.conftest import Cli
from tests.service.receivers import SECRET, Fake, Loopback, finish, listening, status, until

SECRETS = ("--secret-env", "HOOK_SECRET")


@contextmanager
def receiving(code: int) -> Iterator[Loopback]:
    """A receiver in a thread of its own that replies with this status."""
    started, ended = threading.Event(), threading.Event()
    receivers: list[Loopback] = []

    async def serve() -> None:
        async with listening(status(code)) as receiver:
            receivers.append(receiver)
            started.set()
            while not ended.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    assert started.wait(60)
    try:
        yield receivers[0]
    finally:
        ended.set()
        thread.join()


def test_a_test_message_is_signed_and_its_answer_is_shown(alone: Cli) -> None:
    with receiving(204) as receiver:
        done = alone.here("webhook", "test", receiver.url, *SECRETS, "--allow-private", HOOK_SECRET=SECRET)
    assert done.status == 0, done
    (got,) = receiver.received
    assert Webhook(SECRET).verify(got.body, got.headers)["data"] == {"type": "webhook.test", "id": "test"}
    assert f"answered 204 to message {got.headers['webhook-id']}" in done.err
    for secret in (SECRET, "t0"):
        assert secret not in done.err


def test_a_test_message_that_is_not_taken_ends_with_1(alone: Cli) -> None:
    (alone.folder / "hook.secret").write_text(SECRET)
    (alone.folder / "hook.secret").chmod(0o600)
    with receiving(500) as receiver:
        done = alone.here("webhook", "test", receiver.url, "--secret-file", "hook.secret", "--allow-private")
    assert done.status == 1, done
    assert ": 500." in done.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("http://127.0.0.1/", *SECRETS), "error: URL must begin with https://; plain http needs --allow-private"),
        (("https://x.example:1/", *SECRETS), "error: URL must have port 443; another port needs --allow-private"),
        (("https://x.example/",), "error: say one of --secret-env and --secret-file"),
        (("https://x.example/", "--secret-env", "NOT_SET"), "error: the environment variable NOT_SET is not set"),
        (("https://x.example/", "--secret-file", "none"), "none cannot be read: No such file"),
        (("https://x.example/", *SECRETS, "--secret-file", "none"), "say one of --secret-env and --secret-file"),
    ],
)
def test_a_test_that_cannot_be_sent_says_why(alone: Cli, args: tuple[str, ...], says: str) -> None:
    done = alone.here("webhook", "test", *args, HOOK_SECRET=SECRET)
    assert done.status == 2, done
    assert says in done.err


def test_nothing_is_sent_to_this_machine_unless_allowed(alone: Cli) -> None:
    done = alone.here("webhook", "test", "https://127.0.0.1/", *SECRETS, HOOK_SECRET=SECRET)
    assert done.status == 1, done
    assert "not sent: 127.0.0.1 is an address of this machine" in done.err


@pytest.fixture
def sent(alone: Cli) -> Path:
    """A journal with a delivered, a waiting and a failed message; the last one's receiver is disabled."""
    folder = alone.folder / ".abatch"
    answers: dict[str, Answer] = {
        "good": Delivered(note="200"),
        "down": Failed(note="503"),
        "gone": Gone(note="410"),
    }

    def receiver(name: str) -> Fake:
        async def answer(_: object) -> Answer:
            return answers[name]

        return Fake(name, answer)

    async def send() -> None:
        log = await SqliteLog.open(JournalFolder(folder), drive=True)
        ended: list[str] = []
        async with JournalView(folder) as view, anyio.create_task_group() as group:
            await group.start(Webhooks(view, map(receiver, answers), on_attempt=ended.append).run)
            await finish(log, "nightly")
            await until(lambda: len(ended) == 3)
            group.cancel_scope.cancel()
        await log.aclose()

    anyio.run(send)
    return folder


def test_the_list_shows_receivers_and_messages(alone: Cli, sent: Path) -> None:
    found = alone.here("webhook", "list", "--json").json
    assert found["receivers"] == [
        {"name": "down", "enabled": True, "waiting": 1, "delivered": 0, "failed": 0},
        {"name": "gone", "enabled": False, "waiting": 0, "delivered": 0, "failed": 1},
        {"name": "good", "enabled": True, "waiting": 0, "delivered": 1, "failed": 0},
    ]
    told = [(each["receiver"], each["state"], each["attempts"], each["answer"]) for each in found["messages"]]
    assert told[-1] == ("good", "delivered", 1, "200")
    assert sorted(told[:2]) == [("down", "waiting", 1, "503"), ("gone", "failed", 1, "410")]
    assert {(each["event"], each["job"]) for each in found["messages"]} == {("job.finished", "nightly")}
    shown = alone.here("webhook", "list").out
    assert "disabled by a 410" in shown
    assert all(word in shown for word in ("evt_", "nightly", "job.finished", "503"))


def test_failed_messages_are_sent_again_and_their_receiver_is_enabled(alone: Cli, sent: Path) -> None:
    done = alone.here("webhook", "replay", "--failed")
    assert done.status == 0, done
    assert "1 message will be sent again. Every receiver is enabled. The process that sends" in done.err
    found = alone.here("webhook", "list", "--json").json
    assert [(each["name"], each["enabled"], each["waiting"]) for each in found["receivers"]][1] == ("gone", True, 1)
    assert "0 messages will be sent again." in alone.here("webhook", "replay", "--failed").err


def test_a_message_is_sent_again_by_its_id_to_all_that_had_it(alone: Cli, sent: Path) -> None:
    message_id = alone.here("webhook", "list", "--json").json["messages"][0]["id"]
    assert "3 messages will be sent again" in alone.here("webhook", "replay", message_id).err
    for args, says in (
        (("evt_none",), "there is no message evt_none; `abatch webhook list` shows the last 50"),
        ((), "say one of ID and --failed"),
        ((message_id, "--failed"), "say one of ID and --failed"),
    ):
        done = alone.here("webhook", "replay", *args)
        assert done.status == 2, done
        assert says in done.err


def test_a_journal_without_receivers_says_so(alone: Cli) -> None:
    assert alone.here("webhook", "list").status == 2

    async def make() -> None:
        await (await SqliteLog.open(JournalFolder(alone.folder / ".abatch"), drive=True)).aclose()

    anyio.run(make)
    assert "No receiver is known" in alone.here("webhook", "list").err
    assert alone.here("webhook", "list", "--json").json == {"receivers": [], "messages": []}


@pytest.mark.parametrize("command", ["test", "list", "replay"])
def test_every_help_has_an_example(alone: Cli, command: str) -> None:
    assert f"Example: abatch webhook {command}" in alone.here("webhook", command, "--help").out
