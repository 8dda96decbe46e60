"""The commands that read a journal, or steer it, beside whoever drives it."""

from __future__ import annotations

import json
import signal
from typing import Any

from abatch.sandbox import Sandbox
from abatch.sandbox.faults import ResetBeforeAccept
from tests.cli.conftest import PATIENCE

FAST = ("--poll-interval", "0.05")


def fails(n: int) -> str | None:
    """r1 fails for good, r2 is mended by a retry."""
    return {1: "sandbox:errored:permission_error", 2: "sandbox:errored-once:overloaded_error"}.get(n)


def test_a_finished_job_is_shown_read_and_retried(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 12, user=fails)
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", "--tries", 1)
    assert cli.here(*args, "--requests-per-batch", 8, *FAST).status == 1

    shown = cli.here("status", "--batches")
    assert shown.status == 0
    head, row = shown.out.splitlines()[:2]
    assert head.split() == ["job", "state", "total", "planned", "in", "flight", "sealed", "failed", "batches", "since"]
    assert row.split()[:7] == ["job", "done", "12", "12", "0", "12", "2"]
    assert "wire prefix" in shown.out
    assert "msgbatch_" in shown.out

    told = cli.here("status", "job", "--batches", "--json").json["jobs"][0]
    assert (told["state"], told["sealed"], told["failed"]) == ("done", 12, 2)
    assert sum(shard["rows"] for shard in told["shards"]) == 12
    assert {shard["attempt"] for shard in told["shards"]} == {1}

    wire_id = told["shards"][0]["wire_prefix"] + "0001"
    assert cli.here("id", wire_id, "--json").json == {
        "job": "job", "shard": told["shards"][0]["shard"], "attempt": 1, "row": 1, "custom_id": "r1", "proven": True,
    }  # fmt: skip
    swapped = wire_id[:17] + ("0" if wire_id[17] != "0" else "1") + wire_id[18:]
    foreign = cli.here("id", swapped)
    assert foreign.status == 2, foreign
    assert "tag" in foreign.err
    assert cli.here("id", "my-own-id").status == 2

    read = cli("results", "job")
    assert read.status == 0
    assert sorted(read.raw.splitlines()) == sorted((cli.folder / "out.jsonl").read_bytes().splitlines())
    failed = cli.here("results", "job", "--failed")
    assert sorted(json.loads(raw)["custom_id"] for raw in failed.raw.splitlines()) == ["r1", "r2"]

    asked = cli.here("retry", "job")
    assert asked.status == 2, asked
    assert "2 requests to send again (2 failed) as job job.retry-1" in asked.err
    assert "--yes" in asked.err
    first = cli.here("retry", "job", "--failed", "--yes", "--json", *FAST)
    assert first.status == 1, first
    assert (first.json["key"], first.json["succeeded"], first.json["errored"]) == ("job.retry-1", 1, 1)
    assert cli.lines("out.retry-1.jsonl") == {"r1": "errored", "r2": "succeeded"}
    second = cli.here("retry", "job", "--yes", "--to", "again/", *FAST)
    assert second.status == 1, second
    assert "1 requests to send again (1 failed) as job job.retry-2" in second.err
    nothing = cli.here("retry", "job", "--missing", "--yes")
    assert nothing.status == 0
    assert "nothing to send again" in nothing.err
    assert cli.here("retry", "job.retry-1", "--yes").status == 2
    cli.write("in.jsonl", 13)
    changed = cli.here("retry", "job", "--yes")
    assert changed.status == 2, changed
    assert "changed" in changed.err
    assert api.account.requests == 12 + 2 + 1
    cancelled = cli.here("cancel", "job")
    assert cancelled.status == 2
    assert "done" in cancelled.err


