"""`abatch wait`: jobs that another process drives are followed until each has ended."""

from __future__ import annotations

import json
from typing import Any

from abatch.sandbox import Sandbox
from tests.cli.conftest import PATIENCE

FAST = ("--poll-interval", "0.05")


def refused(n: int) -> str | None:
    return "sandbox:errored:permission_error" if n == 12 else None


def test_several_jobs_are_followed_to_the_worst_of_their_ends(
    new_cli: Any, slow_api: Sandbox, wait_for: Any, read_until: Any
) -> None:
    cli = new_cli(slow_api)
    cli.write("one.jsonl", 4)
    cli.write("two.jsonl", 4, first=10, user=refused)
    for name in ("one", "two"):
        assert cli.here("submit", f"{name}.jsonl", "--to", f"{name}-out.jsonl", "--key", name).status == 0
    service = cli.start("serve", "--listen", "127.0.0.1:0", *FAST)
    try:
        read_until(service, "listening")
        waits = cli.start("wait", "one", "two", "one", "--json")
        wait_for(lambda: slow_api.account.batches == 2, service)
        assert waits.poll() is None
        slow_api.advance(20_000)
        out, err = waits.communicate(timeout=PATIENCE)
    finally:
        service.terminate()
        service.communicate()
    assert waits.returncode == 1, err
    told = json.loads(out)
    assert told["exit_status"] == 1
    assert [(job["key"], job["state"], job["exit_status"]) for job in told["jobs"]] == [
        ("one", "done", 0),
        ("two", "done", 1),
    ]
    assert [failure["type"] for failure in told["jobs"][1]["failures"]] == ["permission_error"]
    assert "job one: done" in err
    assert "abatch retry two --failed" in err
    late = cli.here("wait", "one")
    assert late.status == 0, late
    assert "succeeded" in late.err
    assert (slow_api.account.requests, slow_api.account.violated) == (8, 0)


def test_a_job_that_nobody_drives_is_not_waited_for_and_its_command_is_named(
    new_cli: Any, slow_api: Sandbox, wait_for: Any
) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 4)
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST)
    run = cli.start(*args)
    wait_for(lambda: slow_api.account.batches, run)
    waits = cli.start("wait", "job", "--json")
    run.kill()
    run.communicate()
    out, err = waits.communicate(timeout=PATIENCE)
    assert waits.returncode == 3, err
    assert "no process drives this journal" in err
    (told,) = json.loads(out)["jobs"]
    assert told["resume"] == "abatch run in.jsonl --to out.jsonl --key job"
    slow_api.advance(20_000)
    assert cli.here(*told["resume"].split()[1:], *FAST).status == 0
    assert (slow_api.account.requests, slow_api.account.violated) == (4, 0)


def test_a_trial_ends_the_waiting_and_the_command_that_sends_the_rest_is_named(
    new_cli: Any, slow_api: Sandbox, wait_for: Any, read_until: Any
) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 4)
    args = ("submit", "in.jsonl", "--to", "out.jsonl", "--key", "job")
    assert cli.here(*args, "--limit", "2").status == 0
    service = cli.start("serve", "--listen", "127.0.0.1:0", *FAST)
    try:
        read_until(service, "listening")
        waits = cli.start("wait", "job")
        wait_for(lambda: slow_api.account.batches, service)
        slow_api.advance(20_000)
        _, err = waits.communicate(timeout=PATIENCE)
        assert waits.returncode == 0, err
        assert "(the first 2 are not sent again): abatch run in.jsonl --to out.jsonl --key job\n" in err
        assert slow_api.account.requests == 2
    finally:
        service.terminate()
        service.communicate()


def test_an_unknown_job_is_named(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 1)
    assert cli.here("submit", "in.jsonl", "--to", "out.jsonl", "--key", "job").status == 0
    unknown = cli.here("wait", "job", "jab")
    assert unknown.status == 2
    assert "has no job 'jab'; it has: job" in unknown.err
