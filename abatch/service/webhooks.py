"""Send messages about the events of a journal to webhooks, and run `on_done`: each at least once, whatever dies.

The outbox of the journal holds every message until its receiver has answered. Each receiver has a task of its own, so
a slow one delays no other. A message that is sent again, after a failure or a crash, has the same id.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, assert_never

import anyio

from abatch.engine.transport import trusted
from abatch.log import log
from abatch.service.webhooks_answers import Delivered, Failed, Gone, wait_after
from abatch.service.webhooks_command import CommandReceiver
from abatch.service.webhooks_http import HttpReceiver
from abatch.service.webhooks_message import body_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from anyio.abc import TaskStatus

    from abatch import JournalView
    from abatch.events import Event
    from abatch.outbox import Delivery, Message
    from abatch.service.webhooks_answers import Answer
    from abatch.service.webhooks_settings import Endpoint, OnDone

__all__ = ["Receiver", "Webhooks", "receivers"]

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the journal, for new events and for messages that are due."""
AT_ONCE: Final = 4
"""Attempts under way to one receiver."""
KEPT_FOR: Final = 30 * 86_400.0
"""Seconds for which messages are kept after they were delivered or given up, for `abatch webhook replay`."""
FORGET_EVERY: Final = 3_600.0
"""Seconds between two looks for messages that are old enough to be dropped."""


class Receiver(Protocol):
    """Something that gets messages."""

    waits: tuple[float, ...]
    """Seconds after each attempt but the last."""

    @property
    def name(self) -> str:
        """Its name in the outbox."""
        ...

    def wants(self, event: Event) -> bool:
        """Return whether it gets a message about this event."""
        ...

    async def deliver(self, message: Message) -> Answer:
        """Make one attempt; every failure is an answer, too."""
        ...

    async def aclose(self) -> None:
        """Close what it holds open."""
        ...


def receivers(endpoints: Sequence[Endpoint], on_done: OnDone | None, *, journal: Path) -> list[Receiver]:
    """Make the receivers that settings ask for.

    Args:
        endpoints: the webhooks.
        on_done: the command for finished jobs.
        journal: the folder of the journal.

    Raises:
        ConfigError: the certificates that the environment names cannot be loaded.

    """
    certificates = trusted() if endpoints else None
    made: list[Receiver] = [HttpReceiver(endpoint, certificates=certificates) for endpoint in endpoints]
    if on_done is not None:
        secrets = {endpoint.secret_env for endpoint in endpoints if endpoint.secret_env is not None}
        made.append(CommandReceiver(on_done, journal=journal, without=secrets))
    return made


class Webhooks:
    """Collects the events of a journal for its receivers, and sends; run it in the process that drives the journal.

    async with JournalView(".abatch") as view:
        await Webhooks(view, receivers(endpoints, None, journal=view.folder)).run()
    """

    def __init__(
        self, view: JournalView, receivers: Iterable[Receiver], *, on_attempt: Callable[[str], object] = lambda _: None
    ) -> None:
        """Make it.

        Args:
            view: the journal, entered for as long as `run` runs.
            receivers: where messages go.
            on_attempt: called after each attempt with how it ended: `delivered`, `failed` or `gone`.

        """
        self._on_attempt = on_attempt
        self._view = view
        self._outbox = view.outbox
        self._receivers = tuple(receivers)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Collect and send until cancelled. An attempt that is cancelled is made again by the next run.

        It is started once every receiver is known to the journal: later events are sent, whatever happens.

        Raises:
            JournalError: the journal cannot be read or written.

        """
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._forget)
                for receiver in self._receivers:
                    await self._collect(receiver)
                    group.start_soon(self._serve, receiver)
                task_status.started()
        finally:
            with anyio.CancelScope(shield=True):
                for receiver in self._receivers:
                    await receiver.aclose()

    async def _collect(self, receiver: Receiver) -> None:
        body = partial(body_of, view=self._view)
        await self._outbox.collect(receiver.name, wants=receiver.wants, body_of=body)

    async def _serve(self, receiver: Receiver) -> None:
        """Collect in this task, and make each attempt in another: a hanging attempt delays no event."""
        under_way: set[int] = set()
        ended = [anyio.Event()]
        async with anyio.create_task_group() as attempts:
            while True:
                ended[0] = anyio.Event()
                await self._collect(receiver)
                busy = set(under_way)  # before the look: an attempt that ends meanwhile is not made a second time
                due = await self._outbox.due(receiver.name, most=2 * AT_ONCE)
                ready = [delivery for delivery in due if delivery.message.seq not in busy]
                for delivery in ready[: AT_ONCE - len(under_way)]:
                    under_way.add(delivery.message.seq)
                    attempts.start_soon(self._attempt, receiver, delivery, under_way, ended)
                with anyio.move_on_after(LOOK_EVERY):
                    await ended[0].wait()

    async def _attempt(
        self, receiver: Receiver, delivery: Delivery, under_way: set[int], ended: list[anyio.Event]
    ) -> None:
        answer = await receiver.deliver(delivery.message)
        await self._record(receiver, delivery, answer)
        under_way.discard(delivery.message.seq)
        ended[0].set()

    async def _record(self, receiver: Receiver, delivery: Delivery, answer: Answer) -> None:
        attempt = delivery.attempts + 1
        known = {"receiver": receiver.name, "message": delivery.message.id, "attempt": attempt, "answer": answer.note}
        match answer:
            case Delivered():
                await self._outbox.delivered(delivery, answer.note)
                self._on_attempt("delivered")
                log.info("webhook_delivered", **known)
            case Gone():
                await self._outbox.failed(delivery, answer.note, disable=True)
                self._on_attempt("gone")
                log.error("webhook_disabled", **known)
            case Failed():
                wait = wait_after(attempt, receiver.waits, answer)
                if wait is None:
                    await self._outbox.failed(delivery, answer.note)
                    log.error("webhook_given_up", **known)
                else:
                    await self._outbox.postponed(delivery, answer.note, seconds=wait)
                    log.warning("webhook_failed", **known, next_in=round(wait))
                self._on_attempt("failed")
            case _:
                assert_never(answer)

    async def _forget(self) -> None:
        while True:
            await self._outbox.forget(older=KEPT_FOR)
            await anyio.sleep(FORGET_EVERY)
