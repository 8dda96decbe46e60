"""The account: an append-only record of what the sandbox accepted. Tests judge by it.

A request is identified only by its params (custom_ids on the wire are opaque), with the blake2b-128 digest of their raw
bytes. Requests with equal params cannot be distinguished, so a test gives every request different params.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from abatch.sandbox.answers import Requests

__all__ = ["Account", "Violation"]

KEPT_VIOLATIONS = 1_000


@dataclass(frozen=True, slots=True)
class Violation:
    """A request accepted while an earlier acceptance of it was pending or had succeeded."""

    batch_id: str
    custom_id: str
    """The custom_id on the wire."""
    times: int
    """How often the request has been accepted, including this time."""


@dataclass(slots=True)
class Account:
    """The record of what was accepted from any caller; it does not include foreign batches."""

    batches: int = 0
    requests: int = 0
    messages: int = 0
    """Synchronous calls of the Messages API."""
    created: list[str] = field(default_factory=list[str])
    canceled: list[str] = field(default_factory=list[str])
    deleted: list[str] = field(default_factory=list[str])
    aborted: int = 0
    """Creates whose connection ended before their body was complete."""
    most_bytes_aborted: int = 0
    """The longest body that such a create had sent."""
    violated: int = 0
    """How often "never accepted while an earlier acceptance is pending or has succeeded" was broken."""
    violations: list[Violation] = field(default_factory=list[Violation])
    """The first thousand of them."""
    _accepted: dict[bytes, int] = field(default_factory=dict[bytes, int])
    _failed: dict[bytes, int] = field(default_factory=dict[bytes, int])
    """How many acceptances of a request ended without success."""

    def times(self, params: bytes, /) -> int:
        """Return how often the request with these params was accepted."""
        return self._accepted.get(blake2b(params, digest_size=16).digest(), 0)

    def times_of(self, params_digest: bytes, /) -> int:
        """Return how often the request with this digest of its params was accepted."""
        return self._accepted.get(params_digest, 0)

    def accept(self, batch_id: str, requests: Requests) -> None:
        """Record a new batch and check each of its requests."""
        self.batches += 1
        self.requests += len(requests)
        self.created.append(batch_id)
        violating: list[tuple[int, int]] = []
        for row in range(len(requests)):
            request = requests.digest_of(row)
            times = self._accepted.get(request, 0)
            self._accepted[request] = times + 1
            if times and times > self._failed.get(request, 0):
                violating.append((row, times + 1))
        if violating:
            self.violated += len(violating)
            custom_ids = requests.custom_ids.decode().split("\n")
            for row, times in violating[: KEPT_VIOLATIONS - len(self.violations)]:
                self.violations.append(Violation(batch_id, custom_ids[row], times))

    def fail(self, requests: Iterable[bytes]) -> None:
        """Record that acceptances of these requests, given by digest, ended without success."""
        for request in requests:
            self._failed[request] = self._failed.get(request, 0) + 1

    def abort(self, received: int) -> None:
        """Record a create whose body never became complete."""
        self.aborted += 1
        self.most_bytes_aborted = max(self.most_bytes_aborted, received)
