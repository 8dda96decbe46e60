"""Every Python block of the README and the docs works as it stands, against the sandbox."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys

import pytest

from abatch.input.request import from_line
from tests.docs.pages import PAGES, ROOT, blocks

PYTHON = blocks("python")
PLAIN = [block for block in PYTHON if not block.mark]
CELLS = [block for block in PYTHON if block.mark == "notebook"]
FILES = [block for language in ("python", "toml") for block in blocks(language) if block.mark.startswith("file: ")]


def run(command, **more):
    """Run Python on a file; what it printed. Warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], check=False, capture_output=True, text=True, timeout=120, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_is_run_or_says_why_not():
    assert len(PLAIN) >= 4
    others = [block for block in PYTHON if block not in PLAIN + FILES + CELLS]
    assert [str(block) for block in others if not block.mark.startswith("fragment: ")] == []


def test_every_fence_names_a_language_and_nothing_more():
    """A fence with further words is not rendered as a block, and its code would not be run."""
    odd = re.compile(r"^ *```\w*[^\w\n]", re.MULTILINE)
    assert [page.name for page in PAGES if odd.search(page.read_text())] == []


@pytest.mark.parametrize("block", PLAIN, ids=str)
def test_an_example_works_as_it_stands(block, desk, api):
    path = desk / "example.py"
    path.write_text(block.code)
    assert run([path], cwd=desk).strip()
    if "Sandbox(" not in block.code and "BatchManager" in block.code:  # else it brought its own, or asks nothing
        assert api.account.requests > 0
    assert api.account.violated == 0


def test_the_readme_says_what_came_of_it(desk, api):
    (block,) = [block for block in PLAIN if block.page.name == "README.md"]
    (desk / "example.py").write_text(block.code)
    said = run(["example.py"], cwd=desk)
    assert said.count("[sandbox]") == 100
    assert "100 of 100 succeeded, for $" in said
    assert (desk / "inventions.db").exists()


def test_the_readme_s_example_passes_mypy_strict(desk):
    (block,) = [block for block in PLAIN if block.page.name == "README.md"]
    (desk / "example.py").write_text(block.code)
    assert "Success" in run(["-m", "mypy", "--strict", "--config-file=", "example.py"], cwd=desk)


def test_the_service_passes_mypy_strict(desk):
    assert "Success" in run(["-m", "mypy", "--strict", "--config-file=", ROOT / "examples" / "service.py"], cwd=desk)


@pytest.mark.anyio
async def test_the_cells_of_the_notebook_work_one_after_the_other(desk, api):
    """As a kernel runs them: each a task of its own, with `await` at its top."""
    names = {}
    for block in CELLS:
        code = compile(block.code, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)
        if inspect.iscoroutine(running):
            await asyncio.create_task(running)
    assert [word for word, answer in names["rows"] if answer.startswith("[sandbox]")] == names["words"]
    assert names["summary"].succeeded == api.account.requests == 3
    assert api.account.violated == 0


def test_every_manager_of_an_example_with_a_sandbox_polls_fast():
    """With the settings for the API, the example of a test takes 15 seconds more."""
    managers = [
        line.strip()
        for block in PYTHON
        if "from abatch.sandbox import Sandbox" in block.code
        for line in block.code.splitlines()
        if "BatchManager(" in line
    ]
    assert len(managers) >= 3
    assert [line for line in managers if "config=api.config(" not in line] == []


@pytest.mark.parametrize("block", FILES, ids=str)
def test_a_page_shows_the_file_as_it_is(block):
    assert block.code == (ROOT / block.mark.removeprefix("file: ")).read_text()


def test_the_service_runs(desk, api):
    said = run([ROOT / "examples" / "embed.py"], cwd=desk)
    assert sorted(line.split(",")[0] for line in said.splitlines()) == ["herons: 50 of 50", "lighthouses: 50 of 50"]
    assert api.account.requests == 100


def test_the_demo_has_about_two_hundred_good_requests():
    lines = (ROOT / "examples" / "requests.jsonl").read_bytes().splitlines()
    rows = [from_line(line, number) for number, line in enumerate(lines, 1)]
    assert len({row.custom_id for row in rows}) == len({row.params for row in rows}) == 200