def test_an_unfinished_job_is_read_cancelled_and_finished(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 9)
    args = ("run", "in.jsonl", "--to", "out.db", "--key", "job", *FAST)
    process = cli.start(*args)
    wait_for(lambda: slow_api.account.batches, process)
    wait_for(lambda: cli("status", "--json").json["jobs"][0]["state"] == "running", process)
    told = cli("status", "--batches", "--json").json["jobs"][0]
    assert (told["in_flight"], told["sealed"]) == (9, 0)
    assert told["shards"][0]["state"] == "processing"
    named = cli("id", told["shards"][0]["wire_prefix"] + "0004").out
    assert "r4" in named
    read = cli("results", "job")
    assert (read.status, read.out) == (0, "")
    assert "not finished" in read.err
    early = cli("retry", "job", "--yes")
    assert early.status == 2
    assert "not finished" in early.err
    done = cli("cancel", "job")
    assert done.status == 0, done
    assert "within a second" in done.err
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, err
    assert len(slow_api.account.canceled) == 1
    told = cli("status", "--json").json["jobs"][0]
    assert (told["state"], told["reason"], told["failed"]) == ("done", "cancelled", 9)


def test_status_shows_a_parked_batch_and_what_can_be_done(new_cli: Any, wait_for: Any) -> None:
    with Sandbox(seed=1, latency=20 * 3600.0) as api:
        cli = new_cli(api)
        cli.write("in.jsonl", 5)
        process = cli.start("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST)
        wait_for(lambda: api.account.batches, process)
        api.advance(13 * 3600.0)
        wait_for(lambda: "has not moved" in cli.here("status").out, process)
        told = " ".join(cli.here("status").out.split())
        (batch_id,) = api.account.created
        assert f"batch {batch_id} has not moved for 13 h; `abatch cancel job` keeps finished rows" in told
        assert cli.here("status", "--json").json["driver"]["parked"] == {batch_id: "has not moved for 13 h"}
        api.advance(8 * 3600.0)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert "batch_parked" in err
        assert api.account.violated == 0


def test_a_parked_batch_is_given_up_by_the_option(new_cli: Any, wait_for: Any) -> None:
    with Sandbox(seed=1, latency=20 * 3600.0) as api:
        cli = new_cli(api)
        cli.write("in.jsonl", 5)
        process = cli.start("run", "in.jsonl", "--to", "out.jsonl", "--parked", "cancel-and-retry", *FAST)
        wait_for(lambda: api.account.batches, process)
        api.advance(13 * 3600.0)
        wait_for(lambda: api.account.batches == 2, process)
        api.advance(21 * 3600.0)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert set(cli.lines("out.jsonl").values()) == {"succeeded"}
        assert (len(api.account.canceled), api.account.violated) == (1, 0)


def test_a_held_shard_waits_for_a_word(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 5)
    api.faults.next("create", ResetBeforeAccept())
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--unresolved", "hold", "--grace", "0.3", *FAST)
    held = cli.here(*args, "--json")
    assert held.status == 3, held
    assert held.json["error"]["type"] == "StillInDoubt"
    assert "abatch resolve" in held.err
    assert "held" in cli.here("status").out
    for wrong in (
        ("resolve", "1"),
        ("resolve", "1", "--adopt", "msgbatch_1", "--not-created"),
        ("resolve", "99", "--not-created"),
    ):
        assert cli.here(*wrong).status == 2
    assert cli.here("resolve", "1", "--adopt", "msgbatch_nobody").status == 0
    assert "Noted, and not done yet: it is batch msgbatch_nobody" in cli.here("status").out.replace("\n", " ")
    assert "Look in the Console" not in cli.here("status").out
    still = cli.here(*args)
    assert still.status == 3, still
    assert "--lost" in still.err
    assert "was refused: the API contradicts it" in cli.here("status").out
    assert "abatch resolve" in cli.here("status").out
    told = cli.here("status", "--batches", "--json").json["jobs"][0]["shards"][0]
    assert told["state"] == "held"
    assert told["reason"]
    assert told["reason"] not in cli.here("status", "--batches").out.partition("shards of")[2]
    said = cli.here("resolve", "1", "--not-created")
    assert said.status == 0, said
    ended = cli.here(*args)
    assert ended.status == 0, ended
    assert (api.account.requests, api.account.violated) == (5, 0)
    settled = cli.here("resolve", "1", "--not-created")
    assert settled.status == 2
    assert "neither in doubt nor held" in settled.err


def test_results_stop_quietly_when_nobody_reads(cli: Any) -> None:
    cli.write("in.jsonl", 2000)
    assert cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST).status == 0
    process = cli.start("results", "job", text=False)
    assert process.stdout.readline().startswith(b'{"custom_id":')
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=PATIENCE) == 0


