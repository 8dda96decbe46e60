"""Reading iterables: any kind, in order, checked as they come, without holding the event loop."""

from __future__ import annotations

import anyio
import pytest

from abatch import BadRequest, ConfigError, Request
from abatch.input.iterables import IterableInput, Numbered
from abatch.input.request import from_object

pytestmark = pytest.mark.anyio


async def all_of(requests: object) -> list[Numbered]:
    return [item async for block in IterableInput(requests).blocks(most=10**6) for item in block]


def requests(n: int) -> list[Request]:
    return [Request(f"id-{i}", {"max_tokens": 1}) for i in range(n)]


async def astream(items):
    for item in items:
        yield item


@pytest.mark.parametrize("form", [list, tuple, iter, lambda items: (item for item in items), astream])
async def test_any_iterable_is_read_in_order_and_numbered_from_one(form):
    told = await all_of(form(requests(5)))
    assert [(item.number, item.row.custom_id) for item in told] == [(i + 1, b'"id-%d"' % i) for i in range(5)]


async def test_blocks_are_about_a_megabyte():
    blocks = [
        block
        async for block in IterableInput(
            Request(f"{n}", {"max_tokens": 1, "x": "y" * 100_000}) for n in range(50)
        ).blocks(most=10**6)
    ]
    assert len(blocks) > 3
    assert max(len(block) for block in blocks) <= 11


@pytest.mark.parametrize("other", [5, None, Request("a", {}), {"custom_id": "a", "params": {}}, object()])
async def test_what_is_no_iterable_of_requests_is_refused(other):
    with pytest.raises(ConfigError, match="iterable"):
        await all_of(other)


async def test_the_good_rows_before_a_bad_one_are_given_out(tmp_path):
    told = []

    async def take() -> None:
        async for block in IterableInput([*requests(3), Request("bad", {})]).blocks(most=10**6):
            told.extend(block)

    with pytest.raises(BadRequest) as refused:
        await take()
    assert len(told) == 3
    assert (refused.value.line, refused.value.custom_id) == (4, "bad")


async def test_what_the_iterable_raises_comes_out_as_it_is():
    def breaking():
        yield from requests(2)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await all_of(breaking())


@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_a_slow_iterable_does_not_hold_the_event_loop(kind):
    turns = 0

    def endless_until_others_ran():
        n = 0
        while turns < 3 and n < 300_000:
            n += 1
            yield Request(f"{n}", {"max_tokens": 1})

    async def the_same():
        for request in endless_until_others_ran():
            yield request

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await all_of(endless_until_others_ran() if kind == "generator" else the_same())
            tasks.cancel_scope.cancel()
    assert turns >= 3


def digest_of(rows) -> str:
    source = IterableInput([])
    for row in rows:
        source.note(row)
    return source.digest()


ROW = from_object(Request("a", {"max_tokens": 1}, betas=["x"]), 1)


@pytest.mark.parametrize(
    "others",
    [
        [],
        [ROW, ROW],
        [ROW._replace(custom_id=b'"b"')],
        [ROW._replace(params=b"{}")],
        [ROW._replace(betas=())],
        [ROW._replace(betas=("x", "y"))],
        [ROW._replace(custom_id=b'"a"2:{}', params=b"")],
    ],
)
async def test_the_digest_tells_other_rows_apart(others):
    assert digest_of(others) != digest_of([ROW])
    assert digest_of([ROW]) == digest_of([ROW])


async def test_the_digest_minds_the_order():
    other = ROW._replace(custom_id=b'"b"')
    assert digest_of([ROW, other]) != digest_of([other, ROW])
