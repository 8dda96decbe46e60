"""Signals that are not kills, and two runs on one journal. Each scenario is one trial that ends as every trial does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from abatch.engine import upload
from tests.harness.processes import Deed, Ended, KillAt
from tests.harness.trials import Trial, facts_of

OK, STUCK, INTERRUPTED = 0, 3, 130
GATE = 1.0
"""The gate's minute, in the runs that stand still for longer."""
STOPS = ("before Committing", "after Committing", "tail sent", "answered", "draining", "before seal", "before finish")
PLACES = (
    "before claim",
    "before Cut",
    "uploading",
    "gate",
    "after Committing",
    "tail sent",
    "draining",
    "before fsync",
)

Scenario = Callable[[Trial], None]


@dataclass(frozen=True)
class _BehindTheGate(KillAt):
    """Stand still in a run whose gate is short."""

    def prepare(self) -> None:
        upload.GATE_WITHIN = GATE  # type: ignore[misc]


@dataclass(frozen=True)
class _AtTheSameInstant(Deed):
    """Begin when the other one does."""

    starter: int
    """Read end of a pipe that is closed, at its other end, at the start."""
    parents_end: int

    def prepare(self) -> None:
        os.close(self.parents_end)
        os.read(self.starter, 1)


def scenarios() -> list[tuple[str, Scenario]]:
    """Every one of them, by name."""
    found: list[tuple[str, Scenario]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        name = signal.Signals(number).name
        found += [(f"{name} at {place}", _interrupted(place, number)) for place in PLACES]
        found.append((f"{name} twice", _interrupted("tail sent", number, number)))
    found += [(f"SIGSTOP, SIGCONT at {place}", _paused(place)) for place in STOPS]
    found += [
        ("SIGSTOP between gate and tail, past the gate", _paused_past_the_gate),
        ("second run while the first stands still", _second_run),
        ("first run killed while it stands still", _killed_while_it_stands),
        ("two runs at the same instant", _two_at_once),
        ("three runs at the same instant", _three_at_once),
    ]
    return found


def _interrupted(place: str, *sent: int) -> Scenario:
    def scenario(trial: Trial) -> None:
        ended = trial.run(KillAt(place, 2 if place != "before claim" else 1, sent))
        _expect(trial, ended, INTERRUPTED)
        if len(sent) == 1:
            open_ = _unanswered(trial)
            if open_:
                trial.violate(f"it left {open_} attempts past their commit point without their answer")

    return scenario


def _paused(place: str) -> Scenario:
    def scenario(trial: Trial) -> None:
        deed = KillAt(place, 1, (signal.SIGSTOP,))
        run = trial.start(deed)
        if not run.stopped():
            trial.violate("it did not stand still")
        run.send(signal.SIGCONT)
        _expect(trial, trial.ended(run, deed), OK)

    return scenario


def _paused_past_the_gate(trial: Trial) -> None:
    deed = _BehindTheGate("after Committing", 1, (signal.SIGSTOP,))
    run = trial.start(deed)
    if not run.stopped():
        trial.violate("it did not stand still")
    time.sleep(GATE * 1.2)
    before = len(trial.api.account()["created"])
    run.send(signal.SIGCONT)
    _expect(trial, trial.ended(run, deed), OK)
    facts = facts_of(trial.home)
    first = next(number for number, fact in enumerate(facts) if fact["type"] == "Committing")
    withdrawn = [fact for fact in facts[first:] if fact["type"] == "Withdrawn"]
    if before or not withdrawn or withdrawn[0]["why"] != "the tail was never sent":
        trial.violate(f"the tail was sent after a pause of more than the gate: {withdrawn}, {before} batches")


def _second_run(trial: Trial) -> None:
    deed = KillAt("after Committing", 1, (signal.SIGSTOP,))
    first = trial.start(deed)
    if not first.stopped():
        trial.violate("it did not stand still")
    before = facts_of(trial.home)
    second = trial.run(Deed())
    _expect(trial, second, STUCK)
    _expect_pid(trial, second, {first.pid})
    if facts_of(trial.home) != before:
        trial.violate("the second run wrote into the journal")
    first.send(signal.SIGCONT)
    _expect(trial, trial.ended(first, deed), OK)


def _killed_while_it_stands(trial: Trial) -> None:
    deed = KillAt("tail sent", 1, (signal.SIGSTOP,))
    first = trial.start(deed)
    if not first.stopped():
        trial.violate("it did not stand still")
    _expect(trial, trial.run(Deed()), STUCK)
    first.send(signal.SIGKILL)
    trial.ended(first, deed)


def _two_at_once(trial: Trial) -> None:
    _at_once(trial, 2)


def _three_at_once(trial: Trial) -> None:
    _at_once(trial, 3)


def _at_once(trial: Trial, count: int) -> None:
    starter, parents_end = os.pipe()
    deed = _AtTheSameInstant(starter, parents_end)
    runs = [trial.start(deed) for _ in range(count)]
    os.close(starter)
    os.close(parents_end)
    ended = [trial.ended(run, deed) for run in runs]
    if OK not in [each.status for each in ended]:
        trial.violate(f"none of them ran: {[each.status for each in ended]}")
    for each in ended:
        if each.status != OK:
            _expect(trial, each, STUCK)
            _expect_pid(trial, each, {run.pid for run in runs})


def _expect(trial: Trial, ended: Ended, status: int) -> None:
    if ended.status != status:
        trial.violate(f"it ended with {ended.status}, not {status}: {ended.err.decode()[-1500:]}")


def _expect_pid(trial: Trial, ended: Ended, pids: set[int]) -> None:
    if not any(f"process {pid} drives this journal".encode() in ended.err for pid in pids):
        trial.violate(f"it names none of the processes {pids}: {ended.err.decode()[-500:]}")


def _unanswered(trial: Trial) -> int:
    """Attempts past their commit point that no later fact of their shard settles."""
    kinds = [fact["type"] for fact in facts_of(trial.home)]
    return kinds.count("Committing") - sum(kinds.count(kind) for kind in ("Accepted", "Withdrawn", "Found"))
