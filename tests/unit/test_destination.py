"""A job's destination: connected when it is needed, closed once its job is finished and nobody reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from abatch.backend import JobRef, connect
from abatch.engine.destination import Destination
from abatch.errors import BackendError
from abatch.journal.log import Entry
from abatch.protocol.facts import Finished
from abatch.testing import memory
from tests.unit.make import submitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from abatch.journal.ledger import Ledger
    from abatch.journal.records import JobRecord

pytestmark = pytest.mark.anyio

URL = "memory:here"


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    memory.clear()
    yield
    memory.clear()


@pytest.fixture
async def job(ledger: Ledger) -> JobRecord:
    return await ledger.start_job(submitted(to=URL))


async def finish(ledger: Ledger, job: JobRecord, destination: Destination) -> None:
    backend = await destination.backend()
    assert backend is not None
    location = await backend.finish(destination.ref(), [])
    await ledger.record(Entry(job.job, Finished(location=location), n=job.cuts))


async def test_it_connects_once_and_keeps_the_connection_of_an_unfinished_job(ledger, job) -> None:
    destination = Destination(ledger, job, URL)
    assert destination.connected is None
    async with destination.reading() as backend:
        assert destination.connected is backend
    assert await destination.backend() is backend


async def test_a_backend_of_the_caller_is_asked_for_until_it_is_given(ledger, job) -> None:
    destination = Destination(ledger, job, None)
    assert destination.is_unknown
    with pytest.raises(BackendError, match="object of the application"):
        async with destination.reading():
            pass
    given = await connect(URL, JobRef(key=job.key, lineage=ledger.lineage.name))
    destination.use(given)
    async with destination.reading() as backend:
        assert backend is given
    assert not destination.is_unknown


async def test_a_finished_job_is_closed_once_its_last_reader_has_left(ledger, job) -> None:
    destination = Destination(ledger, job, URL)
    await finish(ledger, job, destination)
    async with destination.reading() as first:
        async with destination.reading() as second:
            assert second is first
        assert destination.connected is first
    assert destination.connected is None


async def test_it_stays_open_while_a_run_may_write_to_it(ledger, job) -> None:
    destination = Destination(ledger, job, URL)
    async with destination.in_use():
        await finish(ledger, job, destination)
        async with destination.reading():
            pass
        assert destination.connected is not None
    assert destination.connected is None


async def test_what_is_read_is_not_rewritten(ledger, job) -> None:
    destination = Destination(ledger, job, URL)
    await finish(ledger, job, destination)
    async with destination.reading():
        with pytest.raises(BackendError, match="being read"):
            async with destination.rewriting():
                pass
    async with destination.rewriting() as backend:
        assert backend is destination.connected


async def test_another_place_is_used_from_the_move_on(ledger, job) -> None:
    destination = Destination(ledger, job, URL)
    before = await destination.backend()
    await destination.move_to("memory:there")
    assert destination.connected is None
    assert await destination.backend() is not before
    assert destination.url == "memory:there"


async def test_a_place_that_fails_is_connected_by_the_next_who_asks(ledger, job) -> None:
    destination = Destination(ledger, job, URL)
    memory.outage("here", steps=1)
    with pytest.raises(BackendError):
        await destination.backend()
    assert destination.connected is None
    assert await destination.backend() is destination.connected
