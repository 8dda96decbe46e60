"""The memory backend keeps the contract; `lines` and `missing` are how a test looks inside."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from abatch.backend import Backend, JobRef, connect
from abatch.errors import BackendError, ConfigError
from abatch.testing import BackendContract, memory

pytestmark = pytest.mark.anyio


class TestMemory(BackendContract):
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
