"""Run the contract suite that abatch ships on the backend of this package."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING

import abatch_zip
import pytest

from abatch.testing import BackendContract

if TYPE_CHECKING:
    from pathlib import Path

    from abatch import Backend, JobRef

pytestmark = pytest.mark.anyio


class TestZipArchive(BackendContract):
    """Every promise of a backend, each as a test that is inherited."""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        """Use a separate place for each test."""
        self.path = tmp_path / "answers.zip"

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Run on asyncio."""
        return "asyncio"

    async def connect(self, job: JobRef, /) -> Backend:
        """Open the backend under test."""
        return await abatch_zip.open_(f"zip:///{self.path}", job)

    async def stored(self) -> list[bytes]:
        """Read every line of the finished job, without abatch."""
        with zipfile.ZipFile(self.path) as archive:
            parts = [archive.read(name) for name in archive.namelist() if name.startswith("part-")]
        return [line for part in parts for line in part.split(b"\n")[:-1]]

    async def stored_missing(self) -> list[tuple[str, str]]:
        """Read the ids that have no result, without abatch."""
        with zipfile.ZipFile(self.path) as archive:
            lines = archive.read("missing.jsonl").splitlines()
        return [(pair["custom_id"], pair["reason"]) for pair in map(json.loads, lines)]
