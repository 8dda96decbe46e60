"""A destination names its backend."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from abatch import Backend, BackendError, BackendNotFound, BackendUnavailable, ConfigError, JobRef
from abatch.backend import connect, normalize

pytestmark = pytest.mark.anyio

JOB = JobRef(key="job", lineage="0123456789abcdef")


@pytest.mark.parametrize(
    ("destination", "url"),
    [
        ("results.jsonl", "jsonl:///results.jsonl"),
        ("results.ndjson", "jsonl:///results.ndjson"),
        ("some/where/results.jsonl", "jsonl:///some/where/results.jsonl"),
        ("/absolute/results.jsonl", "jsonl:////absolute/results.jsonl"),
        ("results/", "jsonl:///results/"),
        ("results//", "jsonl:///results/"),
        ("/absolute/results/", "jsonl:////absolute/results/"),
        ("results.d/", "jsonl:///results.d/"),
        ("results.db", "sqlite:///results.db"),
        ("results.sqlite", "sqlite:///results.sqlite"),
        ("results.sqlite3", "sqlite:///results.sqlite3"),
        ("/absolute/results.db", "sqlite:////absolute/results.db"),
        ("jsonl:///results.jsonl", "jsonl:///results.jsonl"),
        ("sqlite:///results.db", "sqlite:///results.db"),
        ("s3://bucket/prefix?region=eu-1", "s3://bucket/prefix?region=eu-1"),
        ("S3://Bucket/Prefix", "s3://Bucket/Prefix"),
        ("memory:", "memory:"),
    ],
)
async def test_every_form_stands_for_one_url(destination, url):
    assert normalize(destination) == url


@pytest.mark.parametrize("url", ["jsonl:///a.jsonl", "jsonl:///a/", "sqlite:////a/b.db", "s3://b/p", "memory:"])
async def test_a_normalized_url_stays_as_it_is(url):
    assert normalize(normalize(url)) == normalize(url)


async def test_an_existing_folder_is_a_folder_of_parts(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "odd.jsonl").mkdir()
    monkeypatch.chdir(tmp_path)
    assert normalize("results") == "jsonl:///results/"
    assert normalize("odd.jsonl") == "jsonl:///odd.jsonl/"
    assert normalize(str(tmp_path)) == f"jsonl:///{tmp_path}/"


@pytest.mark.parametrize(
    "destination",
    [
        "",
        "results.txt",
        "results",
        "results.JSON",
        "ftp://host/results.jsonl",
        "http://host/results.jsonl",
        "postgres://host/db",
        "other-scheme://host/results.jsonl",
        "other+scheme://host/results.jsonl",
        "other.scheme://host/results.jsonl",
        "s3://[bucket",
        "jsonl:///",
        "jsonl:////",
        "jsonl:///?x=1",
        "jsonl:",
        "sqlite:///",
    ],
)
async def test_what_no_backend_takes_is_refused_with_the_forms_that_are_taken(destination):
    with pytest.raises(BackendNotFound) as refused:
        normalize(destination)
    assert "results.jsonl" in str(refused.value)
    assert "s3://" in str(refused.value)


async def test_the_schemes_of_other_packages_are_named_too(tmp_path, monkeypatch):
    about = tmp_path / "parquet_for_abatch-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: parquet-for-abatch\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[abatch.backends]\nparquet = nowhere:open_\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendNotFound) as refused:
        normalize("nosuch://x")
    assert refused.value.forms[-1] == "parquet:…"


@pytest.mark.parametrize(
    "destination",
    ["s3://KEY:SECRET@bucket/prefix", "s3://KEY@bucket", "jsonl://me:SECRET@/x", "nosuch://KEY:SECRET@host/x"],
)
async def test_credentials_are_refused_and_not_repeated(destination):
    with pytest.raises(ConfigError) as refused:
        normalize(destination)
    assert "credentials" in str(refused.value)
    assert "SECRET" not in str(refused.value)
    assert "KEY" not in str(refused.value)


async def test_a_url_without_a_backend_is_refused():
    with pytest.raises(BackendNotFound, match="nosuch"):
        await connect("nosuch://x", JOB)


async def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "aioboto3", None)
    for module in [name for name in sys.modules if name.startswith("abatch_backends.s3")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(BackendUnavailable, match=r"pip install 'abatch\[s3\]'"):
        await connect("s3://bucket/prefix", JOB)


@pytest.mark.parametrize("form", ["results.jsonl", "results/", "results.db"])
async def test_the_backend_of_a_form_claims_the_place(tmp_path, form):
    backend = await connect(normalize(f"{tmp_path}/{form}"), JOB)
    assert isinstance(backend, Backend)
    await backend.aclose()


async def test_a_place_with_something_of_somebody_else_is_refused(tmp_path):
    taken = Path(tmp_path / "results.jsonl")
    taken.write_text("mine\n")
    with pytest.raises(BackendError):
        await connect(normalize(str(taken)), JOB)
    assert taken.read_text() == "mine\n"
