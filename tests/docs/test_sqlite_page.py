"""The page of SQLite names every column that there is, and its queries work."""

from __future__ import annotations

import re
import sqlite3

import pytest

from tests.docs.pages import ROOT, blocks
from tests.e2e.jobs import manager, params

PAGE = (ROOT / "docs" / "sqlite.md").read_text()
QUERIES = [block for block in blocks("sql") if block.page.name == "sqlite.md"]

pytestmark = pytest.mark.anyio


@pytest.fixture
async def database(desk, api):
    refused = {"metadata": {"user_id": "sandbox:errored:invalid_request_error"}}
    rows = [{"custom_id": f"row {n}", "params": params(n, **(refused if n == 2 else {}))} for n in range(5)]
    async with manager() as running:
        await (await running.submit(rows, to="results.db", key="nightly")).wait()
    assert api.account.violated == 0
    with sqlite3.connect(desk / "results.db") as connection:
        yield connection
    connection.close()


def rows_of(heading):
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): [cell.strip() for cell in cells] for name, *cells in table}


async def test_the_page_has_every_column_of_the_results_with_its_type(database):
    columns = {name: kind for _, name, kind, *_ in database.execute("PRAGMA table_info(results)")}
    assert {name: cells[0] for name, cells in rows_of("The table `results`").items()} == columns


async def test_the_page_has_every_view_and_table_with_its_columns(database):
    named = {name: re.findall(r"`(\w+)`", cells[0]) for name, cells in rows_of("Views and other tables").items()}
    there = [
        name
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        if name != "results"
    ]
    assert named == {name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")] for name in there}


@pytest.mark.parametrize("block", QUERIES, ids=str)
async def test_a_query_of_the_page_works(database, block):
    found = database.execute(block.code).fetchall()
    if "stop_reason" not in block.code:  # nothing of the sandbox's is cut
        assert found
