"""Options that more than one command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from abatch.config import Failing, Tier

__all__ = [
    "AgainOption",
    "BetaOption",
    "ConfirmAboveOption",
    "DestinationOption",
    "FailingOption",
    "InputArgument",
    "JobArgument",
    "JournalOption",
    "JsonOption",
    "KeyOption",
    "LatencyOption",
    "LimitOption",
    "PlaceOption",
    "PollIntervalOption",
    "PricesOption",
    "QuietOption",
    "RequestsPerBatchOption",
    "SandboxOption",
    "StoragePatienceOption",
    "TierOption",
    "TriesOption",
    "WorkspaceOption",
    "YesOption",
]

InputArgument: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Files of JSON lines (.gz, .zst), or patterns in quotes, as one job; - for stdin."
    ),
]
KeyOption: TypeAlias = Annotated[str | None, typer.Option(help="The job's name; required for stdin.")]
RequestsPerBatchOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, max=100_000, help="Requests in one batch at most. [10000]")
]
TriesOption: TypeAlias = Annotated[
    int,
    typer.Option(min=1, max=100, help="How often a request is sent that expires or fails for a temporary reason."),
]
BetaOption: TypeAlias = Annotated[list[str] | None, typer.Option(help="A value of anthropic-beta; may be repeated.")]
WorkspaceOption: TypeAlias = Annotated[str | None, typer.Option(metavar="ID", help="The workspace of every call.")]
LimitOption: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="For a trial: send the first N requests, hold back the rest."),
]
AgainOption: TypeAlias = Annotated[
    bool, typer.Option("--again", help="Send, and pay for, requests again that another job here has, too.")
]
PricesOption: TypeAlias = Annotated[Path | None, typer.Option(help="Your own price file.")]
ConfirmAboveOption: TypeAlias = Annotated[
    float, typer.Option(min=0, metavar="USD", help="Ask, on a terminal, if it may cost more than this.")
]
JobArgument: TypeAlias = Annotated[str, typer.Argument(metavar="JOB", help="The job's key.", show_default=False)]
SandboxOption: TypeAlias = Annotated[bool, typer.Option("--sandbox", help="The job was run with --sandbox.")]
PlaceOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--journal", file_okay=False, help="The journal's folder; .abatch, or .abatch-sandbox for --sandbox."),
]
JournalOption: TypeAlias = Annotated[Path, typer.Option("--journal", file_okay=False, help="The journal's folder.")]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and nothing else there.")]
StoragePatienceOption: TypeAlias = Annotated[
    float | None, typer.Option(help="Seconds of temporary failures of the destination before the job ends. [900]")
]
FailingOption: TypeAlias = Annotated[
    Failing, typer.Option(help="What to do with the rest if a first batch failed completely with one error.")
]
QuietOption: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
DestinationOption: TypeAlias = Annotated[
    str, typer.Option(metavar="DEST", help="results.jsonl, results/, results.db, s3://bucket/prefix")
]
TierOption: TypeAlias = Annotated[Tier, typer.Option(help="The usage tier of the account.")]
PollIntervalOption: TypeAlias = Annotated[
    float | None, typer.Option(help="Seconds between two polls; grows up to fourfold. [15]")
]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, whatever it may cost.")]
LatencyOption: TypeAlias = Annotated[str, typer.Option(hidden=True, envvar="ABATCH_SANDBOX_LATENCY")]
"""How long a batch of the sandbox takes, from and to, in seconds."""
