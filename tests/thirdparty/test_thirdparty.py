"""A package of somebody else's, made from docs/write-a-backend.md alone, works like a backend of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

from abatch import Backend, BatchManager, JobRef
from abatch.sandbox import Sandbox
from abatch.testing import BackendContract

pytestmark = pytest.mark.anyio

PACKAGE = Path(__file__).with_name("abatch_zip")
DYING = Path(__file__).with_name("dying.py")
IDS = [f"../row {number}" for number in range(60)]
STEPS = [
    ("after claim", 1),
    ("after write", 2),
    ("before publish", 3),
    ("after publish", 3),
    ("after pack", 1),
    ("before tidy", 1),
]
HALVES = {
    """
            self.mark.symlink_to(identity(job))
""": """
            with self.mark.open("x") as mark:
                mark.write(identity(job))
""",
    "self.mark.readlink()": "self.mark.read_text()",
    "self.mark.is_symlink()": "self.mark.exists()",
}
"""What turns the claim into one whose name is there before its content."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an installer leaves it: the module, and a dist-info made of the package's pyproject.toml."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    entry_points = ConfigParser()
    entry_points.read_dict(project["entry-points"])
    with about.joinpath("entry_points.txt").open("w") as file:
        entry_points.write(file)
    (folder / "abatch_zip.py").write_text((PACKAGE / "abatch_zip.py").read_text())
    return folder


@pytest.fixture
def desk(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with requests in it, and an environment where the package is installed."""
    params = {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
    lines = [json.dumps({"custom_id": custom_id, "params": params}) for custom_id in IDS]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("ABATCH_SANDBOX_LATENCY", "0,0.3")
    return tmp_path


def abatch(*words: object, by: tuple[object, ...] = ("-m", "abatch")) -> subprocess.CompletedProcess[str]:
    command = map(str, (sys.executable, *by, *words))
    return subprocess.run(list(command), check=False, capture_output=True, text=True, timeout=120)


def run(to: str, *more: object) -> tuple[object, ...]:
    return ("run", "requests.jsonl", "--to", to, "--sandbox", "--quiet", "--json", "--requests-per-batch", 10, *more)


def ids_in(archive: Path) -> Counter[str]:
    with zipfile.ZipFile(archive) as parts:
        assert parts.testzip() is None
        return Counter(json.loads(line)["custom_id"] for name in parts.namelist() for line in parts.open(name))


def test_the_command_line_finds_it_by_its_scheme(desk: Path) -> None:
    to = f"zip:///{desk}/answers.zip"
    for _ in range(2):  # the second time, it is done
        done = abatch(*run(to))
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["succeeded"], summary["location"]) == (60, f"{desk}/answers.zip")
    assert ids_in(desk / "answers.zip") == Counter(IDS)
    assert [path.name for path in desk.glob("*answers*")] == ["answers.zip"]
    assert (desk / "answers.zip").stat().st_mode & 0o777 == 0o600
    shown = abatch("results", summary["key"], "--journal", ".abatch-sandbox")
    assert Counter(json.loads(line)["custom_id"] for line in shown.stdout.splitlines()) == Counter(IDS), shown.stderr


async def test_the_manager_finds_it_by_its_scheme(desk: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(site)
    with Sandbox(seed=7) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", api.key)
        for _ in range(2):
            async with BatchManager() as manager:
                job = await manager.submit("requests.jsonl", to=f"zip:///{desk}/answers.zip", key="job")
                summary = await job.wait()
                assert Counter([result.custom_id async for result in job.results()]) == Counter(IDS)
        assert summary.ok
        assert api.account.requests == 60
    assert ids_in(desk / "answers.zip") == Counter(IDS)


@pytest.mark.parametrize(("step", "nth"), STEPS)
def test_a_kill_in_the_middle_and_the_same_command_again_give_each_line_once(desk: Path, step: str, nth: int) -> None:
    command = run(f"zip:///{desk}/answers.zip")
    died = abatch(*command, by=(DYING, step, nth))
    assert died.returncode == -signal.SIGKILL, died.stderr
    again = abatch(*command)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["succeeded"] == 60
    assert ids_in(desk / "answers.zip") == Counter(IDS)


@pytest.mark.parametrize("url", ["zip:///answers.zip", "zip:////answers.tar", "zip:////answers.zip?level=9", "zip:"])
def test_a_url_that_it_refuses_is_bad_input_and_nothing_is_sent(desk: Path, url: str) -> None:
    done = abatch(*run(url))
    assert done.returncode == 2
    assert "write its whole path, as in zip:////home/me/answers.zip" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_of_somebody_else_is_bad_input_and_stays_as_it_was(desk: Path) -> None:
    (desk / "answers.zip").write_text("precious")
    done = abatch(*run(f"zip:///{desk}/answers.zip"))
    assert done.returncode == 2
    assert "exists and is not this job's; move it away" in done.stderr
    assert (desk / "answers.zip").read_text() == "precious"


async def test_the_suite_sees_a_claim_whose_name_is_there_before_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (PACKAGE / "abatch_zip.py").read_text()
    for whole, half in HALVES.items():
        assert whole in source
        source = source.replace(whole, half)
    (tmp_path / "abatch_naive.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    naive = import_module("abatch_naive")

    class Naive(BackendContract):
        async def connect(self, job: JobRef, /) -> Backend:
            return await naive.open_(f"zip:///{tmp_path}/answers.zip", job)

    with pytest.raises(AssertionError, match="block the job"):
        await Naive().test_a_claim_that_was_cut_short_keeps_nobody_out()
