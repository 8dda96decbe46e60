"""Names of files never come from a user's ids, and no destination, however odd, makes a file elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abatch import BatchManager
from abatch.backend import JobRef, connect, normalize
from abatch.errors import AbatchError
from abatch.sandbox import Sandbox
from abatch.testing import memory
from tests.e2e.jobs import config
from tests.hostile.strategies import PATHS

pytestmark = pytest.mark.anyio

IDS = [
    "../../x",
    "/etc/passwd",
    "a/b",
    "\0",
    "a\0b",
    ".",
    "..",
    "~",
    "-rf",
    "a\nb",
    "\u202egpj.exe",
    "\x1b[2J",
    "\u2028",
    "é" * 256,
    "x" * 512,
    'a"; DROP TABLE results; --',
    "%2e%2e%2f",
    "_SUCCESS",
    "part-00000.jsonl",
    "journal.db",
]
HELLO = {"role": "user", "content": "hello"}
ROWS = [
    {
        "custom_id": custom_id,
        "params": {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [HELLO], "system": custom_id},
    }
    for custom_id in IDS
]
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


@pytest.fixture
def api(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    with Sandbox(seed=7) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", sandbox.key)
        yield sandbox


async def run(to: str) -> None:
    async with BatchManager(config=config(requests_per_batch=4)) as manager:
        job = await manager.submit(iter(ROWS), to=to, key="job")
        summary = await job.wait()
    assert summary.succeeded == len(ROWS)


def everything(folder: Path) -> list[Path]:
    return [Path(where, name) for where, folders, files in os.walk(folder) for name in (*folders, *files)]


def ids_in(raw: list[bytes]) -> Counter[str]:
    return Counter(json.loads(line)["custom_id"] for line in raw)


def ids_of_results(to: str) -> Counter[str]:
    """Read without abatch."""
    if to == "results.db":
        with contextlib.closing(sqlite3.connect(to)) as db:
            return Counter(custom_id for (custom_id,) in db.execute("SELECT custom_id FROM results"))
    if to.startswith("memory:"):
        return ids_in(memory.lines(to.removeprefix("memory:")))
    files = Path(to).glob("part-*.jsonl") if to.endswith("/") else [Path(to)]
    return ids_in([line for file in files for line in file.read_bytes().split(b"\n") if line])


@pytest.mark.parametrize("to", ["results.jsonl", "results/", "results.db", "memory:hostile"])
async def test_ids_of_any_shape_come_back_and_no_name_is_made_from_one(api, tmp_path, to):
    await run(to)
    assert ids_of_results(to) == Counter(IDS)
    assert everything(tmp_path) == [tmp_path / "home", *everything(tmp_path / "home")]
    made = everything(tmp_path / "home")
    assert [path.name for path in made if not NAME.fullmatch(path.name)] == []
    assert {path.name for path in made}.isdisjoint(set(IDS) - {"_SUCCESS", "part-00000.jsonl", "journal.db"})


JOB = JobRef(key="job", lineage="0123456789abcdef")
SUFFIXES = st.sampled_from(["", ".jsonl", ".db", "/", ".sqlite", ".ndjson", "//"])


@given(path=PATHS, suffix=SUFFIXES, scheme=st.sampled_from(["", "", "jsonl:///", "sqlite:///", "memory:"]))
@example(path="x" * 300, suffix="", scheme="jsonl:///")
@example(path="x" * 300, suffix=".db", scheme="")
@settings(max_examples=settings().max_examples // 2)
async def test_a_destination_is_claimed_inside_the_folder_that_it_names_or_refused(tmp_path, path, suffix, scheme):
    root = tmp_path / "root"
    start = root / "a/b/c/d/e/f"  # so deep that no path drawn leads out of the root
    start.mkdir(parents=True, exist_ok=True)
    before = everything(tmp_path)
    with contextlib.chdir(start):
        try:
            backend = await connect(normalize(scheme + path.lstrip("/") + suffix), JOB)
        except AbatchError as refused:
            str(refused)
        else:
            await backend.aclose()
    stray = [each for each in everything(tmp_path) if each not in before and not each.is_relative_to(root)]
    assert stray == []
