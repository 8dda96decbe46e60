"""Guard negative conclusions: with another key or workspace, every list looks empty.

An empty list or a 404 proves something about an attempt only if the key in use has the fingerprint under which the
attempt was sent, or if the key is known to show a batch of this journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.errors import ApiError
from abatch.protocol.durations import HOUR

if TYPE_CHECKING:
    from collections.abc import Collection

    from abatch.engine.client import Client
    from abatch.protocol.reconcile import (
        Known,
    )

__all__ = ["KeyGuard"]

CONFIRM_KEY_EVERY: Final = HOUR
"""Seconds between two searches for a witness because of a vanished batch."""
WITNESSES: Final = 3
"""The maximum number of batches of this journal that are requested to show that the key sees them."""


class KeyGuard:
    """The knowledge whether the key in use sees the batches that the journal has in one scope."""

    def __init__(self, client: Client, workspace_id: str | None, known: Known, fingerprint: str | None) -> None:
        self._client = client
        self._workspace_id = workspace_id
        self._known = known
        self._fingerprint = fingerprint
        self.confirmed = False
        """Whether the key in use has shown a batch of this journal."""
        self._confirm_after = 0.0
        """Loop time before which no further witness is requested because of a vanished batch."""

    def note_shown(self, batch_ids: Collection[str]) -> None:
        """Note which batches the API showed."""
        if not self.confirmed and any(batch_id in batch_ids for batch_id in self._known.bound):
            self.confirmed = True

    def is_guarded(self, fingerprint: str | None) -> bool:
        """Return whether an empty list proves something about attempts committed under this fingerprint."""
        return self.confirmed or (fingerprint is not None and fingerprint == self._fingerprint)

    async def confirm(self) -> bool:
        """Try to show that this key sees the journal's batches: a known batch must be retrievable.

        Raises:
            ApiError: the API could not be reached.

        """
        for batch_id, _ in sorted(self._known.live.items(), key=lambda item: -item[1])[:WITNESSES]:
            try:
                await self._client.retrieve(self._workspace_id, batch_id)
            except ApiError as failure:
                if failure.status != 404:
                    raise
                continue
            self.confirmed = True
            break
        return self.confirmed

    async def may_see(self, fingerprint: str | None) -> bool:
        """Return whether the key in use sees batches sent under this fingerprint; look for witnesses at most hourly.

        Raises:
            ApiError: the API could not be reached.

        """
        if self.is_guarded(fingerprint):
            return True
        now = anyio.current_time()
        if now < self._confirm_after:
            return False
        sees = await self.confirm()
        self._confirm_after = now + CONFIRM_KEY_EVERY
        return sees
