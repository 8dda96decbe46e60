"""Settings of webhooks are checked before anything is sent, and no message repeats a URL or a secret."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from abatch.errors import ConfigError
from abatch.events import BatchEnded, Counts, JobFinished, JobStopped
from abatch.service.webhooks_settings import DEFAULT_EVENTS, KINDS, endpoints, on_done
from tests.service.receivers import OTHER_SECRET, SECRET

URL = "https://hooks.example.com/in?token=t0psecret"
FINISHED = JobFinished(seq=1, at=1.0, job="nightly-7", location="x")
STOPPED = JobStopped(seq=1, at=1.0, job="nightly-7", reason="r", remedy="m")
ENDED = BatchEnded(seq=1, at=1.0, job="nightly-7", shard=1, counts=Counts())


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)


def read(folder: Path, **table: object) -> Any:
    return endpoints([{"url": URL, "secret_env": "HOOK_SECRET", **table}], folder=folder)[0]


def test_an_endpoint_gets_the_ends_of_all_jobs_and_what_needs_a_person(tmp_path: Path) -> None:
    made = read(tmp_path)
    assert set(DEFAULT_EVENTS) <= set(KINDS)
    assert made.wants(FINISHED)
    assert made.wants(STOPPED)
    assert not made.wants(ENDED)


def test_events_and_jobs_are_chosen_by_patterns(tmp_path: Path) -> None:
    made = read(tmp_path, events=["batch.*"], jobs=["nightly-*", "other"])
    assert made.wants(ENDED)
    assert not made.wants(FINISHED)
    assert not read(tmp_path, events=["*"], jobs=["other"]).wants(FINISHED)


def test_the_name_of_an_endpoint_shows_its_host_and_no_other_part_of_its_url(tmp_path: Path) -> None:
    name = read(tmp_path).name
    assert name.startswith("hooks.example.com-")
    assert "t0psecret" not in name
    assert read(tmp_path, url=URL + "2").name != name
    assert SECRET not in repr(read(tmp_path))


BAD: list[tuple[dict[str, object], str]] = [
    ({"url": "ftp://x.example"}, r"webhooks\[1\].url must be a URL that begins with https"),
    ({"url": "https://"}, "begins with https"),
    ({"url": "https://[::"}, "is not a URL"),
    ({"url": ""}, "url must be a text"),
    ({"url": "https://u:p@x.example/"}, "no user, password or fragment"),
    ({"url": "http://x.example/"}, "plain http needs allow_private = true"),
    ({"url": "https://x.example:8443/"}, "must have port 443; another port needs allow_private"),
    ({"secret_file": "f"}, "needs one of secret_env and secret_file"),
    ({"secret_env": None}, "needs one of secret_env and secret_file"),
    ({"secret_env": "NOT_SET"}, r"NOT_SET is not set; `echo whsec_\$\(openssl"),
    ({"events": ["job.finishd"]}, r"no event is named 'job.finishd' \(did you mean job.finished\?\)"),
    ({"events": []}, "must be a list of texts"),
    ({"events": "job.finished"}, "must be a list of texts"),
    ({"jobs": [1]}, "jobs must be a list of texts"),
    ({"allow_private": "yes"}, "must be true or false, got 'yes'"),
    ({"alow_private": True}, r"alow_private is unknown \(did you mean allow_private\?\); known are url,"),
]


@pytest.mark.parametrize(("table", "says"), BAD)
def test_a_value_that_cannot_work_is_named(tmp_path: Path, table: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        read(tmp_path, **table)
    assert "t0psecret" not in str(refused.value)


def test_http_and_other_ports_are_allowed_on_private_networks(tmp_path: Path) -> None:
    assert read(tmp_path, url="http://hooks.internal:8080/", allow_private=True).url.port == 8080


def test_one_url_has_one_table(tmp_path: Path) -> None:
    table = {"url": URL, "secret_env": "HOOK_SECRET"}
    with pytest.raises(ConfigError, match=r"webhooks\[2\].url is the URL of another endpoint"):
        endpoints([table, table], folder=tmp_path)
    for wrong in ("x", {"url": URL}, [1]):
        with pytest.raises(ConfigError, match=r"write \[\[webhooks\]\]"):
            endpoints(wrong, folder=tmp_path)


def test_a_file_has_one_secret_a_line_and_is_closed_to_other_users(tmp_path: Path) -> None:
    file = tmp_path / "hook.secret"
    file.write_text(f"{SECRET}\n{OTHER_SECRET}\n")
    file.chmod(0o600)
    made = read(tmp_path, secret_env=None, secret_file="hook.secret")
    assert len(made.secrets.sign("m", 1, b"").split()) == 2
    file.chmod(0o644)
    with pytest.raises(ConfigError, match=r"other users can read the secret .*: chmod 600"):
        read(tmp_path, secret_env=None, secret_file="hook.secret")
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read(tmp_path, secret_env=None, secret_file="hook.secret")


@pytest.mark.parametrize(
    "secret",
    [
        "hunter2hunter2hunter2hunter2hunter2",
        SECRET.removeprefix("whsec_"),
        "whsec_" + base64.b64encode(b"k" * 23).decode(),
        "whsec_" + base64.b64encode(b"k" * 65).decode(),
        SECRET + " whsec_!!",
        "whsec_ü",
        "",
    ],
)
def test_a_weak_or_malformed_secret_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("HOOK_SECRET", secret)
    with pytest.raises(ConfigError, match=r"HOOK_SECRET holds (no secret|a secret that is not whsec_)") as refused:
        read(tmp_path)
    assert not secret or secret not in str(refused.value)


def test_a_command_is_split_as_a_shell_does_and_its_program_must_exist() -> None:
    assert on_done("sh -c 'echo \"$ABATCH_JOB\"; true'").argv == ("sh", "-c", 'echo "$ABATCH_JOB"; true')
    assert on_done("true").wants(FINISHED)
    assert not on_done("true").wants(STOPPED)
    for text, says in (
        ("no-such-program-7 x", "no program 'no-such-program-7'"),
        ("sh 'x", "cannot be split"),
        ("  ", "is empty"),
        (7, "must be a text"),
    ):
        with pytest.raises(ConfigError, match=says):
            on_done(text)
