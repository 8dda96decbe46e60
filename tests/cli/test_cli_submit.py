"""`abatch submit`: a job is checked and recorded here, and sent by the process that drives the journal."""

from __future__ import annotations

import json
from typing import Any

from abatch.sandbox import Sandbox


def test_a_job_is_recorded_without_a_key_and_the_next_driver_sends_it_once(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 4)
    for _ in range(2):  # the same job
        submitted = cli.here("submit", "in.jsonl", "--to", "out.jsonl", "--key", "birds", ANTHROPIC_API_KEY="")
        assert submitted.status == 0, submitted
        assert submitted.out == "birds\n"
        assert "No process drives this journal. To start one: abatch serve or abatch run in.jsonl" in submitted.err
    assert api.account.requests == 0
    run = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "birds", "--poll-interval", "0.05")
    assert run.status == 0, run
    assert len((cli.folder / "out.jsonl").read_text().splitlines()) == 4
    again = cli.here("submit", "in.jsonl", "--to", "out.jsonl", "--key", "birds")
    assert "The job was done before; nothing is sent." in again.err
    assert (api.account.requests, api.account.violated) == (4, 0)


def test_a_service_takes_the_job_and_wait_follows_it(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 4)
    service = cli.start("serve", "--listen", "127.0.0.1:0", "--poll-interval", "0.05")
    try:
        assert service.stderr is not None
        while "listening" not in (line := service.stderr.readline()):
            assert line
        followed = cli.here("submit", "in.jsonl", "--to", "out.jsonl", "--key", "birds", "--wait", "--json")
    finally:
        service.terminate()
        service.communicate()
    assert followed.status == 0, followed
    told = json.loads(followed.out)
    assert (told["key"], told["succeeded"]) == ("birds", 4)
    assert (api.account.requests, api.account.violated) == (4, 0)


def test_waiting_without_a_driver_ends_with_the_command_that_drives(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 4)
    waited = cli.here("submit", "in.jsonl", "--to", "out.jsonl", "--key", "birds", "--wait")
    assert waited.status == 3, waited
    assert "no process drives this journal" in waited.err
    assert "To resume: abatch run in.jsonl --to out.jsonl --key birds" in waited.err
    assert api.account.requests == 0


def test_a_bad_input_is_refused_and_nothing_is_recorded(cli: Any, api: Sandbox) -> None:
    (cli.folder / "in.jsonl").write_text('{"custom_id": "a"}\n')
    refused = cli.here("submit", "in.jsonl", "--to", "out.jsonl")
    assert refused.status == 2
    assert "params" in refused.err
    assert cli.here("status", "--json").json["jobs"] == []


def test_stdin_is_kept_in_the_journal(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3)
    unnamed = cli.here("submit", "-", "--to", "out.jsonl")
    assert (unnamed.status, "give the job one with --key" in unnamed.err) == (2, True)


def test_a_job_of_the_sandbox_names_commands_that_send_it_to_the_sandbox(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3)
    given = cli.here("submit", "in.jsonl", "--to", "out.jsonl", "--key", "birds", "--sandbox")
    run = "run in.jsonl --to out.jsonl --key birds --sandbox"
    assert f"To start one: abatch serve --sandbox or abatch {run}" in given.err
    done = cli(*run.split(), ABATCH_SANDBOX_LATENCY="0")
    assert done.status == 0, done
    assert api.account.requests == 0
