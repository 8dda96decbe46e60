"""The commands that come next: those that resume a job, and those for requests that failed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from abatch.cli.commands import command, near
from abatch.destination import normalize, shown
from abatch.errors import ConfigError
from abatch.snapshot import retried_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from abatch import Failure, JobStatus, Summary

__all__ = ["CUT", "OVERRIDE", "Resume", "about_failures", "about_stops", "resuming"]

OVERRIDE: Final = ("--failing", "go-on")
"""Options that send the rest of a job in spite of its first results."""

CUT: Final = "max_tokens"
"""The stop reason of answers that were cut."""
NOT_WHOLE: Final = {
    CUT: "cut at max_tokens",
    "refusal": "refused by the model",
    "pause_turn": "paused by the model (pause_turn)",
    "model_context_window_exceeded": "cut at the end of the model's context window",
}
"""Stop reasons of answers that succeeded but may be incomplete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """How to resume a job that no process drives."""

    command: str = ""
    """The command to type; empty if only an application can resume the job."""
    needs: str = ""
    """What else the command needs, if anything."""
    anyway: str = ""
    """The command that sends the rest in spite of failed first results; empty if they did not stop the job."""

    @property
    def in_words(self) -> str:
        """The command and what it needs, for people."""
        return ", ".join(filter(None, [self.command, self.needs]))


def resuming(folder: Path, job: JobStatus) -> Resume:
    """Return the command that resumes a job; until a trial is over, only up to its limit."""
    override = OVERRIDE if job.failing else ()

    def resume(*words: str, needs: str) -> Resume:
        anyway = command(folder, *words, *override) if override else ""
        return Resume(command=command(folder, *words), needs=needs, anyway=anyway)

    if job.retry_of is not None:
        return resume("retry", job.retry_of, needs="with the options it was begun with")
    if not job.destination or job.user_profile_id is not None:
        return Resume(needs="by the application that began it")
    files = job.files
    sources = [near(str(file)) for file in files] or ["-"]
    words = ["run", *sources, "--to", _destination(job.destination), "--key", job.key]
    words += [word for beta in job.betas for word in ("--beta", beta)]
    words += [] if job.workspace_id is None else ["--workspace-id", job.workspace_id]
    words += [] if job.skip_answered is None else ["--skip-answered", job.skip_answered]
    if job.limit_open:  # its trial is not over
        words += ["--limit", str(job.limit)]
    return resume(*words, needs="" if files else "with the same lines on stdin")


def about_failures(summary: Summary, failures: Sequence[Failure], folder: Path, *, from_file: bool) -> list[str]:
    """Return the commands that show the requests that did not succeed, and that send them again."""
    final = sum(each.count for each in failures if each.final)
    counts = {
        "--failed": max(summary.errored + summary.expired + summary.other - final, 0),
        "--missing": summary.missing,
        "--canceled": summary.canceled,
    }
    kinds = [kind for kind, count in counts.items() if count]
    first = retried_key(summary.key)
    has_lines = final or kinds not in ([], ["--missing"])
    lines = [f"To see them: {command(folder, 'results', summary.key, '--failed')}"] if has_lines else []
    if final:
        lines.append(f"{final:,} of them cannot succeed unchanged: their requests must be changed.")
    if kinds and (from_file or first):
        lines.append(f"To send them again: {command(folder, 'retry', first or summary.key, *kinds)}")
    if summary.not_sent != 0:
        count = "Some" if summary.not_sent is None else f"{summary.not_sent:,}"
        lines.append(f"{count} of the requests were not sent, because the job was cancelled before they were.")
        if from_file:
            lines.append(
                f"To send them: the same command with another --key and --to, and with --skip-answered {summary.key}"
            )
    return lines


def about_stops(summary: Summary, folder: Path, *, from_file: bool) -> list[str]:
    """Describe answers that succeeded but are not complete, and name the command that requests longer ones."""
    lines: list[str] = []
    for reason, told in NOT_WHOLE.items():
        if count := summary.stop_reasons.get(reason, 0):
            lines.append(f"{count:,} of {summary.requests:,} were {told}.")
    first = retried_key(summary.key)
    if summary.stop_reasons.get(CUT, 0) and (from_file or first):
        again = command(folder, "retry", first or summary.key, "--stop-reason", CUT, "--max-tokens", "N")
        lines.append(f"To ask for longer answers, which are paid for: {again}")
    return lines


def _destination(url: str) -> str:
    """Return a destination in short form, if that means the same place."""
    here = near(shown(url))
    try:
        path = os.path.abspath(here) + ("/" if here.endswith("/") else "")  # noqa: PTH100 - a Path drops the slash
        return here if normalize(path) == url else url
    except ConfigError:
        return url
