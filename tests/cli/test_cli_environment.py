"""Environments that cannot work, or work in an odd way: what is said, and that nothing is paid for twice."""

from __future__ import annotations

import signal
import tempfile
from typing import Any

import pytest

from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from tests.cli.conftest import PATIENCE
from tests.cli.test_cli_streams import shell

RUN = ("run", "in.jsonl", "--to", "out.jsonl")
FAST = ("--poll-interval", "0.05")


@pytest.mark.parametrize(
    ("command", "env", "words"),
    [
        ("@ run in.jsonl --to o.jsonl", {"SSL_CERT_FILE": "/nope.pem"}, ["SSL_CERT_FILE=/nope.pem", "unset it"]),
        ("@ run in.jsonl --to o.jsonl", {"HTTPS_PROXY": "ftp://h:1"}, ["HTTPS_PROXY", "one of http://"]),
        ("@ run in.jsonl --to o.jsonl", {"ALL_PROXY": "socks5://h:1"}, ["ALL_PROXY", "pip install socksio"]),
        ("@ run in.jsonl --to o.jsonl", {"ANTHROPIC_API_KEY": "k\r"}, ["ANTHROPIC_API_KEY", "carriage return"]),
        ("@ run in.jsonl --to o.jsonl", {"ANTHROPIC_BASE_URL": "http://gw:1"}, ["ABATCH_ALLOW_HTTP=gw"]),
        ("@ run in.jsonl --to o.jsonl --sandbox --journal in.jsonl/j", {}, ["in.jsonl/j", "--journal"]),
        ("@ run in.jsonl --to o.jsonl --sandbox --journal /proc/abatch", {}, ["/proc/abatch", "--journal"]),
        ("mkdir gone; cd gone; rmdir ../gone; @ run in.jsonl --to o.jsonl", {}, ["the current folder was removed"]),
    ],
    ids=["certificates", "proxy", "socks", "key", "plain http", "a file in the way", "no folder", "gone"],
)
def test_what_the_environment_makes_impossible_is_exit_2_with_its_name_and_a_remedy(
    alone: Any, command: str, env: dict[str, str], words: list[str]
) -> None:
    alone.write("in.jsonl", 1)
    ended = shell(alone, command, **{"ANTHROPIC_BASE_URL": "https://api.corp.test", **env})
    told = ended.stderr.decode()
    assert ended.returncode == 2, told
    assert "this should not happen" not in told
    assert "Traceback" not in told
    assert all(word in told for word in words), told


@pytest.mark.parametrize("stdin", ["<&-", "0>sink"], ids=["closed", "open to write"])
def test_stdin_that_cannot_be_read_is_named(cli: Any, api: Sandbox, stdin: str) -> None:
    ended = shell(cli, f"@ run - --to out.jsonl --key k {stdin}")
    told = ended.stderr.decode()
    assert (ended.returncode, "stdin cannot be read" in told) == (2, True), told
    assert api.account.requests == 0


def test_a_journal_is_bound_to_no_url_that_never_answered(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3)
    wrong = cli.here(*RUN, *FAST, ANTHROPIC_BASE_URL="http://127.0.0.1:9")
    assert wrong.status == 3, wrong
    with Sandbox(seed=2) as other:  # it answers, but not as the API does
        other.faults.always("list", Status(status=404, kind="not_found_error"))
        refused = cli.here(*RUN, *FAST, ANTHROPIC_BASE_URL=other.url)
        assert refused.status == 3, refused
        assert other.account.requests == 0
    right = cli.here(*RUN, *FAST)
    assert right.status == 0, right
    assert (api.account.requests, api.account.violated) == (3, 0)
    late = cli.here(*RUN, *FAST, "--key", "another", ANTHROPIC_BASE_URL="http://127.0.0.1:9")
    assert (late.status, "belongs to" in late.err) == (2, True), late


def test_plain_http_to_a_named_host_goes_through_the_proxy_with_a_warning_each_run(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 3)
    env = {  # no DNS knows the name, so all of it went through the proxy
        "ANTHROPIC_BASE_URL": "http://api.corp.test",
        "ABATCH_ALLOW_HTTP": "api.corp.test",
        "HTTP_PROXY": api.url.removeprefix("http://"),
    }
    for _ in range(2):
        ended = cli(*RUN, *FAST, **env)
        assert ended.status == 0, ended
        assert "key_sent_in_the_clear host=api.corp.test" in ended.err
    assert (api.account.requests, api.account.violated) == (3, 0)


@pytest.mark.parametrize("command", [("estimate", "in.jsonl"), (*RUN, "--dry-run")], ids=["estimate", "dry run"])
def test_an_estimate_needs_no_temporary_folder(
    alone: Any, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone.write("in.jsonl", 30)
    monkeypatch.setattr(tempfile, "tempdir", str(alone.folder / "none"))
    ended = alone.here(*command)
    assert ended.status == 0, ended
    assert "requests" in ended.out
    alone.write("in.jsonl", 3)
    (alone.folder / "in.jsonl").write_bytes((alone.folder / "in.jsonl").read_bytes() * 2)
    assert "stands on line 1 already" in alone.here(*command).err


# ---- journals of the sandbox ----------------------------------------------------------------------------------


def test_commands_know_the_sandbox_s_journal_and_say_so_where_it_is_the_only_one(alone: Any) -> None:
    del alone.env["ANTHROPIC_API_KEY"]
    alone.write("in.jsonl", 3)
    ran = alone(*RUN, "--sandbox", "--key", "k", "--sandbox-latency", "0")
    assert ran.status == 0, ran
    for command in (("status",), ("results", "k"), ("cancel", "k"), ("resolve", "1", "--lost"), ("id", "a1-0-0-0-0")):
        lost = alone.here(*command)
        assert lost.status == 2, lost
        assert lost.out == ""
        if command[0] != "id":
            assert "add --sandbox" in lost.err, lost
        assert "add --sandbox" not in alone.here(*command, "--sandbox").err
    assert "k " in alone.here("status", "--sandbox").out
    assert alone.here("results", "k", "--sandbox").out.count("\n") == 3
    assert not (alone.folder / ".abatch").exists()


def test_a_second_sandbox_run_of_one_journal_waits_for_the_first_and_is_told_to_remove_nothing(
    alone: Any, wait_for: Any
) -> None:
    alone.write("in.jsonl", 3)
    first = alone.start(*RUN, "--sandbox", "--sandbox-latency", "600", stderr=None)
    wait_for((alone.folder / ".abatch-sandbox" / "port").exists, first)
    second = alone("run", "in.jsonl", "--to", "other.jsonl", "--sandbox")
    assert second.status == 3, second
    assert f"process {first.pid} drives this journal" in second.err
    assert "remove" not in second.err
    own = alone("run", "in.jsonl", "--to", "other.jsonl", "--sandbox", "--journal", "j2", "--sandbox-latency", "0")
    assert own.status == 0, own
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=PATIENCE)
    assert first.returncode == 130
