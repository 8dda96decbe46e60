"""The journal: durable facts, the fence, the driver's lock, and what a broken disk does."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import hashlib
import json
import os
import re
import signal
import sqlite3
import stat
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import get_args

import anyio
import msgspec
import pytest

from abatch import ConfigError, JobConflict, JournalCorrupt, JournalError, JournalLocked
from abatch.errors import Overtaken
from abatch.journal import sqlite_inbox, sqlite_outbox
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.outbox import Message
from abatch.journal.sqlite import OLDER, SCHEMA, SINCE_OLDER, VERSION, SqliteLog
from abatch.protocol import facts
from tests.unit.make import NOON, committing, drained, planned, run, start, submitted

pytestmark = pytest.mark.anyio


async def everything(journal: SqliteLog, **which: object) -> list[tuple[int, int | None, facts.Fact]]:
    seen: list[tuple[int, int | None, facts.Fact]] = []
    await journal.replay(lambda recorded: seen.append((recorded.job, recorded.shard, recorded.fact)), **which)
    return seen


@pytest.fixture
async def other(journal):
    """The same journal, as another process has it open."""
    opened = await SqliteLog.open(journal.folder, drive=False)
    yield opened
    await opened.aclose()


# ---- facts ----------------------------------------------------------------------------------------------------


async def test_facts_survive_reopening_in_their_order(journal):
    job = (await journal.add_job(submitted())).job
    await journal.append(Entry(job, planned(), 1, 0), Entry(job, facts.Cut(rows=10)))
    await journal.append(Entry(job, committing(), 1, 1))
    await journal.aclose()
    again = await SqliteLog.open(journal.folder, drive=True)
    assert await everything(again) == [
        (job, None, submitted()),
        (job, 1, planned()),
        (job, None, facts.Cut(rows=10)),
        (job, 1, committing()),
    ]
    await again.aclose()


async def test_what_append_returns_is_what_is_replayed(journal):
    first = await journal.add_job(submitted())
    rest = await journal.append(Entry(first.job, planned(), 1, 0), Entry(first.job, facts.CancelWished()))
    seen = []
    await journal.replay(seen.append)
    assert seen == [first, *rest]


async def test_every_kind_of_fact_can_be_read_again(journal):
    from tests.unit.test_lifecycle import FACTS

    of_job = [
        facts.Cut(rows=1, offset=2, digest="d", last=True),
        facts.CancelWished(),
        facts.ResolveWished(shard=1, attempt=1),
        facts.ResolveWished(shard=1, attempt=1, batch_id="msgbatch_1"),
        facts.LostWished(shard=1, attempt=1),
        facts.Stopped(reason="r", remedy="m", failing=True),
        facts.Limited(rows=7),
        facts.Resumed(),
        facts.InputChanged(source=facts.ChangedSource(files=(), rows=3, sent=1, mask=b"m")),
        facts.Finished(location="x"),
    ]
    source = facts.FileSource(path="p", size=1, mtime_ns=2, sha256="s", rows=3)
    headers = facts.Headers(betas=("a", "b"), user_profile_id="u", workspace_id="w")
    job = (await journal.add_job(submitted(source=source, headers=headers, tries=5))).job
    await journal.append(*(Entry(job, fact) for fact in of_job))
    await journal.append(*(Entry(job, fact, 1, n) for n, fact in enumerate(FACTS.values())))
    told = [fact for _, _, fact in await everything(journal)]
    assert told == [submitted(source=source, headers=headers, tries=5), *of_job, *FACTS.values()]


async def test_a_replay_can_begin_later_or_keep_to_one_job(journal):
    first = await journal.add_job(submitted())
    for shard in (1, 2):
        await journal.append(Entry(first.job, planned(part=shard), shard, 0))
    assert await everything(journal, since=first.seq + 1) == [(first.job, 2, planned(part=2))]
    second = await journal.add_job(submitted("second"))
    assert await everything(journal, job=second.job) == [(second.job, None, submitted("second"))]


async def test_a_replay_can_leave_out_what_this_journal_appended_itself(journal, other):
    job = (await journal.add_job(submitted())).job
    await other.append(Entry(job, facts.CancelWished()))
    await journal.append(Entry(job, facts.Resumed()))
    assert await everything(journal, others_only=True) == [(job, None, facts.CancelWished())]
    assert await everything(other, others_only=True) == [(job, None, submitted()), (job, None, facts.Resumed())]


async def test_the_version_changes_when_others_write_and_only_then(journal, other):
    job = (await journal.add_job(submitted())).job
    before = await journal.version()
    await journal.append(Entry(job, facts.Resumed()))
    assert await journal.version() == before
    await other.append(Entry(job, facts.CancelWished()))
    assert await journal.version() != before


async def test_the_next_shard_is_one_that_no_fact_bears(journal):
    assert (await Ledger.load(journal, journal.folder)).number_shard() == 1
    job = (await journal.add_job(submitted())).job
    await journal.append(Entry(job, planned(), 7, 0))
    assert (await Ledger.load(journal, journal.folder)).number_shard() == 8


async def test_a_key_is_taken_once(journal, other):
    await journal.add_job(submitted("k"))
    with pytest.raises(JobConflict, match="'k'"):
        await other.add_job(submitted("k"))
    assert len(await everything(journal)) == 1


# ---- the fence ------------------------------------------------------------------------------------------------


async def test_of_two_that_append_at_one_position_the_second_is_overtaken_and_appends_nothing(journal, other):
    job = (await journal.add_job(submitted())).job
    await journal.append(Entry(job, planned(), 1, 0))
    await journal.append(Entry(job, committing(), 1, 1))
    with pytest.raises(Overtaken):
        await other.append(Entry(job, facts.Split(into=(2, 3)), 1, 1))
    assert [fact for _, _, fact in await everything(other)] == [submitted(), planned(), committing()]


async def test_after_being_overtaken_both_can_append(journal, other):
    job = (await journal.add_job(submitted())).job
    await journal.append(Entry(job, planned(), 1, 0))
    with pytest.raises(Overtaken):
        await other.append(Entry(job, planned(), 1, 0))
    await other.append(Entry(job, committing(), 1, 1))
    await journal.append(Entry(job, facts.Withdrawn(why="x"), 1, 2))
    assert len(await everything(journal)) == 4


async def test_several_facts_are_appended_all_or_none(journal, other):
    job = (await journal.add_job(submitted())).job
    await journal.append(Entry(job, planned(), 2, 0))
    with pytest.raises(Overtaken):
        await other.append(Entry(job, planned(), 1, 0), Entry(job, facts.Cut(rows=20)), Entry(job, planned(), 2, 0))
    assert await everything(journal) == [(job, None, submitted()), (job, 2, planned())]


async def test_a_cut_of_a_job_has_its_fence_too(journal, other):
    job, second = [(await journal.add_job(submitted(key))).job for key in "ab"]
    await journal.append(Entry(job, facts.Cut(rows=10), n=0))
    with pytest.raises(Overtaken):
        await other.append(Entry(job, planned(), 1, 0), Entry(job, facts.Cut(rows=20), n=0))
    await other.append(Entry(second, facts.Cut(rows=5), n=0), Entry(job, facts.Cut(rows=20), n=1))
    assert len(await everything(journal)) == 5


async def test_other_facts_of_the_job_itself_have_no_fence(journal, other):
    job = (await journal.add_job(submitted())).job
    for one in (journal, other):
        await one.append(Entry(job, facts.CancelWished()))
    assert len(await everything(journal)) == 3


# ---- the driver's lock ----------------------------------------------------------------------------------------


async def test_one_process_drives_and_the_others_are_told_which(journal):
    with pytest.raises(JournalLocked) as locked:
        await SqliteLog.open(journal.folder, drive=True)
    assert (locked.value.pid, locked.value.path) == (os.getpid(), journal.folder.path)


async def test_readers_open_a_journal_that_is_driven(journal, other):
    assert (journal.drives, other.drives) == (True, False)
    assert (other.lineage.name, other.lineage.prefix(7, 1)) == (journal.lineage.name, journal.lineage.prefix(7, 1))


async def test_closing_frees_the_lock(journal):
    await journal.aclose()
    again = await SqliteLog.open(journal.folder, drive=True)
    assert again.drives
    await again.aclose()


async def test_who_only_looks_whether_a_journal_is_driven_keeps_nobody_from_driving_it(journal, monkeypatch):
    folder = journal.folder.path
    assert JournalFolder(folder).is_driven()
    await journal.aclose()
    assert not JournalFolder(folder).is_driven()
    assert not JournalFolder(folder / "none").is_driven()
    with (folder / "lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # in the middle of `is_locked`
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        again = await SqliteLog.open(JournalFolder(folder), drive=True)
    assert again.drives
    await again.aclose()


async def test_a_refused_driver_leaves_the_lock_where_it_is(journal):
    for _ in range(2):
        with pytest.raises(JournalLocked):
            await SqliteLog.open(journal.folder, drive=True)


DRIVE = """
import anyio, os, sys
from pathlib import Path
from abatch.journal.folder import JournalFolder
from abatch.journal.sqlite import SqliteLog
async def main():
    journal = await SqliteLog.open(JournalFolder(Path(sys.argv[1])), drive=True)
    {then}
