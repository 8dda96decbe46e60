"""The page of webhooks has the events, names and numbers of the code."""

from __future__ import annotations

import json
import re
import tomllib
from typing import get_args

import pytest

from abatch import events
from abatch.service import webhooks, webhooks_command, webhooks_http, webhooks_settings
from abatch.service.webhooks_answers import JITTER, WAITS
from tests.docs.pages import ROOT
from tests.service.receivers import SECRET

PAGE = (ROOT / "docs" / "webhooks.md").read_text()


def rows(heading: str) -> list[str]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"`([\w.]+)`", " ".join(re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)))


def test_every_event_is_in_the_table_and_the_usual_ones_are_named() -> None:
    assert rows("Events") == sorted(kind.kind for kind in get_args(events.Event))
    usual = PAGE.partition("without `events`: ")[2].partition("\n")[0]
    assert tuple(re.findall(r"`([\w.]+)`", usual)) == webhooks_settings.DEFAULT_EVENTS


def test_every_name_of_a_table_of_settings_is_explained() -> None:
    assert sorted(rows("Set it up")) == sorted(webhooks_settings.NAMES)


def test_the_settings_of_the_page_can_be_used(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0])
    (tmp_path / "hook.secret").write_text(SECRET)
    (tmp_path / "hook.secret").chmod(0o600)
    (made,) = webhooks_settings.endpoints(table["webhooks"], folder=tmp_path)
    assert made.jobs == ("nightly-*",)
    monkeypatch.setattr(webhooks_settings.shutil, "which", lambda name: name)
    assert webhooks_settings.on_done(table["serve"]["on_done"]).argv[1:] == ("--quiet",)


def test_the_message_of_the_page_has_the_names_that_are_explained() -> None:
    message = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    assert sorted([*message["data"], "shard", "batch_id"]) == sorted(rows("Messages"))


def test_every_variable_of_a_command_is_explained() -> None:
    counts = {f"ABATCH_{name.upper()}" for name in webhooks_command.COUNTS}
    named = set(rows("A command for each finished job"))
    assert counts < named
    assert {"ABATCH_JOB", "ABATCH_RESULTS", "ABATCH_STATE", "ABATCH_EVENT_ID"} < named


@pytest.mark.parametrize(
    ("sentence", "unit", "value"),
    [
        (r"within (\d+) s,", 1, webhooks_http.PATIENCE),
        (r"Of an answer (\d+) KiB", 1024, webhooks_http.READ_BYTES),
        (r"are kept for (\d+) days", 86_400, webhooks.KEPT_FOR),
    ],
)
def test_a_number_is_that_of_the_code(sentence: str, unit: int, value: float) -> None:
    assert [int(found) * unit for found in re.findall(sentence, PAGE)] == [value]


def test_the_waits_are_those_of_the_code() -> None:
    assert "ten attempts in three days" in PAGE
    assert len(WAITS) == 9
    assert "5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 20 hours, each up to a tenth longer" in PAGE
    assert [round(wait / 3600) for wait in WAITS[3:]] == [2, 5, 10, 14, 20, 20]
    assert (WAITS[:3], JITTER) == ((5.0, 300.0, 1800.0), 0.1)
    assert "It has ten minutes" in PAGE
    assert webhooks_command.PATIENCE == 600
    assert "Four attempts" in PAGE
    assert webhooks.AT_ONCE == 4
