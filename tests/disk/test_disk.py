"""What a disk may do to a job: fail for good, fail once, write half, forget, flip a bit.

The whole of the first is `python -m tests.disk`; a part of it stands here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from abatch import BackendError, JobStopped, JournalError
from abatch.sandbox import answer_text
from abatch.testing.crash import CrashPoints, died
from tests.disk.once import CommitFailsOnce, FsyncFailsOnce
from tests.e2e.jobs import raw_params, requests, write
from tests.e2e.test_kill import lane
from tests.harness.here import Server, quick_folder
from tests.harness.media import Folder, Jsonl, Medium, Sqlite
from tests.harness.trials import facts_of

pytestmark = [
    pytest.mark.anyio,
    # a dead run closes nothing
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROWS = requests(11)
FACTS_OF_A_JOB = 12
"""At least so many transactions."""


@pytest.fixture
def quick_path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


def new_home(parent: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = parent / f"{number}"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


def assert_all_is_well(server: Server, medium: Medium, home: Path, told: str) -> None:
    assert server.machine.account.violated == 0, told
    assert [server.machine.account.times(raw_params(row)) for row in ROWS] == [1] * len(ROWS), told
    wanted = Counter((row["custom_id"], answer_text(raw_params(row))) for row in ROWS)
    assert Counter(medium.answers(home)) == wanted, told


# ---- for good -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("medium", ["jsonl", "folder", "sqlite"])
def test_a_disk_that_fails_ends_the_run_and_costs_nothing(medium: str) -> None:
    said = lane("tests.disk", "--media", medium, "--every", "30", "--first", "12", "--workers", "2")
    for fault in ("disk full", "disk short", "fsync fails", "no new names", "writes fail"):
        assert f"{fault:16}{medium}" in said


# ---- once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("medium", [Jsonl(), Folder(), Sqlite()], ids=lambda medium: medium.name)
async def test_a_failed_fsync_is_never_tried_again(
    medium: Medium, monkeypatch: pytest.MonkeyPatch, quick_path: Path
) -> None:
    seen: Counter[type] = Counter()
    for number in count(1):
        home = new_home(quick_path, number, monkeypatch)
        server, path, fault = Server(), write(ROWS), FsyncFailsOnce(number)
        with monkeypatch.context() as patch:
            fault.patch(patch.setattr)
            try:
                await server.run(path, medium.destination(home))
            except (BackendError, JobStopped, JournalError) as failure:
                seen[type(failure)] += 1
            else:
                assert not fault.happened, f"nobody heard that fsync {number} failed"
        fault.close()
        assert fault.wrongs == [], number
        await server.run(path, medium.destination(home))
        assert_all_is_well(server, medium, home, f"after fsync {number} failed")
        if not fault.happened:
            break
    assert seen[JournalError]  # of the journal's folder, when it is made
    assert seen[JobStopped]  # of the spool
    assert seen[BackendError] or medium.name == "sqlite"  # whose fsyncs are its own


@pytest.mark.parametrize("done", [False, True], ids=["not-written", "written"])
async def test_a_failed_commit_ends_the_manager_and_is_never_tried_again(
    done: bool, monkeypatch: pytest.MonkeyPatch, quick_path: Path
) -> None:
    medium, texts = Jsonl(), set[str]()
    for number in count(1):
        home = new_home(quick_path, number, monkeypatch)
        server, path, fault = Server(), write(ROWS), CommitFailsOnce(number, done=done)
        with monkeypatch.context() as patch:
            fault.patch(patch.setattr)
            try:
                await server.run(path, "results.jsonl")
            except JournalError as failure:
                texts.add(str(failure).partition("; ")[2])
            else:
                assert not fault.happened, f"nobody heard that commit {number} failed"
        assert fault.wrongs == [], number
        await server.run(path, "results.jsonl")
        assert_all_is_well(server, medium, home, f"after commit {number} failed")
        if not fault.happened:
            break
    assert number > FACTS_OF_A_JOB
    assert "nothing more is sent. Free the disk or repair it, then run the same command again" in texts


@pytest.mark.parametrize("medium", [Jsonl(), Folder()], ids=lambda medium: medium.name)
async def test_what_the_disk_took_in_part_is_written_to_its_end(
    medium: Medium, monkeypatch: pytest.MonkeyPatch, quick_path: Path
) -> None:
    home = new_home(quick_path, 1, monkeypatch)
    server, path, real = Server(), write(ROWS), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, block: real(descriptor, bytes(block)[:7]))
        await server.run(path, medium.destination(home))
    assert_all_is_well(server, medium, home, "seven bytes a write")


# ---- a spool that is not what it was --------------------------------------------------------------------------


class BeforeTheFirstCreate(CrashPoints):
    """Dies when everything is planned and nothing sent."""

    def __init__(self) -> None:
        super().__init__(0)

    def reach(self, where: str) -> None:
        if where.startswith("before POST"):
            self._left = 1
        super().reach(where)


async def planned(server: Server, path: Path) -> tuple[Path, int]:
    """The first shard's spool file, of a run that died before it sent anything, and its rows."""
    crash = BeforeTheFirstCreate()
    with crash:
        try:
            await server.run(path, "results.jsonl", crash)
        except BaseException as error:
            if not died(error):
                raise
    fact = next(fact for fact in facts_of(Path()) if fact["type"] == "Planned")
    return Path(".abatch/spool", fact["spool"]), fact["rows"]


def cut(file: Path, share: float) -> None:
    os.truncate(file, int(file.stat().st_size * share))


def flip(file: Path, share: float) -> None:
    content = bytearray(file.read_bytes())
    bit = int((len(content) * 8 - 1) * share)
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def never_renamed(file: Path, _: float) -> None:
    file.rename(file.with_name(".abcd1234.tmp"))


DAMAGES = [
    *((cut, share) for share in (0.0, 0.01, 0.5, 0.99)),
    *((flip, share / 24) for share in range(25)),
    (never_renamed, 0.0),
]


async def test_nothing_is_sent_from_a_damaged_spool_file(monkeypatch: pytest.MonkeyPatch, quick_path: Path) -> None:
    for number, (damage, share) in enumerate(DAMAGES):
        told = f"{damage.__name__} {share:.2f}"
        home = new_home(quick_path, number, monkeypatch)
        server, path = Server(), write(ROWS)
        file, rows = await planned(server, path)
        before = file.read_bytes()
        damage(file, share)
        with pytest.raises(JobStopped, match=r"spool file .* (is|has) "):
            await server.run(path, "results.jsonl")
        account = server.machine.account
        assert account.requests in (0, len(ROWS) - rows), told  # the other shard may go first
        assert [account.times(raw_params(row)) for row in ROWS[:rows]] == [0] * rows, told
        file.write_bytes(before)
        await server.run(path, "results.jsonl")
        assert_all_is_well(server, Jsonl(), home, told)
