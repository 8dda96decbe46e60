"""The contract suite that abatch ships, over the example backend."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import backend
import pytest

from abatch.testing import BackendContract

if TYPE_CHECKING:
    from pathlib import Path

    from abatch import Backend, JobRef

pytestmark = pytest.mark.anyio


class TestGzipFolder(BackendContract):
    """Every promise of a backend, each as a test that is inherited."""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        """A folder of its own for each test."""
        self.folder = tmp_path / "results"

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Run on asyncio."""
        return "asyncio"

    async def connect(self, job: JobRef, /) -> Backend:
        """Open the backend under test."""
        return await backend.open_(f"gzip:///{self.folder}", job)

    async def stored(self) -> list[bytes]:
        """Every line of the finished job, read without abatch."""
        assert (self.folder / "_SUCCESS").exists()
        parts = sorted(self.folder.glob("part-*.jsonl.gz"))
        return [line for part in parts for line in gzip.decompress(part.read_bytes()).split(b"\n")[:-1]]

    async def stored_missing(self) -> list[tuple[str, str]]:
        """The ids without a result, read without abatch."""
        lines = (self.folder / "_missing.jsonl").read_bytes().splitlines()
        return [(pair["custom_id"], pair["reason"]) for pair in map(json.loads, lines)]
