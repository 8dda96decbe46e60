"""A sandbox, and a desk to work at."""

from __future__ import annotations

import pytest

from abatch.sandbox import Sandbox
from tests.docs.pages import ROOT


@pytest.fixture
def api():
    with Sandbox(seed=7) as sandbox:
        yield sandbox


@pytest.fixture
def desk(api, tmp_path, monkeypatch):
    """A folder with requests in it, and an environment that points at the sandbox."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requests.jsonl").write_bytes((ROOT / "examples" / "requests.jsonl").read_bytes())
    return tmp_path
