"""An empty list means something only for a key that is known to see this journal's batches."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING

import anthropic
import anyio
import httpx2
import pytest

from abatch.engine.client import Client
from abatch.engine.key_guard import KeyGuard
from abatch.errors import ApiError
from abatch.protocol.reconcile import Known
from abatch.sandbox.api import Machine, Settings
from abatch.sandbox.faults import Status
from abatch.sandbox.transport import URL, MachineTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


class Guarded:
    """A guard of the key "new", and the batches of its workspace and of another one."""

    def __init__(self, client: Client, machine: Machine, asked: list[str]) -> None:
        self.machine = machine
        self.asked = asked
        """The batches that were asked for by id."""
        self.known = Known()
        self.key = KeyGuard(client, None, self.known, "of the new key")

    def makes(self, count: int, workspace: str) -> list[str]:
        """Make batches that the journal knows, the oldest one first."""
        made = self.machine.add_foreign(1, count=count, workspace=workspace)
        for number, batch_id in enumerate(made):
            self.known.bound.add(batch_id)
            self.known.live[batch_id] = float(len(self.known.live) + number)
        return made


class Noting(MachineTransport):
    """A transport that notes which batches are asked for."""

    def __init__(self, machine: Machine, asked: list[str]) -> None:
        super().__init__(machine)
        self._asked = asked

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._asked.append(request.url.path.rpartition("/")[2])
        return await super().handle_async_request(request)


@asynccontextmanager
async def guarded() -> AsyncIterator[Guarded]:
    settings = Settings(keys={"new": "here", "old": "there"}, latency=3_600.0)
    machine, asked = Machine(clock=lambda: datetime.now(UTC), rng=Random(1), settings=settings), list[str]()
    http = httpx2.AsyncClient(transport=Noting(machine, asked))
    async with anthropic.AsyncAnthropic(api_key="new", base_url=URL, http_client=http, max_retries=0) as sdk:
        yield Guarded(Client(sdk, own=False), machine, asked)


async def test_what_was_sent_with_the_key_in_use_is_guarded_and_nothing_is_asked() -> None:
    async with guarded() as it:
        assert it.key.is_guarded("of the new key")
        assert await it.key.may_see("of the new key")
        assert it.asked == []


@pytest.mark.parametrize("fingerprint", ["of the old key", None])
async def test_what_was_sent_with_another_key_or_an_unknown_one_is_not_guarded(fingerprint: str | None) -> None:
    async with guarded() as it:
        assert not it.key.is_guarded(fingerprint)


async def test_keys_without_a_fingerprint_are_never_taken_for_one_another() -> None:
    async with guarded() as it:
        assert not KeyGuard(it.key._client, None, it.known, None).is_guarded(None)


async def test_batch_of_this_journal_that_the_key_sees_is_a_witness_for_all_others() -> None:
    async with guarded() as it:
        it.makes(1, "here")
        assert await it.key.confirm()
        assert it.key.is_guarded("of the old key")
        assert it.key.is_guarded(None)


async def test_key_of_another_workspace_has_no_witness_however_many_batches_there_are() -> None:
    async with guarded() as it:
        made = it.makes(5, "there")
        assert not await it.key.confirm()
        assert it.asked == made[:1:-1]  # the three newest, which are most probably still there


async def test_witness_that_was_deleted_is_passed_over_for_an_older_one() -> None:
    async with guarded() as it:
        older, newer = it.makes(2, "here")
        it.machine.delete(newer)
        assert await it.key.confirm()
        assert it.asked == [newer, older]


async def test_failure_of_the_api_proves_nothing_and_is_raised() -> None:
    async with guarded() as it:
        it.makes(1, "here")
        it.machine.faults.next("retrieve", Status(500))
        with pytest.raises(ApiError):
            await it.key.confirm()
        assert not it.key.confirmed


async def test_listed_batch_is_a_witness_only_if_it_is_ours() -> None:
    async with guarded() as it:
        it.known.bound.add("msgbatch_ours")
        it.key.note_shown(["msgbatch_of_others"])
        assert not it.key.confirmed
        it.key.note_shown(["msgbatch_of_others", "msgbatch_ours"])
        assert it.key.confirmed


async def test_witnesses_for_a_batch_that_vanished_are_not_asked_for_at_each_look() -> None:
    async with guarded() as it:
        made = it.makes(1, "there")
        assert not await it.key.may_see("of the old key")
        assert not await it.key.may_see("of the old key")
        assert it.asked == made
        it.key._confirm_after = anyio.current_time()  # the hour is over
        assert not await it.key.may_see("of the old key")
        assert it.asked == made * 2
