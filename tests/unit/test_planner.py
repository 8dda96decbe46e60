"""Cutting a job into shards: each request once, in order, and after any stop planning goes on exactly there."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from contextlib import closing
from dataclasses import replace

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from abatch import BadRequest, Config, ConfigError, JobConflict, JobStopped, Request
from abatch.input.check import check_file
from abatch.input.planner import HEADER_SETS, Planner, spool_needed
from abatch.input.spool import SpoolReader
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.records import JobRecord
from abatch.protocol import facts
from abatch.protocol.facts import Headers
from tests.unit.make import names, request_line, submitted

pytestmark = pytest.mark.anyio

PLENTY = Config(free_disk=0, params="unchecked")
FIVE = Config(free_disk=0, requests_per_batch=5, params="unchecked")


class Bench:
    """Plans jobs on a real journal; each call of `plan` is a new run of the program."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.cuts = 0
        self.key = "job"

    @property
    def job(self) -> JobRecord:
        job = self.ledger.job(self.key)
        assert job is not None
        return job

    async def start(self, source: facts.Source | None = None, headers: Headers | None = None) -> None:
        first = submitted(self.key, source=source or facts.IterableSource(), headers=headers or Headers())
        await self.ledger.start_job(first)

    async def plan(self, what: object, config: Config = PLENTY, *, stop_after: int | None = None) -> None:
        """Plan the job from where the journal says; stop when so many cuts were made by this run."""
        self.ledger = await Ledger.load(self.ledger.facts, self.ledger.folder)
        made = 0

        async def room() -> bool:
            return stop_after is None or made < stop_after

        def cut_made() -> None:
            nonlocal made
            made += 1
            self.cuts += 1

        planner = Planner(self.ledger, self.job, config, room=room, cut_made=cut_made)
        source = self.job.submitted.source
        if isinstance(source, facts.FileSource):
            await planner.run_file(source, what)
        else:
            await planner.run_iterable(what)

    def shards(self) -> list[list[str]]:
        """The custom_ids of every shard, read from the spool."""
        return [[row[0] for row in shard] for _, shard in self.read()]

    def read(self) -> list[tuple[Headers, list[tuple[str, bytes]]]]:
        told = []
        for record in self.job.shards.values():
            with closing(SpoolReader(self.ledger.folder.spool, record.planned)) as reader:
                rows = [(reader.id_text(n), reader.params(n)) for n in range(reader.rows)]
            told.append((record.planned.headers, rows))
        return told

    def ids(self) -> list[str]:
        return [custom_id for shard in self.shards() for custom_id in shard]

    def left_over(self) -> set[str]:
        """Files in the spool that no shard names."""
        return set(names(self.ledger.folder.spool)) - {shard.planned.spool for shard in self.job.shards.values()}


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger)


def requests(n: int, first: int = 0, **more: object) -> list[Request]:
    return [Request(f"id-{i}", {"max_tokens": 1, "n": i, **more}) for i in range(first, n)]


def ids(n: int) -> list[str]:
    return [f"id-{i}" for i in range(n)]


async def astream(items):
    for item in items:
        yield item


# ---- cutting --------------------------------------------------------------------------------------------------


async def test_a_small_job_is_one_shard_and_one_cut(bench):
    await bench.start()
    await bench.plan(requests(3))
    assert bench.shards() == [ids(3)]
    assert bench.job.cut.last
    assert (bench.job.cut.rows, bench.cuts) == (3, 1)


async def test_shards_are_cut_at_the_limit_of_requests(bench):
    await bench.start()
    await bench.plan(requests(100), FIVE)
    sizes = [len(shard) for shard in bench.shards()]
    assert bench.ids() == ids(100)
    assert max(sizes) == 5
    assert min(sizes[:-1]) >= 3  # never below half


async def test_shards_differ_in_size_so_that_doubts_seldom_share_it(bench):
    await bench.start()
    await bench.plan(requests(3_000), replace(PLENTY, requests_per_batch=500))
    sizes = Counter(len(shard) for shard in bench.shards())
    assert bench.ids() == ids(3_000)
    assert max(sizes.values()) == 1


