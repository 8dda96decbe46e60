"""That results have an order of their own is said where somebody may join them by position."""

from __future__ import annotations

import json
from typing import Any

import pytest

from abatch.sandbox import Sandbox
from tests.docs.pages import ROOT

SAID = "results are in the order in which batches ended; join by custom_id"


@pytest.mark.parametrize("to", ["out.jsonl", "out/", "out.db"])
def test_the_last_lines_of_a_run_say_in_which_order_results_are(cli: Any, api: Sandbox, to: str) -> None:
    cli.write("in.jsonl", 30, user=lambda n: "sandbox:errored:invalid_request_error" if n == 3 else None)
    for _ in range(2):  # also of a job that was done before
        ended = cli.here("run", "in.jsonl", "--to", to, "--requests-per-batch", 10, "--poll-interval", "0.05")
        assert ended.status == 1, ended
        assert ended.out == ""
        last = ended.err.splitlines()[-8:]
        assert SAID in last, ended
        assert all(len(line) <= 80 for line in last if line == SAID)
    assert api.account.violated == 0


def test_results_of_the_sandbox_are_in_another_order_than_the_requests(cli: Any, api: Sandbox) -> None:
    """So a trial shows what a join by position would come to."""
    cli.write("in.jsonl", 30)
    cli.here("run", "in.jsonl", "--to", "out.jsonl", "--poll-interval", "0.05")
    found = [json.loads(line)["custom_id"] for line in (cli.folder / "out.jsonl").read_bytes().splitlines()]
    assert sorted(found) == sorted(f"r{n}" for n in range(30))
    assert found != [f"r{n}" for n in range(30)]
    assert api.account.violated == 0


def test_json_and_quiet_are_as_they_were(cli: Any) -> None:
    cli.write("in.jsonl", 3)
    assert SAID not in cli.here("run", "in.jsonl", "--to", "out.jsonl", "--json", "--poll-interval", "0.05").out
    assert cli.here("run", "in.jsonl", "--to", "out.jsonl", "--quiet").err == ""


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/cli.md", "docs/archive-to-s3.md", "docs/sqlite.md", "docs/embed.md", "docs/notebooks.md"],
)
def test_the_pages_say_that_results_are_joined_by_custom_id(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split()).lower()
    assert "join them with" in text
    assert "order" in text
