"""One incoming HTTP request: its route, its body piece by piece, and the faults that it will meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeVar

from abatch.sandbox.faults.orders import Site
from abatch.sandbox.faults.values import Fault

if TYPE_CHECKING:
    from abatch.sandbox.api import Machine
    from abatch.sandbox.exchange import Reply, Request

__all__ = ["BODY_LIMIT", "Visit"]

BODY_LIMIT: Final = 256_000_000
"""The largest size of a body, in bytes."""

F = TypeVar("F", bound=Fault)

Action = Site | Literal["unknown"]


class Visit:
    """One incoming HTTP request, with the faults that it will meet."""

    def __init__(self, machine: Machine, request: Request) -> None:
        self._machine = machine
        self.request = request
        self.action: Action
        self.action, self.batch_id = _route(request.method, request.path)
        self.workspace: str | None = None
        """The workspace of the key that it carried, once that is known."""
        self.faults = machine.draw(self)
        self.early: Reply | None = machine.early_reply(self)
        """The answer, if it does not wait for the body."""
        self.body = bytearray()
        self.received = 0

    def feed(self, piece: bytes | bytearray) -> None:
        """Add a piece of the body; once the body exceeds the limit, it is counted but not kept."""
        self.received += len(piece)
        if self.received <= BODY_LIMIT:
            self.body += piece
        else:
            self.body.clear()

    def finish(self) -> Reply:
        """Answer the request, once its body is complete."""
        return self._machine.answer(self)

    def abandon(self, received: int | None = None) -> None:
        """Note that the connection ended before the body was complete, after `received` bytes of it."""
        self._machine.abandon(self, self.received if received is None else received)

    def fault(self, kind: type[F]) -> F | None:
        """Return the first of its faults of this kind, if there is one."""
        if not self.faults:
            return None
        return next((fault for fault in self.faults if isinstance(fault, kind)), None)


def _route(method: str, path: str) -> tuple[Action, str]:
    """Return the action of a call, and the id of its batch."""
    match method, path.strip("/").split("/"):
        case "POST", ["v1", "messages"]:
            return "messages", ""
        case "POST", ["v1", "messages", "batches"]:
            return "create", ""
        case "GET", ["v1", "messages", "batches"]:
            return "list", ""
        case "GET", ["v1", "messages", "batches", batch_id]:
            return "retrieve", batch_id
        case "DELETE", ["v1", "messages", "batches", batch_id]:
            return "delete", batch_id
        case "GET", ["v1", "messages", "batches", batch_id, "results"]:
            return "results", batch_id
        case "POST", ["v1", "messages", "batches", batch_id, "cancel"]:
            return "cancel", batch_id
        case _:
            return "unknown", ""