@pytest.mark.parametrize("most", [2, 3, 4, 255, 256, 257, 600])
async def test_no_limit_of_requests_is_passed(bench, most):
    rows = min(800, 50 * most)
    await bench.start()
    await bench.plan(requests(rows), replace(PLENTY, requests_per_batch=most))
    sizes = [len(shard) for shard in bench.shards()]
    assert bench.ids() == ids(rows)
    assert max(sizes) <= most
    assert all(2 * size >= most for size in sizes[:-1])


async def test_a_row_that_does_not_fit_in_bytes_goes_to_the_next_shard(bench):
    await bench.start()
    sizes = [300, 300, 300, 10, 700, 700, 10, 10, 10, 900, 10]
    await bench.plan(
        [Request(f"id-{i}", {"max_tokens": 1, "x": "y" * size}) for i, size in enumerate(sizes)],
        replace(PLENTY, bytes_per_batch=1_100),
    )
    assert bench.ids() == ids(len(sizes))
    assert len(bench.shards()) > 4
    for shard in bench.job.shards.values():
        assert shard.planned.body_bytes <= 1_100


@given(
    sizes=st.lists(st.integers(0, 1_500), min_size=1, max_size=40),
    betas=st.lists(st.sampled_from([(), ("a",), ("b",), ("b", "a")]), min_size=40, max_size=40),
)
async def test_whatever_the_sizes_each_request_is_planned_once_and_in_order(ledger, sizes, betas):
    bench = Bench(ledger)
    bench.key = f"job-{len(ledger.jobs)}"
    await bench.start()
    all_requests = [
        Request(f"id-{i}", {"max_tokens": 1, "x": "y" * size}, betas=betas[i]) for i, size in enumerate(sizes)
    ]
    await bench.plan(all_requests, replace(FIVE, bytes_per_batch=2_000))
    for headers in {headers for headers, _ in bench.read()}:
        planned = [row for their, shard in bench.read() if their == headers for row in shard]
        assert planned == [
            (request.custom_id, msgspec.json.encode(request.params))
            for request in all_requests
            if tuple(sorted(set(request.betas))) == headers.betas
        ]
    assert sorted(bench.ids()) == sorted(ids(len(sizes)))


async def test_what_planned_says_is_what_the_spool_holds(bench):
    await bench.start()
    await bench.plan(requests(23), FIVE)
    records = list(bench.job.shards.values())
    assert [record.planned.part for record in records] == list(range(len(records)))
    assert [record.planned.rows for record in records] == [len(shard) for shard in bench.shards()]
    assert len({record.planned.spool for record in records}) == len(records)
    assert sum(record.planned.rows for record in records) == bench.job.cut.rows == 23
    assert bench.left_over() == set()


# ---- header sets ----------------------------------------------------------------------------------------------


async def test_header_sets_have_their_own_shards_and_are_sealed_together(bench):
    await bench.start(headers=Headers(betas=("common",), workspace_id="w"))
    some = [Request(f"id-{i}", {"max_tokens": 1}, betas=["b"] if i % 3 == 0 else []) for i in range(30)]
    await bench.plan(some, FIVE)
    common, with_b = Headers(betas=("common",), workspace_id="w"), Headers(betas=("b", "common"), workspace_id="w")
    told = bench.read()
    assert {headers for headers, _ in told} == {common, with_b}
    for headers, numbers in ((common, [i for i in range(30) if i % 3]), (with_b, range(0, 30, 3))):
        assert [row[0] for their, shard in told if their == headers for row in shard] == [f"id-{i}" for i in numbers]
    assert bench.cuts < len(told)  # a cut seals several


async def test_at_every_cut_what_is_planned_is_a_whole_beginning_of_the_input(bench):
    await bench.start()
    some = [Request(f"id-{i}", {"max_tokens": 1}, betas=[f"b{i % 4}"]) for i in range(50)]
    done = 0
    while not bench.job.cut.last:
        await bench.plan(some, FIVE, stop_after=1)
        assert sorted(bench.ids()) == sorted(ids(bench.job.cut.rows))
        done += 1
    assert done > 4


