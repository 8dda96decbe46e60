"""Options that more than one command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from abatch.config import Failing, Tier

__all__ = [
    "DestinationOption",
    "FailingOption",
    "JobArgument",
    "JournalOption",
    "JsonOption",
    "LatencyOption",
    "PlaceOption",
    "PollIntervalOption",
    "QuietOption",
    "SandboxOption",
    "StoragePatienceOption",
    "TierOption",
    "YesOption",
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
