"""A trial: one job on one medium, run and killed, run and killed, and at last run to its end; then what is true.

Judges are the sandbox's account, the medium read without abatch, the journal read with `sqlite3`, and a search for
secrets. None of them asks abatch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from abatch.sandbox.answers import answer_text
from tests.harness import secrets
from tests.harness.media import Answer, Medium
from tests.harness.processes import Api, Deed, Ended, Run
from tests.servers import SeaweedS3

ROWS = 11
RETRIED = 2
"""This row's first try fails for a passing reason, so that a retry shard is part of every job."""
FAILS_ONCE = "sandbox:errored-once:overloaded_error"

LONG = 900
"""Characters of a violation."""


@dataclass
class Told:
    """What a trial came to."""

    kills: list[str] = field(default_factory=list)
    """Where it was killed."""
    violations: list[str] = field(default_factory=list)
    doubled: int = 0
    """Requests that were accepted while an earlier acceptance stood."""
    lost: int = 0
    repeated: int = 0


class Trial:
    """The folder of one job, its API and its runs."""

    def __init__(self, folder: Path, medium: Medium, api: Api, *, padding: int = 0) -> None:
        self.folder, self.medium, self.api = folder, medium, api
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.told = Told()
        self.runs: list[Ended] = []
        self._started = 0
        self._seen: set[Answer] = set()
        self.rows = [_row(number, padding) for number in range(ROWS)]
        lines = [json.dumps(row, separators=(",", ":"), ensure_ascii=False) for row in self.rows]
        (self.home / secrets.INPUT).write_text("".join(f"{line}\n" for line in lines))

    def start(self, deed: Deed) -> Run:
        """Begin a run."""
        self._started += 1
        said = self.folder / f"run-{self._started}"
        arguments = [
            "run", secrets.INPUT, "--to", self.medium.destination(self.home), "--key", "job", "--json",
            "--requests-per-batch", "5", "--poll-interval", "0.03", "--grace", "0.3",
        ]  # fmt: skip
        env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(self.folder),
            "ANTHROPIC_BASE_URL": self.api.url,
            "ANTHROPIC_API_KEY": secrets.KEY,
            "AWS_ACCESS_KEY_ID": SeaweedS3.access_key,
            "AWS_SECRET_ACCESS_KEY": secrets.STORAGE,
            "ABATCH_LOG": "debug",
        }
        return Run(arguments, self.home, env, deed, said=said)

    def run(self, deed: Deed) -> Ended:
        """One run from beginning to end; a kill is counted, and what it leaves is looked at."""
        return self.ended(self.start(deed), deed)

    def ended(self, run: Run, deed: Deed) -> Ended:
        """Wait for a run's end."""
        ended = run.ended()
        self.runs.append(ended)
        if ended.killed and signal.SIGKILL in getattr(deed, "sent", [signal.SIGKILL]):
            self.told.kills.append(deed.label)
        self._look(at_rest=False)
        return ended

    def finish(self) -> Told:
        """Run to the end, and judge."""
        ended = self.run(Deed())
        if ended.status != 0:
            self.violate(f"the last run ended with {ended.status}: {ended.err.decode()[-1500:]}")
            if not ended.out or json.loads(ended.out)["state"] != "done":
                return self.told
        self.judge(ended)
        return self.told

    def judge(self, ended: Ended) -> None:
        """What must be true of a job that is done."""
        summary = json.loads(ended.out)
        if (summary["state"], summary["succeeded"]) != ("done", ROWS):
            self.violate(f"the summary says {summary}")
        self._judge_account()
        self._judge_medium()
        self._judge_journal()
        self._look(at_rest=True)

    def violate(self, what: str) -> None:
        """Something is not as promised; the folder of the trial, which stays, has the whole of it."""
        line = " ".join(what.split())
        self.told.violations.append(line if len(line) < LONG else f"{line[: LONG // 3]} … {line[-LONG // 2 :]}")

    def _judge_account(self) -> None:
        account = self.api.account()
        for number, row in enumerate(self.rows):
            digest = blake2b(_raw_params(row), digest_size=16).hexdigest()
            often, wanted = account["often"].get(digest, 0), 1 + (number == RETRIED)
            if often != wanted:
                self.told.doubled += often > wanted
                self.violate(f"request {number} was accepted {often} times, not {wanted}")
        if account["violated"]:
            self.told.doubled = max(self.told.doubled, account["violated"])
            self.violate(f"{account['violated']} requests were accepted while an earlier acceptance stood")

    def _judge_medium(self) -> None:
        found = Counter(self.medium.answers(self.home))
        wanted = Counter((row["custom_id"], answer_text(_raw_params(row), self.api.answer_bytes)) for row in self.rows)
        self.told.lost += (wanted - found).total()
        self.told.repeated += (found - wanted).total()
        if found != wanted:
            self.violate(f"lost: {sorted(wanted - found)}; too many: {sorted(found - wanted)}")
        if not self.medium.is_complete(self.home):
            self.violate("the medium does not say that the job is done, or something was left behind")

    def _judge_journal(self) -> None:
        facts = facts_of(self.home)
        bound = [fact["batch_id"] for fact in facts if fact["type"] in ("Accepted", "Found")]
        created = self.api.account()["created"]
        if sorted(bound) != sorted(created):
            self.violate(f"the API made {created}, the journal knows {bound}")
        if left := [path.name for path in (self.home / ".abatch" / "spool").iterdir()]:
            self.violate(f"left in the spool: {left}")

    def _look(self, *, at_rest: bool) -> None:
        """After every run, however it ended: visible lines stay, no secret is told, nothing is open to others."""
        seen = set(self.medium.answers(self.home))
        if gone := self._seen - seen:
            self.violate(f"lines that could be seen are gone: {sorted(gone)}")
        self._seen = seen
        for what in self._told_secrets(at_rest=at_rest):
            self.violate(what)
        for what in secrets.open_to_others(self.home):
            self.violate(what)

    def _told_secrets(self, *, at_rest: bool) -> Iterator[str]:
        yield from secrets.found_in_files(self.home, at_rest=at_rest)
        for name, content in self.medium.contents(self.home):
            yield from secrets.found_in(name, content)
        for path in self.folder.glob("run-*"):
            yield from secrets.found_in(path.name, path.read_bytes())