async def test_the_order_and_repetition_of_betas_do_not_make_a_header_set(bench):
    await bench.start()
    some = [["a", "b"], ["b", "a"], ["b", "a", "b"]]
    await bench.plan([Request(f"id-{i}", {"max_tokens": 1}, betas=betas) for i, betas in enumerate(some)])
    assert [headers for headers, _ in bench.read()] == [Headers(betas=("a", "b"))]


def many_sets(n: int) -> list[Request]:
    return [Request(f"id-{i}", {"max_tokens": 1}, betas=[f"b{i}"]) for i in range(n)]


async def test_sixteen_header_sets_are_taken(bench):
    await bench.start()
    await bench.plan(many_sets(HEADER_SETS))
    assert len(bench.shards()) == HEADER_SETS == 16


async def test_a_seventeenth_header_set_is_refused_by_name(bench):
    await bench.start()
    with pytest.raises(BadRequest, match="16 different sets of betas") as refused:
        await bench.plan(many_sets(17))
    assert (refused.value.line, refused.value.custom_id) == (17, "id-16")
    assert bench.left_over() == set()


async def test_a_file_with_a_seventeenth_header_set_is_refused_for_that_and_not_called_changed(bench, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(request) + b"\n" for request in many_sets(17)))

    async def hand_over() -> None:
        await bench.start(await check_file(path, tmp_path, bytes_per_batch=PLENTY.bytes_per_batch))
        await bench.plan(path)

    with pytest.raises((BadRequest, JobStopped)) as refused:
        await hand_over()
    assert "betas" in str(refused.value)
    assert "changed" not in str(refused.value)


# ---- stopping and going on ------------------------------------------------------------------------------------


def write(path, raw: bytes):
    if path.suffix == ".gz":
        raw = gzip.compress(raw, mtime=0)
    elif path.suffix == ".zst":
        raw = zstandard.compress(raw)
    path.write_bytes(raw)
    return path


FORMS = ["requests.jsonl", "requests.jsonl.gz", "requests.jsonl.zst", "a list", "an async iterable"]
LONG = [request_line(f"id-{i}", x="y" * (i * 37 % 400)) for i in range(60)]
SEVERAL_SETS = [
    msgspec.json.encode({"custom_id": f"id-{i}", "params": {"max_tokens": 1}, "betas": [f"b{i % 3}"][: i % 5]}) + b"\n"
    for i in range(60)
]


async def started(bench: Bench, tmp_path, form: str, lines: list[bytes], config: Config):
    """Start the job; what to hand to `plan`, freshly each time."""
    if "iterable" not in form and form != "a list":
        path = write(tmp_path / form, b"".join(lines))
        await bench.start(await check_file(path, tmp_path, bytes_per_batch=config.bytes_per_batch))
        return lambda: path
    await bench.start()
    objects = [msgspec.json.decode(line) for line in lines]
    return (lambda: objects) if form == "a list" else (lambda: astream(objects))


@pytest.mark.parametrize("lines", [LONG, SEVERAL_SETS], ids=["by bytes", "several header sets"])
@pytest.mark.parametrize("form", FORMS)
async def test_stopping_after_each_cut_loses_nothing_and_repeats_nothing(bench, tmp_path, form, lines):
    config = replace(FIVE, bytes_per_batch=1_500)
    what = await started(bench, tmp_path, form, lines, config)
    while not bench.job.cut.last:
        before = bench.job.cut.rows
        await bench.plan(what(), config, stop_after=1)
        assert bench.job.cut.rows > before or bench.job.cut.last
    assert sorted(bench.ids()) == sorted(ids(60))
    assert bench.left_over() == set()


@pytest.mark.parametrize("form", FORMS)
async def test_after_a_stop_at_any_cut_the_rest_is_planned_in_one_go(ledger, tmp_path, form):
    config = replace(FIVE, bytes_per_batch=1_500)
    for stop in range(1, 14):
        bench = Bench(ledger)
        bench.key = f"job-{stop}"
        what = await started(bench, tmp_path, form, LONG, config)
        await bench.plan(what(), config, stop_after=stop)
        assert not bench.job.cut.last
        await bench.plan(what(), config)
        assert bench.ids() == ids(60), f"stopped after cut {stop}"
        ledger = bench.ledger


