"""The inbox of an open job: order, identity, release, and what becomes of a call that is cancelled or fails."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import msgspec

from abatch.errors import InboxClosed, JournalError, RequestConflict
from abatch.journal.inbox import InboxRequest, InboxState, digest_of
from abatch.journal.log import Entry
from abatch.protocol.facts import CancelWished, Closed, Finished, OpenSource, Submitted
from abatch.testing.factlog.hooks import Hooks
from abatch.testing.factlog.steps import STRANGE, raised, submitted

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from abatch.journal.log import FactLog

__all__ = ["InboxContract"]


class InboxContract(Hooks):
    """The promises of an inbox."""

    async def test_requests_of_an_inbox_are_numbered_in_their_order_without_a_gap(self) -> None:
        async with self.opened(2) as (log, other):
            job = await begun(log)
            assert await log.put(job, [request("a"), request("b", 2)]) == 2
            assert await other.put(job, [request("c")]) == 1
            assert await log.put(job, []) == 0
            for one in (log, other):
                found = await one.waiting(job, after=0, most=1 << 20)
                assert [(each.number, each.custom_id, each.params) for each in found] == [
                    (1, b'"a"', b'{"n":1}'),
                    (2, b'"b"', b'{"n":2}'),
                    (3, b'"c"', b'{"n":1}'),
                ]
                assert [each.custom_id for each in await one.waiting(job, after=1, most=1)] == [b'"b"']
                assert list(await one.waiting(job, after=3, most=1)) == []
                assert await one.inbox(job) == InboxState(total=3, released=0, unreleased=21, closed=False)

    async def test_requests_of_an_inbox_survive_the_connection(self) -> None:
        async with self.opened() as (log,):
            job = await begun(log)
            strange = [request(text + "x", betas=("beta-1", "beta-2")) for text in STRANGE]
            await log.put(job, strange)
        async with self.opened() as (log,):
            found = await log.waiting(job, after=0, most=1 << 20)
            assert [(each.custom_id, each.betas) for each in found] == [(put.custom_id, put.betas) for put in strange]
            assert await log.put(job, strange) == 0
            assert await log.put(job, [*strange, request("more")]) == 1
            assert [each.number for each in await log.waiting(job, after=len(strange), most=1)] == [len(strange) + 1]

    async def test_a_request_that_an_inbox_holds_is_not_put_again(self) -> None:
        async with self.opened(2) as (log, other):
            job, second = await begun(log), await begun(log, "second")
            assert await log.put(job, [request("a"), request("a"), request("b")]) == 2
            for one in (log, other):
                assert await one.put(job, [request("b"), request("a")]) == 0
                assert await raised(RequestConflict, one.put(job, [request("c"), request("a", 2), request("d")]))
                assert await raised(RequestConflict, one.put(job, [request("c"), request("c", 2)]))
                assert not await one.was_put(job, b'"c"')
            assert await other.put(second, [request("a", 2)]) == 1  # another job's inbox
            assert [each.custom_id for each in await log.waiting(job, after=0, most=1 << 20)] == [b'"a"', b'"b"']
            assert await log.put(job, [request("c")]) == 1
            assert await other.was_put(job, b'"c"')

    async def test_requests_that_many_put_at_once_are_all_there_once(self) -> None:
        async with self.opened(2) as logs:
            job = await begun(logs[0])
            new: list[int] = []

            async def put(log: FactLog, number: int) -> None:
                new.append(await log.put(job, [request(f"r{number}"), request(f"s{number}")]))

            async with anyio.create_task_group() as putting:
                for number in range(200):
                    putting.start_soon(put, logs[number % 2], number // 2)  # each by both
            assert sum(new) == 200
            found = await logs[0].waiting(job, after=0, most=1 << 20)
            assert [each.number for each in found] == list(range(1, 201))
            assert len({each.custom_id for each in found}) == 200

    async def test_of_calls_at_once_only_those_with_a_conflict_fail(self) -> None:
        async with self.opened() as (log,):
            job = await begun(log)
            outcomes: dict[str, object] = {}

            async def put(name: str, *requests: InboxRequest) -> None:
                try:
                    outcomes[name] = await log.put(job, requests)
                except RequestConflict as conflict:
                    outcomes[name] = conflict.custom_id

            async with anyio.create_task_group() as putting:
                putting.start_soon(put, "first", request("a"), request("b"))
                await anyio.lowlevel.checkpoint()
                putting.start_soon(put, "conflict", request("c"), request("b", 2))
                putting.start_soon(put, "same", request("b"), request("d"))
            assert outcomes == {"first": 2, "conflict": "b", "same": 1}
            found = await log.waiting(job, after=0, most=1 << 20)
            assert [each.custom_id for each in found] == [b'"a"', b'"b"', b'"d"']

    async def test_released_requests_are_still_known_until_the_job_is_finished(self) -> None:
        async with self.opened(2) as (log, other):
            job = await begun(log)
            await log.put(job, [request("a"), request("b"), request("c")])
            await log.release(job, through=2)
            await log.release(job, through=1)
            assert [each.number for each in await other.waiting(job, after=0, most=1 << 20)] == [3]
            assert await other.inbox(job) == InboxState(total=3, released=2, unreleased=7, closed=False)
            assert await other.put(job, [request("a")]) == 0
            assert await raised(RequestConflict, other.put(job, [request("b", 2)]))
            await log.append(Entry(job, Finished(location="there")))
            assert await other.inbox(job) == InboxState(total=3, released=3, unreleased=0, closed=True)
            assert list(await other.waiting(job, after=0, most=1 << 20)) == []

    async def test_a_job_that_is_closed_or_cancelled_takes_no_request(self) -> None:
        async with self.opened(2) as (log, other):
            closed, cancelled = await begun(log, "closed"), await begun(log, "cancelled")
            from_file = (await log.add_job(submitted("k"))).job
            for job in (closed, cancelled):
                await log.put(job, [request("a")])
            await other.append(Entry(closed, Closed()))
            await other.append(Entry(cancelled, CancelWished()))
            for job in (closed, cancelled, from_file, from_file + 1):
                for one in (log, other):
                    assert await raised(InboxClosed, one.put(job, [request("a")]))
                    assert (await one.inbox(job)).closed
            for job in (closed, cancelled):
                assert [each.number for each in await log.waiting(job, after=0, most=1)] == [1]

    async def test_the_version_changes_when_others_put_and_only_then(self) -> None:
        async with self.opened(2) as (log, other):
            job = await begun(log)
            before = await log.version()
            await log.put(job, [request("a")])
            assert await log.version() == before
            await other.put(job, [request("b")])
            assert await log.version() != before

    async def test_a_put_that_is_cancelled_is_whole_or_nothing_and_can_be_repeated(self) -> None:
        async with self.opened(2) as (log, reader):
            job = await begun(log)
            both = [request("a"), request("b")]
            async with self.held(log) as arrived:
                putting = asyncio.ensure_future(log.put(job, both))
                later = asyncio.ensure_future(log.put(job, [request("c")]))
                await arrived()
                for each in (putting, later):
                    each.cancel()
                await asyncio.sleep(0)
            for each in (putting, later):
                with suppress(asyncio.CancelledError):
                    await each
            found = [each.custom_id for each in await log.waiting(job, after=0, most=1 << 20)]
            assert (b'"a"' in found) == (b'"b"' in found)
            await log.put(job, [*both, request("c")])
            found = [each.custom_id for each in await reader.waiting(job, after=0, most=1 << 20)]
            assert sorted(found) == [b'"a"', b'"b"', b'"c"']

    async def test_after_a_failed_sync_of_a_put_the_connection_takes_nothing_more(self) -> None:
        async with self.opened(2) as (log, reader):
            job = await begun(log)
            self.fail_next_sync(log)
            assert await raised(JournalError, log.put(job, [request("a"), request("b")]))
            later: list[Awaitable[object]] = [
                log.put(job, [request("a")]),
                log.waiting(job, after=0, most=1),
                log.inbox(job),
                log.was_put(job, b'"a"'),
                log.release(job, through=1),
                log.append(Entry(job, Closed())),
            ]
            for call in later:
                assert await raised(JournalError, call)
            await log.aclose()
            seen = [each.custom_id for each in await reader.waiting(job, after=0, most=1 << 20)]
            assert seen in ([], [b'"a"', b'"b"'])
            assert await reader.put(job, [request("b"), request("a")]) == 2 - len(seen)


async def begun(log: FactLog, key: str = "open") -> int:
    """Begin an open job and return its number."""
    return (await log.add_job(Submitted(key=key, to="memory:", source=OpenSource(linger=1.0)))).job


def request(custom_id: str, n: int = 1, betas: tuple[str, ...] = ()) -> InboxRequest:
    """Make a request to put."""
    params = b'{"n":%d}' % n
    return InboxRequest(msgspec.json.encode(custom_id), params, betas, digest_of(params, betas))
