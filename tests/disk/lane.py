"""Play one job after another on a disk that fails at its nth effect, then on one that is well again.

The failing run must end by itself, with an error of abatch that says what to do, and must not write the journal again;
the next run must find everything, and pay for nothing twice. The judges are those of `tests.harness.trials`.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.disk.faults import AGAIN, EFFECTS, FailAt, Fault, ShortOf
from tests.harness.bench import medium_of, quick_folder, side_by_side
from tests.harness.places import loose
from tests.harness.processes import Api, Deed, Survey, import_everything
from tests.harness.trials import Trial

NAMES = ("jsonl", "folder", "sqlite")
SHORT = "disk short"
DONE = "done"
"""The ending of a run that no fault ended."""
SIZES = (34_000, 50_000, 80_000, 100_000, 115_000, 130_000, 160_000, 190_000, 220_000, 300_000)
"""Limits of a file's size; below 32 KiB SQLite cannot even begin."""
LEAST = 80
"""Effects on the disk in an undisturbed run; with fewer, faults are hardly made."""
PADDING = 40_000
"""Bytes of a request and of an answer in those runs, so that spool and results reach the limit, too."""
ENDINGS = {
    0: {None},
    2: {"BackendError", "ConfigError"},
    3: {"BackendError", "JobStopped", "JournalError"},
}
"""Errors by exit status; None: the disk failed where it did not matter any more."""
REMEDIES = {"JournalError": ("Free the disk", "cannot be opened"), "JobStopped": ("Free the disk",)}


@dataclass
class Report:
    """What it came to."""

    endings: defaultdict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """How runs ended, by fault and medium."""
    violations: list[str] = field(default_factory=list)

    @property
    def runs(self) -> int:
        return sum(counter.total() for counter in self.endings.values())

    def unfelt(self, media: Sequence[str]) -> list[tuple[str, str]]:
        """Faults, with their media, that ended no run."""
        pairs = [(label, name) for label in (*(fault.label for fault in Fault), SHORT) for name in media]
        return [pair for pair in pairs if self.endings[pair].keys() <= {DONE}]


@dataclass(frozen=True)
class Played:
    """What one trial came to."""

    label: str
    medium: str
    ending: str
    violations: list[str]


def run(media: tuple[str, ...] = NAMES, *, every: int = 5, first: int = 1, workers: int = 4) -> Report:
    """Let every `every`-th effect fail, in every way, beginning with the `first`."""
    report, folder = Report(), quick_folder()
    effects = {name: _effects(folder, name) for name in media}
    import_everything([module for _, modules in effects.values() for module in modules])
    lots: list[tuple[str, Deed]] = []
    for name, (count, _) in effects.items():
        for fault in Fault:
            # past the end, too: what is counted in a survey is not what every run does
            lots += [(name, FailAt(fault, number)) for number in range(first, count + 5, every)]
        lots += [(name, ShortOf(size)) for size in SIZES[:: max(1, every // 10)]]
    shares = [_Share(lots[number::workers], folder / f"{number}") for number in range(workers)]
    for played in side_by_side([share.play for share in shares]):
        report.endings[played.label, played.medium][played.ending] += 1
        report.violations += played.violations
    if not report.violations:
        shutil.rmtree(folder)
    return report


def _effects(folder: Path, name: str) -> tuple[int, list[str]]:
    """How many effects on the disk an undisturbed run has, and what it imports."""
    file = folder / f"survey-{name}.json"

    def look() -> Iterator[list[str]]:
        with Api(1) as api:
            trial = Trial(folder / f"survey-{name}", medium_of(name, None), api)
            trial.run(Survey(file))
            trial.finish()
        yield trial.told.violations

    (violations,) = side_by_side([look])
    if violations:
        raise RuntimeError(f"an undisturbed run into {name} fails: {violations}")
    told = json.loads(file.read_text())
    if lacking := loose(name, told["seen"]):
        raise RuntimeError(f"no run into {name} reaches {lacking}; a wrapper of tests/harness/places.py has come loose")
    count = sum(often for place, often in told["seen"].items() if place.startswith(EFFECTS))
    if count < LEAST:
        raise RuntimeError(f"a run into {name} has {count} effects on the disk, not {LEAST}")
    return count, told["modules"]


@dataclass(frozen=True)
class _Share:
    """What one of the workers plays."""

    lots: list[tuple[str, Deed]]
    folder: Path

    def play(self) -> Iterator[Played]:
        for number, (name, deed) in enumerate(self.lots):
            yield play(self.folder / f"{number}", name, deed)


def play(folder: Path, name: str, deed: Deed) -> Played:
    """A run on a failing disk, and one on a disk that is well."""
    padding = PADDING if isinstance(deed, ShortOf) else 0
    with Api(1, answer_bytes=padding) as api:
        trial = Trial(folder, medium_of(name, None), api, padding=padding)
        ending = "none"
        try:
            ended = trial.run(deed)
            told = json.loads(ended.out) if ended.out else {"error": {"type": "nothing on stdout", "text": ""}}
            error = told["error"]
            ending = DONE if error is None else error["type"]
            kind = None if error is None else error["type"]
            if kind not in ENDINGS.get(ended.status, set()):
                trial.violate(f"exit {ended.status} with {error}: {ended.err.decode()[-1500:]}")
            elif kind in REMEDIES and not any(words in error["text"] for words in REMEDIES[kind]):
                trial.violate(f"it does not say what to do: {error['text']}")
            for words in (b"Traceback", b"should not happen", AGAIN):
                if words in ended.err and not trial.told.violations:
                    trial.violate(f"{words.decode()!r}: {ended.err.decode()[-2500:]}")
            trial.finish()
        except Exception as failure:  # noqa: BLE001 - told with its trial
            trial.violate(f"{type(failure).__name__}: {failure}")
    if trial.told.violations:
        violations = [f"{name}: {deed}: {what}  [{folder}]" for what in trial.told.violations]
    else:
        violations = []
        shutil.rmtree(folder)
    label = deed.fault.label if isinstance(deed, FailAt) else SHORT
    return Played(label, name, ending, violations)