@pytest.mark.parametrize("form", FORMS)
async def test_blank_lines_bom_and_crlf_do_not_disturb_going_on(bench, tmp_path, form):
    lines = [b"\xef\xbb\xbf" + LONG[0], *(b"\r\n\n" + line[:-1] + b"\r\n" for line in LONG[1:]), b"\n\n"]
    if form in {"a list", "an async iterable"}:
        lines = LONG
    what = await started(bench, tmp_path, form, lines, FIVE)
    while not bench.job.cut.last:
        await bench.plan(what(), FIVE, stop_after=1)
    assert bench.ids() == ids(60)


BLOCKY = [request_line(f"id-{i}", x="y" * 350_000) for i in range(14)]
"""Three of these are a block of input."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("most", [1_100_000, 800_000, 360_000], ids=["3 a shard", "2 a shard", "1 a shard"])
async def test_a_cut_for_bytes_where_two_blocks_of_input_meet_is_a_place_to_go_on_from(bench, tmp_path, form, most):
    config = replace(PLENTY, bytes_per_batch=most)
    what = await started(bench, tmp_path, form, BLOCKY, config)
    runs = 0
    while not bench.job.cut.last and runs < 20:
        await bench.plan(what(), config, stop_after=1)
        runs += 1
    assert bench.ids() == ids(14)


@pytest.mark.parametrize("form", FORMS)
async def test_a_planned_job_is_planned_again_to_no_effect(bench, tmp_path, form):
    what = await started(bench, tmp_path, form, LONG, FIVE)
    await bench.plan(what(), FIVE)
    cuts = bench.cuts
    await bench.plan(what(), FIVE)
    assert bench.cuts == cuts
    assert bench.ids() == ids(60)
    assert bench.left_over() == set()


@pytest.mark.parametrize("form", FORMS)
async def test_without_room_nothing_is_planned(bench, tmp_path, form):
    what = await started(bench, tmp_path, form, LONG, FIVE)
    await bench.plan(what(), FIVE, stop_after=0)
    assert bench.shards() == []
    assert (bench.job.cut.rows, bench.left_over()) == (0, set())


async def test_without_room_an_endless_input_is_held_back(bench):
    def endless():
        n = 0
        while True:
            yield Request(f"id-{n}", {"max_tokens": 1, "x": "y" * 100_000})
            n += 1

    await bench.start()
    await bench.plan(endless(), FIVE, stop_after=4)
    assert bench.cuts == 4
    assert bench.left_over() == set()


async def test_a_limit_changed_between_runs_loses_nothing(bench):
    await bench.start()
    for limit in (5, 3, 50):
        await bench.plan(requests(200), replace(PLENTY, requests_per_batch=limit), stop_after=3)
    await bench.plan(requests(200))
    assert bench.ids() == ids(200)


# ---- other input than before ----------------------------------------------------------------------------------


async def half_planned(bench, n: int = 40) -> int:
    await bench.start()
    await bench.plan(requests(n), FIVE, stop_after=4)
    return bench.job.cut.rows


def changed(n: int, at: int, **params: object) -> list[Request]:
    told = requests(n)
    told[at] = Request(told[at].custom_id, {"max_tokens": 1, "n": at, **params})
    return told


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "others",
    [
        changed(40, 0, other=1),
        changed(40, 9, other=1),
        [Request("another", {"max_tokens": 1, "n": 0}), *requests(40, 1)],
        [*requests(40)[1::-1], *requests(40, 2)],
        [Request("id-0", {"max_tokens": 1, "n": 0}, betas=["x"]), *requests(40, 1)],
    ],
    ids=["other params", "other params later", "another id", "another order", "other betas"],
)
async def test_other_requests_under_the_key_are_a_conflict(bench, others, whole):
    await half_planned(bench)
    if whole:
        await bench.plan(requests(40), FIVE)
    before = bench.ids()
    with pytest.raises(JobConflict, match="other requests"):
        await bench.plan(others, FIVE)
    assert bench.ids() == before
    assert bench.left_over() == set()


async def test_fewer_requests_than_were_planned_are_a_conflict(bench):
    rows = await half_planned(bench)
    for n in (rows - 1, 1, 0):
        with pytest.raises(JobConflict):
            await bench.plan(requests(n), FIVE)
    assert not bench.job.cut.last


async def test_more_requests_than_the_whole_job_had_are_a_conflict(bench):
    await bench.start()
    await bench.plan(requests(40), FIVE)
    with pytest.raises(JobConflict):
        await bench.plan(requests(41), FIVE)
    assert bench.ids() == ids(40)
    assert bench.left_over() == set()


async def test_what_was_not_planned_yet_may_still_be_another(bench):
    await half_planned(bench)
    await bench.plan(changed(40, 39, other=1), FIVE)
    assert bench.ids() == ids(40)


async def started_file(bench, tmp_path, name="x.jsonl", lines=LONG):
    path = write(tmp_path / name, b"".join(lines))
    await bench.start(await check_file(path, tmp_path, bytes_per_batch=FIVE.bytes_per_batch))
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst"])
@pytest.mark.parametrize("stop_after", [0, 3])
@pytest.mark.parametrize(
    "lines",
    [LONG[:-1], [*LONG, request_line("more")], [request_line("other"), *LONG[1:]], [b"bad\n", *LONG], []],
    ids=["shorter", "longer", "another request", "not even JSON", "empty"],
)
async def test_a_file_that_changed_stops_the_job(bench, tmp_path, name, stop_after, lines):
    path = await started_file(bench, tmp_path, name)
    await bench.plan(path, FIVE, stop_after=stop_after)
    before = bench.ids()
    write(path, b"".join(lines))
    with pytest.raises(JobStopped, match="changed since the job was started") as stopped:
        await bench.plan(path, FIVE)
    assert "Put the old content back" in stopped.value.remedy
    assert bench.ids() == before
    assert bench.left_over() == set()


async def test_a_file_that_was_copied_back_with_another_time_is_the_same_file(bench, tmp_path):
    path = await started_file(bench, tmp_path)
    await bench.plan(path, FIVE, stop_after=3)
    os.utime(path, ns=(5, 5))
    await bench.plan(path, FIVE)
    assert bench.ids() == ids(60)


async def test_a_file_that_changes_while_it_is_planned_stops_the_job(bench, tmp_path):
    path = await started_file(bench, tmp_path)
    cut_made = []

    async def room() -> bool:
        if cut_made:
            path.write_bytes(path.read_bytes() + request_line("more"))
        return True

    planner = Planner(bench.ledger, bench.job, FIVE, room=room, cut_made=lambda: cut_made.append(1))
    source = bench.job.submitted.source
    with pytest.raises(JobStopped, match="changed"):
        await planner.run_file(source, path)
    assert bench.ids() == ids(bench.job.cut.rows)
    assert not bench.job.cut.last


async def test_a_smaller_limit_later_does_not_make_it_another_file(bench, tmp_path):
    lines = [*LONG[:7], request_line("long", x="y" * 5_000)]
    path = await started_file(bench, tmp_path, lines=lines)
    await bench.plan(path, FIVE, stop_after=1)
    await bench.plan(path, replace(FIVE, bytes_per_batch=1_000))
    assert bench.ids() == [*ids(7), "long"]


async def test_a_file_that_is_gone_is_named(bench, tmp_path):
    path = await started_file(bench, tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"x\.jsonl cannot be read"):
        await bench.plan(path, FIVE)


# ---- what goes wrong in an iterable ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Request("bad", {}), "max_tokens is missing"),
        (Request("id-3", {"max_tokens": 1}), "request 4 already"),
        (Request("id-22", {"max_tokens": 1}), "request 23 already"),
        (Request("bad", {"max_tokens": 1, "x": "y" * 3_000}), "a batch holds"),
        ("no request", "expected a Request"),
    ],
    ids=["bad params", "a duplicate of a sealed row", "a duplicate in the same block", "too large", "no request"],
)
async def test_a_bad_row_keeps_the_shards_sealed_before_it(bench, bad, why):
    config = replace(FIVE, bytes_per_batch=2_000)
    await bench.start()
    with pytest.raises(BadRequest, match=why) as refused:
        await bench.plan([*requests(23), bad, *requests(40, 23)], config)
    assert refused.value.line == 24
    assert 15 <= bench.job.cut.rows <= 23
    assert bench.ids() == ids(bench.job.cut.rows)
    assert bench.left_over() == set()


async def test_once_the_bad_row_is_mended_planning_goes_on_from_there(bench):
    await bench.start()
    with pytest.raises(BadRequest):
        await bench.plan([*requests(23), Request("bad", {})], FIVE)
    await bench.plan(requests(40), FIVE)
    assert bench.ids() == ids(40)


async def test_a_duplicate_of_a_row_planned_in_an_earlier_run_is_found(bench):
    await bench.start()
    await bench.plan(requests(20), FIVE, stop_after=3)
    with pytest.raises(BadRequest, match="request 1 already"):
        await bench.plan([*requests(20), Request("id-0", {"max_tokens": 1})], FIVE)


@pytest.mark.parametrize("form", [iter, astream], ids=["sync", "async"])
async def test_what_the_caller_s_iterable_raises_comes_out_and_sealed_shards_stay(bench, form):
    def breaking():
        yield from requests(2_000)
        raise LookupError("mine")

    async def abreaking():
        for request in breaking():
            yield request

    await bench.start()
    with pytest.raises(LookupError, match="mine"):
        await bench.plan(breaking() if form is iter else abreaking(), replace(PLENTY, requests_per_batch=500))
    assert bench.ids() == ids(bench.job.cut.rows)
    assert not bench.job.cut.last
    assert bench.left_over() == set()
    await bench.plan(requests(2_000))
    assert bench.ids() == ids(2_000)


@pytest.mark.parametrize("form", [list, astream], ids=["sync", "async"])
async def test_a_job_without_a_request_is_refused(bench, form):
    await bench.start()
    with pytest.raises(ConfigError, match="has no request"):
        await bench.plan(form([]))


@pytest.mark.parametrize("what", [5, Request("a", {"max_tokens": 1}), {"custom_id": "a"}])
async def test_what_is_no_iterable_is_refused(bench, what):
    await bench.start()
    with pytest.raises(ConfigError, match="iterable"):
        await bench.plan(what)


async def test_an_iterable_is_read_once_and_no_further_than_it_must(bench):
    taken = 0

    def counted():
        nonlocal taken
        for request in requests(100, x="y" * 300_000):
            taken += 1
            yield request

    await bench.start()
    await bench.plan(counted(), FIVE, stop_after=1)
    assert taken <= 10


# ---- disk -----------------------------------------------------------------------------------------------------


async def test_a_disk_below_its_floor_stops_the_job_before_anything_is_planned(bench):
    await bench.start()
    with pytest.raises(JobStopped, match="bytes are free") as stopped:
        await bench.plan(requests(3), replace(PLENTY, free_disk=2**62))
    assert "Free the disk" in stopped.value.remedy
    assert bench.shards() == []


async def test_a_spool_that_cannot_be_written_stops_the_job(bench):
    await bench.start()
    spool = bench.ledger.folder.spool
    spool.rmdir()
    spool.symlink_to("/proc/self/fdinfo")  # a folder that takes no file
    with pytest.raises(JobStopped, match="cannot be written"):
        await bench.plan(requests(3))
    spool.unlink()
    spool.mkdir()
    await bench.plan(requests(3))
    assert bench.ids() == ids(3)


def test_the_space_a_file_needs_is_that_of_what_is_under_way_at_once():
    def source(rows: int) -> facts.FileSource:
        return facts.FileSource(path="p", size=rows * 100, mtime_ns=1, sha256="s", rows=rows)

    assert spool_needed(source(10), Config()) == 1_000
    assert spool_needed(source(10**8), Config()) == (200_000 + 5 * 10_000) * 100


# ---- races ----------------------------------------------------------------------------------------------------


async def test_a_wish_of_another_process_during_planning_disturbs_nothing(bench):
    await bench.start()
    await bench.ledger.record(Entry(bench.job.job, facts.CancelWished()))
    await bench.plan(requests(23), FIVE)
    assert bench.ids() == ids(23)
