"""`abatch webhook`: send a test message, show the messages of a journal, and have them sent again."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from abatch import JournalView
from abatch.cli.exit_codes import FAILED, OK, perform
from abatch.cli.hints import HintingCommand
from abatch.cli.options import JsonOption, PlaceOption, SandboxOption  # noqa: TC001 - typer reads the annotations
from abatch.cli.paths import asked_for, place_of
from abatch.cli.sanitize import clean, moment
from abatch.cli.screen import Screen, table
from abatch.errors import ConfigError
from abatch.outbox import Counted, Message
from abatch.service.webhooks_answers import Delivered
from abatch.service.webhooks_http import HttpReceiver
from abatch.service.webhooks_message import envelope
from abatch.service.webhooks_settings import endpoint

if TYPE_CHECKING:
    from abatch.outbox import Delivery, DeliveryState

__all__ = ["webhook"]

SHOWN: Final = 50
"""Messages that `abatch webhook list` shows."""
PLACE: Final = "webhook"
STATES: Final[tuple[DeliveryState, ...]] = ("waiting", "delivered", "failed")
WHEN: Final = "The process that sends this journal's webhooks sends within a second; otherwise the next one does."
IN_OPTIONS: Final = {
    f"{PLACE} needs one of secret_env and secret_file": "say one of --secret-env and --secret-file",
    f"{PLACE}.url": "URL",
    f"{PLACE}: ": "",
    "allow_private = true": "--allow-private",
}
"""Values of a table of settings, each with what it is here."""

webhook = typer.Typer(
    name="webhook",
    no_args_is_help=True,
    help="Send a test message, show the messages about events, and have them sent again.",
    short_help="Send a test message, show messages, have them sent again.",
)


@webhook.command("test", cls=HintingCommand)
def send_test(
    url: Annotated[str, typer.Argument(metavar="URL", help="The address of the receiver.", show_default=False)],
    secret_file: Annotated[
        Path | None, typer.Option("--secret-file", dir_okay=False, help="The file with the secrets, one a line.")
    ] = None,
    secret_env: Annotated[
        str | None, typer.Option("--secret-env", metavar="NAME", help="The environment variable with the secrets.")
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Allow addresses of private networks, plain http, and any port.")
    ] = False,
) -> None:
    """Send one signed message of the type webhook.test, as a webhook would get it, and show the answer.

    It needs no journal, and the message is sent once. Exit status: 0 the receiver took it; 1 it did not.

    Example: abatch webhook test https://hooks.example.com/abatch --secret-file hook.secret
    """
    screen = Screen()

    async def work() -> int:
        file = None if secret_file is None else str(secret_file)
        settings = {"url": url, "secret_env": secret_env, "secret_file": file, "allow_private": allow_private}
        try:
            made = endpoint(settings, place=PLACE, folder=Path())
        except ConfigError as unusable:
            raise ConfigError(_in_options(str(unusable))) from unusable
        message_id = f"evt_test_{secrets.token_hex(8)}"
        body = envelope(message_id, time.time(), {"type": "webhook.test", "id": "test"})
        receiver = HttpReceiver(made)
        try:
            answer = await receiver.deliver(Message(0, message_id, "webhook.test", "test", body))
        finally:
            await receiver.aclose()
        if isinstance(answer, Delivered):
            screen.say(f"Delivered: {made.name} answered {answer.note} to message {message_id}.")
            return OK
        screen.complain(f"Not delivered: {made.name}: {answer.note}.")
        return FAILED

    raise typer.Exit(perform(work))


@webhook.command("list", cls=HintingCommand)
def list_(journal: PlaceOption = None, sandbox: SandboxOption = False, as_json: JsonOption = False) -> None:
    """Show the receivers of a journal's messages, and the last 50 messages, those not delivered first.

    Example: abatch webhook list
    """
    screen = Screen()

    async def work() -> None:
        async with JournalView(place_of(journal, sandbox=sandbox)) as view:
            receivers, counts = await view.outbox.receivers(), await view.outbox.counts()
            messages = await view.outbox.newest(most=SHOWN)
        if as_json:
            screen.give(
                {
                    "receivers": [
                        {
                            "name": each.name,
                            "enabled": each.enabled,
                            **{state: counts.get(Counted(each.name, state), 0) for state in STATES},
                        }
                        for each in receivers
                    ],
                    "messages": [_as_json(each) for each in messages],
                }
            )
            return
        if not receivers:
            screen.say("No receiver is known: nothing has sent webhooks for this journal yet.")
            return
        rows = [
            (
                each.name,
                "enabled" if each.enabled else "disabled by a 410",
                *(counts.get(Counted(each.name, state), 0) for state in STATES),
            )
            for each in receivers
        ]
        screen.output.print(table("receiver", "state", *STATES, rows=rows, right=STATES))
        if messages:
            screen.output.line()
            columns = ("message", "event", "job", "receiver", "state", "attempts", "answer", "next")
            screen.output.print(table(*columns, rows=map(_row, messages), right=("attempts",)))

    perform(work, asked_for(journal, sandbox=sandbox))


@webhook.command("replay", cls=HintingCommand)
def replay(
    message_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The id of a message.", show_default=False)
    ] = None,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Every message that failed.")] = False,
    journal: PlaceOption = None,
    sandbox: SandboxOption = False,
) -> None:
    """Have messages sent again, with the ids that they had, and enable receivers that a 410 disabled.

    Messages are kept for 30 days after they were delivered or given up.

    Example: abatch webhook replay --failed
    """
    screen = Screen()

    async def work() -> None:
        if (message_id is not None) == failed:
            raise ConfigError("say one of ID and --failed")
        async with JournalView(place_of(journal, sandbox=sandbox)) as view:
            count = await view.outbox.send_again(message_id)
        if count == 0 and message_id is not None:
            raise ConfigError(f"there is no message {clean(message_id)}; `abatch webhook list` shows the last {SHOWN}")
        enabled = " Every receiver is enabled." if failed else ""
        screen.say(f"{count:,} message{'s' * (count != 1)} will be sent again.{enabled} {WHEN}")

    perform(work, asked_for(journal, sandbox=sandbox))


def _row(each: Delivery) -> tuple[object, ...]:
    message = each.message
    due = moment(each.due) if each.state == "waiting" else ""
    return message.id, message.kind, message.job, each.receiver, each.state, each.attempts, each.answer, due


def _as_json(each: Delivery) -> dict[str, object]:
    return {
        "id": each.message.id,
        "event": each.message.kind,
        "job": each.message.job,
        "receiver": each.receiver,
        "state": each.state,
        "attempts": each.attempts,
        "answer": each.answer,
        "at": each.at,
        "due": each.due if each.state == "waiting" else None,
    }


def _in_options(text: str) -> str:
    """Name arguments and options where a text of the settings names values of a table."""
    for value, option in IN_OPTIONS.items():
        text = text.replace(value, option)
    return text
