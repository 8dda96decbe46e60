"""Read the settings of webhooks: tables of a configuration file, as values that are checked."""

from __future__ import annotations

import difflib
import hashlib
import shlex
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import httpx2

from abatch import events
from abatch.errors import ConfigError
from abatch.service.webhooks_signature import Secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from abatch.events import Event

__all__ = ["DEFAULT_EVENTS", "KINDS", "Endpoint", "OnDone", "endpoint", "endpoints", "on_done"]

KINDS: Final = tuple(sorted(kind.kind for kind in get_args(events.Event)))
"""The kinds of events, by which an endpoint chooses."""
DEFAULT_EVENTS: Final = ("batch.lost", "job.duplicate_seen", "job.finished", "job.stopped", "shard.held")
"""The events that an endpoint gets if it names none: ends, and states that only a person changes."""
NAMES: Final = ("url", "secret_env", "secret_file", "events", "jobs", "allow_private")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A receiver of webhooks; `endpoint` makes it from a table."""

    url: httpx2.URL
    secrets: Secrets
    events: tuple[str, ...]
    """Patterns of kinds of events."""
    jobs: tuple[str, ...]
    """Patterns of the keys of jobs."""
    allow_private: bool
    secret_env: str | None
    """The environment variable with the secrets, if they are in one."""

    @property
    def name(self) -> str:
        """Its name in the journal and in logs: the host and a digest, because a URL may contain a secret."""
        digest = hashlib.blake2b(str(self.url).encode(), digest_size=4).hexdigest()
        return f"{self.url.raw_host.decode('ascii')}-{digest}"

    def wants(self, event: Event) -> bool:
        """Return whether it gets a message about this event."""
        return _match(event.kind, self.events) and _match(event.job, self.jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDone:
    """A command that is run when a job is finished; `on_done` makes it from a text."""

    argv: tuple[str, ...]
    name: str = "on_done"

    def wants(self, event: Event) -> bool:
        """Return whether it runs because of this event."""
        return event.kind == events.JobFinished.kind


def endpoints(tables: object, /, *, folder: Path) -> tuple[Endpoint, ...]:
    """Read the value of `webhooks` in a configuration file.

    Args:
        tables: the value as a parser of TOML returns it.
        folder: the folder of the file, to which `secret_file` is relative.

    Raises:
        ConfigError: a value cannot work; the message names it.

    """
    if not isinstance(tables, list):
        raise ConfigError("webhooks must be tables: write [[webhooks]]")
    found: dict[str, Endpoint] = {}
    for number, table in enumerate(cast("list[object]", tables), start=1):
        place = f"webhooks[{number}]"
        if not isinstance(table, dict):
            raise ConfigError(f"{place} must be a table: write [[webhooks]]")
        made = endpoint(cast("dict[str, object]", table), place=place, folder=folder)
        if found.setdefault(made.name, made) is not made:
            raise ConfigError(f"{place}.url is the URL of another endpoint; give each URL one table")
    return tuple(found.values())


def endpoint(table: Mapping[str, object], /, *, place: str, folder: Path) -> Endpoint:
    """Read one table: `url`, `secret_env` or `secret_file`, `events`, `jobs`, `allow_private`.

    Raises:
        ConfigError: a value cannot work; the message names it, beginning with `place`.

    """
    for name in table:
        if name not in NAMES:
            raise ConfigError(f"{place}.{name} is unknown{_meant(name, NAMES)}; known are {', '.join(NAMES)}")
    allow_private = table.get("allow_private", False)
    if not isinstance(allow_private, bool):
        raise ConfigError(f"{place}.allow_private must be true or false, got {allow_private!r}")
    patterns = _texts(table, "events", place, DEFAULT_EVENTS)
    for pattern in patterns:
        if not any(fnmatchcase(kind, pattern) for kind in KINDS):
            raise ConfigError(f"{place}.events: no event is named {pattern!r}{_meant(pattern, KINDS)}")
    secret_env = _text(table, "secret_env", place)
    secret_file = _text(table, "secret_file", place)
    if (secret_env is None) == (secret_file is None):
        raise ConfigError(f"{place} needs one of secret_env and secret_file")
    try:
        if secret_env is not None:
            secrets = Secrets.from_env(secret_env)
        else:
            secrets = Secrets.from_file(folder / cast("str", secret_file))
    except ConfigError as unusable:
        raise ConfigError(f"{place}: {unusable}") from unusable
    return Endpoint(
        url=_url(_text(table, "url", place), place, allow_private=allow_private),
        secrets=secrets,
        events=patterns,
        jobs=_texts(table, "jobs", place, ("*",)),
        allow_private=allow_private,
        secret_env=secret_env,
    )


def on_done(text: object, /) -> OnDone:
    """Read the value of `on_done`: a program and its arguments, split as a shell does, and run without a shell.

    Raises:
        ConfigError: it is not a command, or the program does not exist.

    """
    if not isinstance(text, str):
        raise ConfigError(f"on_done must be a text, got {text!r}")
    try:
        argv = tuple(shlex.split(text))
    except ValueError as failure:
        raise ConfigError(f"on_done cannot be split into arguments: {failure}") from failure
    if not argv:
        raise ConfigError("on_done is empty; name a program, or leave it out")
    if shutil.which(argv[0]) is None:
        raise ConfigError(f"on_done: there is no program {argv[0]!r}; give its path, and make it executable")
    return OnDone(argv=argv)


def _url(text: str | None, place: str, *, allow_private: bool) -> httpx2.URL:
    """Check a URL. Messages do not repeat it, because it may contain a secret."""
    if text is None:
        raise ConfigError(f"{place}.url is missing")
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL as failure:
        raise ConfigError(f"{place}.url is not a URL: {failure}") from failure
    if url.scheme not in ("https", "http") or not url.host:
        raise ConfigError(f"{place}.url must be a URL that begins with https://")
    if url.userinfo or url.fragment:
        raise ConfigError(
            f"{place}.url must have no user, password or fragment; receivers verify the signature instead"
        )
    if url.scheme == "http" and not allow_private:
        raise ConfigError(f"{place}.url must begin with https://; plain http needs allow_private = true")
    if url.port not in (None, 443) and not allow_private:
        raise ConfigError(f"{place}.url must have port 443; another port needs allow_private = true")
    return url


def _text(table: Mapping[str, object], name: str, place: str) -> str | None:
    value = table.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigError(f"{place}.{name} must be a text that is not empty")
    return value


def _texts(table: Mapping[str, object], name: str, place: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value: Any = table.get(name)
    if value is None:
        return default
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(each, str) for each in cast("list[object]", value))
    ):
        raise ConfigError(f"{place}.{name} must be a list of texts, for instance {list(default)}")
    return tuple(cast("list[str]", value))


def _match(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _meant(unknown: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(unknown, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
