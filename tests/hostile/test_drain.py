"""Results among which anything may stand: every row still gets exactly one line, and that line is its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count

import anyio
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import abatch.engine.drain
from abatch.backend import JobRef
from abatch.engine.drain import Drainer
from abatch.journal.folder import JournalFolder
from abatch.journal.lineage import Lineage
from abatch.journal.records import ShardRecord
from abatch.prices import load
from abatch.protocol import facts, wire
from abatch.protocol.lifecycle import Draining, InDoubt
from abatch.testing import memory
from tests.harness.presence import Alone
from tests.hostile.properties import OUR_ID, PREFIX
from tests.hostile.strategies import RESULT_LINES, TEXTS
from tests.unit.make import KEY, planned_for, write_spool

IDS = ["plain", "../../x", 'a"b\\', "\x1b[2J\u202e", "é\u2028", "\0"]
FRESH = count()
GOOD = [
    b'{"custom_id":"' + PREFIX + wire.row_suffix(row) + b'","result":{"type":"expired"}}' for row in range(len(IDS))
]


class Answers:
    """A client that has nothing but the results of one batch."""

    def __init__(self, stream: bytes, chunk: int) -> None:
        self.chunks = [stream[at : at + chunk] for at in range(0, len(stream), chunk)]

    @asynccontextmanager
    async def results(self, workspace_id: str | None, batch_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def chunks() -> AsyncIterator[bytes]:
            for chunk in self.chunks:
                yield chunk

        yield chunks()


@pytest.fixture
def drain(tmp_path, monkeypatch):
    """Drain this stream into memory; what came of it, and the lines."""
    monkeypatch.setattr(abatch.engine.drain, "RECOUNTS", 0)  # the rows decide, and nobody has counted these

    async def drain(stream: bytes, chunk: int) -> tuple[facts.Drained, list[bytes]]:
        number = next(FRESH)
        folder, lineage = JournalFolder(tmp_path / str(number)), Lineage(KEY)
        folder.prepare()
        rows = [(msgspec.json.encode(custom_id), b"{}", b"") for custom_id in IDS]
        planned = planned_for(write_spool(folder.spool, rows))
        doubt = InDoubt(attempt=1, date=0.0, fingerprint="f")
        counts = facts.Counts(expired=len(IDS))
        state = Draining(doubt=doubt, batch_id="msgbatch_1", created_at=0.0, proven=True, counts=counts)
        job = JobRef(key="job", lineage=lineage.name)
        backend = await memory.open_(f"memory:{number}", job)
        draining = Drainer(
            Answers(stream, chunk),
            folder,
            lineage,
            job,
            backend,
            tries=1,
            prices=load(None),
            may_retry=lambda: False,
            server_now=lambda: 1.0,
            one_block=anyio.Lock(),
        )
        shard = ShardRecord(shard=1, job=1, planned=planned, state=state)
        no_second_read = iter(())  # It would bring the same.
        drained = (await draining.drain(shard, state, Alone(), no_second_read)).drained
        # As if a run had died when it was sealed:
        recounted = (await draining.drain(shard, state, Alone(), no_second_read)).drained
        assert recounted.counts == drained.counts
        assert recounted.spend == drained.spend
        return drained, memory.lines(str(number))

    yield lambda stream, chunk: anyio.run(partial(drain, stream, chunk))
    memory.clear()


@given(
    hostile=st.lists(RESULT_LINES | TEXTS.map(str.encode), max_size=6),
    at=st.integers(0, len(GOOD)),
    chunk=st.sampled_from([1, 7, 1000]),
)
@example(hostile=[b"a proxy's page " + OUR_ID + b" of our row"], at=0, chunk=1000)
@example(hostile=[b'{"custom_id":"%b","result":0,"custom_id":"%b"}' % (OUR_ID, OUR_ID)], at=0, chunk=1000)
@example(hostile=[b'"' + OUR_ID + b'"', GOOD[2], GOOD[2]], at=0, chunk=7)
def test_every_row_gets_one_line_of_its_own_among_hostile_ones(drain, hostile, at, chunk):
    hostile = [line.replace(b"\n", b"") for line in hostile]
    drained, lines = drain(b"\n".join([*GOOD[:at], *hostile, *GOOD[at:]]), chunk)
    assert drained.counts.total == len(IDS)
    assert drained.missing == 0
    assert len(lines) == len(IDS)
    named = Counter(custom_id for line in lines if (custom_id := _id_of(line)) is not None)
    assert named <= Counter(IDS)
    seen = [wire.read_line(line) for line in hostile]
    assert named.total() >= len(IDS) - sum(type(each) is wire.Seen for each in seen)  # no torn line takes a row


@pytest.mark.parametrize(
    ("part", "outcome"),
    [
        (b'{"custom_id":"%b","result":{"type":"canceled"', "canceled"),
        (b'{"custom_id":"%b","resu', "other"),
        (b'{"result":{"type":"canceled"},"custom_id":"%b', "other"),
    ],
)
def test_torn_line_that_nothing_better_replaces_is_counted_when_it_is_sealed_as_when_it_is_read_back(
    drain, part, outcome
):
    drained, lines = drain(b"\n".join([*GOOD[:2], part % OUR_ID, *GOOD[3:], b""]), 1000)
    assert (drained.counts.expired, getattr(drained.counts, outcome), drained.missing) == (5, 1, 0)
    assert len(lines) == len(IDS)


def _id_of(line: bytes) -> str | None:
    """The custom_id in a line that is an object of JSON."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value["custom_id"] if isinstance(value, dict) and isinstance(value.get("custom_id"), str) else None
