"""What is sent again, what is not, and one line per request of a job and its retries."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Stall
from tests.cli.conftest import Ended

FAST = ("--poll-interval", "0.05")
ONCE = ("--tries", 1, *FAST)
FATES = {
    1: "sandbox:errored:invalid_request_error",
    2: "sandbox:errored-once:overloaded_error",
    3: "sandbox:errored:not_found_error",
    4: "sandbox:errored:permission_error",
}


def outcomes(ended: Ended) -> dict[str, str]:
    """custom_id → outcome of lines on stdout; each stands once."""
    found = [json.loads(line) for line in ended.raw.splitlines()]
    by_id = {each["custom_id"]: each["result"]["type"] for each in found}
    assert len(by_id) == len(found)
    return by_id


def test_a_retry_leaves_out_what_cannot_succeed_unless_all_is_given(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 8, user=FATES.get)
    first = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *ONCE)
    assert first.status == 1, first
    assert "2 of them cannot succeed unchanged" in first.err
    assert "abatch retry job --failed" in first.err
    again = cli.here("retry", "job", "--failed", "--yes", *FAST)
    assert "2 requests cannot succeed unchanged, and are left out" in again.err
    assert "2 requests to send again (2 failed)" in again.err
    assert cli.lines("out.retry-1.jsonl") == {"r2": "succeeded", "r4": "errored"}
    everything = cli.here("retry", "job", "--all", "--yes", *FAST)
    assert "left out" not in everything.err
    assert cli.lines("out.retry-2.jsonl") == dict.fromkeys(("r1", "r3", "r4"), "errored")
    assert api.account.requests == 8 + 2 + 3
    assert api.account.violated == 0


def test_where_nothing_can_succeed_no_retry_is_proposed_and_none_is_sent(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 4, user=lambda n: FATES[1] if n else None)
    first = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST)
    assert "abatch retry" not in first.err
    assert "abatch results job --failed" in first.err
    again = cli.here("retry", "job", "--yes")
    assert again.status == 0, again
    assert "3 requests cannot succeed unchanged" in again.err
    assert "nothing to send again" in again.err
    assert api.account.requests == 4


def test_merged_results_have_one_line_per_request_of_a_job_and_its_retries(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 8, user=FATES.get)
    cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *ONCE)
    assert outcomes(cli.here("results", "job", "--merged")) == cli.lines("out.jsonl")
    cli.here("retry", "job", "--all", "--yes", *FAST)
    cli.here("retry", "job", "--all", "--yes", *FAST)
    whole = {f"r{n}": "errored" if n in (1, 3, 4) else "succeeded" for n in range(8)}
    assert outcomes(cli.here("results", "job", "--merged")) == whole
    assert outcomes(cli.here("results", "job.retry-1", "--merged")) == whole
    assert outcomes(cli.here("results", "job", "--merged", "--failed")) == dict.fromkeys(("r1", "r3", "r4"), "errored")
    assert len(outcomes(cli.here("results", "job", "--failed"))) == 4  # the job alone
    assert api.account.violated == 0


def test_in_sqlite_the_merged_view_has_one_row_per_id_after_a_retry(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 8, user=FATES.get)
    cli.here("run", "in.jsonl", "--to", "out.db", "--key", "job", *ONCE)
    cli.here("retry", "job", "--failed", "--yes", *FAST)
    with closing(sqlite3.connect(cli.folder / "out.db")) as database:
        rows = database.execute(
            "SELECT custom_id, outcome, answered_by FROM results_merged WHERE job = 'job'"
        ).fetchall()
    answered_by = {2: "job.retry-1", 4: "job.retry-1"}
    assert sorted(rows) == [
        (f"r{n}", "errored" if n in (1, 3, 4) else "succeeded", answered_by.get(n, "job")) for n in range(8)
    ]
    assert outcomes(cli.here("results", "job", "--merged")) == {custom_id: outcome for custom_id, outcome, _ in rows}
    assert api.account.violated == 0


def test_answers_that_were_cut_are_asked_for_again_with_more_tokens(cli: Any, api: Sandbox) -> None:
    cuts = {1: "sandbox:cut:100", 2: "sandbox:cut:5000", 3: FATES[4]}
    cli.write("in.jsonl", 8, user=cuts.get)
    cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *ONCE)
    asked = ("retry", "job", "--stop-reason", "max_tokens")
    refused = cli.here(*asked, "--yes")
    assert refused.status == 2
    assert "would be cut again: say --max-tokens N" in refused.err
    again = cli.here(*asked, "--max-tokens", 1000, "--yes", *FAST)
    assert again.status == 0, again
    assert "2 requests to send again (2 of that stop reason) as job job.retry-1" in again.err
    assert "1 of 2 were cut at max_tokens." in again.err
    assert "abatch retry job --stop-reason max_tokens --max-tokens N" in again.err
    last = cli.here(*asked, "--max-tokens", 6000, "--yes", "--json", *FAST)
    assert (last.json["key"], last.json["requests"]) == ("job.retry-2", 1)
    assert last.json["stop_reasons"] == {"end_turn": 1}
    lines = [json.loads(line) for line in cli.here("results", "job", "--merged").raw.splitlines()]
    assert len(lines) == 8
    stops = {each["custom_id"]: each["result"]["message"]["stop_reason"] for each in lines if each["custom_id"] != "r3"}
    assert set(stops.values()) == {"end_turn"}
    done = cli.here(*asked, "--max-tokens", 9000, "--yes")
    assert "nothing to send again" in done.err
    assert api.account.requests == 8 + 2 + 1
    assert api.account.violated == 0


def test_requests_that_were_allowed_as_much_before_are_not_paid_for_again(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 2, user=lambda _: "sandbox:cut:100")  # of 8 tokens each
    cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST)
    again = cli.here("retry", "job", "--stop-reason", "max_tokens", "--max-tokens", 8, "--yes")
    assert again.status == 0, again
    assert "2 requests are left out: they were allowed 8 tokens before." in again.err
    assert api.account.requests == 2
    wrong = cli.here("retry", "job", "--failed", "--max-tokens", 100, "--yes")
    assert wrong.status == 2
    assert "--stop-reason max_tokens alone" in wrong.err


def test_the_last_screen_groups_failures_with_counts_and_an_example(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 40, user=lambda n: FATES[1] if n < 12 else "sandbox:expired" if n in (20, 21) else None)
    shown = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", "--requests-per-batch", 10, *ONCE)
    rows = [line.split() for line in shown.err.splitlines()]
    (bad,) = [row for row in rows if row[1:2] == ["invalid_request_error"]]
    assert (bad[0], bad[-1] in {f"r{n}" for n in range(12)}) == ("12", True)
    assert "errored on demand" in " ".join(bad)
    (late,) = [row for row in rows if row[1:2] == ["expired"]]
    assert (late[0], late[-1] in ("r20", "r21")) == ("2", True)
    told = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", "--json").json[
        "failures"
    ]  # from the journal
    assert [(each["type"], each["count"], each["final"]) for each in told] == [
        ("invalid_request_error", 12, True),
        ("expired", 2, False),
    ]
    assert api.account.violated == 0


def test_of_a_retry_that_was_killed_status_names_the_command_and_what_it_needs(
    cli: Any, api: Sandbox, wait_for: Any
) -> None:
    cli.write("in.jsonl", 4, user={2: FATES[2]}.get)
    cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *ONCE)
    api.faults.next("create", Stall(seconds=600))
    process = cli.start("retry", "job", "--failed", "--yes", *FAST)
    wait_for(lambda: api.account.batches == 2, process)
    process.kill()
    process.communicate()
    (retry,) = (job for job in cli.here("status", "--json").json["jobs"] if job["state"] != "done")
    assert retry["resume"] == "abatch retry job"
    assert retry["resume_needs"] == "with the options it was begun with"
