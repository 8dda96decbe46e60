"""The test suite for a backend with the optional method `find`: subclass `LookupContract` beside `BackendContract`."""

# ruff: noqa: D102 - a test is named for the promise it keeps

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from abatch.backend import Lookup
from abatch.testing.contract import STRANGE_IDS, BackendContract, make_line, make_lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from abatch.backend import Backend

__all__ = ["LookupContract"]


class LookupContract(BackendContract):
    """More promises, for a backend with the optional method `find`: subclass this instead of `BackendContract`."""

    async def test_a_result_is_found_by_its_custom_id_before_and_after_the_end(self) -> None:
        strange = [make_line(custom_id) for custom_id in STRANGE_IDS]
        many = make_lines(1000)
        async with self.opened() as backend:
            find = _finder(backend)
            assert await find([]) == await find(["plain"]) == {}
            sealed = [await self.sealed(backend, 0, many), await self.sealed(backend, 1, strange)]
            wanted = {line.custom_id: line.raw for line in (*strange, *many[:900:100])}
            assert await find([*wanted, "nothing", "PLAIN"]) == wanted
            await backend.finish(self.job, sealed)
            assert await find(list(wanted)) == wanted
            every = {line.custom_id: line.raw for line in many}
            assert await find(list(every)) == every
        async with self.opened(replace(self.job, finished=True)) as backend:
            await backend.finish(replace(self.job, finished=True), sealed)
            assert await _finder(backend)(list(wanted)) == wanted

    async def test_a_result_of_a_shard_that_is_not_sealed_is_not_found(self) -> None:
        lines = make_lines(2500)
        async with self.opened() as backend:
            sink = await self.sink(backend)
            for start in range(0, len(lines), 100):
                await sink.write(lines[start : start + 100])
            assert await _finder(backend)([lines[0].custom_id]) == {}
            await sink.seal()
            assert await _finder(backend)([lines[0].custom_id]) == {lines[0].custom_id: lines[0].raw}


def _finder(backend: Backend) -> Callable[[Sequence[str]], Awaitable[Mapping[str, bytes]]]:
    assert isinstance(backend, Lookup), "the backend has no method find"
    return backend.find