anyio.run(main)
"""


async def test_a_killed_driver_holds_the_lock_until_its_death_and_no_longer(tmp_path):
    driver = start(DRIVE.format(then='print("driving", flush=True); sys.stdin.read()'), tmp_path)
    assert driver.stdout.readline() == "driving\n"
    with pytest.raises(JournalLocked) as locked:
        await SqliteLog.open(JournalFolder(tmp_path), drive=True)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert locked.value.pid == driver.pid
    journal = await SqliteLog.open(JournalFolder(tmp_path), drive=True)
    await journal.aclose()


FORKED = """
import anyio, os, signal, sys
from pathlib import Path
from abatch.journal.folder import JournalFolder
from abatch.journal.sqlite import SqliteLog
async def main():
    journal = await SqliteLog.open(JournalFolder(Path(sys.argv[1])), drive=True)
    child = os.fork()
    if child == 0:
        os.write(1, f"child drives: {journal.drives}\\n".encode())
        sys.stdin.read()
        os._exit(0)
    os.write(1, f"parent drives: {journal.drives}\\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
anyio.run(main)
"""


async def test_a_forked_child_does_not_hold_the_lock_of_its_dead_parent(tmp_path):
    parent = start(FORKED, tmp_path)
    said = sorted([parent.stdout.readline(), parent.stdout.readline()])
    parent.wait()
    journal = await SqliteLog.open(JournalFolder(tmp_path), drive=True)  # while the child lives
    await journal.aclose()
    parent.communicate("")
    assert said == ["child drives: False\n", "parent drives: True\n"]


async def test_who_has_just_taken_the_lock_is_given_time_to_say_who_it_is(tmp_path, monkeypatch):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def later(_: float) -> None:
            lock.write(f"{4711:<19}\n")
            lock.flush()

        monkeypatch.setattr(time, "sleep", later)
        with pytest.raises(JournalLocked) as locked:
            await SqliteLog.open(JournalFolder(tmp_path), drive=True)
    assert locked.value.pid == 4711


async def test_a_forked_child_that_ends_does_not_free_its_parent_s_lock(journal):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(JournalLocked):
        await SqliteLog.open(journal.folder, drive=True)


async def test_a_program_that_is_started_does_not_inherit_the_lock(tmp_path):
    then = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3, close_fds=False).pid)"
    sleeper = int(run(DRIVE.format(then=then), tmp_path))
    journal = await SqliteLog.open(JournalFolder(tmp_path), drive=True)
    await journal.aclose()
    os.kill(sleeper, signal.SIGKILL)


# ---- files ----------------------------------------------------------------------------------------------------


async def test_everything_is_for_its_owner_alone(journal):
    await journal.add_job(submitted())
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in journal.folder.path.iterdir()}
    assert found == {
        "journal.db": 0o600,
        "journal.db-wal": 0o600,
        "journal.db-shm": 0o600,
        "lock": 0o600,
        "spool": 0o700,
        "missing": 0o700,
        "ids": 0o700,
    }
    assert stat.S_IMODE(journal.folder.path.stat().st_mode) == 0o700


async def test_an_open_umask_changes_nothing_about_it(tmp_path):
    before = os.umask(0)
    try:
        journal = await SqliteLog.open(JournalFolder(tmp_path / "j"), drive=True)
        await journal.add_job(submitted())
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "j").iterdir()}
    await journal.aclose()
    assert modes == {0o600, 0o700}


@pytest.mark.parametrize("part", ["", "spool", "missing", "ids"])
async def test_a_folder_that_is_open_to_others_is_closed_and_that_is_said_in_one_line(journal, caplog, part):
    await journal.aclose()
    (journal.folder.path / part).chmod(0o755)
    with caplog.at_level("WARNING"):
        await (await SqliteLog.open(journal.folder, drive=True)).aclose()
    assert stat.S_IMODE((journal.folder.path / part).stat().st_mode) == 0o700
    (said,) = [record.getMessage() for record in caplog.records]
    assert "journal_folder_was_open" in said
    assert "055" in said


async def test_a_folder_of_another_user_is_refused_and_left_as_it_is(journal, monkeypatch):
    await journal.aclose()
    journal.folder.path.chmod(0o755)
    before = content_of(journal.folder.path)
    monkeypatch.setattr(os, "geteuid", lambda: journal.folder.path.stat().st_uid + 1)
    with pytest.raises(JournalError, match=r"belongs to another user .*choose another journal"):
        await SqliteLog.open(journal.folder, drive=True)
    assert (stat.S_IMODE(journal.folder.path.stat().st_mode), content_of(journal.folder.path)) == (0o755, before)


async def test_a_commit_is_synced_to_the_disk_before_it_returns(journal):
    def pragmas() -> tuple[str, int]:
        (mode,) = journal._db.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = journal._db.execute("PRAGMA synchronous").fetchone()
        return mode, synchronous

    assert pragmas() == ("wal", 2)


@pytest.mark.parametrize("name", ["journal.db", "lock"])
async def test_a_name_that_is_a_link_elsewhere_is_not_followed(tmp_path, name):
    folder, elsewhere = tmp_path / "j", tmp_path / "elsewhere"
    folder.mkdir()
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(JournalError):
        await SqliteLog.open(JournalFolder(folder), drive=True)
    assert not elsewhere.exists()


async def test_there_is_no_reading_of_a_journal_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="choose another journal with journal="):
        await SqliteLog.open(JournalFolder(tmp_path / "none"), drive=False)
    assert not (tmp_path / "none").exists()


async def test_a_name_that_cannot_be_a_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be a folder"):
        await SqliteLog.open(JournalFolder(tmp_path / "file" / "j"), drive=True)


# ---- whose journal --------------------------------------------------------------------------------------------


async def test_a_journal_serves_one_api_once_something_may_have_been_sent(journal):
    assert await journal.base_url() is None
    for url in ("https://wrong.example.com", "https://api.example.com"):
        await journal.bind(url)
    job = (await journal.add_job(submitted())).job
    await journal.append(Entry(job, planned(), 1, 0), Entry(job, committing(), 1, 1))
    await journal.bind("https://api.example.com")
    with pytest.raises(ConfigError, match="belongs to https://api"):
        await journal.bind("https://other.example.com")
    assert await journal.base_url() == "https://api.example.com"


async def test_another_api_is_refused_after_reopening_too(journal):
    await journal.bind("https://api.example.com")
    job = (await journal.add_job(submitted())).job
    await journal.append(Entry(job, planned(), 1, 0), Entry(job, committing(), 1, 1))
    await journal.aclose()
    again = await SqliteLog.open(journal.folder, drive=True)
    with pytest.raises(ConfigError):
        await again.bind("https://other.example.com")
    await again.aclose()


async def test_the_fingerprint_of_a_key_is_stable_and_tells_keys_apart(journal, other):
    prints = {journal.lineage.fingerprint(f"sk-ant-{n}") for n in range(100)}
    assert len(prints) == 100
    assert journal.lineage.fingerprint("sk-ant-1") == other.lineage.fingerprint("sk-ant-1")
    assert journal.lineage.fingerprint(None) is None


async def test_the_fingerprint_says_nothing_about_the_key_and_differs_by_journal(journal, tmp_path):
    fingerprint = journal.lineage.fingerprint("sk-ant-1")
    another = await SqliteLog.open(JournalFolder(tmp_path / "another"), drive=True)
    assert len(fingerprint) == 16
    assert set(fingerprint) <= set("0123456789abcdef")
    assert another.lineage.fingerprint("sk-ant-1") != fingerprint
    assert another.lineage.name != journal.lineage.name
    await another.aclose()


async def test_the_lineage_is_sixteen_hex_digits_and_not_the_key(journal):
    assert len(bytes.fromhex(journal.lineage.name)) == 8
    assert journal.lineage.name not in journal.lineage._secret.hex()


async def test_neither_key_nor_prompt_nor_custom_id_stands_in_the_journal(journal, ledger):
    from abatch import Config
    from abatch.input.planner import Planner

    key, prompt, custom_id = "sk-ant-CANARY-key", "CANARY prompt", "CANARY id"
    job = await ledger.start_job(submitted())

    async def room() -> bool:
        return True

    planner = Planner(ledger, job, Config(params="unchecked"), room=room, cut_made=lambda: None)
    await planner.run_iterable([{"custom_id": custom_id, "params": {"max_tokens": 1, "system": prompt}}])
    (shard,) = job.shards.values()
    fact = facts.Committing(attempt=1, date=1.0, fingerprint=journal.lineage.fingerprint(key))
    await ledger.record(*ledger.next(shard, fact))
    await journal.bind("https://api.example.com")
    written = b"".join(path.read_bytes() for path in journal.folder.path.glob("journal.db*"))
    assert b"Committing" in written
    assert b"CANARY" not in written


# ---- not a journal, broken disks ------------------------------------------------------------------------------


async def test_a_journal_of_another_version_is_not_touched(journal):
    await journal.aclose()
    path = journal.folder.path / "journal.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    for drive in (True, False):
        with pytest.raises(JournalError, match="has format 99"):
            await SqliteLog.open(journal.folder, drive=drive)


async def test_a_journal_of_an_older_abatch_is_refused_with_its_remedy_and_not_touched(tmp_path):
    """Its jobs ended at no position, and two processes could cut one job at once."""
    path = tmp_path / "journal.db"
    db = sqlite3.connect(path)
    for statement in SCHEMA.split(";\n"):
        if "INDEX cuts" not in statement:
            db.execute(statement)
    db.execute("INSERT INTO about VALUES ('lineage_key', ?)", (bytes(32),))
    db.execute("INSERT INTO jobs VALUES (1, 'k')")
    for n, fact in ((None, submitted()), (0, facts.Cut(rows=0, last=True)), (None, facts.Finished(location="x"))):
        db.execute("INSERT INTO facts VALUES (NULL, 1, NULL, ?, 0.0, 7, ?)", (n, facts.encode(fact)))
    db.execute("PRAGMA user_version = 1")
    db.commit()
    before = list(db.iterdump())
    for drive in (True, False):
        with pytest.raises(JournalError, match=f"{path} has format 1, .*choose another journal"):
            await SqliteLog.open(JournalFolder(tmp_path), drive=drive)
    assert list(db.iterdump()) == before
    db.close()


# ---- an older format ------------------------------------------------------------------------------------------


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The folder of a journal of format 2, as an abatch of that format wrote it."""
    folder = tmp_path / "older"
    folder.mkdir(mode=0o700)
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        db.executescript(Path(__file__).with_name("journal_format_2.sql").read_text())
    return folder


def format_of(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def content_of(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "journal.db")) as db:
        return list(db.iterdump())


async def test_a_journal_of_format_2_is_migrated_when_it_is_driven_and_nothing_else_of_it_changes(older):
    before = content_of(older)
    journal = await SqliteLog.open(JournalFolder(older), drive=True)
    await journal.aclose()
    assert (format_of(older), content_of(older)) == (3, before)


async def test_a_journal_of_format_2_has_every_shard_where_its_facts_left_it_and_can_be_finished(older):
    journal = await SqliteLog.open(JournalFolder(older), drive=True)
    ledger = await Ledger.load(journal, journal.folder)
    job, done = ledger.jobs.values()
    states = {shard.shard: type(shard.state).__name__ for shard in job.shards.values()}
    assert states == {
        1: "Ready",
        2: "InDoubt",
        3: "Held",
        4: "Processing",
        5: "Draining",
        6: "Rejected",
        7: "Done",
        8: "Dead",
        9: "Dead",
        10: "Ready",
        11: "Ready",
        12: "Ready",
    }
    assert done.finished is not None
    assert job.wishes[3] == facts.ResolveWished(shard=3, attempt=1)
    ended, end = facts.Ended(counts=facts.Counts(succeeded=10)), drained()
    found = facts.Found(batch_id="msgbatch_f", created_at=NOON, by="tag")
    abandoned = facts.Abandoned(why="w", counts=facts.Counts(errored=10), sealed=facts.SealedRecord(part=5, lines=10))
    for number, *rest in (
        (1, committing(), facts.Accepted(batch_id="msgbatch_1", created_at=NOON), ended, end),
        (2, found, ended, end),
        (3, facts.Lost(why="w"), end),
        (4, ended, end),
        (5, end),
        (6, abandoned),
        *((number, abandoned) for number in (10, 11, 12)),
    ):
        await ledger.record(*ledger.next(job.shards[number], *rest))
    await ledger.record(Entry(job.job, facts.Finished(location="x"), n=job.cuts))
    await journal.aclose()
    again = await SqliteLog.open(JournalFolder(older), drive=True)
    first, _ = (await Ledger.load(again, again.folder)).jobs.values()
    await again.aclose()
    assert first.finished is not None
    assert not any(shard.open for shard in first.shards.values())


async def test_reading_a_journal_of_format_2_does_not_migrate_it_and_an_old_kind_of_wish_can_be_appended(older):
    journal = await SqliteLog.open(JournalFolder(older), drive=False)
    ledger = await Ledger.load(journal, journal.folder)
    await ledger.record(Entry(1, facts.CancelWished()))
    await journal.aclose()
    assert ledger.jobs[1].cancel_wished
    assert format_of(older) == 2


def test_every_kind_of_fact_that_format_2_lacks_is_known_as_such():
    of_format_2 = (
        "Planned Committing Unreadable Accepted Found Withdrawn Rejected Ended Drained Split Abandoned Held "
        "Submitted Cut CancelWished ResolveWished DuplicateSeen Stopped Resumed Finished"
    )
    kinds = {kind.__name__ for kind in get_args(facts.Fact)}
    assert kinds - {kind.__name__ for kind in SINCE_OLDER} == set(of_format_2.split())


async def test_a_new_kind_of_fact_is_not_appended_beside_an_older_abatch_that_may_drive(older):
    journal = await SqliteLog.open(JournalFolder(older), drive=False)
    before = content_of(older)
    with pytest.raises(JournalError, match=r"format 2, so an older abatch may be driving it.*once with this version"):
        await journal.append(Entry(1, facts.LostWished(shard=4, attempt=1)))
    assert content_of(older) == before
    driver = await SqliteLog.open(JournalFolder(older), drive=True)
    await journal.append(Entry(1, facts.LostWished(shard=4, attempt=1)))
    await driver.aclose()
    await journal.aclose()


def test_what_stands_in_a_journal_is_what_its_version_says():
    """Another digest is another format: raise VERSION, unless all that changed is a new field with a default."""

    def undescribed(part: dict[str, object]) -> dict[str, object]:
        return {name: value for name, value in part.items() if name != "description"}

    fact = json.loads(json.dumps(msgspec.json.schema(facts.Fact)), object_hook=undescribed)
    format_ = SCHEMA + sqlite_inbox.SCHEMA + json.dumps(fact, sort_keys=True)
    digest = hashlib.sha256(format_.encode()).hexdigest()[:16]
    assert (VERSION, sqlite_inbox.WITH_INBOXES, digest) == (3, 4, "d683156fbfc610b2")


def test_the_tables_of_the_outbox_are_what_its_users_know():
    """They have no format of their own: a change of them has to read journals that have the earlier ones."""
    assert hashlib.sha256(sqlite_outbox.SCHEMA.encode()).hexdigest()[:16] == "d5a9ef776a386151"


async def test_an_outbox_in_a_journal_of_format_2_leaves_its_facts_and_format_as_they_are(older):
    journal = await SqliteLog.open(JournalFolder(older), drive=False)
    before = content_of(older)
    assert await journal.outbox.fill("a", [Message(1, "evt_1", "job.finished", "k", b"{}")], since=0, through=1)
    await journal.aclose()
    assert format_of(older) == 2
    assert [line for line in content_of(older) if not re.search("receivers|outbox", line)] == before


@pytest.mark.parametrize("raw", [b"not a database, and long enough to be seen as none" * 100, b"SQLite format 3\0" * 8])
async def test_a_file_that_is_no_database_is_corrupt_and_stays_as_it_is(tmp_path, raw):
    (tmp_path / "journal.db").write_bytes(raw)
    with pytest.raises(JournalCorrupt):
        await SqliteLog.open(JournalFolder(tmp_path), drive=True)
    assert (tmp_path / "journal.db").read_bytes() == raw


@pytest.mark.parametrize("version", [0, OLDER, VERSION])
async def test_a_database_of_something_else_is_refused_and_stays_as_it_is(tmp_path, version):
    path = tmp_path / "journal.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE about (x)")
    db.execute(f"PRAGMA user_version = {version}")
    db.close()
    before = path.read_bytes()
    for drive in (False, True):
        with pytest.raises(JournalError, match="another program's" if version == 0 else "not a journal"):
            await SqliteLog.open(JournalFolder(tmp_path), drive=drive)
    if version == 0:
        assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT sql FROM sqlite_master").fetchall() == [("CREATE TABLE about (x)",)]


