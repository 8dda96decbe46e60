"""Standard streams that fail, in processes of their own: the work goes on, and its status is its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from abatch.sandbox import Sandbox
from tests.cli.conftest import PATIENCE, line

RUN = "run in.jsonl --to out.jsonl --json --poll-interval 0.05"


def shell(cli: Any, command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run `abatch` as a shell does; `@` stands for it."""
    return subprocess.run(
        ["bash", "-c", command.replace("@", f"{sys.executable} -m abatch")],
        cwd=cli.folder,
        env={**cli.env, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "env"),
    [
        (f"@ {RUN} >report 2>/dev/full", {}),
        (f"@ {RUN} >report 2>&-", {}),
        (f"(@ {RUN} 2>&1 >report; echo $? >status) | head -n 1; exit $(cat status)", {}),
        (f"(@ {RUN} 2>&1 >report; echo $? >status) | true; exit $(cat status)", {"ABATCH_LOG": "debug"}),
        (f"@ {RUN} >report 2>/dev/full", {"ABATCH_LOG": "debug"}),
        (f"@ {RUN} >report", {"PYTHONIOENCODING": "latin-1:strict", "ABATCH_LOG": "debug"}),
    ],
    ids=["full", "closed", "reader leaves", "reader of the log leaves", "log on a full disk", "latin-1"],
)
def test_a_failing_message_stream_never_ends_or_misstates_the_work(
    cli: Any, api: Sandbox, command: str, env: dict[str, str]
) -> None:
    cli.write("in.jsonl", 8)
    ended = shell(cli, command, **env)
    assert ended.returncode == 0, ended
    report = json.loads((cli.folder / "report").read_bytes())
    assert (report["state"], report["succeeded"], report["error"]) == ("done", 8, None)
    assert (api.account.requests, api.account.violated) == (8, 0)
    assert len(cli.lines("out.jsonl")) == 8


LEAVES = "| true; exit ${PIPESTATUS[0]}"


@pytest.mark.parametrize("where", [">/dev/full", ">&-", LEAVES], ids=["full", "closed", "reader leaves"])
def test_a_report_that_cannot_be_written_does_not_replace_the_outcome(cli: Any, api: Sandbox, where: str) -> None:
    cli.write("in.jsonl", 4, user=lambda n: "sandbox:errored:invalid_request_error" if n == 3 else None)
    ended = shell(cli, f"@ {RUN} {where}")
    assert ended.returncode == 1, ended  # a request failed, and nothing else is said by the status
    assert ("the report is incomplete" in ended.stderr.decode()) is not where.startswith("|")
    assert "this should not happen" not in ended.stderr.decode()
    assert (api.account.requests, api.account.violated) == (4, 0)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_json_is_json_whatever_the_locale(cli: Any, api: Sandbox, encoding: str) -> None:
    cli.write("in.jsonl", 3)
    run = RUN.replace("out.jsonl", "日本.jsonl")
    first = shell(cli, f"@ {run}", PYTHONIOENCODING=encoding)
    again = shell(cli, f"@ {run}", PYTHONIOENCODING=encoding)
    assert (first.returncode, again.returncode) == (0, 0), first
    for ended in (first, again):
        assert json.loads(ended.stdout)["location"].endswith("日本.jsonl")
        assert ended.stdout.isascii() is (encoding != "utf-8")
    assert (api.account.requests, api.account.violated) == (3, 0)


def test_names_of_any_bytes_and_tables_are_shown_in_every_locale(alone: Any) -> None:
    alone.write("in.jsonl", 1)
    ended = shell(alone, "mv in.jsonl $'caf\\xe9.jsonl'; @ run caf* --to out.jsonl --json")
    assert (ended.returncode, json.loads(ended.stdout)["exit_status"]) == (3, 3), ended  # no API there
    (alone.folder / "in.jsonl").write_bytes(line(1, model="模型"))
    shown = shell(alone, "@ estimate in.jsonl", PYTHONIOENCODING="ascii:strict")
    assert shown.returncode == 0, shown
    assert rb"\u6a21\u578b" in shown.stdout
    assert shown.stderr.startswith(rb"warning: line 1 (custom_id 'r1'): model `\u6a21\u578b` is not one that"), shown


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("@ --help >/dev/full", 3),
        ("@ estimate in.jsonl >/dev/full", 3),
        ("@ estimate in.jsonl >&-", 3),
        ("(@ estimate in.jsonl; echo $? >status) | true; exit $(cat status)", 0),
        ("@ run --no-such-option 2>/dev/full", 2),
    ],
)
def test_output_that_cannot_be_written_is_an_exit_status_and_no_crash(alone: Any, command: str, status: int) -> None:
    alone.write("in.jsonl", 1)
    ended = shell(alone, command)
    assert ended.returncode == status, ended
    assert "Traceback" not in ended.stderr.decode()
    assert ("stdout cannot be written" in ended.stderr.decode()) is (status == 3)


def test_a_log_of_an_application_that_cannot_be_written_ends_nothing_and_is_reported_once() -> None:
    code = """if True:
        import structlog
        from abatch.log import log
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(open("/dev/full", "w", buffering=1)))
        for shard in (1, 2):
            log.warning("shard_in_doubt", shard=shard)
        print("went on", flush=True)
        import os
        os._exit(0)
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stdout) == (0, "went on\n"), ended
    assert ended.stderr.count("abatch cannot write its log") == 1


# ---- the log --------------------------------------------------------------------------------------------------


def test_with_a_json_log_every_line_of_stderr_is_json(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3, user=lambda n: "sandbox:errored:invalid_request_error" if n == 2 else None)
    ended = cli("run", "in.jsonl", "--to", "out.jsonl", "--poll-interval", "0.05", ABATCH_LOG="info")
    assert ended.status == 1, ended
    events = [json.loads(line) for line in ended.err.splitlines()]
    assert {"message", "shard_accepted"} <= {each["event"] for each in events}
    assert any("succeeded" in each["text"] for each in events if each["event"] == "message")
    refused = cli("run", "nowhere.jsonl", "--to", "out.jsonl", ABATCH_LOG="info")
    assert refused.status == 2
    assert [json.loads(line)["level"] for line in refused.err.splitlines()][-1] == "error"
    assert api.account.violated == 0


def test_quiet_keeps_messages_back_and_the_log_that_was_asked_for_stays(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3)
    ended = cli("run", "in.jsonl", "--to", "out.jsonl", "-q", "--poll-interval", "0.05", ABATCH_LOG="info")
    assert ended.status == 0, ended
    events = [json.loads(line)["event"] for line in ended.err.splitlines()]
    assert "shard_accepted" in events
    assert "message" not in events
    assert api.account.violated == 0