def test_status_watches_until_all_is_done(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 4)
    run = cli.start("run", "in.jsonl", "--to", "out.jsonl", *FAST)
    wait_for(lambda: slow_api.account.batches, run)
    watch = cli.start("status", "--watch", "--json")
    interrupted = cli.start("status", "--watch")
    assert json.loads(watch.stdout.readline())["jobs"][0]["planned"] == 4
    assert interrupted.stdout.readline().startswith("job")
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate(timeout=PATIENCE)
    assert interrupted.returncode == 130, said
    slow_api.advance(20_000)
    out, _ = watch.communicate(timeout=PATIENCE)
    assert json.loads(out.splitlines()[-1])["jobs"][0]["state"] == "done"
    assert watch.returncode == 0
    run.communicate(timeout=PATIENCE)
    assert run.returncode == 0


def test_commands_without_a_journal_or_job_are_exit_2(alone: Any) -> None:
    for args in (("status",), ("results", "job"), ("cancel", "job"), ("resolve", "1", "--not-created")):
        ended = alone.here(*args)
        assert ended.status == 2, ended
        assert "no journal" in ended.err
    assert not (alone.folder / ".abatch").exists()


def test_a_word_that_a_shard_is_lost_ends_its_job_with_its_requests_missing(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 5)
    api.faults.next("create", ResetBeforeAccept())
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--unresolved", "hold", "--grace", "0.3", *FAST)
    held = cli.here(*args)
    assert held.status == 3, held
    assert "--lost" in cli.here("status").out
    assert cli.here("resolve", "1", "--lost", "--not-created").status == 2
    assert cli.here("resolve", "99", "--lost").status == 2
    said = cli.here("resolve", "1", "--lost")
    assert (said.status, "shard 1 of job" in said.err, "is lost" in said.err) == (0, True, True), said
    ended = cli.here(*args, "--json")
    assert (ended.status, ended.json["missing"]) == (1, 5), ended
    shown = cli.here("status", "--json").json["jobs"][0]
    assert (shown["failed"], shown["missing"]) == (5, 5)
    assert "missing" in cli.here("status").out
    assert api.account.batches == 0
    late = cli.here("resolve", "1", "--lost")
    assert late.status == 2
    assert "it is done" in late.err


def test_a_result_file_that_was_removed_is_read_again(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 12)
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", "--requests-per-batch", 8, *FAST)
    assert cli.here(*args).status == 0
    in_place = cli.here("redrain", "job")
    assert (in_place.status, "nothing is read again" in in_place.err) == (0, True), in_place
    lines = cli.lines("out.jsonl")
    (cli.folder / "out.jsonl").unlink()
    missed = cli.here(*args)
    assert (missed.status, "abatch redrain job" in missed.err) == (1, True), missed
    again = cli.here("redrain", "job", "--json")
    assert (again.status, again.json["succeeded"], again.json["state"]) == (0, 12, "done"), again
    assert cli.lines("out.jsonl") == lines
    assert cli.here("redrain", "nobody").status == 2
    assert (api.account.requests, api.account.violated) == (12, 0)


def test_a_sandbox_serves_until_it_is_interrupted(alone: Any) -> None:
    served = alone.start("sandbox", "--port", "0", "--state", "state", "--latency", "0")
    url = served.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:")
    alone.env["ANTHROPIC_BASE_URL"] = url
    alone.write("in.jsonl", 3)
    assert alone("run", "in.jsonl", "--to", "out.jsonl", *FAST).status == 0
    taken = alone("sandbox", "--port", url.rpartition(":")[2])
    assert taken.status == 2, taken
    assert "choose another with --port" in taken.err
    served.send_signal(signal.SIGINT)
    served.communicate(timeout=PATIENCE)
    assert served.returncode == 0
    assert (alone.folder / "state").exists()
