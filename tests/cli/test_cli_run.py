"""`abatch run` as a process: what it prints, leaves and exits with."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import shlex
import signal
import subprocess
from typing import Any

from abatch.sandbox import Sandbox
from abatch.sandbox.faults import ResetAfterAccept, Stall, Status
from tests.cli.conftest import PATIENCE

FAST = ("--poll-interval", "0.05")


def test_a_job_runs_to_its_end_and_again_is_done_at_once(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 30)
    first = cli("run", "in.jsonl", "--to", "out.jsonl", "--requests-per-batch", 10, *FAST)
    assert first.status == 0, first
    assert first.out == ""
    assert cli.lines("out.jsonl") == {f"r{n}": "succeeded" for n in range(30)}
    head = first.err.splitlines()
    assert head[0].startswith("key          in-")
    assert head[1:3] == ["journal      .abatch", "destination  out.jsonl"]
    for word in ("succeeded", "tokens", "cost", "synchronous cost", "$"):
        assert word in first.err
    assert "planned 30 of 30 · submitted 30" in first.err
    assert "{" not in first.err
    batches = api.account.batches
    again = cli("run", "in.jsonl", "--to", "out.jsonl", "--json")
    assert again.status == 0
    assert again.json["state"] == "done"
    assert api.account.batches == batches
    assert api.account.violated == 0


def test_failed_requests_exit_1_and_json_is_alone_on_stdout(cli: Any) -> None:
    cli.write("in.jsonl", 6, user=lambda n: "sandbox:errored:invalid_request_error" if n == 3 else None)
    ended = cli.here("run", "in.jsonl", "--to", "out.db", "--json", *FAST)
    assert ended.status == 1, ended
    told = ended.json
    assert (told["succeeded"], told["errored"], told["requests"]) == (5, 1, 6)
    assert told["exit_status"] == 1
    assert told["error"] is None
    assert told["resume"] is None
    assert told["usage"]["output_tokens"] > 0
    assert told["cost"] * 2 == told["synchronous_cost"]


def test_answers_that_were_cut_are_counted_on_the_last_screen_and_in_json(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 20, user=lambda n: "sandbox:cut:100" if n < 5 else "sandbox:refused" if n == 7 else None)
    shown = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "nightly", *FAST)
    assert shown.status == 0, shown  # they succeeded, and were paid for
    assert "end_turn 14 · max_tokens 5 · refusal 1" in shown.err
    assert "5 of 20 were cut at max_tokens." in shown.err
    assert "1 of 20 were refused by the model." in shown.err
    assert "abatch retry nightly --stop-reason max_tokens --max-tokens N" in shown.err
    again = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "nightly", "--json")  # from the journal
    assert again.json["stop_reasons"] == {"end_turn": 14, "max_tokens": 5, "refusal": 1}
    assert again.json["ok"]
    assert api.account.violated == 0


def test_quiet_prints_nothing_when_all_is_well(cli: Any) -> None:
    cli.write("in.jsonl", 3)
    ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--quiet", *FAST)
    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_bad_requests_are_told_by_line_and_nothing_is_sent(cli: Any, api: Sandbox, line: Any) -> None:
    bad = b'{"custom_id":"evil\\u001b[31m\\u202e","params":{"max_tokens":0}}'
    (cli.folder / "in.jsonl").write_bytes(b"\n".join([line(0), bad, line(2), b"nonsense", line(0)]))
    ended = cli("run", "in.jsonl", "--to", "out.jsonl")
    assert ended.status == 2, ended
    assert "line 2 (custom_id 'evil" in ended.err
    assert "max_tokens" in ended.err
    assert "line 4: not JSON" in ended.err
    assert "line 5 (custom_id 'r0'): custom_id stands on line 1 already" in ended.err
    assert "\x1b" not in ended.err
    assert "\u202e" not in ended.err
    assert "Traceback" not in ended.err
    assert api.account.requests == 0


def test_equal_problems_of_many_lines_are_one_line_with_a_count(cli: Any) -> None:
    (cli.folder / "in.jsonl").write_bytes(b"x\n" * 50)
    ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--json")
    assert ended.status == 2
    assert ended.err.count("not JSON") == 1
    assert "50 lines: not JSON" in ended.err
    assert ended.json["error"]["type"] == "BadRequest"
    assert len(ended.json["error"]["problems"]) == 20


def test_a_missing_key_is_said_before_planning(cli: Any) -> None:
    cli.write("in.jsonl", 3)
    del cli.env["ANTHROPIC_API_KEY"]
    ended = cli("run", "in.jsonl", "--to", "out.jsonl")
    assert ended.status == 2, ended
    assert "ANTHROPIC_API_KEY" in ended.err
    assert [path.name for path in cli.folder.iterdir()] == ["in.jsonl"]


def test_an_unreachable_api_is_exit_3_at_once(alone: Any) -> None:
    alone.write("in.jsonl", 3)
    ended = alone("run", "in.jsonl", "--to", "out.jsonl")
    assert ended.status == 3, ended
    assert "cannot be reached" in ended.err
    assert "To resume: abatch run in.jsonl --to out.jsonl" in ended.err


def test_a_refused_key_is_exit_3_at_once(new_cli: Any) -> None:
    with Sandbox(keys={"another": "default"}) as api:
        cli = new_cli(api)
        cli.write("in.jsonl", 3)
        ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--json")
    assert ended.status == 3, ended
    assert "Check ANTHROPIC_API_KEY" in ended.err
    assert ended.json["error"]["type"] == "JobStopped"
    assert cli.env["ANTHROPIC_API_KEY"] not in ended.err + ended.out


def test_a_journal_in_use_is_exit_3(alone: Any) -> None:
    alone.write("in.jsonl", 3)
    (alone.folder / ".abatch").mkdir()
    with (alone.folder / ".abatch" / "lock").open("w+") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = alone("run", "in.jsonl", "--to", "out.jsonl")
    assert ended.status == 3, ended
    assert "process 4711 drives this journal" in ended.err


def test_a_key_with_other_content_and_a_foreign_destination_are_exit_2(cli: Any) -> None:
    cli.write("in.jsonl", 3)
    assert cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "k", *FAST).status == 0
    other = cli.here("run", "in.jsonl", "--to", "other.jsonl", "--key", "k")
    assert other.status == 2, other
    assert "job 'k' exists" in other.err
    (cli.folder / "mine.jsonl").write_text("precious\n")
    taken = cli.here("run", "in.jsonl", "--to", "mine.jsonl", "--again")
    assert taken.status == 2, taken
    assert "choose another destination" in taken.err
    assert (cli.folder / "mine.jsonl").read_text() == "precious\n"


def test_usage_and_settings_are_exit_2(cli: Any) -> None:
    cli.write("in.jsonl", 1)
    for args, word in (
        (("run", "in.jsonl"), "--to"),
        (("run", "in.jsonl", "--to", "out.parquet"), "use one of these forms"),
        (("run", "-", "--to", "out.jsonl"), "--key"),
        (("run", "in.jsonl", "--to", "out.jsonl", "--requests-per-batch", "0"), "--requests-per-batch"),
        (("run", "in.jsonl", "--to", "out.jsonl", "--poll-interval", "nan"), "--poll-interval"),
        (("run", "in.jsonl", "--to", "out.jsonl", "--key", "a/b"), "--key must match"),
        (("run", "in.jsonl", "--to", "out.jsonl", "--journal", "in.jsonl"), "is a file"),
        (("status", "--journal", "in.jsonl"), "is a file"),
        (("run", "-", "--to", "out.jsonl", "--key", "k", "--dry-run"), "needs a file"),
        (("run", "absent.jsonl", "--to", "out.jsonl", "--dry-run"), "absent.jsonl"),
    ):
        ended = cli.here(*args)
        assert ended.status == 2, ended
        assert word in ended.err


def test_stdin_is_read_as_an_iterable(cli: Any, line: Any) -> None:
    rows = b"\n".join(line(n) for n in range(25))
    ended = cli("run", "-", "--to", "out/", "--key", "piped", "--requests-per-batch", 10, *FAST, stdin=rows)
    assert ended.status == 0, ended
    parts = sorted((cli.folder / "out").glob("part-*.jsonl"))
    found = [json.loads(raw)["custom_id"] for part in parts for raw in part.read_bytes().splitlines()]
    assert sorted(found) == sorted(f"r{n}" for n in range(25))


def test_a_bad_row_in_stdin_ends_the_run_after_the_sealed_shards(cli: Any, line: Any) -> None:
    rows = b"\n".join([*(line(n, system="x" * 60_000) for n in range(25)), b"nonsense", line(26)])
    args = ("run", "-", "--to", "out.jsonl", "--key", "piped", "--requests-per-batch", 10, *FAST)
    ended = cli(*args, "--json", stdin=rows)
    assert ended.status == 1, ended
    assert "line 26" in ended.err
    told = ended.json
    assert told["state"] == "unfinished"
    sent = told["succeeded"]
    assert sent >= 10
    assert f"Of the requests before it {sent} were sent, {sent} have their result." in ended.err
    assert "To resume: correct the input, then give all the lines again to abatch run -" in ended.err
    mended = rows.replace(b"nonsense", line(25))
    assert cli(*args, stdin=mended).status == 0
    assert len(cli.lines("out.jsonl")) == 27


def test_stdin_may_begin_with_a_mark_as_a_file_may(cli: Any, line: Any) -> None:
    rows = b"\xef\xbb\xbf" + line(0) + b"\r\n\r\n" + line(1)
    assert cli("run", "-", "--to", "out.jsonl", "--key", "piped", *FAST, stdin=rows).status == 0
    assert len(cli.lines("out.jsonl")) == 2


def test_a_line_of_stdin_that_is_too_long_is_named(cli: Any, line: Any) -> None:
    rows = b"\n".join([line(0), b"", b"x" * (2**26 + 2**20)])
    ended = cli("run", "-", "--to", "out.jsonl", "--key", "piped", "--json", *FAST, stdin=rows)
    assert ended.status == 2, ended
    assert "line 3: the line is longer than 67108864 bytes; in a file it may be" in ended.json["error"]["text"]


def test_stdin_that_begins_badly_makes_no_job(cli: Any, api: Sandbox, line: Any) -> None:
    args = ("run", "-", "--to", "out.jsonl", "--key", "piped", "--json", *FAST)
    for rows, word in (
        (b"nonsense\n" + line(1), "line 1: not JSON"),
        (line(0) + b"\nnonsense", "line 2: not JSON"),
        (b" \n", "stdin holds no request"),
        (b"[" + line(0) + b"]", "jq -c '.[]'"),
    ):
        ended = cli(*args, stdin=rows)
        assert ended.status == 2, ended
        assert word in ended.json["error"]["text"]
        assert not ended.json["error"]["text"].startswith("error")
    assert cli.here("status", "--json").json["jobs"] == []
    assert not (cli.folder / "out.jsonl").exists()
    assert api.account.requests == 0


def test_json_that_is_not_json_lines_is_one_error(cli: Any, line: Any) -> None:
    rows = [json.loads(line(n)) for n in range(30)]
    for text, word in (
        (json.dumps(rows), "jq -c '.[]'"),
        (json.dumps(rows, indent=1), "jq -c '.[]'"),
        ("\n".join(json.dumps(row, indent=1) for row in rows), "jq -c ."),
    ):
        (cli.folder / "in.json").write_text(text)
        for args in (("run", "in.json", "--to", "out.jsonl"), ("estimate", "in.json")):
            ended = cli.here(*args)
            assert ended.status == 2, ended
            assert ended.err.count("error:") == 1
            assert word in ended.err


def test_results_that_were_moved_are_told_of(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3)
    for name in ("out.jsonl", "out.db", "out/"):
        args = ("run", "in.jsonl", "--to", name, "--json", "--again", *FAST)
        assert cli.here(*args).status == 0
        (cli.folder / name).rename(cli.folder / "elsewhere")
        again = cli.here(*args)
        assert again.status == 1, again
        assert "is gone" in again.json["error"]["text"]
        assert "another --key" in again.err
        assert "To resume" not in again.err
        assert not (cli.folder / name).exists()
        (cli.folder / "elsewhere").rename(cli.folder / name)
        assert cli.here(*args).status == 0
    assert api.account.requests == 9


def test_what_failed_is_followed_by_the_commands_that_help(cli: Any) -> None:
    cli.write("in.jsonl", 4, user=lambda n: "sandbox:errored-once:permission_error" if n == 3 else None)
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", "--journal", "else where", *FAST)
    ended = cli.here(*args)
    assert ended.status == 1, ended
    *_, see, again = ended.err.splitlines()
    assert see == "To see them: abatch results job --failed --journal 'else where'"
    assert again == "To send them again: abatch retry job --failed --journal 'else where'"
    shown = cli.here(*shlex.split(see.partition("abatch ")[2]))
    assert shown.out.count("\n") == 1
    assert cli.here(*shlex.split(again.partition("abatch ")[2]), "--yes", *FAST).status == 0


def other_package(cli: Any, code: str) -> None:
    """Install a backend of somebody else for the scheme `other`."""
    site = cli.folder / "site"
    about = site / "other_backend-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other-backend\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[abatch.backends]\nother = other_backend:open_\n")
    (site / "other_backend.py").write_text(code)
    cli.env["PYTHONPATH"] = str(site)


def test_a_failure_of_another_packages_backend_names_it(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3)
    other_package(cli, "async def open_(url, job, /):\n    raise ValueError('no such table')\n")
    ended = cli("run", "in.jsonl", "--to", "other://x", "--json")
    assert ended.status == 2, ended
    assert ended.json["error"] == {
        "type": "BackendError",
        "text": "other://x: the backend from other-backend failed with ValueError: no such table",
    }
    assert api.account.requests == 0
    other_package(cli, "import not_installed\n")
    unusable = cli("run", "in.jsonl", "--to", "other://x", "--dry-run")
    assert unusable.status == 2, unusable
    assert "cannot be loaded from other-backend: No module named 'not_installed'" in unusable.err


def test_an_interrupted_run_resumes(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 20)
    args = ("run", "in.jsonl", "--to", "my out.jsonl", *FAST)
    process = cli.start(*args)
    wait_for(lambda: slow_api.account.batches, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "Interrupted" in err
    assert "To resume: abatch run in.jsonl --to 'my out.jsonl'" in err
    slow_api.advance(20_000)
    ended = cli(*args)
    assert ended.status == 0, ended
    assert len(cli.lines("my out.jsonl")) == 20
    assert (slow_api.account.requests, slow_api.account.violated) == (20, 0)


def test_a_killed_run_resumes_and_names_the_other_jobs(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 20)
    cli.write("other.jsonl", 5, first=100)
    for name, batches in (("other", 1), ("in", 2)):
        process = cli.start("run", f"{name}.jsonl", "--to", f"{name}.out.jsonl", "--key", name, *FAST)
        wait_for(lambda least=batches: slow_api.account.batches >= least, process)
        process.kill()
        process.communicate()
    shown = cli.here("status")
    assert "No process drives this journal. To resume:\n  abatch run other.jsonl" in shown.out
    told = cli.here("status", "in", "--json").json
    assert told["driver"] is None
    assert told["jobs"][0]["resume"] == "abatch run in.jsonl --to in.out.jsonl --key in"
    assert told["jobs"][0]["resume_needs"] is None
    slow_api.advance(20_000)
    ended = cli(*shlex.split(told["jobs"][0]["resume"])[1:], "--grace", "0.2", *FAST)
    assert ended.status == 0, ended
    assert "also unfinished here, polled but not submitted: other" in ended.err
    assert len(cli.lines("in.out.jsonl")) == 20
    assert (slow_api.account.requests, slow_api.account.violated) == (25, 0)


def test_a_second_signal_ends_at_once_and_loses_nothing(cli: Any, api: Sandbox, read_until: Any, wait_for: Any) -> None:
    cli.write("in.jsonl", 8)
    api.faults.next("create", Stall(seconds=600))
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--grace", "0.2", *FAST)
    process = cli.start(*args)
    wait_for(lambda: api.account.batches, process)
    process.send_signal(signal.SIGTERM)
    read_until(process, "Interrupted")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    ended = cli(*args)
    assert ended.status == 0, ended
    assert (api.account.requests, api.account.violated) == (8, 0)


def test_a_lost_answer_is_found_again(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 8)
    api.faults.next("create", ResetAfterAccept())
    ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--grace", "0.2", *FAST)
    assert ended.status == 0, ended
    assert (api.account.requests, api.account.violated) == (8, 0)


def test_hostile_text_of_the_api_does_not_reach_the_terminal(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3)
    evil = "no \x1b[2J\x1b]0;owned\x07 \x9b31m \u202e entry"
    api.faults.always("create", Status(status=403, kind="permission_error", message=evil))
    ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", *FAST, ABATCH_LOG="debug")
    assert ended.status == 3, ended
    assert "no " in ended.err
    shown = cli.here("status")
    assert "stopped" in shown.out
    for text in (ended.err, shown.out, shown.err):
        assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(text)
    assert cli.env["ANTHROPIC_API_KEY"] not in ended.err


def test_a_wrong_log_level_is_exit_2(alone: Any) -> None:
    ended = alone.here("run", "in.jsonl", "--to", "out.jsonl", ABATCH_LOG="loud")
    assert ended.status == 2, ended
    assert "ABATCH_LOG" in ended.err


def test_a_dry_run_sends_nothing_and_makes_nothing(alone: Any) -> None:
    alone.write("in.jsonl", 30)
    ended = alone.here("run", "in.jsonl", "--to", "out.jsonl", "--dry-run", "--requests-per-batch", "10")
    assert ended.status == 0, ended
    for word in ("requests", "30", "batches", "bytes", "cost as batches", "$", " to "):
        assert word in ended.out
    assert [path.name for path in alone.folder.iterdir()] == ["in.jsonl"]
    for to, word in (("other://x", "use one of these forms"), ("s3://me:secret@bucket/x", "credentials")):
        refused = alone.here("run", "in.jsonl", "--to", to, "--dry-run")
        assert refused.status == 2, refused
        assert word in refused.err
        assert refused.out == ""


def test_the_sandbox_beside_a_run_needs_no_key_and_a_killed_demo_resumes(alone: Any, read_until: Any) -> None:
    del alone.env["ANTHROPIC_API_KEY"]
    alone.write("in.jsonl", 40)
    args = ("run", "in.jsonl", "--to", "out.jsonl", "--sandbox", "--requests-per-batch", 10)
    alone.env["ABATCH_LOG"] = "info"
    process = alone.start(*args, "--sandbox-latency", "0.3")
    read_until(process, "shard_accepted")
    process.kill()
    process.communicate()
    resume = alone.here("status", "--journal", ".abatch-sandbox", "--json").json["jobs"][0]["resume"]
    assert resume.startswith("abatch run in.jsonl --to out.jsonl --key in-")
    assert resume.endswith(" --sandbox")
    port = (alone.folder / ".abatch-sandbox" / "port").read_text()
    assert (alone.folder / ".abatch-sandbox" / "port").stat().st_mode & 0o777 == 0o600
    ended = alone(*args, "--sandbox-latency", "0")
    assert ended.status == 0, ended
    assert "synthetic" in ended.err
    assert "grace_below" not in ended.err
    assert len(alone.lines("out.jsonl")) == 40
    assert (alone.folder / ".abatch-sandbox" / "port").read_text() == port
    assert not (alone.folder / ".abatch").exists()


def _more(terminal: int, seen: bytearray) -> bytearray:
    """What a terminal showed until now."""
    while select.select([terminal], [], [], 0.05)[0]:
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # nobody has it open any more
            break
    return seen


def test_a_terminal_gets_a_bar_and_no_log(new_cli: Any, slow_api: Sandbox, wait_for: Any) -> None:
    cli = new_cli(slow_api)
    cli.write("in.jsonl", 20)
    ours, theirs = pty.openpty()
    cli.env |= {"TERM": "xterm", "COLUMNS": "120"}
    process = cli.start("run", "in.jsonl", "--to", "out.jsonl", *FAST, stderr=theirs)
    os.close(theirs)
    seen = bytearray()
    wait_for(lambda: slow_api.account.batches, process)
    wait_for(lambda: b"in flight 20 in 1 batches" in _more(ours, seen), process)
    slow_api.advance(20_000)
    wait_for(lambda: _more(ours, seen).endswith(b"out.jsonl\r\n") or process.poll() is not None)
    _more(ours, seen)
    os.close(ours)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, seen
    assert seen.startswith(b"abatch run: starting\r\n")
    assert b" 0%" in seen
    assert b"time left: no history yet" in seen
    assert b"planned 20 of 20" in seen
    assert b"succeeded" in seen
    assert b"shard_accepted" not in seen


def test_no_core_is_left(cli: Any) -> None:
    code = "import resource, abatch.cli.app as a; a.app = lambda: print(resource.getrlimit(resource.RLIMIT_CORE));"
    code += "a.main()"
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cli.folder)
    assert done.stdout == "(0, 0)\n"
