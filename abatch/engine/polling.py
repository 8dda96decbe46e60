"""Time the reads of one scope's list: more often while an attempt is in doubt, less often while nothing happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import anyio

from abatch.protocol.pacing import Backoff

if TYPE_CHECKING:
    from random import Random

    from abatch.config import Config

__all__ = ["PollTimer"]

DOUBT_FIRST: Final = 15.0
DOUBT_MOST: Final = 300.0
"""Seconds between two reads while an attempt is in doubt: `DOUBT_FIRST` is the first wait, this is the longest."""
TOGETHER: Final = 0.5
"""Maximum seconds for which a requested read is delayed, so that other waiting tasks can share the same call."""


class PollTimer:
    """The waits between the reads of one scope's list.

    Args:
        config: the intervals.
        chance: spreads the calls of many scopes.

    """

    def __init__(self, config: Config, chance: Random) -> None:
        self._first = config.poll_interval.total_seconds()
        self._calm = Backoff(first=self._first, most=config.longest_poll_interval.total_seconds())
        self._doubtful = Backoff(first=min(self._first, DOUBT_FIRST), most=DOUBT_MOST)
        self._chance = chance
        self._wanted = anyio.Event()
        self._idle = False

    def want(self) -> None:
        """Ask for a read soon."""
        self._wanted.set()

    def want_if_idle(self) -> None:
        """Ask for a read soon if none is due; a read that is due needs no request."""
        if self._idle:
            self.want()

    async def until_wanted(self) -> None:
        """Wait until a read is requested; this is called while nothing else needs one."""
        self._idle = True
        await self._wanted.wait()
        self._idle = False

    def begin(self) -> None:
        """Note that a read begins, so that a request from now on leads to another read."""
        self._wanted = anyio.Event()

    async def rest(self, *, news: bool, in_doubt: bool) -> None:
        """Wait until the next read is due or requested.

        Args:
            news: whether the last read brought news, so that more may follow soon.
            in_doubt: whether a ruling by table B is awaited.

        """
        if news:
            self._calm.reset()
        if not in_doubt:
            self._doubtful.reset()
        wait = min(self._calm.next(), self._doubtful.next()) if in_doubt else self._calm.next()
        with anyio.move_on_after(wait * (1 + self._chance.random() / 10)):
            await self._wanted.wait()
            await anyio.sleep(min(self._first, TOGETHER))
