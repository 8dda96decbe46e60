"""Print the lowest version that pyproject.toml allows of each package, as constraints for pip: `make test-floors`.

The ranges of the package, of its extras and of the test group are read. A package that is named more than once gets
its highest lower bound, because all of its ranges hold at once.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
RANGE = re.compile(r"(?P<name>[\w.-]+)(?:\[[^\]]*\])?\s*>=\s*(?P<floor>[\d.]+)")


def requirements(project: dict[str, Any]) -> Iterator[str]:
    """Every requirement on another package that a test may meet."""
    itself = project["project"]["name"]
    yield from project["project"]["dependencies"]
    for extra in project["project"]["optional-dependencies"].values():
        yield from (required for required in extra if not required.startswith(f"{itself}["))
    yield from project["dependency-groups"]["test"]


def floors(project: dict[str, Any]) -> dict[str, str]:
    """The lowest version that is allowed, by package."""
    lowest: dict[str, str] = {}
    for required in requirements(project):
        found = RANGE.match(required)
        if found is None:
            raise SystemExit(f"{required!r} in {PYPROJECT.name} has no lower bound; add one that is tested")
        name, floor = found["name"], found["floor"]
        lowest[name] = max(lowest.get(name, floor), floor, key=_numbers)
    return dict(sorted(lowest.items()))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def main() -> int:
    for name, floor in floors(tomllib.loads(PYPROJECT.read_text())).items():
        print(f"{name}=={floor}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
