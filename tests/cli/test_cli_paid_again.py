"""Requests that were paid for are not sent again in silence; each command that the texts name is typed, and works."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import time
from typing import Any

import pytest

from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.cli.conftest import PATIENCE, line

FAST = ("--poll-interval", "0.05")


def shown(text: str, begin: str) -> list[str]:
    """The words of the command in a text that begins so, up to the end of the line."""
    found = re.search(rf"abatch {re.escape(begin)}.*", text)
    assert found is not None, text
    return shlex.split(found[0])[1:]


def typed(cli: Any, text: str, begin: str, *more: object) -> Any:
    """Type the command that a text shows; what it prints goes to the file that it names."""
    words = shown(text, begin)
    file = words[words.index(">") + 1] if ">" in words else None
    ended = cli.here(*words[: words.index(">")] if file else words, *more)
    if file is not None:
        (cli.folder / file).write_bytes(ended.raw)
    return ended


def ran(cli: Any, count: int = 6, **user: Any) -> None:
    cli.write("in.jsonl", count, **user)
    first = cli.here("run", "in.jsonl", "--to", "a.jsonl", "--key", "first", *FAST)
    assert first.status in (0, 1), first


@pytest.mark.parametrize("name", ["in.jsonl", "copy.jsonl"])
def test_the_same_requests_to_another_destination_send_nothing_and_name_what_is_there(
    cli: Any, api: Sandbox, name: str
) -> None:
    ran(cli)
    if name != "in.jsonl":
        (cli.folder / name).write_bytes((cli.folder / "in.jsonl").read_bytes())
    refused = cli.here("run", name, "--to", "b.jsonl", *FAST)
    assert refused.status == 2, refused
    assert (api.account.requests, api.account.violated) == (6, 0)
    assert "these requests were sent before, by job 'first': 6 of 6 answered, which cost $0." in refused.err
    assert "its results are in a.jsonl" in refused.err
    assert "--skip-answered" not in refused.err  # nothing would be left to send
    assert not (cli.folder / "b.jsonl").exists()
    assert typed(cli, refused.err, "results first > b.jsonl").status == 0
    assert cli.lines("b.jsonl") == cli.lines("a.jsonl")
    assert api.account.requests == 6


def test_no_command_that_is_named_writes_over_a_file(cli: Any, api: Sandbox) -> None:
    ran(cli)
    (cli.folder / "mine.jsonl").write_text("precious\n")
    refused = cli.here("run", "in.jsonl", "--to", "mine.jsonl", *FAST)
    assert typed(cli, refused.err, "results first > mine-2.jsonl").status == 0
    refused = cli.here("run", "in.jsonl", "--to", "mine.jsonl", *FAST)
    assert typed(cli, refused.err, "run in.jsonl --to mine-3.jsonl --again", *FAST).status == 0
    assert (cli.folder / "mine.jsonl").read_text() == "precious\n"
    assert api.account.requests == 12


def test_another_key_for_the_same_database_is_asked_about_as_well(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 6)
    assert cli.here("run", "in.jsonl", "--to", "results.db", "--key", "first", *FAST).status == 0
    refused = cli.here("run", "in.jsonl", "--to", "results.db", "--key", "second", "--json", *FAST)
    assert refused.status == 2, refused
    assert "job 'first': 6 of 6 answered" in refused.json["error"]["text"]
    assert typed(cli, refused.json["error"]["text"], "results first > answers.jsonl").status == 0
    assert (api.account.requests, api.account.violated) == (6, 0)
    assert len(cli.lines("answers.jsonl")) == 6


def test_the_same_requests_go_again_where_that_is_said(cli: Any, api: Sandbox) -> None:
    ran(cli)
    refused = cli.here("run", "in.jsonl", "--to", "b.jsonl", *FAST)
    again = typed(cli, refused.err, "run in.jsonl --to b.jsonl --again", *FAST)
    assert again.status == 0, again
    assert api.account.violated == 6  # as was asked for
    assert cli.lines("b.jsonl").keys() == cli.lines("a.jsonl").keys()
    assert cli.here("run", "in.jsonl", "--to", "b.jsonl", *FAST).status == 0  # the job is known: nothing is asked
    assert api.account.requests == 12


def test_requests_of_an_unfinished_job_are_being_paid_for_and_its_remedy_is_to_move_it(
    new_cli: Any, slow_api: Sandbox
) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 6)
    process = cli.start("run", "in.jsonl", "--to", "a.jsonl", "--key", "first", "--json", *FAST)
    until = time.monotonic() + PATIENCE
    while not slow_api.account.requests:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    refused = cli.here("run", "in.jsonl", "--to", "b.jsonl", *FAST)
    assert refused.status == 2, refused
    assert "job 'first', which is not finished: 0 of 6 answered" in refused.err
    assert "6 in flight, which are being paid for" in refused.err
    assert typed(cli, refused.err, "move first --to b.jsonl").status == 0
    slow_api.advance(20_000)
    assert cli.here("run", "in.jsonl", "--to", "b.jsonl", "--key", "first", *FAST).status == 0
    assert len(cli.lines("b.jsonl")) == 6
    assert (slow_api.account.requests, slow_api.account.violated) == (6, 0)


def test_the_commands_name_the_journal_where_it_is_another(new_cli: Any, slow_api: Sandbox) -> None:
    cli, journal = new_cli(slow_api), ("--journal", "j")
    cli.write("in.jsonl", 2)
    slow_api.faults.always("create", Status(401, "authentication_error", "no"))
    assert cli.here("run", "in.jsonl", "--to", "a.jsonl", "--key", "first", *journal, *FAST).status == 3
    slow_api.faults.clear()
    refused = cli.here("run", "in.jsonl", "--to", "b.jsonl", *journal, *FAST)
    assert refused.err.count("--journal j") == 2, refused
    conflict = cli.here("run", "in.jsonl", "--to", "c.jsonl", "--key", "first", *journal, *FAST)
    assert conflict.status == 2
    assert typed(cli, conflict.err, "move first --journal j --to c.jsonl").status == 0
    assert slow_api.account.requests == 0


def test_requests_that_failed_or_were_never_sent_were_not_paid_for_and_nothing_is_asked(cli: Any, api: Sandbox) -> None:
    ran(cli, user=lambda _: "sandbox:errored:invalid_request_error")
    assert cli.here("run", "in.jsonl", "--to", "b.jsonl", *FAST).status == 1
    assert (api.account.requests, api.account.violated) == (12, 0)


def at_a_terminal(cli: Any, *args: object, answer: bytes) -> tuple[int, str]:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        cli._command(args), cwd=cli.folder, env={**cli.env, "TERM": "dumb"}, stdin=follower, stdout=follower,
        stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    seen, answered, until = b"", False, time.monotonic() + PATIENCE
    while time.monotonic() < until and select.select([leader], [], [], PATIENCE)[0]:
        try:
            read = os.read(leader, 2**16)
        except OSError:  # it has ended
            break
        seen += read
        if not answered and b"[y/N]" in seen:
            os.write(leader, answer)
            answered = True
    os.close(leader)
    assert answered, seen
    return process.wait(PATIENCE), seen.decode()


@pytest.mark.parametrize(("answer", "status", "sent"), [(b"y\n", 0, 12), (b"n\n", 2, 6)])
def test_a_terminal_is_asked_before_requests_are_paid_for_again(
    cli: Any, api: Sandbox, answer: bytes, status: int, sent: int
) -> None:
    ran(cli)
    ended, seen = at_a_terminal(cli, "run", "in.jsonl", "--to", "b.jsonl", *FAST, answer=answer)
    assert ended == status, seen
    assert api.account.requests == sent
    assert "pay for them again?" in seen


def test_a_file_that_grew_holds_the_requests_of_its_job(cli: Any, api: Sandbox) -> None:
    ran(cli)
    with (cli.folder / "in.jsonl").open("ab") as file:
        file.write(line(6) + b"\n")
    refused = cli.here("run", "in.jsonl", "--to", "b.jsonl", *FAST)
    assert refused.status == 2, refused
    assert "job 'first': 6 of 6 answered" in refused.err
    assert api.account.requests == 6


def test_changed_input_names_one_command_that_works_and_what_it_costs(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 6)
    assert cli.here("run", "in.jsonl", "--to", "results.jsonl", *FAST).status == 0
    cli.write("in.jsonl", 7)
    refused = cli.here("run", "in.jsonl", "--to", "results.jsonl", *FAST)
    assert refused.status == 2, refused
    assert "exists with other content of in.jsonl" in refused.err
    assert "which pays for all of them (the 6 answers of job 'in-" in refused.err
    words = shown(refused.err, "run in.jsonl --to results-2.jsonl --key in-")
    assert words[-1] == "--again"
    assert cli.here(*words, *FAST).status == 0
    assert len(cli.lines("results-2.jsonl")) == 7
    assert api.account.requests == 13
    cli.write("in.jsonl", 8)
    third = cli.here("run", "in.jsonl", "--to", "results.jsonl", *FAST)
    assert "--to results-3.jsonl" in third.err
    assert typed(cli, third.err, "run in.jsonl --to results-3.jsonl", *FAST).status == 0


@pytest.mark.parametrize(("to", "other"), [("results/", "results-2/"), ("results.db", "results.db")])
def test_the_command_for_changed_input_has_a_destination_that_is_free(
    cli: Any, api: Sandbox, to: str, other: str
) -> None:
    cli.write("in.jsonl", 2)
    assert cli.here("run", "in.jsonl", "--to", to, "--key", "k", *FAST).status == 0
    cli.write("in.jsonl", 3)
    refused = cli.here("run", "in.jsonl", "--to", to, "--key", "k", *FAST)
    assert typed(cli, refused.err, f"run in.jsonl --to {other} --key k-2 --again", *FAST).status == 0
    assert api.account.requests == 5


def test_other_lines_on_stdin_name_the_command_that_works(cli: Any, api: Sandbox) -> None:
    first = b"".join(line(n) + b"\n" for n in range(3))
    other = b"".join(line(n) + b"\n" for n in range(10, 13))
    assert cli("run", "-", "--to", "out.jsonl", "--key", "k", *FAST, stdin=first).status == 0
    refused = cli("run", "-", "--to", "out.jsonl", "--key", "k", *FAST, stdin=other)
    assert refused.status == 2, refused
    words = shown(refused.err, "run - --to out-2.jsonl --key k-2")
    assert cli(*words, *FAST, stdin=other).status == 0
    assert (api.account.requests, api.account.violated) == (6, 0)


def test_appended_rows_alone_are_sent_by_the_command_that_the_conflict_names(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 6)
    assert cli.here("run", "in.jsonl", "--to", "results.jsonl", *FAST).status == 0
    cli.write("in.jsonl", 9)
    refused = cli.here("run", "in.jsonl", "--to", "results.jsonl", *FAST)
    words = next(
        words for words in (shlex.split(each) for each in refused.err.splitlines()) if "--skip-answered" in words
    )
    words = words[words.index("abatch") + 1 :]
    assert words[2:4] == ["--to", "results-2.jsonl"]
    sent = cli.here(*words, *FAST)
    assert sent.status == 0, sent
    assert "6 requests are not sent: job 'in-" in sent.err
    assert "requests     3 in 1 batch" in sent.err  # the cost that is said is of these
    assert cli.lines("results-2.jsonl") == {f"r{n}": "succeeded" for n in range(6, 9)}
    assert cli.here(*words, "--json", *FAST).json["state"] == "done"
    assert (api.account.requests, api.account.violated) == (9, 0)


def test_a_file_of_another_name_that_begins_with_what_was_sent_is_not_paid_for_again(cli: Any, api: Sandbox) -> None:
    ran(cli)
    cli.write("in.jsonl", 8)
    (cli.folder / "in.jsonl").rename(cli.folder / "february.jsonl")
    refused = cli.here("run", "february.jsonl", "--to", "b.jsonl", *FAST)
    assert refused.status == 2, refused
    assert typed(cli, refused.err, "run february.jsonl --to b.jsonl --skip-answered first", *FAST).status == 0
    assert cli.lines("b.jsonl") == {"r6": "succeeded", "r7": "succeeded"}
    assert (api.account.requests, api.account.violated) == (8, 0)


def test_the_question_for_a_file_that_grew_names_the_command_that_sends_what_is_new(cli: Any, api: Sandbox) -> None:
    ran(cli)
    cli.write("in.jsonl", 8)
    refused = cli.here("run", "in.jsonl", "--to", "b.jsonl", *FAST)
    sent = typed(cli, refused.err, "run in.jsonl --to b.jsonl --skip-answered first", *FAST)
    assert sent.status == 0, sent
    assert cli.lines("b.jsonl") == {"r6": "succeeded", "r7": "succeeded"}
    assert (api.account.requests, api.account.violated) == (8, 0)


def test_the_command_that_a_refused_create_names_takes_the_corrected_line(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 6)
    args = ("run", "in.jsonl", "--to", "a.jsonl", *FAST)
    api.faults.next("create", Status(400, "invalid_request_error", "requests.3.params.messages: bad"))
    refused = cli.here(*args)
    assert refused.status == 3, refused
    assert f"requests.3 of this batch is line 4 of {cli.folder / 'in.jsonl'}, custom_id 'r3'" in refused.err
    assert "run the same command again with --changed-input" in refused.err
    assert re.search(r"To resume: correct the input, then abatch.* --changed-input$", refused.err, re.MULTILINE)
    rows = (cli.folder / "in.jsonl").read_bytes().splitlines()
    (cli.folder / "in.jsonl").write_bytes(b"\n".join([*rows[:3], line(3, max_tokens=9), *rows[4:]]))
    conflict = cli.here(*args)  # the option was forgotten
    assert conflict.status == 2, conflict
    assert api.account.requests == 0
    went_on = typed(cli, conflict.err, "run in.jsonl --to a.jsonl --changed-input", *FAST)
    assert went_on.status == 0, went_on
    assert cli.lines("a.jsonl") == {f"r{n}": "succeeded" for n in range(6)}
    assert cli.here(*args, "--changed-input").status == 0  # it means nothing now
    assert (api.account.requests, api.account.violated) == (6, 0)


def test_a_job_that_takes_no_changed_input_names_the_commands_that_work(cli: Any, api: Sandbox) -> None:
    ran(cli)
    old = cli.write("in.jsonl", 10).read_bytes()
    args = ("run", "in.jsonl", "--to", "b.jsonl", "--key", "second", "--skip-answered", "first", *FAST)
    api.faults.next("create", Status(400, "invalid_request_error", "requests.3.params.messages: bad"))
    refused = cli.here(*args)
    assert refused.status == 3, refused
    assert "--changed-input" not in refused.err
    assert re.search(r"Cancel the job with `abatch cancel second`.*--skip-answered second", refused.err)
    new = b"\n".join([*old.splitlines()[:9], line(9, max_tokens=9)])
    (cli.folder / "in.jsonl").write_bytes(new)
    conflict = cli.here(*args)
    assert conflict.status == 2, conflict
    assert "--changed-input" not in conflict.err
    wrong = cli.here(*args, "--changed-input")
    assert wrong.status == 2, wrong
    assert "job 'second' cannot take the changed input: it was begun with --skip-answered. Cancel the" in wrong.err
    (cli.folder / "in.jsonl").write_bytes(old)
    assert typed(cli, conflict.err, "cancel second").status == 0
    assert cli.here(*args).status == 1  # its requests are cancelled
    (cli.folder / "in.jsonl").write_bytes(new)
    begin = "run in.jsonl --to b-2.jsonl --key second-2 --skip-answered second"
    assert shown(wrong.err, begin) == shown(conflict.err, begin)
    ended = typed(cli, wrong.err, begin, *FAST)
    assert ended.status == 0, ended
    assert cli.lines("b-2.jsonl") == {f"r{n}": "succeeded" for n in range(6, 10)}
    assert (api.account.requests, api.account.violated) == (10, 0)


def test_a_changed_input_is_sent_only_after_its_cost_was_said(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 6)
    args = ("run", "in.jsonl", "--to", "a.jsonl", "--requests-per-batch", 3, *FAST)
    assert cli.here(*args, "--limit", 3).status == 0  # so that something was sent before the refusal
    api.faults.next("create", Status(400, "invalid_request_error", "requests.0.params.messages: bad"))
    assert cli.here(*args).status == 3
    sent = api.account.requests
    assert sent >= 3
    cli.write("in.jsonl", 20, first=6)
    without = cli.here(*args, "--changed-input")
    told = rf"{sent} requests that were sent are not in the input any more, such as custom_id 'r\d'\. Put the old"
    assert re.search(told, without.err), without
    cli.write("in.jsonl", 20)
    went_on = cli.here(*args, "--changed-input")
    assert went_on.status == 0, went_on
    assert re.search(rf"requests     {20 - sent} in about \d+ batches\ncost         \$", went_on.err), went_on
    assert (api.account.requests, api.account.violated) == (20, 0)