def facts_of(home: Path) -> list[dict[str, Any]]:
    """The facts of a job's journal, in order."""
    with closing(sqlite3.connect(home / ".abatch" / "journal.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [json.loads(fact) for (fact,) in database.execute("SELECT fact FROM facts ORDER BY seq")]


def try_deaths(folder: Path, medium: Medium, deeds: Sequence[Deed], seed: int) -> Told:
    """Run once per deed, as long as each is killed by it; then a run that must finish."""

    def deaths(trial: Trial) -> None:
        for deed in deeds:
            ended = trial.run(deed)
            if not ended.killed:
                if ended.status != 0:
                    trial.violate(f"a run ended with {ended.status}: {ended.err.decode()[-1500:]}")
                break

    return play(folder, medium, deaths, seed, name=", then ".join(map(str, deeds)))


def play(folder: Path, medium: Medium, scenario: Callable[[Trial], None], seed: int, *, name: str) -> Told:
    """One trial: whatever the scenario does, then a run that must finish. The folder of one that failed stays."""
    with Api(seed) as api:
        trial = Trial(folder, medium, api)
        try:
            scenario(trial)
            trial.finish()
        except Exception as failure:  # noqa: BLE001 - told with its trial
            trial.violate(f"{type(failure).__name__}: {failure}")
    told = trial.told
    if told.violations:
        told.violations = [f"{medium.name}: {name}: {what}  [{folder}]" for what in told.violations]
    else:
        shutil.rmtree(folder)
    return told


def _row(number: int, padding: int) -> dict[str, Any]:
    params: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": f"{secrets.PROMPT}: question {number}{' and more' * (padding // 9)}"}],
    }
    if number == RETRIED:
        params["metadata"] = {"user_id": FAILS_ONCE}
    return {"custom_id": f"row {number}/é", "params": params}


def _raw_params(row: dict[str, Any]) -> bytes:
    return json.dumps(row["params"], separators=(",", ":"), ensure_ascii=False).encode()