async def test_a_corrupt_journal_frees_the_lock(tmp_path):
    (tmp_path / "journal.db").write_bytes(b"no database at all" * 100)
    for _ in range(2):
        with pytest.raises(JournalCorrupt):
            await SqliteLog.open(JournalFolder(tmp_path), drive=True)


@pytest.mark.parametrize("raw", [b"", b"{", b'{"type":"Unheard"}', b'{"type":"Cut"}', b"\xff", b"null"])
async def test_a_fact_that_cannot_be_read_is_corruption_that_names_it(journal, raw):
    seq = (await journal.add_job(submitted())).seq
    db = sqlite3.connect(journal.folder.path / "journal.db")
    with db:
        db.execute("UPDATE facts SET fact = ?", (raw,))
    db.close()
    with pytest.raises(JournalCorrupt, match=f"fact {seq} "):
        await everything(journal)


@pytest.mark.parametrize("column", ["job", "shard", "at"])
@pytest.mark.parametrize("value", ["x", b"1", 1.5])
async def test_a_column_of_another_type_is_corruption_that_names_the_fact(journal, column, value):
    job = (await journal.add_job(submitted())).job
    (recorded,) = await journal.append(Entry(job, planned(), 1, 0))
    db = sqlite3.connect(journal.folder.path / "journal.db")
    with db:
        db.execute(f"UPDATE facts SET {column} = ? WHERE seq = ?", (value, recorded.seq))
    db.close()
    if (column, value) == ("at", 1.5):
        assert len(await everything(journal)) == 2
        return
    with pytest.raises(JournalCorrupt, match=f"fact {recorded.seq} "):
        await everything(journal)


