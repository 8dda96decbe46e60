"""The outbox of a journal: messages about facts, durable until their receiver has them.

A receiver has a *cursor*: the number of the fact up to which messages were made. One transaction puts the messages and
moves the cursor, so each fact is either before the cursor, with its message in the outbox, or after it, and is read
again. The facts themselves are durable before any of this. Therefore no process that appends facts has to know the
receivers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Counted", "Delivery", "DeliveryState", "Message", "OutboxLog", "Receiver"]

DeliveryState: TypeAlias = Literal["waiting", "delivered", "failed"]


class Message(NamedTuple):
    """A message to put into the outbox."""

    seq: int
    """The number of the fact; a receiver gets one message about a fact."""
    id: str
    """The id of the message, which is the same for each attempt."""
    kind: str
    """The kind of the event, for instance `job.finished`."""
    job: str
    """The key of the job."""
    body: bytes


class Delivery(NamedTuple):
    """A message in the outbox, and how its delivery stands."""

    receiver: str
    message: Message
    at: float
    """When it was put, in seconds since the epoch."""
    state: DeliveryState
    attempts: int
    """Attempts that ended since it was put, or since it was last sent again by an operator."""
    due: float
    """When the next attempt may begin, in seconds since the epoch; when the last one ended, if it is not waiting."""
    answer: str
    """How the last attempt ended, in a few words; empty before the first."""


class Receiver(NamedTuple):
    """A receiver that the outbox knows."""

    name: str
    cursor: int
    """The number of the last fact about which a message was made, or was not wanted."""
    enabled: bool
    """Whether messages are sent to it."""


class Counted(NamedTuple):
    """The number of the messages of one receiver in one state."""

    receiver: str
    state: DeliveryState


class OutboxLog(Protocol):
    """The outbox of a log of facts. What `FactLog` says of cancelled calls and failed writes is true of it, too."""

    async def receivers(self) -> Sequence[Receiver]:
        """Return every receiver, in the order of their names."""
        ...

    async def fill(self, receiver: str, messages: Sequence[Message], /, *, since: int, through: int) -> bool:
        """Put messages and move the receiver's cursor from `since` to `through`, all or none; they are due at once.

        A receiver that is not known begins with its cursor at `since`.

        Returns:
            False if the cursor is not at `since`, and then nothing was put.

        """
        ...

    async def due(self, receiver: str, /, *, now: float, most: int) -> Sequence[Delivery]:
        """Return messages that wait and are due, the earliest first; none of a receiver that is disabled."""
        ...

    async def newest(self, *, most: int) -> Sequence[Delivery]:
        """Return the messages that were put last, the newest first; undelivered ones before delivered ones."""
        ...

    async def counts(self) -> Mapping[Counted, int]:
        """Return how many messages each receiver has in each state; without the zeros."""
        ...

    async def record(self, delivery: Delivery, /, *, disable: bool = False) -> None:
        """Replace state, attempts, due and answer of a message that waits; with `disable`, disable its receiver, too.

        A message that does not wait stays as it is.
        """
        ...

    async def send_again(self, message_id: str | None, /, *, now: float) -> int:
        """Let messages wait again, due at `now` and without attempts, and enable receivers; return their number.

        Args:
            message_id: the messages with this id, whatever their state, and their receivers; None for all messages that
                failed, and all receivers.
            now: the time in seconds since the epoch.

        """
        ...

    async def forget(self, *, before: float) -> None:
        """Drop the delivered and failed messages whose last attempt ended before this time."""
        ...
