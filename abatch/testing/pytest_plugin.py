"""A pytest plugin: the fixture `abatch_sandbox` runs a test against a sandbox, with the code under test unchanged.

Enable it in the `conftest.py` of the root folder:

    pytest_plugins = ["abatch.testing.pytest_plugin"]
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

import pytest

from abatch.config import Config
from abatch.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["abatch_sandbox"]

FAST = ("poll_interval", "storage_retry_every")
"""The settings whose defaults the fixture replaces. The grace stays: a test about a lost answer sets it itself."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that gives the sandbox its options."""
    config.addinivalue_line(
        "markers", "abatch_sandbox(**options): options of abatch.sandbox.Sandbox for abatch_sandbox"
    )


@pytest.fixture
def abatch_sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Run the test with a sandbox of its own, which every client built from the environment calls.

    `ANTHROPIC_BASE_URL` and `ANTHROPIC_API_KEY` name the sandbox. A `Config` that the test makes polls every few
    milliseconds unless it sets `poll_interval`. The same random choices are made in every run. The marker
    `@pytest.mark.abatch_sandbox(answer=…)` passes options to `Sandbox`.

    Yields:
        the sandbox, with its `account` and `faults`.

    """
    options: dict[str, Any] = {"seed": 0}
    for marker in reversed(list(request.node.iter_markers("abatch_sandbox"))):  # the closest marker is the last
        options |= marker.kwargs
    defaults = cast("dict[str, object]", inspect.unwrap(Config.__init__).__kwdefaults__)
    quick = Sandbox.config()
    for name in FAST:
        monkeypatch.setitem(defaults, name, getattr(quick, name))
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)
    with Sandbox(**options) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", sandbox.key)
        yield sandbox
