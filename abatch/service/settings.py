"""The settings of the service: a TOML file with the names of `Config`, and a table `[serve]`.

tier = "build"
poll_interval = 15           # durations are in seconds

[serve]
listen = "127.0.0.1:8787"
inbox = "inbox"              # paths are relative to the file
folders = ["prompts", "results"]

[[webhooks]]
url = "https://hooks.example.com/abatch"
secret_file = "hook.secret"
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from abatch.config import Config
from abatch.errors import ConfigError
from abatch.service.webhooks_settings import Endpoint, OnDone, endpoints, on_done

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

__all__ = ["LISTEN", "Listen", "Serve", "ServiceSettings", "listen_of", "load", "reloaded"]

DURATIONS: Final = frozenset({"poll_interval", "poll_interval_max", "grace", "storage_patience", "storage_retry_every"})
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
RELOADABLE: Final = frozenset({"folders", "destinations", "hosts", "on_done"})
"""Names under `[serve]` that take effect without a restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """An address to listen on."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect to it."""
        return self.host in LOOPBACK

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


LISTEN: Final = Listen(host="127.0.0.1", port=8787)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve:
    """The table `[serve]`."""

    listen: Listen = LISTEN
    """Where the service listens."""
    inbox: Path | None = None
    """The inbox folder."""
    folders: tuple[Path, ...] = ()
    """Folders whose files clients may name as inputs and destinations."""
    destinations: tuple[str, ...] = ()
    """Beginnings of other destinations that clients may name, such as `s3://bucket/`."""
    hosts: tuple[str, ...] = ()
    """Further names of the service, without a port, that may be in the header `Host`."""
    on_done: OnDone | None = None
    """A command for each finished job."""
    behind_proxy: bool = False
    """Whether a proxy adds TLS, so that the service may listen beyond this machine without it."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    def check(self) -> None:
        """Check that secrets do not cross a network in the clear.

        Raises:
            ConfigError: they would, or only one of the two TLS files is given.

        """
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both tls_certificate and tls_key under [serve]")
        if not self.listen.is_loopback and self.tls_certificate is None and not self.behind_proxy:
            raise ConfigError(
                f"{self.listen} is reachable from other machines, and its token and prompts would cross the network in "
                "the clear: set tls_certificate and tls_key under [serve], or behind_proxy if a proxy adds TLS"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Everything that a settings file may hold."""

    config: Config = field(default_factory=Config)
    serve: Serve = field(default_factory=Serve)
    webhooks: tuple[Endpoint, ...] = ()


class _ServeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    listen: str | None = None
    inbox: str | None = None
    folders: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    on_done: str | None = None
    behind_proxy: bool = False
    tls_certificate: str | None = None
    tls_key: str | None = None


def listen_of(text: str) -> Listen:
    """Read `HOST:PORT`, `[ADDRESS]:PORT` or `PORT`.

    Raises:
        ConfigError: it has another form.

    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535 or (":" in host and not host.startswith("[")):
        raise ConfigError(f"listen must be HOST:PORT, such as {LISTEN}, got {text!r}")
    return Listen(host=host.strip("[]") or LISTEN.host, port=int(port))


def load(path: Path) -> ServiceSettings:
    """Read a settings file.

    Raises:
        ConfigError: it cannot be read, or holds a name or value that cannot be used.

    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as unusable:
        raise ConfigError(f"settings file {path} cannot be used: {unusable}") from unusable
    given: object = table.pop("serve", {})
    webhooks: object = table.pop("webhooks", [])
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: serve must be a table, [serve]")
    serve = cast("dict[str, object]", given)
    _check_names(path, "", table, {each.name for each in fields(Config)} | {"serve", "webhooks"})
    _check_names(path, " under [serve]", serve, set(_ServeTable.__struct_fields__))
    try:
        return ServiceSettings(
            config=Config(**{name: _value(name, value) for name, value in table.items()}),
            serve=_serve(msgspec.convert(serve, _ServeTable), path.parent),
            webhooks=endpoints(webhooks, folder=path.parent),
        )
    except (ConfigError, msgspec.ValidationError) as wrong:
        raise ConfigError(f"{path}: {wrong}") from wrong


def reloaded(now: ServiceSettings, read: ServiceSettings) -> tuple[ServiceSettings, tuple[str, ...]]:
    """Return the settings in effect after a reload, and the names of changes that need a restart.

    Webhooks are among those in effect, because the files of their secrets may have changed, too.
    """
    changes = {name: getattr(read.serve, name) for name in RELOADABLE}
    effective = replace(now, serve=replace(now.serve, **changes), webhooks=read.webhooks)
    waiting = [
        each.name for each in fields(Config) if getattr(now.config, each.name) != getattr(read.config, each.name)
    ]
    waiting += [
        f"serve.{each.name}"
        for each in fields(Serve)
        if getattr(effective.serve, each.name) != getattr(read.serve, each.name)
    ]
    return effective, tuple(waiting)


def _check_names(path: Path, where: str, table: Mapping[str, object], known: Collection[str]) -> None:
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{path}: unknown name {name!r}{where}{hint}")


def _value(name: str, value: Any) -> Any:  # noqa: ANN401 - Config checks it
    if name in DURATIONS:
        try:
            seconds = None if isinstance(value, bool) else timedelta(seconds=value)
        except (TypeError, ValueError, OverflowError):
            seconds = None
        if seconds is None:
            raise ConfigError(f"{name} must be a number of seconds, got {value!r}")
        return seconds
    if type(value) is not type(getattr(Config(), name)):
        raise ConfigError(f"{name} must be like {getattr(Config(), name)!r}, got {value!r}")
    return value


def _serve(table: _ServeTable, beside: Path) -> Serve:
    def path(given: str | None) -> Path | None:
        return None if given is None else beside / given

    return Serve(
        listen=LISTEN if table.listen is None else listen_of(table.listen),
        inbox=path(table.inbox),
        folders=tuple(beside / folder for folder in table.folders),
        destinations=table.destinations,
        hosts=table.hosts,
        on_done=None if table.on_done is None else on_done(table.on_done),
        behind_proxy=table.behind_proxy,
        tls_certificate=path(table.tls_certificate),
        tls_key=path(table.tls_key),
    )
