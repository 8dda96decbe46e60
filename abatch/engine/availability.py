"""The availability of the API in one scope: whether its list works, and why every create would be refused.

The tail gate reads the list, so no body is uploaded before the list has worked. A refused create, and a list that is
refused several times, keep back every create of the scope until a job is submitted again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from abatch.errors import ApiError
from abatch.log import log
from abatch.protocol.reads import Reads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from abatch.protocol.reconcile import Refused

__all__ = ["Availability"]


class Availability:
    """The state of one scope's list and creates: whether the list works, and whether creates are refused.

    Args:
        workspace_id: the scope's workspace, for the log.
        first: seconds of the first pause after a failure.
        troubled: called when reads are definitely refused, so that tasks that wait for a job are woken.

    """

    def __init__(self, workspace_id: str | None, *, first: float, troubled: Callable[[], None]) -> None:
        self._workspace_id = workspace_id
        self._troubled = troubled
        self.polls = Reads(first=first)
        """The state of the list calls at every interval."""
        self.checks = Reads(first=first)
        """The state of the list calls before and within creates."""
        self._refusal: Refused | None = None
        """Why every create would be refused; reset to None when a job is submitted."""
        self._again = anyio.Event()
        """Set when a read may succeed although the last one failed."""

    @property
    def trouble(self) -> ApiError | None:
        """The error because of which the API cannot be read now; None if there is none."""
        return self.polls.trouble or self.checks.trouble

    @property
    def refused(self) -> Refused | None:
        """The refusal because of which nothing of this scope can be sent; None if there is none."""
        return self._refusal or self.polls.refusal or self.checks.refusal

    @property
    def usable(self) -> bool:
        """Whether a body may be uploaded: the list has worked since it last failed for a create."""
        return self.checks.usable

    def refuse(self, verdict: Refused) -> None:
        """Note until a job is submitted that a create was refused for a reason that holds for every create."""
        self._refusal = verdict

    async def until_usable(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Call `ask` until it works, or until `refused` holds the reason why it does not.

        The list is called once per process, and again after a failure.

        Args:
            ask: reads the list; raises ApiError if that fails.

        """
        while not (self.usable and self.polls.trouble is None) and self.refused is None:
            await self._pause(self.checks.wait(anyio.current_time()))
            try:
                await ask()
            except ApiError as failure:
                self.check_failed(failure)
            else:
                self.checks.worked()
                self._again.set()
                return

    def check_failed(self, failure: ApiError) -> None:
        """Note that the list failed before or within a create, so that no body is uploaded until it works."""
        self._failed(self.checks, failure)

    async def poll_failed(self, failure: ApiError) -> None:
        """Note that the list failed at an interval, and wait until it should be read again."""
        await self._pause(self._failed(self.polls, failure))

    def start_over(self) -> None:
        """Forget refusals when a job is submitted, because their cause may have been fixed."""
        self._refusal = None
        self.polls.start_over()
        self.checks.start_over()
        self._again.set()

    async def _pause(self, seconds: float) -> None:
        """Sleep this long, or until there is a reason to ask again."""
        if self._again.is_set():
            self._again = anyio.Event()
        with anyio.move_on_after(seconds):
            await self._again.wait()

    def _failed(self, reads: Reads, failure: ApiError) -> float:
        known = reads.refusal
        wait = reads.failed(failure, anyio.current_time())
        if reads.refusal is not None and known is None:
            refusal = reads.refusal
            log.error("list_refused", workspace=self._workspace_id, reason=refusal.reason, remedy=refusal.remedy)
            self._troubled()
        log.warning(
            "list_failed",
            workspace=self._workspace_id,
            status=failure.status,
            error=str(failure),
            next_in_seconds=round(wait, 1),
        )
        return wait
