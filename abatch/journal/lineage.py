"""The secret of a journal: it tags the journal's batches, proves the tags in results, and fingerprints API keys."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from abatch.protocol import wire

if TYPE_CHECKING:
    from abatch.protocol.wire import WireId

__all__ = ["Lineage"]


class Lineage:
    """The identity of a journal; the only object that holds its secret."""

    __slots__ = ("_secret", "name")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.name = hashlib.blake2b(secret, digest_size=8, person=b"abatch-lineage").hexdigest()
        """16 hex digits that name the journal to backends."""

    def prefix(self, shard: int, attempt: int) -> bytes:
        """Return the part of the wire id that all rows of an attempt share, up to the row number; it holds the tag."""
        return wire.prefix(self._secret, shard, attempt)

    def made(self, named: WireId) -> bool:
        """Return whether this journal made an id, which its tag proves."""
        return bool(named.shard and named.attempt) and (wire.tag(self._secret, named.shard, named.attempt) == named.tag)

    def fingerprint(self, api_key: str | None) -> str | None:
        """Return 16 hex digits that show whether a later key is the same, and nothing else about it."""
        if api_key is None:
            return None
        return hmac.digest(self._secret, api_key.encode(), hashlib.sha256)[:8].hex()
