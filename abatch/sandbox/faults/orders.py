"""Orders that place faults: on the next call of a site, on every call, or at a rate; and the faults in effect."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Literal, get_args

import msgspec

from abatch.sandbox.faults.values import AnyFault

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

__all__ = ["Always", "Clear", "Delete", "Faults", "Next", "Order", "Site"]

Site = Literal["create", "retrieve", "list", "results", "cancel", "delete", "messages"]
SITES: tuple[Site, ...] = get_args(Site)


class Next(msgspec.Struct, frozen=True, tag_field="do", tag="next", forbid_unknown_fields=True):
    """The order to disturb the next calls of a site."""

    on: Site
    faults: list[AnyFault]
    times: int = 1


class Always(msgspec.Struct, frozen=True, tag_field="do", tag="always", forbid_unknown_fields=True):
    """The order to disturb every call of a site, or of every site, at a rate."""

    on: Site | Literal["every"]
    fault: AnyFault
    rate: float = 1.0


class Clear(msgspec.Struct, frozen=True, tag_field="do", tag="clear", forbid_unknown_fields=True):
    """The order to remove the faults from a site, or from all sites."""

    on: Site | None = None


class Delete(msgspec.Struct, frozen=True, tag_field="do", tag="delete", forbid_unknown_fields=True):
    """The order to delete a batch in any state, as another user could with the Console."""

    batch_id: str


Order = Next | Always | Clear | Delete


class Faults:
    """The faults in effect. They may be changed from another thread while calls are answered."""

    def __init__(self) -> None:
        self._next: defaultdict[Site, deque[tuple[AnyFault, ...]]] = defaultdict(deque)
        self._always: dict[Site, tuple[tuple[AnyFault, float], ...]] = {}
        self.cleared = 0
        """How often the faults of create were cleared, which ends the streams that such a fault began."""

    def next(self, site: Site, /, *faults: AnyFault, times: int = 1) -> None:
        """Place all these faults on the next call, or on each of the next `times` calls; orders queue up."""
        self._next[site].extend([faults] * times)

    def always(self, site: Site | Literal["every"], fault: AnyFault, /, *, rate: float = 1.0) -> None:
        """Place the fault on every call of a site or of every site, or on a share of the calls."""
        for each in SITES if site == "every" else (site,):
            self._always[each] = (*self._always.get(each, ()), (fault, rate))

    def clear(self, site: Site | None = None, /) -> None:
        """Remove all faults from the site, or from every site."""
        if site is None:
            self._next.clear()
            self._always.clear()
        else:
            self._next.pop(site, None)
            self._always.pop(site, None)
        if site in (None, "create"):
            self.cleared += 1

    def obey(self, order: Next | Always | Clear, /) -> None:
        """Carry out an order in JSON."""
        match order:
            case Next():
                self.next(order.on, *order.faults, times=order.times)
            case Always():
                self.always(order.on, order.fault, rate=order.rate)
            case Clear():
                self.clear(order.on)

    def draw(self, site: Site, suits: Callable[[AnyFault], bool], rng: random.Random, /) -> Sequence[AnyFault]:
        """Draw the faults of one call; queued faults wait for a call to which they can apply."""
        queue = self._next.get(site)
        once = queue.popleft() if queue and all(map(suits, queue[0])) else ()
        lasting = self._always.get(site, ())
        if not lasting:
            return once
        return [*once, *(fault for fault, rate in lasting if suits(fault) and rng.random() < rate)]