async def test_an_empty_file_left_by_a_crash_at_the_start_becomes_a_journal(tmp_path):
    (tmp_path / "journal.db").touch(mode=0o600)
    journal = await SqliteLog.open(JournalFolder(tmp_path), drive=True)
    await journal.add_job(submitted())
    await journal.aclose()


FULL_DISK = """
import anyio, json, resource, signal, sys
from pathlib import Path
from abatch.protocol import facts
from abatch.errors import JournalError
from abatch.journal.folder import JournalFolder
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def attempt(call, *args):
    try:
        await call(*args)
        return "done"
    except JournalError as failure:
        return str(failure)
async def main():
    journal = await SqliteLog.open(JournalFolder(Path(sys.argv[1])), drive=True)
    submitted = facts.Submitted(key="k", to="memory:", source=facts.IterableSource())
    job = (await journal.add_job(submitted)).job
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    said = []
    for n in range(200):
        said.append(await attempt(journal.append, Entry(job, facts.Stopped(reason="x" * 20000, remedy=str(n)))))
        if said[-1] != "done":
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = [
        await attempt(journal.append, Entry(job, facts.Resumed())),
        await attempt(journal.add_job, facts.Submitted(key="l", to="", source=facts.IterableSource())),
        await attempt(journal.bind, "https://api.example.com"),
    ]
    await attempt(journal.aclose)
    print(json.dumps([said.count("done"), said[-1], again]))
anyio.run(main)
"""


