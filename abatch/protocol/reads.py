"""Decide which failed reads of a scope are repeated, and which stop its jobs. Pure.

A read has no effect on the server, so it is repeated as long as its failure may pass: a lost connection, a time-out,
408, 409, 425, 429, 499, any 5xx. Every other failure may be permanent: a refused key, a limit, a wrong base URL, a
gateway that does not pass the list on. One such answer proves nothing, because gateways give such answers now and then.
Several such answers in a row, each after a pause, do.

The pauses grow while failures repeat. If another read that was under way fails during a pause, it is not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from abatch.protocol.pacing import Backoff
from abatch.protocol.reconcile import Refused
from abatch.protocol.refusals import remedy_of

if TYPE_CHECKING:
    from abatch.errors import ApiError

__all__ = ["LOOKS", "Reads", "refusal_of"]

LOOKS: Final = 3
"""Reads in a row, with pauses between them, that must be refused before the refusal counts."""
LOOKS_ONCE_USABLE: Final = 6
"""The same for answers that are not the API's, once a read has worked in this process, because a gateway may be
restarting."""
_PASSING: Final = frozenset({408, 409, 425, 429, 499})
_BASE_URL: Final = (
    "Set the base URL (ANTHROPIC_BASE_URL) to the API's own address, or to a gateway that passes on "
    "GET /v1/messages/batches with its Date header: without that list abatch cannot settle an unanswered create. "
    "Then run the same command again."
)
_REMEDIES: Final = {
    401: "Check ANTHROPIC_API_KEY, or the key of your own client, then run the same command again.",
    402: "Settle the account's billing, then run the same command again.",
    403: "Check what the API key and workspace are allowed to do, then run the same command again.",
}


def refusal_of(failure: ApiError) -> Refused | None:
    """Return why this read may fail permanently, with the remedy; None if the failure may pass by itself."""
    status = failure.status
    if status is None or status >= 500:
        return None
    limit = None if failure.kind is None else remedy_of(status, failure.error_code, failure.message)
    if limit is None and status in _PASSING:
        return None
    return Refused(
        rule="refused read",
        reason=str(failure),
        remedy=limit or _REMEDIES.get(status, _BASE_URL),
        whole_scope=True,
    )


class Reads:
    """One kind of read in a scope, and its failures since it last worked.

    Args:
        first: seconds of the first pause; at most five.

    """

    def __init__(self, *, first: float) -> None:
        self.trouble: ApiError | None = None
        """Why the last read failed."""
        self.refusal: Refused | None = None
        """Why reads are refused, once several reads confirmed it; None again when a read works."""
        self.usable = False
        """Whether a read has worked, and none has failed since."""
        self._has_worked = False
        self._looks = 0
        self._next_at = 0.0
        self._pause = Backoff(first=min(first, 5.0), most=300.0)

    def worked(self) -> None:
        """Note that a read succeeded."""
        self.start_over()
        self.trouble = None
        self.usable = True
        self._has_worked = True

    def failed(self, failure: ApiError, now: float) -> float:
        """Note that a read failed, and return the seconds to wait before the next one."""
        self.trouble = failure
        self.usable = False
        if now < self._next_at:
            return self._next_at - now
        wait = max(failure.retry_after or 0.0, self._pause.next())
        self._next_at = now + wait
        refusal = refusal_of(failure)
        if refusal is None:
            self._looks = 0
            return wait
        self._looks += 1
        by_the_api = failure.kind is not None and failure.status != 404  # a 404 means another API: ours has this path
        needed = LOOKS_ONCE_USABLE if self._has_worked and not by_the_api else LOOKS
        if self._looks >= needed:
            self.refusal = refusal
        return wait

    def wait(self, now: float) -> float:
        """Return the seconds until the next read may be made; 0 if none has failed."""
        return max(0.0, self._next_at - now)

    def start_over(self) -> None:
        """Forget refusals, because their cause may be fixed: read again at once, and count failures from zero."""
        self.refusal = None
        self._looks = 0
        self._next_at = 0.0
        self._pause.reset()
