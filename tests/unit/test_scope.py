"""What one scope remembers of the lists that it reads, and for which attempts; its lists come from a real client."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import count, cycle, repeat
from typing import TYPE_CHECKING, Any

import anthropic
import anyio
import httpx2
import pytest

from abatch import Config
from abatch.engine.client import Client
from abatch.engine.scope import Scope
from abatch.errors import ApiError
from abatch.protocol.clocks import moment
from abatch.protocol.commits import CommitTimes
from abatch.protocol.facts import Candidate, CandidatesChanged, Ended
from abatch.protocol.reads import refusal_of
from abatch.protocol.reconcile import Known
from tests.unit.make import GRACE, MINUTE, NOON, doubt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from abatch.protocol.reconcile import Doubt

pytestmark = pytest.mark.anyio

DATE = {"date": format_datetime(datetime.fromtimestamp(NOON + 2 * GRACE, UTC), usegmt=True)}


def shown(*batch_ids: str, total: int = 100) -> list[dict[str, Any]]:
    """Batches of so many requests, made a minute after noon, as the API lists them."""
    created_at = datetime.fromtimestamp(NOON + MINUTE, UTC).isoformat()
    counts = {"processing": total}
    return [
        {"id": each, "processing_status": "in_progress", "request_counts": counts, "created_at": created_at}
        for each in batch_ids
    ]


def page(*batch_ids: str, has_more: bool = False, **more: Any) -> dict[str, Any]:
    return {"data": shown(*batch_ids), "has_more": has_more, **more}


class Notes(list[CandidatesChanged]):
    """What was to be made durable of one attempt."""

    def __init__(self, and_then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._and_then = and_then

    async def take(self, change: CandidatesChanged) -> None:
        self.append(change)
        self._and_then()


@asynccontextmanager
async def scope_of(pages: Iterable[dict[str, Any]], **by_id: dict[str, Any]) -> AsyncIterator[Scope]:
    """A scope whose list gives these pages, one a call; by its id it shows these batches, and 404 for every other."""
    left = iter(pages)

    def answer(request: httpx2.Request) -> httpx2.Response:
        if (batch := by_id.get(request.url.path.rpartition("/")[2])) is not None:
            return httpx2.Response(200, headers=DATE, json=batch)
        if not request.url.path.endswith("/batches"):
            return httpx2.Response(404, headers=DATE, json={"type": "error", "error": {"type": "not_found_error"}})
        return httpx2.Response(200, headers=DATE, text=json.dumps(next(left)))

    async def no_duplicate(*_: Any) -> bool:
        return False

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with anthropic.AsyncAnthropic(api_key="key", http_client=http, max_retries=0) as sdk:
        yield Scope(
            Client(sdk, own=False),
            None,
            Config(),
            grace=GRACE,
            fingerprint="the key in use",
            known=Known(),
            commits=CommitTimes(),
            prove=lambda _: None,
            duplicate=no_duplicate,
        )


@asynccontextmanager
async def in_doubt(scope: Scope, *doubts: tuple[Doubt, Notes]) -> AsyncIterator[None]:
    """Attempts that somebody waits for; their grace began at noon."""

    async def wait(mine: Doubt, notes: Notes) -> None:
        await scope.doubts.settled(mine, since=moment(NOON), note=notes.take)

    async with anyio.create_task_group() as group:
        for mine, notes in doubts:
            group.start_soon(wait, mine, notes)
        await anyio.wait_all_tasks_blocked()
        yield
        group.cancel_scope.cancel()


def seen(*batch_ids: str) -> CandidatesChanged:
    return CandidatesChanged(seen=tuple(Candidate(batch_id=each, created_at=NOON + MINUTE) for each in batch_ids))


async def test_what_a_list_shows_while_an_answer_is_awaited_is_noted_once_and_no_more_after_the_answer():
    async with scope_of([page("one"), page("one", "two"), page("three")]) as scope:
        notes = Notes()
        scope.doubts.awaits_answer(doubt(), notes.take)
        await scope.page()
        assert scope.doubts.candidates() == {"one"}
        await scope.page()
        assert notes == [seen("one"), seen("two")]
        scope.doubts.answered(1)
        await scope.page()
        assert (len(notes), scope.doubts.candidates()) == (2, set())


async def test_an_attempt_whose_answer_was_lost_is_noted_for_as_a_doubt_and_not_twice():
    async with scope_of([page("one"), page("one", "two")]) as scope:
        in_flight, notes = Notes(), Notes()
        scope.doubts.awaits_answer(doubt(), in_flight.take)
        await scope.page()
        candidates = in_flight[0].seen
        async with in_doubt(scope, (doubt(candidates=candidates), notes)):
            await scope.page()
        assert (in_flight, notes) == ([seen("one")], [seen("two")])


async def test_an_attempt_that_is_interrupted_during_a_look_is_noted_for_while_nothing_settled_it():
    """The word of an operator may be refused: then the candidate must be on record."""
    async with scope_of([page("one")]) as scope:
        second = Notes()
        first = Notes(and_then=lambda: scope.interrupt(2))
        async with in_doubt(scope, (doubt(1), first), (doubt(2), second)):
            await scope.page()
        assert (first, second) == ([seen("one")], [seen("one")])


@pytest.mark.parametrize("guarded", [True, False])
async def test_a_key_of_another_workspace_closes_the_candidates_for_itself_alone(guarded):
    """The grace is over, and the list is complete as far as this key sees."""
    async with scope_of([page()]) as scope:
        notes = Notes()
        async with in_doubt(scope, (doubt(guarded=guarded), notes)):
            pending = scope.doubts.pending[1]
            pending.doubt = doubt(guarded=guarded, waited=2 * GRACE)
            await scope._look()
            assert pending.doubt.committed.closed_at is not None
        assert [note.closed_at is not None for note in notes] == [True] * guarded


UNUSABLE: dict[str, Callable[[], Iterable[dict[str, Any]]]] = {
    "no last id and no batch": lambda: [page(has_more=True, last_id=None)],
    "no last id at all": lambda: [page(has_more=True)],
    "a last id and no batch": lambda: (page(has_more=True, last_id=f"msgbatch_{number}") for number in count()),
    "the same page again": lambda: repeat(page("one", has_more=True, last_id="one")),
    "pages in a circle": lambda: cycle(page(each, has_more=True, last_id=each) for each in ("one", "two")),
}


@pytest.mark.parametrize("pages", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_list_that_says_that_more_follows_and_names_no_page_is_never_complete(pages):
    async with scope_of(pages()) as scope:
        notes = Notes()
        async with in_doubt(scope, (doubt(empty_at=GRACE + 1), notes)):
            pending = scope.doubts.pending[1]
            pending.doubt = doubt(waited=10 * GRACE, empty_at=GRACE + 1)
            with anyio.fail_after(30), pytest.raises(ApiError, match="names no next page") as caught:
                await scope._look()
            assert (pending.ruling, pending.doubt.committed.closed_at) == (None, None)
    assert refusal_of(caught.value) is not None


def odd_page(*entries: dict[str, Any], **odd: Any) -> dict[str, Any]:
    """A page whose entries have these fields instead of their own."""
    return {"data": [{**entry, **odd} for entry in entries], "has_more": False}


def unsized(batch_id: str) -> Candidate:
    return Candidate(batch_id=batch_id, created_at=NOON + MINUTE, sized=False)


async def test_an_odd_entry_is_a_candidate_of_each_doubt_until_it_is_read_by_its_id():
    page_of_one = odd_page(*shown("one"), request_counts=None)
    (whole,) = shown("one", total=7)
    async with scope_of(repeat(page_of_one), one=whole) as scope:
        small, large = Notes(), Notes()
        async with in_doubt(scope, (doubt(1, rows=7), small), (doubt(2, rows=9), large)):
            await scope._look()
            assert small == [CandidatesChanged(seen=(unsized("one"),))]
            assert large == [CandidatesChanged(seen=(unsized("one"),)), CandidatesChanged(foreign=("one",))]
            assert "batch one may be it, and still runs" in scope.doubts.waiting()[1]
            assert "shows batch one in a form that cannot be read" in scope.odd
            await scope._look()
            assert (len(small), len(large)) == (1, 2)


async def test_an_odd_entry_that_nobody_can_read_keeps_a_doubt_open_and_the_reason_says_what_is_odd():
    pages = repeat(odd_page(*shown("one"), request_counts=None))
    async with scope_of(pages) as scope, in_doubt(scope, (doubt(empty_at=GRACE + 1), Notes())):
        pending = scope.doubts.pending[1]
        pending.doubt = doubt(waited=10 * GRACE, empty_at=GRACE + 1)
        await scope._look()
        assert (pending.ruling, pending.doubt.empty_at) == (None, None)
        assert "the batch has no request_counts" in scope.doubts.waiting()[1]


async def test_an_entry_without_an_id_proves_no_absence_until_lists_can_be_read_again():
    pages = [odd_page(*shown("one"), id=None), page(), page()]
    async with scope_of(pages) as scope, in_doubt(scope, (doubt(), Notes())):
        pending = scope.doubts.pending[1]
        pending.doubt = doubt(waited=10 * GRACE)
        await scope._look()
        assert "without a usable id" in scope.odd
        assert (pending.doubt.empty_at, pending.doubt.committed.closed_at) == (None, None)
        await scope._look()
        assert scope.odd == ""
        assert pending.doubt.empty_at is not None


async def test_a_batch_of_ours_is_followed_by_its_id_where_lists_show_it_as_an_odd_entry():
    (whole,) = shown("ours")
    ended = {**whole, "processing_status": "ended", "request_counts": None}
    async with scope_of([odd_page(whole, processing_status=None)], ours=ended) as scope:
        scope.owns("ours", NOON + MINUTE)
        facts: list[Any] = []

        async def follow() -> None:
            facts.append(await scope.in_flight.ended(1, "ours", NOON + MINUTE))

        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            assert await scope._look()
        assert isinstance(facts[0], Ended)
        assert scope.known.listed == {"ours"}
        assert scope.key.confirmed


async def test_a_list_of_odd_entries_alone_is_read_to_its_last_page():
    first = odd_page(*shown("one"), request_counts=None) | {"has_more": True}
    async with scope_of([first, page("two")]) as scope:
        notes = Notes()
        async with in_doubt(scope, (doubt(), notes)):
            await scope._look()
        assert notes == [CandidatesChanged(seen=(unsized("one"),)), seen("two")]