async def test_after_a_failed_write_nothing_more_is_written_even_if_the_disk_has_room_again(tmp_path):
    done, failure, again = json.loads(run(FULL_DISK, tmp_path, 300_000))
    assert 0 < done < 200
    assert "nothing more is sent" in failure
    assert again == [failure] * 3
    journal = await SqliteLog.open(JournalFolder(tmp_path), drive=True)
    kept = [fact for _, _, fact in await everything(journal)]
    await journal.aclose()
    assert [fact.remedy for fact in kept[1:]] == [str(n) for n in range(done)]


OPEN_ON_A_FULL_DISK = """
import anyio, resource, signal, sys
from pathlib import Path
from abatch.errors import JournalError
from abatch.journal.folder import JournalFolder
from abatch.journal.sqlite import SqliteLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    try:
        await SqliteLog.open(JournalFolder(Path(sys.argv[1])), drive=True)
    except JournalError as failure:
        print(type(failure).__name__)
anyio.run(main)
"""


async def test_a_disk_that_is_full_when_the_journal_is_made_is_not_called_corruption(tmp_path):
    assert run(OPEN_ON_A_FULL_DISK, tmp_path) == "JournalError\n"


async def test_a_driver_that_was_refused_a_full_disk_can_begin_later(tmp_path):
    run(OPEN_ON_A_FULL_DISK, tmp_path)
    journal = await SqliteLog.open(JournalFolder(tmp_path), drive=True)
    await journal.add_job(submitted())
    await journal.aclose()


async def test_an_open_that_is_cancelled_does_not_keep_the_journal_from_the_next(tmp_path):
    late, go_on = threading.Event(), threading.Event()

    class Slow(SqliteLog):
        @classmethod
        def _open(cls, folder, drive):
            journal = super()._open(folder, drive)
            late.set()
            go_on.wait(10)
            return journal

    gc.disable()  # what is free only after a collection is not free
    try:
        opening = asyncio.ensure_future(Slow.open(JournalFolder(tmp_path / "journal"), drive=True))
        await anyio.to_thread.run_sync(late.wait)
        opening.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await (await SqliteLog.open(JournalFolder(tmp_path / "journal"), drive=True)).aclose()
    finally:
        gc.enable()
