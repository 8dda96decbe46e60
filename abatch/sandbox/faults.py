"""Faults on demand: what may go wrong with one call, as values, and when it does.

A fault is put on a *site* (`create`, `retrieve`, `list`, `results`, `cancel`, `delete`, `messages`): once for
the next call, on every call, or at a rate drawn from the machine's seed. Faults of one call work together.

As JSON, for a running server (`POST /sandbox/faults`, an order or a list of orders):

    {"do": "next",   "on": "create",  "faults": [{"type": "ResetAfterAccept"}], "times": 1}
    {"do": "always", "on": "results", "fault": {"type": "MissingLine", "count": 2}, "rate": 0.1}
    {"do": "clear",  "on": "list"}                                      without "on": every site
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

__all__ = [
    "AnyFault",
    "Archived",
    "BlankLine",
    "ConflictingLine",
    "CountsLag",
    "Crlf",
    "CutAtLine",
    "CutBody",
    "CutInLine",
    "DeepJson",
    "DuplicateLine",
    "Faults",
    "Flap",
    "Foreign",
    "ForeignLine",
    "Garbage",
    "GzipBomb",
    "HugeLine",
    "Lag",
    "LateAccept",
    "LineFault",
    "LineSeparator",
    "LoneSurrogate",
    "MissingLine",
    "NoDate",
    "NotYet",
    "Order",
    "OtherWorkspace",
    "PageError",
    "Redirect",
    "Refuse",
    "Replay",
    "ResetAfterAccept",
    "ResetAt",
    "ResetBeforeAccept",
    "Reshuffle",
    "SameInstant",
    "Site",
    "Slow",
    "SpendLimit",
    "StaleAnswer",
    "Stall",
    "Status",
    "UnparsableLine",
]

Site = Literal["create", "retrieve", "list", "results", "cancel", "delete", "messages"]


class Fault(msgspec.Struct, frozen=True, tag=True):
    """Something that goes wrong with one call."""


# On any site.


class Refuse(Fault, frozen=True):
    """The connection is reset before the body is read."""


class Stall(Fault, frozen=True):
    """The call is done at once, its answer held back."""

    seconds: float


class ResetBeforeAccept(Fault, frozen=True):
    """The whole request is read, nothing is done, the connection is reset."""


class ResetAfterAccept(Fault, frozen=True):
    """The call is done and its answer lost."""


class Status(Fault, frozen=True):
    """The answer is this status."""

    status: int
    kind: str | None = None
    """`error.type` of the envelope; the usual one of the status if None."""
    message: str = "[sandbox] a fault on demand"
    envelope: bool = True
    """False: not the API answers but a proxy, with an HTML page."""
    retry_after: float | None = None
    accepted: bool = False
    """Whether the call is done all the same."""
    early: bool = False
    """Whether the answer comes before the body was read."""


class SpendLimit(Fault, frozen=True):
    """429 of a spend limit: `error.details.error_code` tells, there is no `retry-after`."""


class Redirect(Fault, frozen=True):
    """307 to another place."""

    location: str = "/v1/elsewhere"


class Garbage(Fault, frozen=True):
    """The call is done; the answer says so with a body that is not JSON."""


class CutBody(Fault, frozen=True):
    """The call is done; the connection closes after this many bytes of the answer's body."""

    at: int = 20


class NoDate(Fault, frozen=True):
    """The answer has no `Date`."""


class OtherWorkspace(Fault, frozen=True):
    """The call is treated as if its key belonged to another workspace."""


class Slow(Fault, frozen=True):
    """The answer trickles."""

    bytes_per_second: float


# On create.


class LateAccept(Fault, frozen=True):
    """The answer is lost, or this status, and the batch is created later all the same."""

    seconds: float
    status: int | None = None


class Replay(Fault, frozen=True):
    """An intermediary sends the call twice; both create a batch."""


class SameInstant(Fault, frozen=True):
    """The batch gets the `created_at` of the newest one there is."""


class StaleAnswer(Fault, frozen=True):
    """The batch is created, and the answer names the one that was created before it."""


class Foreign(Fault, frozen=True):
    """Somebody else creates batches of the same number of requests beside it."""

    count: int = 1


# On list and retrieve.


class Lag(Fault, frozen=True):
    """The list leaves out a batch until it has a certain age, drawn for each batch up to `seconds`."""

    seconds: float


class PageError(Fault, frozen=True):
    """A page after the first one fails with this status."""

    status: int = 500


class Flap(Fault, frozen=True):
    """Ended batches show as in progress."""


class CountsLag(Fault, frozen=True):
    """Ended batches still show every request as processing."""


# On results.


class NotYet(Fault, frozen=True):
    """404 until this many seconds after the batch ended."""

    seconds: float


class Archived(Fault, frozen=True):
    """404, as after 29 days."""


class CutAtLine(Fault, frozen=True):
    """The stream ends after `lines` whole lines (a number drawn if None), as if complete if `clean`."""

    lines: int | None = None
    clean: bool = True


