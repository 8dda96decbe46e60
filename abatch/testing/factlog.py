"""The test suite that every log of facts must pass: subclass `FactLogContract`, and define how to open, hold and fail.

    class TestMine(FactLogContract):
        @pytest.fixture(autouse=True)
        def place(self, tmp_path):
            self.path = tmp_path

        async def open(self, *, drive):
            return await MyLog.open(self.path, drive=drive)

        @asynccontextmanager
        async def held(self, log):
            ...

        def fail_next_sync(self, log):
            ...

The tests are plain `async def`, each with a separate loop (asyncio); run them with any plugin. For readable failures,
call `pytest.register_assert_rewrite("abatch.testing.factlog")` in your conftest. No test uses a clock.
"""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

import asyncio
import itertools
import threading
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, ClassVar

import anyio

from abatch.errors import (
    ConfigError,
    IllegalTransition,
    JobConflict,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    Overtaken,
)
from abatch.journal.log import Entry
from abatch.protocol.facts import (
    CancelWished,
    Committing,
    Cut,
    IterableSource,
    Planned,
    ResolveWished,
    Resumed,
    Stopped,
    Submitted,
    Withdrawn,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from abatch.journal.log import FactLog, Recorded

__all__ = ["FactLogContract"]

STRANGE: tuple[str, ...] = ("", "\x00", "'quotes', \"double\", \\ and ;--", "ü\u2028\u2029\x85\r\n", "🦜" * 1000)


class FactLogContract:
    """The promises of `FactLog`, each as a test. A subclass defines `open`, `held` and `fail_next_sync`."""

    facts: ClassVar[int] = 100_000
    """The number of facts that `test_many_facts_are_replayed_in_order_and_none_is_missing` appends."""

    # ---- defined by a subclass ----------------------------------------------------------------------------

    async def open(self, *, drive: bool) -> FactLog:
        """Open the log under test as another process would; it is the same for all calls within a test.

        The first call of a test drives, and makes the log.
        """
        raise NotImplementedError

    def held(self, log: FactLog, /) -> AbstractAsyncContextManager[Callable[[], Awaitable[object]]]:
        """Hold the next append of this connection in its middle: its facts are written, but not durable yet.

        The block gets a function that waits until an append has arrived there. When the block ends, the append
        continues; it then fails if `fail_next_sync` was called before.
        """
        raise NotImplementedError

    def fail_next_sync(self, log: FactLog, /) -> None:
        """Let the next append of this connection fail as on a disk whose fsync fails.

        The subclass decides whether its facts exist afterwards, because a disk may have stored them or not.
        """
        raise NotImplementedError

    # ---- the steps of the tests ---------------------------------------------------------------------------

    @asynccontextmanager
    async def opened(self, connections: int = 1) -> AsyncGenerator[list[FactLog]]:
        """Open this many connections for the duration of a block; the first drives."""
        async with AsyncExitStack() as closing:
            logs: list[FactLog] = []
            for number in range(connections):
                log = await self.open(drive=number == 0)
                closing.push_async_callback(log.aclose)
                logs.append(log)
            yield logs

    # ---- order --------------------------------------------------------------------------------------------

    async def test_facts_are_replayed_as_they_were_recorded_and_in_their_order(self) -> None:
        async with self.opened() as (log,):
            first = await log.add_job(submitted("k"))
            appended = [
                first,
                *await log.append(Entry(first.job, planned(), 1, 0), Entry(first.job, Cut(rows=10), n=0)),
            ]
            appended += await log.append(Entry(first.job, committing(), 1, 1))
            assert await replayed(log) == appended
            assert [each.fact for each in appended] == [submitted("k"), planned(), Cut(rows=10), committing()]
            assert [(each.job, each.shard) for each in appended] == [(first.job, shard) for shard in (None, 1, None, 1)]
            assert in_order(appended)

    async def test_facts_survive_the_connection(self) -> None:
        async with self.opened() as (log,):
            appended = [await log.add_job(submitted("k"))]
            appended += await log.append(Entry(appended[0].job, planned(), 1, 0))
        async with self.opened() as (log,):
            assert await replayed(log) == appended
            appended += await log.append(Entry(appended[0].job, committing(), 1, 1))
            assert await replayed(log) == appended
            assert in_order(appended)

    async def test_a_text_in_a_fact_is_kept_whatever_is_in_it(self) -> None:
        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
            appended = [Stopped(reason=text, remedy=text[::-1]) for text in STRANGE]
            await log.append(*(Entry(job, fact) for fact in appended))
            assert [each.fact for each in await replayed(log, since=1)] == appended

    async def test_a_replay_begins_behind_a_fact_and_ends_with_one(self) -> None:
        async with self.opened() as (log,):
            appended = [await log.add_job(submitted("k"))]
            for n in range(4):
                appended += await log.append(Entry(appended[0].job, planned(part=n), n + 1, 0))
            assert await replayed(log, since=appended[1].seq) == appended[2:]
            assert await replayed(log, since=appended[0].seq, until=appended[2].seq) == appended[1:3]
            assert await log.replay(ignore, since=appended[1].seq) == appended[-1].seq
            assert await log.replay(ignore, since=appended[1].seq, until=appended[2].seq) == appended[2].seq
            assert await log.replay(ignore, since=appended[-1].seq) == appended[-1].seq

    async def test_a_replay_can_keep_to_one_job(self) -> None:
        async with self.opened() as (log,):
            first, second = [await log.add_job(submitted(key)) for key in "ab"]
            mine = await log.append(Entry(first.job, planned(), 1, 0), Entry(first.job, CancelWished()))
            await log.append(Entry(second.job, planned(), 2, 0))
            assert await replayed(log, job=first.job) == [first, *mine]

    async def test_a_fact_that_does_not_follow_is_corruption_and_the_log_goes_on(self) -> None:
        def refuse(recorded: Recorded) -> None:
            raise IllegalTransition(None, recorded.fact)

        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
            assert await raised(JournalCorrupt, log.replay(refuse))
            await log.append(Entry(job, planned(), 1, 0))
            assert len(await replayed(log)) == 2

    async def test_many_facts_are_replayed_in_order_and_none_is_missing(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            for first in range(0, self.facts, 1000):
                wanted = range(first, min(first + 1000, self.facts))
                await log.append(*(Entry(job, planned(part=n), n + 1, 0) for n in wanted))
            for one in (log, reader):
                seen = 0
                before = 0

                def visit(recorded: Recorded) -> None:
                    nonlocal seen, before
                    assert recorded.seq > before
                    assert recorded.fact == (planned(part=seen - 1) if seen else submitted("k"))
                    assert recorded.shard == (seen or None)
                    before = recorded.seq
                    seen += 1

                assert await one.replay(visit) == before
                assert seen == self.facts + 1
            assert await reader.job_of(self.facts) == job

    # ---- jobs ---------------------------------------------------------------------------------------------

    async def test_a_key_is_taken_once(self) -> None:
        async with self.opened(2) as (log, other):
            first = await log.add_job(submitted("k"))
            for one in (log, other):
                assert await raised(JobConflict, one.add_job(submitted("k")))
            second = await other.add_job(submitted("l"))
            assert await replayed(log) == [first, second]
            assert first.job != second.job

    async def test_a_shard_is_known_by_its_first_fact(self) -> None:
        async with self.opened(2) as (log, other):
            jobs = [(await log.add_job(submitted(key))).job for key in "ab"]
            await log.append(Entry(jobs[0], planned(), 7, 0), Entry(jobs[1], planned(), 8, 0))
            await log.append(Entry(jobs[0], committing(), 7, 1))
            assert [await other.job_of(shard) for shard in (7, 8, 9)] == [*jobs, None]

    # ---- the fence ----------------------------------------------------------------------------------------

    async def test_a_position_of_a_shard_is_taken_once_by_whichever_connection(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 1, 0), Entry(job, committing(), 1, 1))
            before = await replayed(log)
            for one in (log, other):
                assert await raised(Overtaken, one.append(Entry(job, Withdrawn(why="w"), 1, 1)))
            assert await replayed(other) == before

    async def test_a_position_among_the_cuts_of_a_job_is_taken_once(self) -> None:
        async with self.opened(2) as (log, other):
            first, second = [(await log.add_job(submitted(key))).job for key in "ab"]
            await log.append(Entry(first, Cut(rows=10), n=0))
            assert await raised(Overtaken, other.append(Entry(first, Cut(rows=20), n=0)))
            await other.append(Entry(second, Cut(rows=5), n=0), Entry(first, Cut(rows=20), n=1))
            assert [each.fact for each in await replayed(log, job=first)][1:] == [Cut(rows=10), Cut(rows=20)]

    async def test_a_fact_without_a_position_is_never_refused(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            for one in (log, other, log):
                await one.append(Entry(job, CancelWished()))
            assert len(await replayed(log)) == 4

    async def test_facts_are_appended_all_or_none(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 2, 0))
            before = await replayed(log)
            entries = Entry(job, planned(), 1, 0), Entry(job, Cut(rows=20), n=0), Entry(job, planned(), 2, 0)
            assert await raised(Overtaken, other.append(*entries))
            assert await raised(Overtaken, log.append(Entry(job, planned(), 3, 0), Entry(job, planned(), 3, 0)))
            assert await replayed(log) == before
            await other.append(*entries[:2])  # none of their positions was taken
            assert len(await replayed(log)) == len(before) + 2

    async def test_after_being_overtaken_both_go_on(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 1, 0))
            assert await raised(Overtaken, other.append(Entry(job, planned(), 1, 0)))
            await other.append(Entry(job, committing(), 1, 1))
            await log.append(Entry(job, Withdrawn(why="w"), 1, 2))
            assert len(await replayed(log)) == 4

    # ---- two writers --------------------------------------------------------------------------------------

    async def test_of_two_that_race_for_a_position_one_wins(self) -> None:
        async with self.opened(2) as logs:
            job = (await logs[0].add_job(submitted("k"))).job
            for n in range(50):
                won: list[Recorded] = []

                async def race(log: FactLog, part: int, n: int = n, won: list[Recorded] = won) -> None:
                    with suppress(Overtaken):
                        won += await log.append(Entry(job, planned(part=part), 1, n), Entry(job, CancelWished()))

                async with anyio.create_task_group() as racing:
                    for part, log in enumerate(logs):
                        racing.start_soon(race, log, part)
                assert len(won) == 2
                assert (await replayed(logs[n % 2]))[-2:] == won

    async def test_what_two_append_at_once_is_all_there_in_the_order_of_each(self) -> None:
        async with self.opened(2) as logs:
            job = (await logs[0].add_job(submitted("k"))).job
            appended: dict[int, list[Recorded]] = {}

            async def write(log: FactLog, shard: int) -> None:
                appended[shard] = [
                    each for n in range(50) for each in await log.append(Entry(job, committing(n), shard, n))
                ]

            async with anyio.create_task_group() as writing:
                for shard, log in enumerate(logs, start=1):
                    writing.start_soon(write, log, shard)
            for log in logs:
                seen = await replayed(log)
                assert in_order(seen)
                assert {shard: [each for each in seen if each.shard == shard] for shard in appended} == appended

    async def test_a_connection_can_leave_out_what_it_appended_itself(self) -> None:
        async with self.opened(2) as (log, other):
            first = await log.add_job(submitted("k"))
            theirs = await other.append(Entry(first.job, CancelWished()))
            mine = await log.append(Entry(first.job, Resumed()))
            assert await replayed(log, others_only=True) == theirs
            assert await replayed(other, others_only=True) == [first, *mine]

    # ---- a reader next to the driver -----------------------------------------------------------------------

    async def test_the_version_changes_when_others_append_and_only_then(self) -> None:
        async with self.opened(2) as (log, other):
            job = (await log.add_job(submitted("k"))).job
            before = await log.version()
            await log.append(Entry(job, Resumed()))
            assert await log.version() == before
            await other.append(Entry(job, CancelWished()))
            assert await log.version() != before

    async def test_a_reader_sees_what_the_driver_appends_and_the_driver_its_wishes(self) -> None:
        async with self.opened(2) as (log, reader):
            first = await log.add_job(submitted("k"))
            assert await replayed(reader) == [first]
            version = await reader.version()
            (second,) = await log.append(Entry(first.job, planned(), 1, 0))
            assert await reader.version() != version
            assert await replayed(reader, since=first.seq) == [second]
            wished = await reader.append(Entry(first.job, ResolveWished(shard=1, attempt=1)))
            assert await replayed(log, since=second.seq, others_only=True) == wished

    async def test_a_reader_that_is_slow_does_not_hold_the_driver_up(self) -> None:
        began, go_on = threading.Event(), threading.Event()
        seen: list[Recorded] = []

        def visit(recorded: Recorded) -> None:
            seen.append(recorded)
            began.set()
            go_on.wait()

        async with self.opened(2) as (log, reader):
            appended = [await log.add_job(submitted("k"))]
            reading = asyncio.ensure_future(reader.replay(visit))
            try:
                await anyio.to_thread.run_sync(began.wait)
                appended += await log.append(Entry(appended[0].job, planned(), 1, 0))
            finally:
                go_on.set()
                last = await reading
            assert seen == appended[: len(seen)]
            assert seen[-1].seq == last
            assert await replayed(reader, since=last) == appended[len(seen) :]

    async def test_one_connection_drives_at_a_time_and_readers_do_not(self) -> None:
        async with self.opened(2) as (log, reader):
            assert (log.drives, reader.drives) == (True, False)
            assert await raised(JournalLocked, self.open(drive=True))
            await log.aclose()
            another = await self.open(drive=True)
            assert another.drives
            await another.aclose()

    async def test_a_closed_connection_may_be_closed_again(self) -> None:
        log = await self.open(drive=True)
        await log.aclose()
        await log.aclose()

    # ---- the journal itself -------------------------------------------------------------------------------

    async def test_all_connections_have_one_lineage(self) -> None:
        async with self.opened(2) as (log, reader):
            lineage = log.lineage
            assert reader.lineage.name == lineage.name
            assert reader.lineage.prefix(7, 1) == lineage.prefix(7, 1)
        async with self.opened() as (again,):
            assert again.lineage.prefix(7, 1) == lineage.prefix(7, 1)

    async def test_the_journal_belongs_to_one_api_once_something_may_have_been_sent(self) -> None:
        async with self.opened(2) as (log, reader):
            assert await log.base_url() is None
            for url in ("https://first", "https://second"):
                await log.bind(url)
                assert await reader.base_url() == url
            job = (await log.add_job(submitted("k"))).job
            await log.append(Entry(job, planned(), 1, 0))
            await log.bind("https://third")
            await log.append(Entry(job, committing(), 1, 1))
            assert await raised(ConfigError, log.bind("https://fourth"))
            await log.bind("https://third")
        async with self.opened() as (again,):
            assert await raised(ConfigError, again.bind("https://fourth"))
            assert await again.base_url() == "https://third"

    # ---- cancellation, failures ---------------------------------------------------------------------------

    async def test_a_cancellation_in_the_middle_of_an_append_waits_until_it_is_done(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            entries = Entry(job, planned(), 1, 0), Entry(job, planned(part=1), 2, 0)
            async with self.held(log) as arrived:
                appending = asyncio.ensure_future(log.append(*entries))
                await arrived()
                for _ in range(3):  # again while it waits
                    appending.cancel()
                    await asyncio.sleep(0)
                assert not appending.done()
            with suppress(asyncio.CancelledError):
                await appending
            assert appending.cancelled()
            assert [each.fact for each in await replayed(reader)][1:] == [planned(), planned(part=1)]
            await log.append(Entry(job, committing(), 1, 1))
            assert len(await replayed(reader)) == 4

    async def test_a_cancellation_does_not_hide_a_failed_sync(self) -> None:
        async with self.opened() as (log,):
            job = (await log.add_job(submitted("k"))).job
            self.fail_next_sync(log)
            async with self.held(log) as arrived:
                appending = asyncio.ensure_future(log.append(Entry(job, planned(), 1, 0)))
                await arrived()
                appending.cancel()
                await asyncio.sleep(0)
            with suppress(asyncio.CancelledError, JournalError):
                await appending
            assert await raised(JournalError, log.append(Entry(job, CancelWished())))

    async def test_after_a_failed_sync_the_connection_takes_nothing_more(self) -> None:
        async with self.opened(2) as (log, reader):
            job = (await log.add_job(submitted("k"))).job
            self.fail_next_sync(log)
            entries = Entry(job, planned(), 1, 0), Entry(job, Cut(rows=10), n=0)
            assert await raised(JournalError, log.append(*entries))
            later: list[Awaitable[object]] = [
                log.append(Entry(job, CancelWished())),
                log.add_job(submitted("l")),
                log.bind("https://first"),
                log.base_url(),
                log.replay(ignore),
                log.job_of(1),
                log.version(),
            ]
            for call in later:
                assert await raised(JournalError, call)
            await log.aclose()
            seen = [each.fact for each in await replayed(reader)][1:]
            assert seen in ([], [planned(), Cut(rows=10)])
        async with self.opened() as (again,):
            assert [each.fact for each in await replayed(again)][1:] == seen
            await again.append(Entry(job, committing(), 1, 1) if seen else entries[0])
            assert len(await replayed(again)) == len(seen) + 2


def submitted(key: str) -> Submitted:
    """Make the first fact of a job."""
    return Submitted(key=key, to="memory:", source=IterableSource())


def planned(part: int = 0) -> Planned:
    """Make the first fact of a shard."""
    return Planned(part=part, rows=10, body_bytes=1000, spool="s", params_digest="p", ids_digest="i")


def committing(attempt: int = 1) -> Committing:
    """Make the second fact of a shard, after which something may be sent."""
    return Committing(attempt=attempt, date=1.0, fingerprint=None)


def ignore(_: Recorded) -> None:
    """Ignore a fact."""


def in_order(appended: list[Recorded]) -> bool:
    """Return whether each fact has a higher number than the one before it."""
    return all(before.seq < after.seq for before, after in itertools.pairwise(appended))


async def replayed(
    log: FactLog, *, since: int = 0, until: int | None = None, others_only: bool = False, job: int | None = None
) -> list[Recorded]:
    """Return the facts that a replay visits."""
    seen: list[Recorded] = []
    await log.replay(seen.append, since=since, until=until, others_only=others_only, job=job)
    return seen


async def raised(kind: type[Exception], call: Awaitable[object]) -> bool:
    """Return whether the call raises an error of this kind."""
    try:
        await call
    except kind:
        return True
    return False
