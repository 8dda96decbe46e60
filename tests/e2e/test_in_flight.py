"""What lists show while an answer is awaited, notes for an attempt that is over, two answers that name one batch."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import structlog

from abatch.engine import client
from abatch.errors import Overtaken
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.sqlite import SqliteLog
from abatch.protocol import wire
from abatch.protocol.facts import Candidate, CandidatesChanged, Unreadable
from abatch.protocol.lifecycle import InDoubt
from abatch.protocol.reconcile import NoAnswer, Replied
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import OtherWorkspace, ResetAfterAccept, ResetBeforeAccept, Status
from tests.e2e.jobs import assert_each_answered, assert_paid_once, manager, requests, run, write
from tests.e2e.test_operator import until, wish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from abatch import Job
    from abatch.journal.log import Entry

pytestmark = pytest.mark.anyio

PATIENT: dict[str, Any] = {"grace": timedelta(hours=1)}


def candidates(job: Job) -> set[str]:
    states = [shard.state for shard in job._job.shards.values()]
    return {each.batch_id for state in states if isinstance(state, InDoubt) for each in state.candidates}


async def facts() -> list[Any]:
    found: list[Any] = []
    journal = await SqliteLog.open(JournalFolder(Path(".abatch").absolute()), drive=False)
    await journal.replay(lambda recorded: found.append(recorded.fact))
    await journal.aclose()
    return found


@pytest.mark.parametrize("restart", [False, True], ids=["in one run", "after a restart"])
async def test_batch_that_was_listed_while_its_answer_was_awaited_and_then_hidden_is_never_sent_again(
    monkeypatch: pytest.MonkeyPatch, *, restart: bool
) -> None:
    lost, real = anyio.Event(), client.Client.create

    async def create(self: client.Client, *about: Any) -> Any:
        answer = await real(self, *about)
        if lost.is_set():
            return answer
        await lost.wait()
        return NoAnswer(cause="ReadTimeout")

    monkeypatch.setattr(client.Client, "create", create)
    with Sandbox(seed=7, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        rows = requests(8)
        path = write(rows)
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await until(job, lambda: api.account.batches == 1)
            await running._context.scopes.of(None).page()  # as it is asked for when another job's batches are watched
            assert candidates(job) == set(api.account.created)
            api.faults.always("list", OtherWorkspace())
            api.faults.always("retrieve", Status(404))
            lost.set()
            if not restart:
                await until(job, lambda: api.account.batches > 1 or waits_for_the_hidden(running))
        async with manager() as running:
            job = await running.submit(path, to="results.jsonl", key="job")
            await until(job, lambda: api.account.batches > 1 or waits_for_the_hidden(running))
            assert api.account.batches == 1
            api.faults.clear()
            api.advance(3601)
            summary = await job.wait()
        assert (summary.succeeded, summary.duplicates) == (8, 0)
        assert_paid_once(api, rows)


def waits_for_the_hidden(running: Any) -> bool:
    return any("is not visible now" in why for why in running._context.scopes.of(None).doubts.waiting().values())


async def test_note_for_an_attempt_that_an_operator_ended_is_not_taken_by_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look for the first attempt ends when the second is in doubt: what it saw says nothing about that one."""
    stranger = CandidatesChanged(seen=(Candidate(batch_id="msgbatch_stranger", created_at=0.0),), closed_at=1.0)
    with Sandbox(seed=7, latency=3600) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        api.faults.next("create", ResetBeforeAccept())
        api.faults.next("create", ResetAfterAccept())
        rows = requests(8)
        async with manager(**PATIENT) as running:
            job = await running.submit(write(rows), to="results.jsonl", key="job")
            scope = running._context.scopes.of(None)
            await until(job, lambda: 1 in scope.doubts.pending)
            late = scope.doubts.pending[1].note
            await wish(1, None)
            await until(job, lambda: 1 in scope.doubts.pending and scope.doubts.pending[1].doubt.attempt == 2)
            with pytest.raises(Overtaken):
                await late(stranger)
            await until(job, lambda: candidates(job) == set(api.account.created))
            api.advance(3601)
            summary = await job.wait()
        assert summary.succeeded == 8
        assert stranger.seen[0] not in [each for fact in await facts() for each in getattr(fact, "seen", ())]
        assert [fact.closed_at for fact in await facts() if isinstance(fact, CandidatesChanged)] == [None]
        assert_paid_once(api, rows)


async def test_two_answers_at_once_that_name_one_batch_bind_it_once(
    api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes while the first is being recorded; both passed their gates before either batch was made."""
    at_their_tails, answers, both_answered, second_judged = 0, list[Any](), anyio.Event(), anyio.Event()
    both_at_their_tails = anyio.Event()
    create, record = client.Client.create, Ledger.record

    async def held_back(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        nonlocal at_their_tails
        async for piece in body:
            if piece == wire.BODY_TAIL:
                at_their_tails += 1
                if at_their_tails == 2:
                    both_at_their_tails.set()
                await both_at_their_tails.wait()
            yield piece

    async def same_answer(self: client.Client, headers: Any, size: int, body: AsyncIterator[bytes]) -> Any:
        answer = await create(self, headers, size, held_back(body))
        answers.append(answer)
        if len(answers) == 2:
            both_answered.set()
        await both_answered.wait()
        return answers[0]

    async def slow(self: Ledger, *entries: Entry) -> None:
        facts = [entry.fact for entry in entries]
        if any(getattr(fact, "batch_id", None) == answers[0].batch.batch_id for fact in facts if answers):
            with anyio.move_on_after(5):
                await second_judged.wait()
        await record(self, *entries)
        if any(isinstance(fact, Unreadable) for fact in facts):
            second_judged.set()

    monkeypatch.setattr(client.Client, "create", same_answer)
    monkeypatch.setattr(Ledger, "record", slow)
    rows = requests(16)
    with structlog.testing.capture_logs() as events, anyio.fail_after(60):
        _, summary = await run(write(rows), requests_per_batch=8, uploads=2)
    assert all(isinstance(answer, Replied) for answer in answers)
    assert (summary.succeeded, summary.missing, summary.duplicates) == (16, 0, 0)
    assert second_judged.is_set()
    bound = [event["batch_id"] for event in events if event["event"] in ("shard_accepted", "shard_found")]
    assert sorted(bound) == sorted(api.account.created)
    assert_each_answered("results.jsonl", rows)
    assert_paid_once(api, rows)
