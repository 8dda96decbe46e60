"""Files of the repository that no other test runs: workflows, hooks, the image, lower bounds of dependencies."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import PACKAGE, ROOT
from tests.floors import floors, requirements

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = dict(re.findall(r"^([\w-]+):.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE))
LISTED = {ROOT / ".pre-commit-config.yaml", ROOT / "mkdocs.yml", *(ROOT / ".github").rglob("*.yml")}


def parsed(path: Path) -> Any:
    class Loader(yaml.SafeLoader):
        """Also accepts the tags by which mkdocs.yml names Python objects."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    return yaml.load(path.read_text(), Loader)


def workflow_jobs() -> dict[str, Any]:
    return parsed(ROOT / ".github" / "workflows" / "check.yml")["jobs"]


@pytest.mark.parametrize("path", sorted(LISTED), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_yaml_file_parses_to_a_mapping(path: Path) -> None:
    assert isinstance(parsed(path), dict)


def test_the_workflow_calls_make_targets_that_exist() -> None:
    commands = [step["run"] for job in workflow_jobs().values() for step in job["steps"] if "run" in step]
    called = {target for command in commands for target in re.findall(r"^make ([\w-]+)", command)}
    called |= set(workflow_jobs()["make"]["strategy"]["matrix"]["target"])
    assert all(command.startswith("make ") for command in commands)
    assert called == {"lint", "docs", "coverage", "wheel-test", "test-floors", "test"}
    assert called <= set(TARGETS)


def test_the_workflow_tests_every_python_that_the_classifiers_name() -> None:
    tested = set(workflow_jobs()["test"]["strategy"]["matrix"]["python"])
    named = {name.rpartition(" ")[2] for name in PYPROJECT["project"]["classifiers"] if "Python :: 3." in name}
    assert named <= tested
    assert min(named, key=lambda name: int(name[2:])) == PYPROJECT["project"]["requires-python"].removeprefix(">=")


def test_the_table_of_lanes_names_targets_and_folders_that_exist() -> None:
    page = (ROOT / "tests" / "README.md").read_text()
    commands = re.findall(r"`([^`]+)`", page)
    assert {target for command in commands for target in re.findall(r"^make ([\w-]+)", command)} <= set(TARGETS)
    named = {path for command in commands for path in re.findall(r"tests/[\w/.]+", command)}
    assert all((ROOT / path).exists() for path in named)
    folders = {folder.parent for folder in (ROOT / "tests").glob("*/*.py")}
    assert {str(folder.relative_to(ROOT)) for folder in folders} <= named


def test_hooks_are_local_and_run_what_make_lint_runs() -> None:
    config = parsed(ROOT / ".pre-commit-config.yaml")
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        tool = hook["entry"].split()[0]
        assert hook["language"] == "system"
        assert tool == "make" or tool.replace(".venv/bin", "$(BIN)") in TARGETS["lint"]


def test_the_image_runs_the_command_as_a_user_without_rights() -> None:
    image = (ROOT / "Dockerfile").read_text().splitlines()
    assert image[-1] == 'ENTRYPOINT ["abatch"]'
    assert [line for line in image if line.startswith("USER ")] == ["USER abatch"]
    assert all("-slim" in line for line in image if line.startswith("FROM "))


def test_every_dependency_has_a_lower_bound_and_its_reason() -> None:
    reasons = (ROOT / "docs" / "design.md").read_text().partition("## Why each dependency")[2].partition("\n## ")[0]
    explained = set(re.findall(r"[\w-]+", " ".join(re.findall(r"^\| ([^|]*) \|", reasons, re.MULTILINE))))
    of_tests = set(PYPROJECT["dependency-groups"]["test"])
    needed = {re.split(r"[^\w-]", named)[0] for named in set(requirements(PYPROJECT)) - of_tests}
    assert needed <= explained
    assert needed <= set(floors(PYPROJECT))


def test_the_highest_of_several_lower_bounds_counts() -> None:
    project = {
        "project": {
            "name": "p",
            "dependencies": ["a[x]>=1.9,<3"],
            "optional-dependencies": {"more": ["a>=1.10"], "all": ["p[more]"]},
        },
        "dependency-groups": {"test": ["b>=2"]},
    }
    assert floors(project) == {"a": "1.10", "b": "2"}


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
