"""The memory backend keeps the contract; `lines` and `missing` are how a test looks inside."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from abatch.backend import Backend, JobRef, Sealed, connect
from abatch.errors import BackendError, ConfigError
from abatch.testing import LookupContract, OutageContract, memory
from abatch.testing.contract import passes

pytestmark = pytest.mark.anyio


class TestMemory(OutageContract, LookupContract):
    test_memory_does_not_grow_with_the_shard = None  # memory is where it keeps them

    @pytest.fixture(autouse=True)
    def place(self):
        memory.clear()
        yield
        memory.clear()

    async def connect(self, job: JobRef, /) -> Backend:
        return await connect("memory:results", job)

    async def stored(self) -> list[bytes]:
        return memory.lines("results")

    async def stored_missing(self) -> list[tuple[str, str]]:
        pairs = map(json.loads, memory.missing("results").splitlines())
        return [(pair["custom_id"], pair["reason"]) for pair in pairs]

    @asynccontextmanager
    async def outage(self, backend):
        memory.outage("results")
        yield
        memory.restore("results")

    async def test_an_outage_lasts_for_so_many_steps_or_seconds(self):
        backend = await self.connect(self.job)
        failed = 0
        for how in ({"steps": 2}, {"seconds": 0.015}):
            memory.outage("results", **how)
            while await passes(backend.open(self.shard())):
                failed += 1
                await anyio.sleep(0.01)
        assert failed == 4

    async def test_an_outage_that_carries_out_loses_the_answer_alone(self):
        backend = await self.connect(self.job)
        sink = await self.sink(backend)
        memory.outage("results", steps=1, carried_out=True)
        with pytest.raises(BackendError, match="unavailable for a while"):
            await sink.seal()
        assert isinstance(await backend.open(self.shard()), Sealed)

    async def test_a_place_without_a_name_is_the_jobs_own(self):
        ours, theirs = await connect("memory:", self.job), await connect("memory:", self.other)
        await self.sealed(ours, 0, [])
        await self.sink(theirs, 0)

    async def test_another_key_is_another_job(self):
        await self.connect(self.job)
        with pytest.raises(BackendError, match="job 'contract'"):
            await self.connect(replace(self.job, key="another"))

    @pytest.mark.parametrize("url", ["memory:///a", "memory:a?b=c"])
    async def test_other_forms_are_refused(self, url):
        with pytest.raises(ConfigError, match="memory:NAME"):
            await connect(url, self.job)
