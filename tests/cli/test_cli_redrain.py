"""What `abatch run` and `abatch redrain` say of results that are not where they were, and the commands they show."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from abatch.cli.commands import completed
from abatch.cli.screen import Screen, configure_logs
from abatch.log import log, ranges
from abatch.sandbox import Sandbox
from abatch.sandbox.faults import Status
from abatch.system.paths import folder_of
from tests.cli.test_cli_commands import FAST, fails


def job(cli: Any, to: str, *more: Any) -> Any:
    return cli.here("run", "in.jsonl", "--to", to, "--key", "nightly", "--requests-per-batch", 8, *FAST, *more)


@pytest.mark.parametrize("damage", ["one part", "all parts", "a short file", "a row of the database"])
def test_run_of_a_finished_job_exits_1_when_its_results_are_not_where_they_were(
    cli: Any, api: Sandbox, damage: str
) -> None:
    cli.write("in.jsonl", 20)
    to = {"a short file": "out.jsonl", "a row of the database": "out.db"}.get(damage, "out/")
    assert job(cli, to).status == 0
    assert job(cli, to).status == 0
    if to == "out/":
        for part in sorted((cli.folder / "out").glob("part-*.jsonl"))[: 1 if damage == "one part" else None]:
            part.unlink()
    elif to == "out.jsonl":
        (cli.folder / to).write_bytes((cli.folder / to).read_bytes()[:30])
    else:
        with closing(sqlite3.connect(cli.folder / to)) as db, db:
            db.execute("DELETE FROM results WHERE custom_id = 'r0'")
    missed = job(cli, to)
    assert missed.status == 1, missed
    assert "its results are not where they were" in missed.err
    assert "abatch redrain nightly" in missed.err
    assert (api.account.requests, api.account.violated) == (20, 0)


def test_redrain_of_an_unfinished_job_whose_parts_are_all_there_exits_0(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 5)
    api.faults.always("create", Status(401, "authentication_error", "no"))
    assert job(cli, "out/").status == 3
    api.faults.clear()
    ended = cli.here("redrain", "nightly", "--json")
    assert (ended.status, ended.json["exit_status"]) == (0, 0), ended
    assert "Job nightly is not finished" in ended.err
    assert api.account.requests == 0


def test_redrain_that_did_what_it_was_asked_exits_0_though_requests_had_failed(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 20, user=fails)
    assert job(cli, "out/").status == 1
    sent = api.account.requests
    for part in (cli.folder / "out").glob("part-*.jsonl"):
        part.unlink()
    again = cli.here("redrain", "nightly")
    assert again.status == 0, again
    assert "part(s) are gone and are read again: shards 1-" in again.err
    assert "shards_reopened" not in again.err
    assert (api.account.requests, api.account.violated) == (sent, 0)


def test_finished_job_is_said_to_be_done_even_with_a_key_that_is_refused(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 5)
    assert job(cli, "out/").status == 0
    api.faults.always("list", Status(401, "authentication_error", "no"))
    again = job(cli, "out/")
    assert (again.status, "'nightly' stopped" in again.err) == (0, False), again


def test_commands_in_texts_name_the_journal_that_was_given(cli: Any) -> None:
    cli.write("in.jsonl", 5)
    assert job(cli, "out/", "--journal", "other").status == 0
    next((cli.folder / "out").glob("part-*.jsonl")).unlink()
    for said in (
        job(cli, "out/", "--journal", "other"),
        cli.here("results", "nightly", "--journal", "other"),
    ):
        assert "abatch redrain nightly --journal other" in said.err.replace("\n", " "), said


def test_only_commands_that_lack_the_options_of_the_journal_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "Look, then: abatch resolve 1 --adopt BATCH_ID; `abatch cancel a.b`; abatch redrain nightly."
    assert completed(text, folder_of(Path(".abatch"))) == text
    named = "Look, then: abatch resolve 1 --journal j --adopt BATCH_ID; `abatch cancel a.b --journal j`; "
    assert completed(text, folder_of(Path("j"))) == named + "abatch redrain nightly --journal j."
    assert completed(completed(text, folder_of(Path("j"))), folder_of(Path("j"))) == completed(
        text, folder_of(Path("j"))
    )
    sandbox = tmp_path / ".abatch-sandbox"
    sandbox.mkdir()
    (sandbox / "port").touch()
    assert completed("abatch redrain nightly", folder_of(sandbox)) == "abatch redrain nightly --sandbox"
    assert completed("abatch cancel x", folder_of(sandbox)) == "abatch cancel x --journal .abatch-sandbox"


def test_many_shards_are_named_by_ranges() -> None:
    assert ranges([]) == ""
    assert ranges([3, 1, 2, 7, 9, 10]) == "1-3, 7, 9-10"


def test_short_commands_say_that_the_folder_was_open_in_a_plain_line(cli: Any) -> None:
    cli.write("in.jsonl", 5)
    assert job(cli, "out/").status == 0
    (cli.folder / ".abatch").chmod(0o755)
    shown = cli.here("cancel", "nightly")
    assert "event=" not in shown.err
    (cli.folder / ".abatch").chmod(0o755)
    moved = cli.here("move", "nightly", "--to", "other/")
    assert f"warning: other users could read {cli.folder / '.abatch'}; it is closed to them now" in moved.err


def test_conflict_names_the_destination_as_a_path_and_move_for_an_unfinished_job(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 5)
    api.faults.always("create", Status(401, "authentication_error", "no"))
    assert job(cli, "out/").status == 3
    refused = job(cli, "other/")
    assert refused.status == 2, refused
    assert f"exists with destination {cli.folder / 'out'}/" in refused.err
    assert "abatch move nightly --to other/" in refused.err
    api.faults.clear()
    assert job(cli, "out/").status == 0
    assert "abatch move" not in job(cli, "other/").err


def test_journal_that_is_not_there_is_said_not_to_be_made_yet(alone: Any) -> None:
    ended = alone.here("status", "--journal", "nowhere")
    assert (ended.status, "no run has made one there yet" in ended.err) == (2, True), ended


def test_log_lines_leave_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Screen())
    log.warning("list_failed", workspace=None, status=None, next_in_seconds=2)
    assert capsys.readouterr().err == "warning: list_failed next_in_seconds=2\n"
