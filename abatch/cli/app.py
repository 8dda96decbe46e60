"""The application of all commands."""

from __future__ import annotations

import resource
import sys
from typing import Annotated

import typer

import abatch
from abatch.cli.estimate import estimate
from abatch.cli.exit_codes import without_output
from abatch.cli.hints import HintingCommand
from abatch.cli.identify import identify
from abatch.cli.move import move
from abatch.cli.operate import cancel, resolve
from abatch.cli.redrain import redrain
from abatch.cli.results import results
from abatch.cli.retry import retry
from abatch.cli.run import run
from abatch.cli.sandbox import sandbox
from abatch.cli.serve import serve, token
from abatch.cli.status import status
from abatch.cli.streams import OutputGone
from abatch.cli.submit import submit
from abatch.cli.wait import wait
from abatch.cli.webhook import webhook

__all__ = ["app", "main"]

app = typer.Typer(
    name="abatch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"abatch {abatch.__version__}")
        raise typer.Exit


@app.callback()
def all_commands(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Very large jobs on the Message Batches API: streamed, resumable, and never paid for twice.

    Exit status of every command: 0 all is well; 1 finished, some requests failed or are missing; 2 bad input or
    usage; 3 cannot continue now, running again resumes; 130 interrupted.
    """


COMMANDS = (
    run, submit, wait, status, results, cancel, retry, redrain, move, resolve, identify, estimate, serve, token,
    sandbox,
)  # fmt: skip

for command in COMMANDS:
    name = "id" if command is identify else command.__name__
    app.command(name, short_help=(command.__doc__ or "").partition("\n")[0], cls=HintingCommand)(
        command
    )  # so that the short help is not cut

app.add_typer(webhook)


def main() -> None:
    """Run the command that the arguments name."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain the API key and prompts
    try:
        app()
    except OutputGone as gone:  # a help text, or the version; commands report it themselves
        sys.exit(without_output(gone))
