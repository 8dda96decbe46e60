"""What `abatch run` says of an input before anything is sent: of its params, its kind and its lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from abatch.sandbox import Sandbox

FAST = ("--poll-interval", "0.05")


def write(folder: Path, *rows: dict[str, Any], name: str = "in.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def with_params(line: Callable[..., bytes], number: int, **params: Any) -> dict[str, Any]:
    row = json.loads(line(number))
    row["params"] |= params
    return row


def test_params_that_cannot_work_are_shown_grouped_and_nothing_is_sent(cli: Any, api: Sandbox, line: Any) -> None:
    rows = [with_params(line, n, betas=["x"], temperature="hot") for n in range(40)]
    write(cli.folder, *rows, with_params(line, 40, messages=[]))
    ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--json")
    assert ended.status == 2, ended
    betas, temperature, messages = [each for each in ended.err.splitlines() if each[:1].isdigit() or "line" in each[:5]]
    assert betas.startswith("40 lines: `betas` is no parameter of a request in a batch; it is a header: put `betas` on")
    assert betas.endswith("line 1 (custom_id 'r0'), line 2 (custom_id 'r1'), line 3 (custom_id 'r2'), …")
    assert temperature.startswith("40 lines: temperature must be a number, it is a string")
    assert messages == "line 41 (custom_id 'r40'): messages is empty; the API needs at least one"
    assert api.account.requests == 0
    assert not (cli.folder / "out.jsonl").exists()


def test_what_a_newer_api_may_take_is_a_warning_and_with_strict_an_error(cli: Any, api: Sandbox, line: Any) -> None:
    write(cli.folder, *(with_params(line, n, model="claude-hiaku-4-5") for n in range(5)))
    strict = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--params", "strict")
    assert strict.status == 2, strict
    assert "5 lines: model `claude-hiaku-4-5`" in strict.err
    assert api.account.requests == 0
    ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", *FAST)
    assert ended.status == 0, ended
    warning = "warning: 5 requests: model `claude-hiaku-4-5` is not one that anthropic"
    assert ended.err.count(warning) == 1
    assert "did you mean `claude-haiku-4-5`? (line 1, 2, 3)" in ended.err
    assert api.account.violated == 0


def test_a_trial_in_the_sandbox_shows_what_the_api_would_refuse(cli: Any, api: Sandbox, line: Any) -> None:
    write(cli.folder, json.loads(line(0)), with_params(line, 1, temprature=0.5), with_params(line, 2, messages="hello"))
    assert cli.here("run", "in.jsonl", "--to", "out.jsonl").status == 2
    ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--params", "unchecked", *FAST)
    assert ended.status == 1, ended
    assert "warning" not in ended.err
    assert cli.lines("out.jsonl") == {"r0": "succeeded", "r1": "errored", "r2": "errored"}
    assert "did you mean `temperature`?" in (cli.folder / "out.jsonl").read_text()
    assert api.account.violated == 0


def test_a_dry_run_and_an_estimate_say_the_same_of_params(alone: Any, line: Any) -> None:
    write(alone.folder, with_params(line, 0, temprature=0.5))
    for command in (("run", "in.jsonl", "--to", "out.jsonl", "--dry-run"), ("estimate", "in.jsonl")):
        ended = alone.here(*command)
        assert ended.status == 0, ended
        assert "warning: line 1 (custom_id 'r0'): `temprature` is not a name that anthropic" in ended.err
    strict = alone.here("run", "in.jsonl", "--to", "out.jsonl", "--dry-run", "--params", "strict")
    assert strict.status == 2, strict


def test_from_stdin_params_that_cannot_work_and_other_kinds_make_no_job(cli: Any, api: Sandbox, line: Any) -> None:
    bad = b"".join(json.dumps(with_params(line, n, timeout=600)).encode() + b"\n" for n in range(5))
    refused = cli("run", "-", "--to", "out.jsonl", "--key", "k", stdin=bad)
    assert refused.status == 2, refused
    assert "5 lines: `timeout` is no parameter of a request in a batch" in refused.err
    other = cli("run", "-", "--to", "out.jsonl", "--key", "k", stdin=b'{"requests": [' + line(0) + b"]}\n")
    assert other.status == 2, other
    assert "input from stdin must be JSON lines" in other.err
    assert "jq -c '.requests[]'" in other.err
    assert api.account.requests == 0
    again = cli("run", "-", "--to", "out.jsonl", "--key", "k", *FAST, stdin=line(0) + b"\n")
    assert again.status == 0, again


def test_whole_numbers_as_custom_ids_come_back_as_their_text(cli: Any, api: Sandbox, line: Any) -> None:
    write(cli.folder, *({**json.loads(line(n)), "custom_id": n} for n in range(25)))
    ended = cli.here("run", "in.jsonl", "--to", "out.jsonl", "--requests-per-batch", "10", *FAST)
    assert ended.status == 0, ended
    assert cli.lines("out.jsonl") == {str(n): "succeeded" for n in range(25)}
    assert api.account.violated == 0


# ---- several inputs -------------------------------------------------------------------------------------------


def test_a_quoted_pattern_is_one_job_of_its_files_in_order_and_retry_finds_its_rows(cli: Any, api: Sandbox) -> None:
    cli.write("part-10.jsonl", 10, first=20)
    cli.write("part-00.jsonl", 10, user=lambda n: "sandbox:errored-once:overloaded_error" if n == 3 else None)
    cli.write("part-01.jsonl", 10, first=10, user=lambda n: "sandbox:errored:api_error" if n == 15 else None)
    first = cli.here("run", "part-*.jsonl", "--to", "out.jsonl", "--json", "--tries", "1", *FAST)
    assert first.status == 1, first
    assert first.json["requests"] == 30
    assert cli.lines("out.jsonl") | {"r3": "", "r15": ""} == {f"r{n}": "succeeded" for n in range(30)} | {
        "r3": "",
        "r15": "",
    }
    assert api.account.batches == 1
    again = cli.here("run", "part-00.jsonl", "part-01.jsonl", "part-10.jsonl", "--to", "out.jsonl", "--json")
    assert (again.json["key"], again.json["state"]) == (first.json["key"], "done")
    assert api.account.requests == 30
    retried = cli.here("retry", first.json["key"], "--yes", *FAST)
    assert retried.status == 1, retried
    assert cli.lines("out.retry-1.jsonl") == {"r3": "succeeded", "r15": "errored"}


def test_lost_parts_of_a_job_of_several_files_are_read_again(cli: Any, api: Sandbox) -> None:
    for number in range(3):
        cli.write(f"in-{number}.jsonl", 7, first=7 * number)
    assert cli.here("run", "in-*.jsonl", "--to", "out/", "--key", "k", "--requests-per-batch", "5", *FAST).status == 0
    for part in list((cli.folder / "out").glob("*.jsonl"))[:2]:
        part.unlink()
    for kept in (cli.folder / ".abatch" / "ids").iterdir():
        kept.unlink()
    ended = cli.here("redrain", "k")
    assert ended.status == 0, ended
    found = [json.loads(raw) for part in (cli.folder / "out").glob("*.jsonl") for raw in part.read_bytes().splitlines()]
    assert sorted(line["custom_id"] for line in found) == sorted(f"r{n}" for n in range(21))
    assert api.account.requests == 21


def test_a_job_of_several_files_that_is_not_done_names_the_command_that_goes_on(
    slow_api: Sandbox, new_cli: Any, wait_for: Any
) -> None:
    cli = new_cli(slow_api)
    cli.write("a b.jsonl", 3)
    cli.write("c.jsonl", 3, first=3)
    process = cli.start("run", "a b.jsonl", "c.jsonl", "--to", "out.jsonl", *FAST)
    wait_for(lambda: slow_api.account.requests, process)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert "abatch run 'a b.jsonl' c.jsonl --to out.jsonl" in err
    status = cli.here("status")
    assert "abatch run 'a b.jsonl' c.jsonl --to out.jsonl --key" in " ".join(status.out.split())


def test_inputs_that_cannot_be_one_job_are_refused(alone: Any) -> None:
    alone.write("in.jsonl", 1)
    for args, word in (
        (("in.jsonl", "-", "--key", "k"), "stdin cannot be one of several inputs"),
        (("none-*.jsonl",), "no file matches 'none-*.jsonl'"),
        (("in.jsonl", "none.jsonl", "--dry-run"), "input none.jsonl cannot be read"),
        (("in.jsonl", "in.jsonl", "--dry-run"), "custom_id stands on line 1 of in.jsonl already"),
    ):
        ended = alone.here("run", *args, "--to", "out.jsonl")
        assert ended.status == 2, ended
        assert word in ended.err


def test_an_estimate_is_of_all_inputs(alone: Any) -> None:
    alone.write("a.jsonl", 3)
    alone.write("[b].jsonl", 4, first=3)
    assert alone.here("estimate", "a.jsonl", "[b].jsonl", "--json").json["requests"] == 7
