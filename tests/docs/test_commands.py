"""What the pages say of the command line is what it says of itself."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from abatch.cli.app import app
from tests.docs.pages import PAGES, ROOT, blocks


def names(group, before=()):
    """The words of each command; the commands of a group begin with its name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from names(command, (*before, name))
        else:
            yield " ".join((*before, name))


COMMANDS = sorted(names(get_command(app)))
GROUPS = {command.partition(" ")[0] for command in COMMANDS if " " in command}
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
OTHERS = {
    "--max-batch-requests",
    "--max-batch-bytes",
    "--max-tries",
    "--strict",
    "--unchecked",
    "--workspace",  # old names, which the page of changes lists
    "--group",  # pip
    "--bucket",
    "--lifecycle-configuration",  # aws
    "--slurpfile",  # jq
    "--data-binary",  # curl
}


@pytest.fixture(scope="module")
def options():
    """The options of each command, as its `--help` names them."""
    found = {}
    for command in COMMANDS:
        said = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
        named = [line for line in said.partition("Options:")[2].splitlines() if line.startswith("  -")]
        found[command] = {option for line in named for option in OPTION.findall(line.strip().partition("  ")[0])}
        assert "--help" in found[command]
    return found


def shell_lines():
    """The words of each call of abatch in a shell block."""
    for block in blocks("sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = list(lexer)
            operators = [-1, *(at for at, word in enumerate(words) if set(word) <= set("();<>|&")), len(words)]
            for start, end in pairwise(operators):
                if words[start + 1 : start + 2] == ["abatch"]:
                    yield block, words[start + 2 : end]


def test_every_command_of_the_pages_exists_with_its_options(options):
    lines = list(shell_lines())
    assert len(lines) > 20
    for block, (first, *rest) in lines:
        command = f"{first} {rest.pop(0)}" if first in GROUPS else first
        assert command in options, f"{block}: abatch {command}"
        for word in rest:
            if word.startswith("-") and word != "-":
                assert word in options[command], f"{block}: abatch {command} {word}"


def test_no_page_speaks_of_an_option_that_no_command_has(options):
    known = set.union(*options.values()) | OTHERS
    for page in PAGES:
        text = re.sub(r"<!--.*?-->", "", page.read_text())
        spoken = set(re.findall(r"(?<![\w`|-])--[a-z][a-z-]+|(?<=`)--[a-z][a-z-]+", text))
        assert spoken - known == set(), page.name


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_the_commands_has_every_option(command, options):
    page = (ROOT / "docs" / "cli.md").read_text()
    section = re.search(rf"^## abatch {command}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    documented = {
        option for row in re.findall(r"^\| (`-.*?) \|", section[1], re.MULTILINE) for option in OPTION.findall(row)
    }
    assert documented == options[command] - {"-h", "--help"}


def test_the_page_of_the_commands_has_every_command():
    page = (ROOT / "docs" / "cli.md").read_text()
    assert sorted(re.findall(r"^## abatch ([\w ]+)$", page, re.MULTILINE)) == COMMANDS


def test_the_exit_codes_of_states_are_those_of_the_code():
    from abatch.cli.exit_codes import WORST_LAST

    section = (ROOT / "docs" / "cli.md").read_text().partition("## abatch status")[2].partition("\n## ")[0]
    assert tuple(int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)) == WORST_LAST


@pytest.mark.parametrize("name", ["README.md", "docs/cli.md"])
def test_the_exit_codes_are_those_of_the_code(name):
    from abatch.cli import exit_codes

    codes = {exit_codes.OK, exit_codes.FAILED, exit_codes.BAD_INPUT, exit_codes.STUCK, exit_codes.INTERRUPTED}
    table = (ROOT / name).read_text().partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == codes
