"""The pages build without a network, and name what there is in the code."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

import abatch
import abatch_backends
from abatch import errors
from abatch.sandbox import faults
from tests.docs.pages import PACKAGE, PAGES, ROOT

GLOSSARY = (
    "request, job, shard, row, attempt, try, batch, outcome, scope, journal, fact, commit point, in doubt, reconcile, "
    "tag, cut, backend, sink, drain, seal, spool, fallback line"
)
SOURCES = [*PACKAGE.rglob("*.py"), *Path(abatch_backends.__file__).parent.rglob("*.py")]
LEVELS = {"debug", "info", "warning", "error"}


def text(name):
    return (ROOT / "docs" / name).read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built; a missing mkdocs is a failure, not a skip."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_pages_build_and_every_link_between_them_leads_somewhere(site):
    built = {page.stem for page in site.glob("*.html")}
    assert built - {"404"} == {page.stem for page in PAGES if page.parent.name == "docs"}


def test_no_page_fetches_anything_from_elsewhere(site):
    fetched = re.compile(
        r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(?:https?:)?//|<link[^>]*\shref=["']?(?:https?:)?//"""
    )
    for page in site.glob("*.html"):
        assert fetched.search(page.read_text()) is None, page.name


def test_the_reference_has_every_public_name(site):
    reference = (site / "reference.html").read_text()
    for name in abatch.__all__:
        module = getattr(abatch, name).__module__
        assert f'id="abatch.{name}"' in reference or f'id="{module}.{name}"' in reference, name


def test_the_glossary_has_every_word():
    words = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text("glossary.md"), re.MULTILINE)
    assert set(GLOSSARY.split(", ")) <= set(words)
    assert len(words) == len(set(words))


def test_links_of_the_pages_beside_the_docs_lead_to_files():
    for page in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert link.startswith("https://") or (ROOT / link).is_file(), f"{page.name}: {link}"


def test_every_setting_is_in_the_table_of_defaults():
    table = text("design.md").partition("## Defaults")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert named == [field.name for field in dataclasses.fields(abatch.Config)]


def test_every_error_has_its_advice():
    advice = text("recover.md")
    for name in errors.__all__:
        assert f"`{name}`" in advice, name


def test_the_unit_of_systemd_takes_a_run_that_was_stopped_for_a_success():
    exits = import_module("abatch.cli.exit_codes")
    unit = text("operate.md").partition("## systemd")[2].partition("```ini")[2].partition("```")[0]
    assert f"SuccessExitStatus={exits.INTERRUPTED}" in unit.splitlines()
    assert f"RestartPreventExitStatus={exits.FAILED} {exits.BAD_INPUT}" in unit.splitlines()


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_a_reader_learns_first_that_nothing_was_verified_against_the_live_api(page):
    first = (ROOT / page).read_text().partition("\n## ")[0]
    assert "Nothing was verified against the live API" in first


def test_every_fault_is_in_the_table():
    table = text("test-with-the-sandbox.md").partition("## Faults")[2].partition("\n## ")[0]
    kinds = {name for name in faults.__all__ if name not in {"AnyFault", "Faults", "LineFault", "Order", "Site"}}
    assert set(re.findall(r"`([A-Z]\w+)`", table)) == kinds


def test_every_event_of_the_log_is_explained():
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", text("operate.md"), re.MULTILINE))))
    assert events() - explained == set()


def events():
    """What the code logs: the first argument of `log.info` and its like, and the events of facts."""
    recorder = import_module("abatch.engine.recorder")
    found = set(recorder.EVENTS.values()) - {"duplicate_recorded"}  # the poller logs that as duplicate_seen
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(event)), *_]
                ) if level in LEVELS:
                    found.add(event)
    return found


def test_the_listing_of_the_layout_names_every_file_once():
    listing = (
        (ROOT / "docs" / "design.md")
        .read_text()
        .partition("## Layout\n")[2]
        .partition("```text\n")[2]
        .partition("```")[0]
    )
    shown: list[str] = []
    folders: dict[int, str] = {}
    for line in listing.splitlines():
        indent, name = len(line) - len(line.lstrip()), line.split()[0]
        above = "".join(folders[each] for each in sorted(folders) if each < indent)
        if name.endswith("/"):
            folders = {each: folder for each, folder in folders.items() if each < indent} | {indent: name}
        else:
            assert len(line.split(maxsplit=1)) == 2, f"{name} has no description"
            shown.append(above + name)
    roots = {"abatch": PACKAGE, "backends/abatch_backends": Path(abatch_backends.__file__).parent}
    there = [
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in roots.items()
        for path in folder.rglob("*.py")
        if path.name != "__init__.py" or path.parent == PACKAGE
    ]
    assert sorted(shown) == sorted(there)


def test_the_table_of_events_is_that_of_the_code():
    events = import_module("abatch.events")
    common = {field.name for field in dataclasses.fields(events.JobEvent)}
    table = (ROOT / "docs" / "embed.md").read_text().partition("## Events\n")[2].partition("\n## ")[0]
    shown = {
        (kind, name, frozenset(re.findall(r"`(\w+)`", fields)))
        for kind, name, fields in re.findall(r"^\| `([\w.]+)` \| `(\w+)` \|.*\|([^|]*)\|$", table, re.MULTILINE)
    }
    made = {
        (kind.kind, kind.__name__, frozenset({field.name for field in dataclasses.fields(kind)} - common))
        for kind in get_args(events.Event)
    }
    assert shown == made


OF_0_1_0 = {
    *("AbatchError", "ApiError", "Backend", "BackendError", "BackendFactory", "BackendNotFound", "BackendUnavailable"),
    *("BadRequest", "BatchManager", "Config", "ConfigError", "IllegalTransition", "Job", "JobConflict", "JobFailed"),
    *("JobRef", "JobStopped", "JournalCorrupt", "JournalError", "JournalLocked", "Line", "Progress", "Request"),
    *("Result", "ResultError", "Sealed", "ShardRef", "Sink", "StillInDoubt", "Summary", "Usage"),
}


def test_the_page_of_changes_has_every_name_that_is_new_or_gone_since_0_1_0():
    page = " ".join(re.findall(r"`([^`]+)`", text("changes-for-embedders.md")))
    named = set(re.findall(r"\w+", page))
    assert OF_0_1_0.symmetric_difference(abatch.__all__) - named == set()
    assert {each for each in errors.__all__ if each not in OF_0_1_0} - named == set()
    from abatch.cli.hints import OLD_SPELLINGS
    from abatch.config import OLD_NAMES

    old = {*OLD_SPELLINGS, *OLD_NAMES}
    assert {each for each in old if each not in page} == set()
