"""Whole jobs, in this process, against the sandbox over HTTP with the real SDK on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from abatch.sandbox import Sandbox


@pytest.fixture
def api() -> Any:
    with Sandbox(seed=7) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def environment(api: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
    monkeypatch.chdir(tmp_path)
