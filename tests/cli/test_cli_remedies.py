"""Every command that a text of abatch names is typed by a test: a remedy that nobody tried may not work."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import abatch
from abatch.cli.commands import AS_OPTIONS
from abatch.sandbox import Sandbox
from tests.cli.test_cli_paid_again import FAST

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(abatch.__file__).parent
TESTS = Path(__file__).parent
COMMAND = r"(?:cancel|estimate|id|move|redrain|resolve|results|retry|run|sandbox|status|webhook)"
SHOWN = re.compile(rf"\babatch {COMMAND}\b[^;,.)`\n]*")
OPTION = re.compile(r"(?<![\w-])--(?:again|any-key|changed-input|journal|key|lost|not-created|skip-answered|yes)\b")
PAID, HERE, WEBHOOK = "test_cli_paid_again.py", "test_cli_remedies.py", "test_cli_webhook.py"
MOVE = f"{PAID}::test_requests_of_an_unfinished_job_are_being_paid_for_and_its_remedy_is_to_move_it"
READ = f"{PAID}::test_the_same_requests_to_another_destination_send_nothing_and_name_what_is_there"
APPENDED = f"{PAID}::test_appended_rows_alone_are_sent_by_the_command_that_the_conflict_names"
CORRECTED = f"{PAID}::test_the_command_that_a_refused_create_names_takes_the_corrected_line"
CANCELLED = f"{PAID}::test_a_job_that_takes_no_changed_input_names_the_commands_that_work"
HELD = "test_cli_commands.py::test_a_held_shard_waits_for_a_word"
FAILED = "test_cli_run.py::test_what_failed_is_followed_by_the_commands_that_help"
STATUS = "test_cli_commands.py::test_a_held_shard_waits_for_a_word"
LIMITED = "test_cli_spending.py::test_a_limited_run_sends_the_first_rows_and_the_command_it_names_sends_the_rest"
REDRAIN = f"{HERE}::test_parts_that_are_gone_are_read_again_by_the_command_that_is_named"
REMEDIES = {
    ("cli/next_steps.py", "retry"): FAILED,
    ("cli/next_steps.py", "results"): FAILED,
    ("cli/conflicts.py", "abatch move"): MOVE,
    ("cli/conflicts.py", "results"): READ,
    ("cli/conflicts.py", "--again"): f"{PAID}::test_the_same_requests_go_again_where_that_is_said",
    ("cli/conflicts.py", "--skip-answered"): APPENDED,
    ("cli/conflicts.py", "--changed-input"): CORRECTED,
    ("cli/conflicts.py", "cancel"): CANCELLED,
    ("cli/behind.py", "serve"): "test_cli_submit.py::test_a_service_takes_the_job_and_wait_follows_it",
    ("cli/serve.py", "token"): f"{HERE}::test_the_token_that_serve_names_is_printed",
    ("cli/webhook.py", "abatch webhook list"): f"{WEBHOOK}::test_a_message_is_sent_again_by_its_id_to_all_that_had_it",
    ("cli/drive.py", "abatch redrain"): REDRAIN,
    ("cli/drive.py", "abatch redrain {}"): REDRAIN,
    ("cli/report.py", "abatch status"): STATUS,
    ("cli/report.py", "results"): LIMITED,
    ("engine/retry.py", "abatch retry {}"): f"{HERE}::test_a_retry_of_a_retry_names_the_command_that_works",
    ("journal/states.py", "abatch resolve {} --adopt BATCH_ID"): HELD,
    ("cli/status.py", "abatch cancel {}"): f"{HERE}::test_a_parked_batch_is_cancelled_by_the_command_that_status_shows",
    ("cli/operate.py", "abatch run"): HELD,
    ("cli/operate.py", "abatch status"): STATUS,
    ("engine/upload.py", "abatch resolve"): HELD,
    ("engine/driver.py", "abatch status --batches"): STATUS,
    ("errors.py", "--changed-input"): CORRECTED,
    ("errors.py", "abatch cancel {}"): CANCELLED,
    ("errors.py", "abatch resolve SHARD --adopt BATCH_ID"): HELD,
    ("journal/sqlite.py", "abatch status"): STATUS,
    (
        "engine/submission.py",
        "abatch move {} --to DEST",
    ): f"{PAID}::test_the_commands_name_the_journal_where_it_is_another",
}
"""By file and command, or by the option that an error adds to the same command: the test that types it."""


def texts(path: Path) -> Iterator[tuple[str, bool]]:
    """The strings of a module but for docstrings, each value in them as `{}`; and whether it begins a command."""
    tree = ast.parse(path.read_text())
    passed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            passed |= {id(each.value) for each in node.body if isinstance(each, ast.Expr)}  # docstrings
        elif isinstance(node, ast.JoinedStr):
            passed |= set(map(id, node.values))
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=values):
                yield "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in values), False
            case ast.Constant(value=str(text)) if id(node) not in passed:
                yield text, False
            case ast.Call(func=ast.Name(id="command"), args=[_, ast.Constant(value=str(name)), *_]):
                yield name, True
            case ast.List(elts=[ast.Constant(value="abatch"), ast.Constant(value=str(name)), *_]):
                yield f"abatch {name}", True
            case _:
                pass


def test_texts_of_the_library_name_options_only_beside_the_arguments_of_python() -> None:
    found: set[str] = set()
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("cli/") and not name.endswith("__main__.py"):
            for text, _ in texts(path):
                without = re.sub(r"abatch (?:cancel|move|resolve|status)\b[^;`]*", "", text)
                if re.search(r"(?<![\w-])--[a-z]", without) and not re.search(r"\w=|in Python", without):
                    found.add(f"{name}: {text}")
    assert found == set()


def test_arguments_of_python_in_texts_are_options_here() -> None:
    library = " ".join(text for path in ROOT.rglob("*.py") if "cli" not in path.parts for text, _ in texts(path))
    assert {argument for argument in AS_OPTIONS if argument not in library} == set()


def named() -> set[tuple[str, str]]:
    """Each command that a text of the package names, with its file; and each option of a remedy in these files."""
    found: set[tuple[str, str]] = set()
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for text, is_command in texts(path):
            shown = [text] if is_command else [each[0].strip() for each in SHOWN.finditer(text)]
            found |= {(name, each) for each in shown}
            if name in ("cli/conflicts.py", "errors.py"):
                found |= {(name, option) for option in OPTION.findall(text) if (name, option) in REMEDIES}
    return found


def test_no_error_text_names_a_command_that_no_test_types() -> None:
    assert named() == set(REMEDIES)


@pytest.mark.parametrize(("remedy", "test"), [(command, test) for (_, command), test in REMEDIES.items()])
def test_the_test_of_a_remedy_is_there_and_types_it(remedy: str, test: str) -> None:
    file, _, function = test.partition("::")
    tree = ast.parse((TESTS / file).read_text())
    (body,) = [ast.unparse(each) for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == function]
    words = remedy.removeprefix("abatch ").split()
    assert words[0].removeprefix("--") in body
    assert re.search(r"\btyped\(|\b(?:alone|cli)\.here\(|\bcli\(", body)


def test_parts_that_are_gone_are_read_again_by_the_command_that_is_named(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 20)
    args = ("run", "in.jsonl", "--to", "out/", "--key", "nightly", *FAST)
    assert cli.here(*args).status == 0
    for part in (cli.folder / "out").glob("part-*.jsonl"):
        part.unlink()
    missed = cli.here(*args)
    assert missed.status == 1, missed
    words = re.search(r"abatch redrain nightly", missed.err)
    assert words is not None
    assert cli.here(*words[0].split()[1:]).status == 0
    assert cli.here(*args).status == 0
    assert (api.account.requests, api.account.violated) == (20, 0)


def test_the_token_that_serve_names_is_printed(cli: Any, api: Sandbox) -> None:
    (cli.folder / ".abatch").mkdir(mode=0o700)
    first, second = cli.here("token"), cli.here("token")
    assert first.status == 0, first
    assert len(first.out.strip()) > 20
    assert first.out == second.out


def test_a_retry_of_a_retry_names_the_command_that_works(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 4, user=lambda n: "sandbox:errored:permission_error" if n == 3 else None)
    assert cli.here("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST).status == 1
    assert cli.here("retry", "job", "--failed", "--yes", "--all").status == 1
    refused = cli.here("retry", "job.retry-1", "--yes")
    assert refused.status == 2, refused
    words = re.search(r"`abatch (retry job)\b", refused.err)
    assert words is not None
    assert cli.here(*words[1].split(), "--yes", "--all").status == 1
    assert (api.account.requests, api.account.violated) == (6, 0)


def test_a_parked_batch_is_cancelled_by_the_command_that_status_shows(new_cli: Any, wait_for: Any) -> None:
    with Sandbox(seed=1, latency=20 * 3600.0) as api:
        cli = new_cli(api)
        cli.write("in.jsonl", 5)
        process = cli.start("run", "in.jsonl", "--to", "out.jsonl", "--key", "job", *FAST)
        wait_for(lambda: api.account.batches, process)
        api.advance(13 * 3600.0)
        wait_for(lambda: "has not moved" in cli.here("status").out, process)
        shown = re.search(r"`abatch (cancel job)`", " ".join(cli.here("status").out.split()))
        assert shown is not None
        assert cli.here(*shown[1].split()).status == 0
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1, err
        assert (len(api.account.canceled), api.account.violated) == (1, 0)
