"""The settings file of the service."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from abatch.errors import ConfigError
from abatch.service.settings import Listen, ServiceSettings, listen_of, load, reloaded

GOOD = """
tier = "build"
poll_interval = 20
grace = 1800.5

[serve]
listen = "[::1]:99"
inbox = "in"
folders = ["a", "/b"]
destinations = ["s3://bucket/"]
hosts = ["abatch.internal"]
"""


def test_a_file_has_the_names_of_config_and_of_serve(tmp_path: Path) -> None:
    path = tmp_path / "abatch.toml"
    path.write_text(GOOD)
    settings = load(path)
    assert settings.config.tier == "build"
    assert settings.config.poll_interval == timedelta(seconds=20)
    assert settings.config.grace == timedelta(seconds=1800.5)
    assert settings.serve.listen == Listen(host="::1", port=99)
    assert settings.serve.inbox == tmp_path / "in"
    assert settings.serve.folders == (tmp_path / "a", Path("/b"))
    path.write_text("")
    assert load(path) == ServiceSettings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("teir = 1", "unknown name 'teir'; did you mean tier?"),
        ("poll_every = 1", "unknown name 'poll_every'"),
        ("[serve]\nlisen = 1", "unknown name 'lisen' under [serve]; did you mean listen?"),
        ("serve = 1", "serve must be a table"),
        ("[other]\nx = 1", "unknown name 'other'"),
        ('poll_interval = "15s"', "poll_interval must be a number of seconds, got '15s'"),
        ("poll_interval = true", "poll_interval must be a number of seconds"),
        ("poll_interval = nan", "poll_interval"),
        ("poll_interval = 1e300", "poll_interval"),
        ("uploads = 0", "uploads must be at least 1"),
        ('uploads = "x"', "uploads"),
        ('tier = "none"', "tier must be one of"),
        ("[serve]\nlisten = 8787", "listen"),
        ('[serve]\nlisten = "x"', "listen must be HOST:PORT"),
        ('[serve]\nlisten = "127.0.0.1:70000"', "listen must be HOST:PORT"),
        ('[serve]\nlisten = "::1:80"', "listen must be HOST:PORT"),
        ("x", "cannot be used"),
    ],
)
def test_a_mistake_is_named_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "abatch.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as wrong:
        load(path)
    assert words in str(wrong.value)
    assert str(path) in str(wrong.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml cannot be used"):
        load(tmp_path / "no.toml")


def test_an_address_may_be_a_port_alone() -> None:
    assert str(listen_of("8787")) == "127.0.0.1:8787"
    assert str(listen_of("[::1]:8787")) == "[::1]:8787"
    assert listen_of("localhost:1").is_loopback
    assert not listen_of("0.0.0.0:1").is_loopback


def test_a_reload_takes_what_may_change_and_names_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "abatch.toml"
    path.write_text(GOOD)
    before = load(path)
    path.write_text(GOOD.replace("20", "30").replace('"/b"', '"/c"').replace(":99", ":98"))
    effective, waiting = reloaded(before, load(path))
    assert effective.serve.folders == (tmp_path / "a", Path("/c"))
    assert effective.serve.listen == before.serve.listen
    assert effective.config == before.config
    assert waiting == ("poll_interval", "serve.listen")
