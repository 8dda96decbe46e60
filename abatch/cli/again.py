"""The commands that come next: what goes on with a job, and what to do about requests that failed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from abatch.backend import normalize
from abatch.cli.commands import command, near
from abatch.errors import ConfigError
from abatch.facts import FileSource
from abatch.places import absolute, absolute_url, shown

if TYPE_CHECKING:
    from pathlib import Path

    from abatch.ledger import JobRecord, Ledger
    from abatch.result import Summary

__all__ = ["about_failures", "resuming"]


def resuming(ledger: Ledger, job: JobRecord) -> tuple[str, str]:
    """The command that goes on with a job, and what else it needs; empty where only an application can."""
    folder, submitted, headers = ledger.journal.folder, job.submitted, job.submitted.headers
    first, is_retry, _ = job.key.rpartition(".retry-")
    if is_retry and ledger.job(first) is not None:
        return command(folder, "retry", first), "with the options it was begun with"
    if not job.to or headers.user_profile_id is not None:
        return "", "by the application that began it"
    is_file = isinstance(submitted.source, FileSource)
    source = near(str(absolute(folder, submitted.source.path))) if isinstance(submitted.source, FileSource) else "-"
    words = ["run", source, "--to", _destination(absolute_url(folder, job.to)), "--key", job.key]
    words += [word for beta in headers.betas for word in ("--beta", beta)]
    words += [] if headers.workspace_id is None else ["--workspace", headers.workspace_id]
    return command(folder, *words), "" if is_file else "with the same lines on stdin"


def about_failures(summary: Summary, folder: Path, *, from_file: bool) -> list[str]:
    """The commands that show what did not succeed, and that send it again."""
    counts = {
        "--failed": summary.errored + summary.expired + summary.other,
        "--missing": summary.missing,
        "--canceled": summary.canceled,
    }
    kinds = [kind for kind, count in counts.items() if count]
    first, is_retry, _ = summary.key.rpartition(".retry-")
    lines = [f"To see them: {command(folder, 'results', summary.key, '--failed')}"] * (kinds != ["--missing"])
    if from_file or is_retry:
        lines.append(f"To send them again: {command(folder, 'retry', first or summary.key, *kinds)}")
    return lines


def _destination(url: str) -> str:
    """A destination as people write it, where that stands for the same."""
    here = near(shown(url))
    try:
        return here if normalize(os.path.abspath(here) + "/" * here.endswith("/")) == url else url  # noqa: PTH100
    except ConfigError:
        return url