class CutInLine(Fault, frozen=True):
    """The stream ends in the middle of the line after `lines` whole ones (a number drawn if None)."""

    lines: int | None = None
    clean: bool = False


class ResetAt(Fault, frozen=True):
    """The connection is reset after this many bytes of the body."""

    byte: int


class Reshuffle(Fault, frozen=True):
    """The lines come in another order at every reading."""


class DuplicateLine(Fault, frozen=True):
    """Lines come again, later."""

    count: int = 1


class ConflictingLine(Fault, frozen=True):
    """Lines come again, later, with another outcome."""

    count: int = 1


class MissingLine(Fault, frozen=True):
    """Lines are left out."""

    count: int = 1


class ForeignLine(Fault, frozen=True):
    """Lines with custom_ids that were never submitted."""

    count: int = 1


class UnparsableLine(Fault, frozen=True):
    """Lines that are not JSON."""

    count: int = 1


class BlankLine(Fault, frozen=True):
    """Lines that are empty."""

    count: int = 1


class Crlf(Fault, frozen=True):
    """Lines end with a carriage return and a newline."""


class LineSeparator(Fault, frozen=True):
    """Texts with a raw U+2028, which is no end of a line."""

    count: int = 1


class LoneSurrogate(Fault, frozen=True):
    """Texts with half a surrogate pair, escaped."""

    count: int = 1


class HugeLine(Fault, frozen=True):
    """Lines with that many bytes more of text."""

    size: int = 64_000_000
    count: int = 1


class DeepJson(Fault, frozen=True):
    """Lines with a content block nested that deep."""

    depth: int = 100_000
    count: int = 1


class GzipBomb(Fault, frozen=True):
    """A small compressed body, as `content-encoding: gzip`, that grows to blank lines of this size."""

    size: int = 1_000_000_000


LineFault = (
    CutAtLine
    | CutInLine
    | DuplicateLine
    | ConflictingLine
    | MissingLine
    | ForeignLine
    | UnparsableLine
    | BlankLine
    | Crlf
    | LineSeparator
    | LoneSurrogate
    | HugeLine
    | DeepJson
)
AnyFault = (
    Refuse
    | Stall
    | ResetBeforeAccept
    | ResetAfterAccept
    | Status
    | SpendLimit
    | Redirect
    | Garbage
    | CutBody
    | NoDate
    | OtherWorkspace
    | Slow
    | LateAccept
    | Replay
    | SameInstant
    | StaleAnswer
    | Foreign
    | Lag
    | PageError
    | Flap
    | CountsLag
    | NotYet
    | Archived
    | ResetAt
    | Reshuffle
    | GzipBomb
    | LineFault
)


class Next(msgspec.Struct, frozen=True, tag_field="do", tag="next", forbid_unknown_fields=True):
    """The order to disturb the next calls of a site."""

    on: Site
    faults: list[AnyFault]
    times: int = 1


class Always(msgspec.Struct, frozen=True, tag_field="do", tag="always", forbid_unknown_fields=True):
    """The order to disturb every call of a site, at a rate."""

    on: Site
    fault: AnyFault
    rate: float = 1.0


class Clear(msgspec.Struct, frozen=True, tag_field="do", tag="clear", forbid_unknown_fields=True):
    """The order to let a site alone, or all of them."""

    on: Site | None = None


Order = Next | Always | Clear


class Faults:
    """The faults that are on. Safe to change from another thread while calls are answered."""

    def __init__(self) -> None:
        self._next: defaultdict[Site, deque[tuple[AnyFault, ...]]] = defaultdict(deque)
        self._always: dict[Site, tuple[tuple[AnyFault, float], ...]] = {}

    def next(self, site: Site, /, *faults: AnyFault, times: int = 1) -> None:
        """Put the faults together on the next call, or on each of the next `times` calls; orders queue up."""
        self._next[site].extend([faults] * times)

    def always(self, site: Site, fault: AnyFault, /, *, rate: float = 1.0) -> None:
        """Put the fault on every call, or on a share of them."""
        self._always[site] = (*self._always.get(site, ()), (fault, rate))

    def clear(self, site: Site | None = None, /) -> None:
        """Take all faults off the site, or off every site."""
        if site is None:
            self._next.clear()
            self._always.clear()
        else:
            self._next.pop(site, None)
            self._always.pop(site, None)

    def obey(self, order: Order, /) -> None:
        """Do what an order in JSON says."""
        match order:
            case Next():
                self.next(order.on, *order.faults, times=order.times)
            case Always():
                self.always(order.on, order.fault, rate=order.rate)
            case Clear():
                self.clear(order.on)

    def draw(self, site: Site, suits: Callable[[AnyFault], bool], rng: random.Random, /) -> Sequence[AnyFault]:
        """The faults of one call; those queued wait for a call that suits them."""
        queue = self._next.get(site)
        once = queue.popleft() if queue and all(map(suits, queue[0])) else ()
        lasting = self._always.get(site, ())
        if not lasting:
            return once
        return [*once, *(fault for fault, rate in lasting if suits(fault) and rng.random() < rate)]
