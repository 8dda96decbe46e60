"""`abatch status`: one job in full, watching it, and its state as an exit code."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from abatch.journal.folder import JournalFolder
from abatch.sandbox import Sandbox
from tests.cli.conftest import PATIENCE

FAST = ("--poll-interval", "0.05")


def fails(n: int) -> str | None:
    return {
        1: "sandbox:errored:permission_error",
        2: "sandbox:errored:permission_error",
        3: "sandbox:errored:invalid_request_error",
    }.get(n)


def test_status_of_a_job_shows_cost_tokens_location_and_failures_by_kind(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 12, user=fails)
    assert cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST).status == 1
    told = cli.here("status", "job", "--json").json["jobs"][0]
    assert told["location"] == str(cli.folder / "out.jsonl")
    assert (told["succeeded"], told["errored"], told["usage"]["output_tokens"] > 0) == (9, 3, True)
    assert 0 < told["cost"] < told["synchronous_cost"]
    assert told["prices_of"]
    kinds = {failure["type"]: (failure["count"], failure["final"]) for failure in told["failures"]}
    assert kinds == {"permission_error": (2, False), "invalid_request_error": (1, True)}
    assert (told["eta_seconds"], told["eta_unknown"]) == (0.0, None)
    shown = cli.here("status", "job").out
    assert str(cli.folder / "out.jsonl") in shown
    assert "permission_error" in shown
    assert "$0.0" in shown
    assert f"{told['usage']['output_tokens']:,} out" in shown
    assert "expected end" not in shown
    assert api.account.violated == 0


def test_a_list_of_jobs_reads_no_failures_and_one_job_alone_is_shown_in_full(cli: Any, api: Sandbox) -> None:
    for name, first in (("one", 0), ("two", 10)):
        cli.write(f"{name}.jsonl", 4, first=first, user=fails)
        assert cli.here("run", f"{name}.jsonl", "--to", f"{name}-out.jsonl", "--key", name, *FAST).status in (0, 1)
        alone = name == "one"
        assert ("tokens" in cli.here("status").out) is alone
        told = cli.here("status", "--json").json["jobs"]
        assert [job["failures"] is not None for job in told] == ([True] if alone else [False, False])
        assert all(job["cost"] > 0 for job in told)
    assert "tokens" in cli.here("status", "two").out
    assert api.account.violated == 0


def test_the_end_that_is_expected_comes_from_past_batches(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 4)
    first = cli.start("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST)
    wait_for(lambda: slow_api.account.batches, first)
    wait_for(lambda: cli.here("status", "--json").json["jobs"][0]["state"] == "running", first)
    told = cli.here("status", "--json").json["jobs"][0]
    assert (told["eta_seconds"], told["eta_unknown"]) == (None, "no history yet")
    shown = cli.here("status").out
    assert "not known: no history yet" in shown
    assert "cost so far" in shown
    first.kill()
    first.communicate()
    told = cli.here("status", "--json").json["jobs"][0]
    assert (told["eta_seconds"], told["eta_unknown"]) == (None, "no process drives this journal")
    assert slow_api.account.violated == 0


def test_watching_ends_when_nobody_drives_and_says_so(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 4)
    run = cli.start("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST)
    wait_for(lambda: slow_api.account.batches, run)
    watch = cli.start("status", "--watch", "--json")
    first = json.loads(watch.stdout.readline())
    assert first["driver"]["pid"] == run.pid
    run.kill()
    run.communicate()
    out, err = watch.communicate(timeout=PATIENCE)
    assert watch.returncode == 3, err
    assert json.loads(out.splitlines()[-1])["driver"] is None
    assert "No process drives this journal" in err
    late = cli.here("status", "job", "--watch")
    assert late.status == 3
    assert "nothing to watch" in late.err
    assert "abatch run in.jsonl --to out.jsonl --key job" in late.out.replace("\n", " ")
    assert slow_api.account.violated == 0


def test_the_exit_code_says_the_state_where_that_is_asked_for(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 4, user=fails)
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST)
    run = cli.start(*args)
    wait_for(lambda: slow_api.account.batches, run)
    assert cli.here("status", "job", "--exit-code").status == 4
    assert cli.here("status", "job").status == 0
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE)
    assert cli.here("status", "--exit-code", "--json").status == 3
    slow_api.advance(20_000)
    assert cli.here(*args).status == 1
    assert cli.here("status", "--exit-code").status == 1
    assert cli.here("status", "--watch", "--exit-code").status == 1
    assert cli.here("status", "--watch").status == 0
    assert cli.here("status", "nobody", "--exit-code").status == 2
    cli.write("good.jsonl", 4, first=10)
    good = cli.start("run", "good.jsonl", "--to", "good-out.jsonl", "--key", "good", *FAST)
    wait_for(lambda: slow_api.account.batches == 2, good)
    slow_api.advance(20_000)
    good.communicate(timeout=PATIENCE)
    assert cli.here("status", "good", "--exit-code").status == 0
    assert slow_api.account.violated == 0


def test_a_process_id_that_lives_does_not_drive_a_journal_whose_lock_is_free(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 4)
    assert cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST).status == 0
    folder = cli.folder / ".abatch"
    assert int((folder / "lock").read_text()) == os.getpid()  # the run was in this process, which lives
    assert cli.here("status", "--json").json["driver"] is None
    assert not JournalFolder(folder).is_driven()
    assert api.account.violated == 0
