"""Run the command of `on_done` about one finished job, for a bounded time, without a shell and without credentials."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from abatch.service.webhooks_answers import Delivered, Failed

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from anyio.abc import Process

    from abatch.events import Event
    from abatch.outbox import Message
    from abatch.service.webhooks_answers import Answer
    from abatch.service.webhooks_settings import OnDone

__all__ = ["CommandReceiver"]

PATIENCE: Final = 600.0
"""Seconds for a command."""
TERM_PATIENCE: Final = 5.0
"""Seconds from SIGTERM to SIGKILL."""
CREDENTIALS: Final = frozenset({"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"})
"""Variables that the command does not get."""
COUNTS: Final = ("requests", "succeeded", "errored", "canceled", "expired", "missing")


class CommandReceiver:
    """The command of `on_done`. It is tried once: what a command did before it failed is not known."""

    waits: tuple[float, ...] = ()

    def __init__(self, command: OnDone, *, journal: Path, without: Collection[str] = ()) -> None:
        """Make it.

        Args:
            command: the program and its arguments.
            journal: the folder of the journal, for ABATCH_JOURNAL.
            without: more environment variables that the command does not get.

        """
        self._command = command
        self._journal = journal
        self._without = CREDENTIALS | set(without)

    @property
    def name(self) -> str:
        """The name of the command in the outbox."""
        return self._command.name

    def wants(self, event: Event) -> bool:
        """Return whether the command runs because of this event."""
        return self._command.wants(event)

    async def aclose(self) -> None:
        """Do nothing, because no process is left."""

    async def deliver(self, message: Message) -> Answer:
        """Run the command to its end; it is ended if it takes too long, or if this call is cancelled."""
        try:
            process = await anyio.open_process(
                self._command.argv,
                stdin=subprocess.DEVNULL,
                stdout=2,  # the output of the service is for its own commands; its log is on stderr
                stderr=None,
                env=self._environment(message),
                start_new_session=True,
            )
        except OSError as failure:
            return Failed(note=f"not started: {failure.strerror}")
        try:
            with anyio.move_on_after(PATIENCE):
                status = await process.wait()
                if status == 0:
                    return Delivered(note="exit 0")
                return Failed(note=f"exit {status}" if status > 0 else f"ended by signal {-status}")
            return Failed(note=f"ended after {PATIENCE:g} s")
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)

    def _environment(self, message: Message) -> dict[str, str]:
        content = json.loads(message.body)["data"]
        told = {
            "ABATCH_EVENT": message.kind,
            "ABATCH_EVENT_ID": message.id,
            "ABATCH_JOB": message.job,
            "ABATCH_JOURNAL": str(self._journal),
            "ABATCH_STATE": content["state"],
            "ABATCH_RESULTS": content["results"],
            "ABATCH_COST_USD": "" if content["cost_usd"] is None else str(content["cost_usd"]),
            **{f"ABATCH_{name.upper()}": str(content[name]) for name in COUNTS},
        }
        kept = {name: value for name, value in os.environ.items() if name not in self._without}
        return kept | told


async def _end(process: Process) -> None:
    """End the command and every process that it started, unless it has ended."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with anyio.move_on_after(TERM_PATIENCE):
            await process.wait()
    if process.returncode is None:
        _signal(process, signal.SIGKILL)
        await process.wait()
    await process.aclose()


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
