"""`abatch serve`: drive a journal and serve it over HTTP; `abatch token`: print a token of it."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

import anyio
import typer

from abatch.cli.commands import command
from abatch.cli.exit_codes import reported
from abatch.cli.options import (  # noqa: TC001 - typer reads the annotations
    LatencyOption,
    PlaceOption,
    PollIntervalOption,
    SandboxOption,
)
from abatch.cli.paths import folder_of, place_of
from abatch.cli.sandbox import HUSHED, sandbox_beside
from abatch.cli.screen import Screen, configure_logs
from abatch.cli.settings import config_of, journal_of
from abatch.errors import BackendUnavailable, ConfigError, JournalLocked

if TYPE_CHECKING:
    from abatch.service.settings import ServiceSettings

__all__ = ["serve", "token"]

LOCKED: Final = 75
"""The exit status if another process drives the journal: EX_TEMPFAIL of sysexits.h."""


def serve(
    *,
    journal: PlaceOption = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one. [127.0.0.1:8787]")
    ] = None,
    inbox: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder whose files become jobs.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="A settings file, in TOML.")] = None,
    poll_interval: PollIntervalOption = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy adds TLS: listen beyond this machine without it.")
    ] = False,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Try it out: synthetic answers, no key, no cost.")] = False,
    sandbox_latency: LatencyOption = "1,3",
) -> None:
    """Drive every job of a journal, take jobs over HTTP and from an inbox folder, until SIGTERM.

    Exit status: 0 ended by a signal; 2 a setting cannot be used; 3 the journal cannot be used; 75 another process
    drives the journal.

    Example: abatch serve --journal .abatch --inbox inbox
    """
    screen = Screen()
    place = journal_of(journal, sandbox=sandbox)
    with reported(screen, place), ExitStack() as beside:
        configure_logs(screen, hush=HUSHED if sandbox else frozenset())
        try:
            from abatch.service.daemon import serve as run  # noqa: PLC0415 - an extra
            from abatch.service.settings import ServiceSettings, listen_of, load  # noqa: PLC0415
            from abatch.service.tokens import Tokens  # noqa: PLC0415
        except ModuleNotFoundError as missing:
            raise BackendUnavailable("the service", "serve") from missing
        settings = ServiceSettings() if config is None else load(config)
        settings = _with_options(settings, sandbox=sandbox, poll_interval=poll_interval)
        table = settings.serve
        table = replace(
            table,
            listen=table.listen if listen is None else listen_of(listen),
            inbox=table.inbox if inbox is None else inbox,
            behind_proxy=table.behind_proxy or behind_proxy,
        )
        settings = replace(settings, serve=table)
        if sandbox:
            beside.enter_context(sandbox_beside(folder_of(place), latency=sandbox_latency))
            screen.say("This is the sandbox: every answer is synthetic, nothing is sent to the real API.")

        def ready(url: str) -> None:
            if sys.stderr.isatty():  # a log keeps no token
                secret = Tokens(folder_of(place)).secret_of()
                screen.say(f"page         {url}/login?token={secret}")
            bearer = f"Authorization: Bearer $({command(folder_of(place), 'token')})"
            screen.say(f'journal      {place}\nlistening    {url}\ntry          curl -H "{bearer}" {url}/api/v1/jobs')

        def ending() -> None:
            screen.complain(
                "Ending: nothing new is sent; waiting up to 30 s for answers that are on their way. "
                "Once more ends at once, and is safe, too."
            )

        async def work() -> None:
            await run(place, settings, file=config, ready=ready, ending=ending)

        try:
            anyio.run(work)
        except JournalLocked as locked:
            screen.complain(f"error: {locked}")
            raise typer.Exit(LOCKED) from None


def token(
    *,
    journal: PlaceOption = None,
    name: Annotated[str, typer.Option(help="The name of the token; the log shows it beside every change.")] = "owner",
    rights: Annotated[
        str,
        typer.Option(metavar="RIGHT,...", help="Any of read, submit (jobs and requests), steer (all other changes)."),
    ] = "read,submit,steer",
    sandbox: SandboxOption = False,
) -> None:
    """Print a token for the HTTP API of a journal; the first call with a name makes it.

    To revoke a token, remove its file tokens/NAME from the journal's folder.

    Example: abatch token --name ci --rights read,submit
    """
    screen = Screen()
    with reported(screen, journal):
        try:
            from abatch.service.tokens import RIGHTS, Tokens  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as missing:
            raise BackendUnavailable("the service", "serve") from missing
        named = rights.split(",")
        if unknown := set(named) - set(RIGHTS):
            raise ConfigError(f"--rights may have {', '.join(RIGHTS)}, got {min(unknown)!r}")
        folder = folder_of(place_of(journal, sandbox=sandbox))
        if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises on long names
            raise ConfigError(f"there is no journal {folder}: `abatch serve` makes one")
        screen.output.out(Tokens(folder).secret_of(name, [right for right in RIGHTS if right in named]))


def _with_options(settings: ServiceSettings, *, sandbox: bool, poll_interval: float | None) -> ServiceSettings:
    """Apply `--poll-interval`; the sandbox has the settings of a sandbox."""
    if sandbox:
        return replace(settings, config=config_of(sandbox=True, poll_interval=poll_interval))
    if poll_interval is None:
        return settings
    checked = config_of(sandbox=False, poll_interval=poll_interval)
    return replace(
        settings, config=replace(settings.config, poll_interval=checked.poll_interval, poll_interval_max=None)
    )
