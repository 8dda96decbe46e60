"""What `abatch run` says and asks before it spends anything."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import signal
from typing import Any

import pytest

from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.cli.conftest import PATIENCE, line

FAST = ("--poll-interval", "0.05")
RUN = ("run", "in.jsonl", "--to", "out.jsonl", *FAST)


class Terminal:
    """A person at a terminal, who reads stderr and answers."""

    def __init__(self, cli: Any, *args: object) -> None:
        self._ours, theirs = pty.openpty()
        cli.env |= {"TERM": "xterm", "COLUMNS": "120"}
        self.process = cli.start(*args, stdin=theirs, stderr=theirs)
        os.close(theirs)
        self.seen = ""

    def reads(self, word: str) -> None:
        """Read until this word stands there."""
        while word not in self.seen:
            assert self._read(), self.seen

    def types(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def ends(self) -> int:
        """The exit status; reads to the end."""
        while self._read():
            pass
        os.close(self._ours)
        self.process.communicate(timeout=PATIENCE)
        return int(self.process.returncode)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._ours], [], [], PATIENCE)
        assert ready, self.seen
        try:
            more = os.read(self._ours, 65_536)
        except OSError:  # the other end was closed
            return False
        self.seen += more.decode(errors="replace").replace("\r\n", "\n")
        return bool(more)


def write_expensive(cli: Any, count: int) -> None:
    """Requests that may cost 5 dollars each, as batches."""
    rows = [line(n, max_tokens=2_000_000) for n in range(count)]
    (cli.folder / "in.jsonl").write_bytes(b"\n".join(rows))


def test_requests_batches_cost_and_synchronous_price_are_said_before_anything_is_sent(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 30)
    ended = cli.here(*RUN, "--requests-per-batch", 10)
    assert ended.status == 0, ended
    assert ended.err.splitlines()[3:6] == [
        "requests     30 in about 5 batches",
        "cost         $0.0004 to $0.0010, by length and max_tokens",
        "synchronous  $0.0008 to $0.0020",
    ]
    again = cli.here(*RUN)  # the job is done: nothing will be spent
    assert "synchronous  $" not in again.err
    assert api.account.violated == 0


def test_the_estimate_of_a_run_is_that_of_abatch_estimate(cli: Any) -> None:
    write_expensive(cli, 12)
    told = cli.here("estimate", "in.jsonl", "--json").json
    ended = cli.here(*RUN)
    assert ended.status == 0, ended
    assert f"requests     {told['requests']} in 1 batch" in ended.err
    low, high = told["cost"]
    assert f"cost         ${low:.4f} to ${high:.2f}," in ended.err


def test_a_run_reads_its_input_as_often_as_before(cli: Any, api: Sandbox, monkeypatch: Any) -> None:
    """Once to check it, and once to plan it: an estimate costs no further read."""
    from abatch.input import check, files

    cli.write("in.jsonl", 5)
    opened: list[Any] = []
    whole = files.opened_input

    async def counted(paths: Any, **more: Any) -> Any:
        opened.append(paths)
        return await whole(paths, **more)

    monkeypatch.setattr(check, "opened_input", counted)
    monkeypatch.setattr(files, "opened_input", counted)
    ended = cli.here(*RUN)
    assert ended.status == 0, ended
    assert "synchronous  $" in ended.err
    assert len(opened) == 2
    assert api.account.requests == 5


def test_a_model_without_a_price_has_no_range_but_the_reason(cli: Any, api: Sandbox) -> None:
    (cli.folder / "in.jsonl").write_bytes(line(0, model="claude-unheard-of"))
    ended = cli.here(*RUN)
    assert "cost         unknown: no price for 'claude-unheard-of'" in ended.err
    assert "synchronous  " not in ended.err
    assert api.account.violated == 0


def test_a_no_at_the_terminal_sends_nothing_and_leaves_no_job(cli: Any, api: Sandbox) -> None:
    write_expensive(cli, 12)
    person = Terminal(cli, *RUN)
    person.reads("Send 12 requests? [y/N] ")
    assert "This may cost up to $60.00." in person.seen
    person.types("n\n")
    assert person.ends() == 2, person.seen
    assert "nothing was sent" in person.seen
    assert api.account.requests == 0
    assert cli.here("status", "--json").json["jobs"] == []
    assert not (cli.folder / "out.jsonl").exists()


def test_a_yes_at_the_terminal_sends_it_and_a_second_run_is_not_asked(new_cli: Any, slow_api: Sandbox) -> None:
    cli = new_cli(slow_api)
    write_expensive(cli, 12)
    person = Terminal(cli, *RUN)
    person.reads("[y/N] ")
    assert slow_api.account.requests == 0
    person.types("y\n")
    person.reads("in flight 12")
    os.kill(person.process.pid, signal.SIGKILL)
    person.ends()
    again = Terminal(cli, *RUN)
    again.reads("in flight 12")
    slow_api.advance(20_000)
    assert again.ends() == 0, again.seen
    assert "[y/N]" not in again.seen
    assert slow_api.account.requests == 12
    assert slow_api.account.violated == 0


def test_nobody_is_asked_below_the_bound_with_yes_or_without_a_terminal(cli: Any, api: Sandbox) -> None:
    write_expensive(cli, 12)
    below = Terminal(cli, *RUN, "--confirm-above", 60.5)
    assert below.ends() == 0, below.seen
    yes = Terminal(cli, *RUN, "--key", "yes", "--to", "yes.jsonl", "--yes", "--again")
    assert yes.ends() == 0, yes.seen
    piped = cli(*RUN, "--key", "piped", "--to", "piped.jsonl", "--again")
    assert piped.status == 0, piped
    assert "[y/N]" not in below.seen + yes.seen + piped.err
    assert api.account.batches == 3


def test_an_unknown_cost_is_asked_for_at_the_terminal(cli: Any, api: Sandbox) -> None:
    (cli.folder / "in.jsonl").write_bytes(line(0, model="claude-unheard-of"))
    person = Terminal(cli, *RUN)
    person.reads("[y/N] ")
    assert "The cost is unknown (no price for 'claude-unheard-of')." in person.seen
    person.types("\n")
    assert person.ends() == 2, person.seen
    assert api.account.requests == 0


def test_a_signal_at_the_question_ends_the_run(cli: Any, api: Sandbox) -> None:
    write_expensive(cli, 12)
    person = Terminal(cli, *RUN)
    person.reads("[y/N] ")
    person.process.send_signal(signal.SIGINT)
    assert person.ends() == 130, person.seen
    assert api.account.requests == 0
    assert cli.here("status", "--json").json["jobs"] == []


def test_requests_from_stdin_are_said_to_have_no_known_cost(cli: Any, api: Sandbox) -> None:
    ended = cli("run", "-", "--to", "out.jsonl", "--key", "piped", *FAST, stdin=line(0))
    assert ended.status == 0, ended
    assert "cost         unknown: requests from stdin are sent as they come" in ended.err
    assert api.account.violated == 0


def test_a_first_batch_that_fails_as_a_whole_stops_the_run_and_the_command_it_names_goes_on(
    cli: Any, api: Sandbox
) -> None:
    cli.write("in.jsonl", 60, user=lambda n: "sandbox:errored:not_found_error" if n < 10 else None)
    api.faults.next("create")
    api.faults.next("create", Status(429, retry_after=60.0), times=100)  # so that the first ends before the others go
    command = (*RUN, "--requests-per-batch", 10)
    stopped = cli(*command)
    assert stopped.status == 3, stopped
    assert "failed with not_found_error" in stopped.err
    sent = api.account.requests
    assert sent <= 10
    api.faults.clear()
    again = cli(*command, "--json")
    assert again.status == 3, again
    assert (again.json["state"], again.json["error"]["failing"]) == ("unfinished", True)
    assert [each["type"] for each in again.json["failures"]] == ["not_found_error"]
    assert api.account.requests == sent
    (named,) = [
        each for each in stopped.err.splitlines() if each.startswith("To send the remaining requests anyway: abatch ")
    ]
    _, *words = shlex.split(named.partition("anyway: ")[2])
    assert words[-2:] == ["--failing", "go-on"]
    assert "--failing go-on" in cli("status").err + cli("status").out
    assert_only_resume_anyway_overrides_the_stop(again.json)
    assert_only_resume_anyway_overrides_the_stop(cli("status", "--json").json["jobs"][0])
    assert api.account.requests == sent
    rest = cli(*words)
    assert rest.status == 1, rest  # ten failed for good
    assert len(cli.lines("out.jsonl")) == 60
    assert api.account.requests == 60
    assert api.account.violated == 0


def assert_only_resume_anyway_overrides_the_stop(told: dict[str, Any]) -> None:
    assert "--failing" not in told["resume"]
    assert told["resume_anyway"].endswith(" --failing go-on")
    assert told["resume_anyway"].startswith(told["resume"])


def test_a_script_that_runs_resume_does_not_override_a_stop_after_failed_results(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 40, user=lambda n: "sandbox:errored:not_found_error" if n < 3 else None)
    assert cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST, "--pilot", 10).status == 3
    told = cli.here("status", "--json").json["jobs"][0]
    assert_only_resume_anyway_overrides_the_stop(told)
    assert cli.here(*shlex.split(told["resume"])[1:], *FAST).status == 3
    assert api.account.requests == 10
    anyway = cli.here(*shlex.split(told["resume_anyway"])[1:], *FAST)
    assert anyway.status == 1, anyway
    done = cli.here("status", "--json").json["jobs"][0]
    assert (done["resume"], done["resume_anyway"]) == (None, None)
    assert (api.account.requests, api.account.violated) == (40, 0)


@pytest.mark.parametrize("limit", [7, 15])
def test_the_command_that_resumes_an_interrupted_trial_sends_no_more_than_the_trial(
    new_cli: Any, wait_for: Any, limit: int
) -> None:
    with Sandbox(seed=1, latency=2.0) as api:
        cli = new_cli(api)
        cli.write("in.jsonl", 30)
        trial = ("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST, "--requests-per-batch", "10")
        process = cli.start(*trial, "--limit", str(limit))
        wait_for(lambda: api.account.batches, process)
        process.kill()
        process.communicate()
        told = cli.here("status", "--json").json["jobs"][0]
        resumed = cli.here(*shlex.split(told["resume"])[1:], "--grace", "0.2", *FAST)
        assert resumed.status == 0, resumed
        assert (api.account.requests, api.account.violated) == (limit, 0)
        over = cli.here("status", "--json").json["jobs"][0]
        assert (over["state"], over["resume"]) == ("stopped", "abatch run in.jsonl --to out.jsonl --key job")
        assert cli.here(*shlex.split(over["resume"])[1:], *FAST).status == 0
        assert (api.account.requests, api.account.violated) == (30, 0)


def test_a_limited_run_sends_the_first_rows_and_the_command_it_names_sends_the_rest(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 30)
    trial = cli(*RUN, "--limit", 7)
    assert trial.status == 0, trial
    assert "requests     7 in 1 batch" in trial.err
    assert "The job is not finished: its first 7 of 30 requests are done, the rest is held back." in trial.err
    assert "error:" not in trial.err
    assert "results go to" in trial.err
    assert "results are in the order" not in trial.err
    assert api.account.requests == 7
    listed = cli("status", "--json").json["jobs"][0]
    assert listed["state"] == "stopped"
    assert listed["reason"] == "only its first 7 requests were to be sent"
    again = cli(*RUN, "--limit=7", "--json")
    assert (again.status, again.json["state"], again.json["succeeded"]) == (0, "unfinished", 7)
    assert api.account.requests == 7
    named = {each.partition(": abatch ")[2] for each in trial.err.splitlines() if ": abatch " in each}
    results, rest = (shlex.split(each) for each in sorted(named))
    assert "--limit" not in rest
    assert shlex.split(again.json["resume"])[1:] == [*rest, "--json"]
    assert results[0] == "results"
    seen = cli(*results)
    assert seen.out.count("\n") == 7
    assert rest[0] == "run"
    whole = cli(*rest)
    assert whole.status == 0, whole
    assert "requests     23 in 1 batch" in whole.err
    assert cli.lines("out.jsonl") == {f"r{n}": "succeeded" for n in range(30)}
    assert api.account.requests == 30
    assert api.account.violated == 0


def test_the_rest_of_a_limited_job_is_asked_for_at_the_terminal(cli: Any, api: Sandbox) -> None:
    write_expensive(cli, 12)
    trial = Terminal(cli, *RUN, "--limit", 1)
    assert trial.ends() == 0, trial.seen  # five dollars
    assert "[y/N]" not in trial.seen
    no = Terminal(cli, *RUN)
    no.reads("This may cost up to $55.00. Send 11 requests? [y/N] ")
    no.types("n\n")
    assert no.ends() == 2, no.seen
    assert api.account.requests == 1
    yes = Terminal(cli, *RUN)
    yes.reads("[y/N] ")
    yes.types("yes\n")
    assert yes.ends() == 0, yes.seen
    assert api.account.requests == 12
    assert api.account.violated == 0


def test_a_limit_holds_for_lines_from_stdin(cli: Any, api: Sandbox) -> None:
    lines = b"\n".join(line(n) for n in range(30))
    piped = ("run", "-", "--to", "out.jsonl", "--key", "piped", *FAST)
    trial = cli(*piped, "--limit", 7, stdin=lines)
    assert trial.status == 0, trial
    assert "its first 7 requests are done" in trial.err
    assert api.account.requests == 7
    whole = cli(*piped, stdin=lines)
    assert whole.status == 0, whole
    assert len(cli.lines("out.jsonl")) == 30
    assert api.account.requests == 30
    assert api.account.violated == 0


def test_a_job_that_was_cancelled_before_all_was_sent_did_not_succeed(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 30)
    assert cli(*RUN, "--limit", 10, "--key", "in").status == 0
    assert cli("cancel", "in").status == 0
    assert cli("status", "--json").json["jobs"][0]["state"] == "cancelling"
    ended = cli(*RUN, "--key", "in")
    assert ended.status == 1, ended
    assert re.search(r"not sent +20: the job was cancelled", ended.err)
    assert "20 of the requests were not sent, because the job was cancelled" in ended.err
    again = cli(*RUN, "--key", "in", "--json")
    assert (again.status, again.json["ok"], again.json["not_sent"]) == (1, False, 20)
    assert "was done before; nothing is sent now" in again.err
    assert cli("status", "--exit-code").status == 1
    rest = cli("run", "in.jsonl", "--to", "rest.jsonl", "--key", "rest", "--skip-answered", "in", *FAST)
    assert rest.status == 0, rest
    assert cli.lines("rest.jsonl") == {f"r{n}": "succeeded" for n in range(10, 30)}
    assert (api.account.requests, api.account.violated) == (30, 0)


def test_what_succeeded_of_a_failed_pilot_is_not_paid_for_again_by_the_commands_that_are_named(
    cli: Any, api: Sandbox
) -> None:
    cli.write("in.jsonl", 20, user=lambda n: "sandbox:errored:not_found_error" if n < 4 else None)
    stopped = cli(*RUN, "--pilot", 10, "--key", "job")
    assert stopped.status == 3, stopped
    assert re.search(r"Cancel the job with `abatch cancel job`.*--skip-answered job", stopped.err)
    cli.write("in.jsonl", 20)  # corrected, where the job came from
    assert cli("cancel", "job").status == 0
    ended = cli(*RUN, "--key", "job")
    assert ended.status == 1, ended
    sent = api.account.requests
    rest = cli("run", "in.jsonl", "--to", "rest.jsonl", "--key", "rest", "--skip-answered", "job", *FAST)
    assert rest.status == 0, rest
    assert cli.lines("rest.jsonl") == {f"r{n}": "succeeded" for n in (*range(4), *range(10, 20))}
    assert (sent, api.account.requests, api.account.violated) == (10, 24, 0)


def test_a_failed_pilot_shows_grouped_errors_and_the_command_it_names_goes_on(cli: Any, api: Sandbox) -> None:
    def user(n: int) -> str | None:
        return (
            "sandbox:errored:not_found_error" if n < 2 else "sandbox:errored:invalid_request_error" if n < 3 else None
        )

    cli.write("in.jsonl", 40, user=user)
    stopped = cli(*RUN, "--pilot", 10)
    assert stopped.status == 3, stopped
    assert "3 of the 10 requests of its pilot failed" in stopped.err
    assert "not_found_error" in stopped.err.partition("for example")[2]
    assert api.account.requests == 10
    again = cli(*RUN)  # also without --pilot: that is no wish to go on
    assert again.status == 3, again
    assert api.account.requests == 10
    (named,) = [
        each for each in stopped.err.splitlines() if each.startswith("To send the remaining requests anyway: abatch ")
    ]
    rest = cli(*shlex.split(named.partition(": abatch ")[2]))
    assert rest.status == 1, rest
    assert len(cli.lines("out.jsonl")) == 40
    assert api.account.requests == 40
    assert api.account.violated == 0


def test_a_pilot_survives_a_kill_while_it_is_in_flight(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 40)
    first = cli.start(*RUN, "--pilot", 10)
    wait_for(lambda: slow_api.account.requests == 10, first)
    first.kill()
    first.communicate()
    again = cli.start(*RUN, "--pilot", 10)
    wait_for(lambda: b'"in_flight":10' in cli("status", "--json").raw.replace(b" ", b""), again)
    assert slow_api.account.requests == 10
    slow_api.advance(20_000)
    wait_for(lambda: slow_api.account.requests == 40, again)
    slow_api.advance(20_000)
    assert again.wait(PATIENCE) == 0, again.communicate()
    again.communicate()
    assert cli.lines("out.jsonl") == {f"r{n}": "succeeded" for n in range(40)}
    assert slow_api.account.violated == 0
