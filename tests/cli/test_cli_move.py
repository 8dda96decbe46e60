"""`abatch move`: the job goes on elsewhere, and the command that was run before finds it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from contextlib import suppress
from typing import Any

from abatch.cli.sanitize import moment
from abatch.journal.folder import JournalFolder
from abatch.journal.status import DriverStatus, StorageDown, post
from abatch.sandbox import Sandbox
from abatch.sandbox.answers import Outcomes
from abatch.sandbox.batches import Ended

FAST = ("--poll-interval", "0.05")


def test_the_command_that_was_run_before_finds_the_job_that_was_moved(
    new_cli: Any, slow_api: Sandbox, wait_for: Any
) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 12)
    command = ("run", "in.jsonl", "--to", "out/", "--requests-per-batch", 6, *FAST)
    running = cli.start(*command)
    wait_for(lambda: slow_api.account.requests == 12, running)
    key = cli.here("status", "--json").json["jobs"][0]["key"]
    busy = cli.here("move", key, "--to", "moved.jsonl")
    assert busy.status == 3
    assert "drives this journal" in busy.err
    running.send_signal(signal.SIGKILL)
    running.communicate()

    absent = cli.here("move", "nobody", "--to", "moved.jsonl")
    assert absent.status == 2
    assert f"it has: {key}" in absent.err
    moved = cli.here("move", key, "--to", "moved.jsonl")
    assert moved.status == 0, moved
    assert "moved.jsonl now" in moved.err
    assert "keeps a copy" not in moved.err  # nothing was sealed there
    assert f"abatch run in.jsonl --to moved.jsonl --key {key}" in moved.err
    assert cli.here("move", key, "--to", "moved.jsonl").status == 0  # once more: it is there
    told = cli.here("status", "--json").json["jobs"][0]
    assert told["destination"].endswith("moved.jsonl")

    slow_api.advance(10_001)
    for to in ("out/", "moved.jsonl", "out/"):
        again = cli.here("run", "in.jsonl", "--to", to, "--json", *FAST)
        assert again.status == 0, again
        assert (again.json["key"], again.json["succeeded"]) == (key, 12)
        assert again.json["location"].endswith("/moved.jsonl")
        assert ("was moved" in again.err) == (to == "out/")
    assert len(cli.here("results", key).out.splitlines()) == 12
    assert slow_api.account.violated == 0
    assert slow_api.account.requests == 12
    done = cli.here("move", key, "--to", "elsewhere.jsonl")
    assert done.status == 2
    assert "is done; copy its results from" in done.err


def test_a_move_asks_for_a_key_only_if_results_have_to_be_read_again(new_cli: Any, wait_for: Any) -> None:
    with Sandbox(seed=1, latency=10_000, outcome=Outcomes(expired=0.5)) as api:
        cli = new_cli(api)
        cli.write("in.jsonl", 12)
        running = cli.start("run", "in.jsonl", "--to", "out/", "--requests-per-batch", 6, "--tries", 2, *FAST)
        wait_for(lambda: api.account.requests == 12, running)
        api.advance(10_001)  # the batches of the retry do not end
        wait_for(lambda: api.account.requests > 12, running)
        wait_for(lambda: cli.here("status", "--json").json["jobs"][0]["sealed"], running)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        key = cli.here("status", "--json").json["jobs"][0]["key"]
        copied = cli.here("move", key, "--to", "copied/", ANTHROPIC_API_KEY="")
        assert copied.status == 0, copied
        assert "could not be read" not in copied.err
        assert f"The parts in {cli.folder / 'out'}/ are left" in copied.err

        shutil.rmtree(cli.folder / "copied")
        refused = cli.here("move", key, "--to", "moved.jsonl", ANTHROPIC_API_KEY="")
        assert refused.status == 2
        assert "no API key: set ANTHROPIC_API_KEY" in refused.err
        moved = cli.here("move", key, "--to", "moved.jsonl")
        assert moved.status == 0, moved
        assert f"could not be read in {cli.folder / 'copied'}/: the next run reads them from the API" in moved.err
        assert "keeps a copy" not in moved.err
        assert "event=" not in moved.err
        again = cli.start("run", "in.jsonl", "--to", "moved.jsonl", "--key", key, *FAST)
        while again.poll() is None:  # batches of the retry that were not sent before end, too
            with api._lock:
                have_ended = all(isinstance(batch.state, Ended) for batch in api.machine.batches())
            if not have_ended:  # else a slow machine would see the results expire
                api.advance(10_001)
            with suppress(subprocess.TimeoutExpired):
                again.wait(0.2)
        again.communicate()
        assert len((cli.folder / "moved.jsonl").read_text().splitlines()) == 12
        assert api.account.violated == 0


def test_status_says_since_when_the_storage_has_been_failing(alone: Any) -> None:
    alone.write("in.jsonl", 1)
    assert alone.here("run", "in.jsonl", "--to", "out.jsonl", "--dry-run").status == 0
    journal = alone.folder / ".abatch"
    alone.here("run", "in.jsonl", "--to", "out.jsonl")  # makes the journal; the API is not there
    lock = (journal / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # as a process that drives it
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    down = StorageDown(
        job="nightly", since=1_700_000_000.0, why="put_object failed with 503 SlowDown", until=1_700_000_900.0
    )
    with lock:
        post(JournalFolder(journal), DriverStatus(pid=os.getpid(), storage_down=[down]))
        shown = alone.here("status")
        assert "the storage of nightly has been failing since" in shown.out
        until = f"abatch retries until {moment(1_700_000_900.0)}"
        assert f"put_object failed with 503 SlowDown; {until}" in shown.out.replace("\n", " ")
        told = alone.here("status", "--json").json["driver"]["storage_down"]
        assert told == [
            {
                "job": "nightly",
                "since": 1_700_000_000.0,
                "why": "put_object failed with 503 SlowDown",
                "until": 1_700_000_900.0,
            }
        ]


def test_an_odd_patience_is_refused(alone: Any) -> None:
    alone.write("in.jsonl", 1)
    told = alone.here("run", "in.jsonl", "--to", "out.jsonl", "--storage-patience", "-1")
    assert told.status == 2
    assert "--storage-patience must be a number of seconds from 0" in told.err
