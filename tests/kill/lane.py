"""Plan trials by a seed, run them in several processes at once, and put together what they came to."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from random import Random

from tests.harness.bench import NAMES, medium_of, quick_folder, s3_server, side_by_side
from tests.harness.places import MUST, MUST_OF, loose
from tests.harness.processes import INSTANT, Deed, KillAfter, KillAt, KillNth, Survey, import_everything
from tests.harness.trials import Told, play, try_deaths
from tests.kill.scenarios import Scenario, scenarios
from tests.servers import SeaweedS3


@dataclass(frozen=True)
class Plan:
    """What is tried."""

    media: tuple[str, ...] = NAMES
    kills: int = 400
    """At named places, at least; fewer if there are not so many. Others fall where chance has them, on the way back."""
    random: int = 200
    """At random instants, at least; others at random places."""
    repeat: int = 1
    """How often every scenario is played on each medium."""
    seed: int = 0
    workers: int = 4
    """Processes that try, each its share: a run waits about as long as it works."""


@dataclass
class Row:
    """What deaths at one place came to."""

    kills: Counter[str] = field(default_factory=Counter)
    """By medium."""
    doubled: int = 0
    lost: int = 0
    repeated: int = 0


@dataclass
class Report:
    """What it all came to."""

    rows: defaultdict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    violations: list[str] = field(default_factory=list)
    trials: int = 0
    places: int = 0
    """Named places that a run reaches, on all media together."""
    named: int = 0
    """Kills at named places that can be planned: each place at its first time and its second."""
    met: set[tuple[str, str]] = field(default_factory=set)
    """Those of them at which one was killed."""

    def note(self, medium: str, told: Told) -> None:
        """Add a trial."""
        self.trials += 1
        self.violations += told.violations
        for place in told.kills:
            self.rows[place].kills[medium] += 1
            if is_named(place):
                self.met.add((place, medium))
        if told.kills:
            row = self.rows[told.kills[0]]
            row.doubled += told.doubled
            row.lost += told.lost
            row.repeated += told.repeated

    def kills(self, where: Callable[[str], bool] = lambda _: True) -> int:
        """How many, at such places."""
        return sum(row.kills.total() for place, row in self.rows.items() if where(place))


def is_named(place: str) -> bool:
    """Whether this row of the table is a place in the code, and SIGKILL came alone."""
    return not place.startswith(("(", "SIG"))


def is_instant(place: str) -> bool:
    """Whether this row is of kills at any instant."""
    return place.startswith(INSTANT)


def run(plan: Plan, *, progress: Callable[[Report], None] = lambda _: None) -> Report:
    """Try everything that is planned. What a trial that failed left behind is kept, and named by the violation."""
    report = Report()
    folder = quick_folder()
    with s3_server(folder / "s3", plan.media) as server:
        surveys = _survey(folder, plan, server, report)
        shares = [_Share(plan, number, surveys, folder, server) for number in range(plan.workers)]
        for medium, told in side_by_side([share.play for share in shares]):
            report.note(medium, told)
            progress(report)
    if not report.violations:
        shutil.rmtree(folder)
    return report


# ---- what is tried --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Surveyed:
    """What an undisturbed run does."""

    reached: Counter[str]
    modules: list[str]
    violations: list[str]


def _survey(folder: Path, plan: Plan, server: SeaweedS3 | None, report: Report) -> dict[str, _Surveyed]:
    """Run once into each medium, undisturbed, and count the places."""
    found: dict[str, _Surveyed] = {}
    for name in plan.media:

        def look(name: str = name) -> Iterator[_Surveyed]:
            file = folder / f"survey-{name}.json"
            told = try_deaths(folder / f"survey-{name}", medium_of(name, server), [Survey(file)], plan.seed)
            seen = json.loads(file.read_text()) if file.exists() else {"seen": {}, "modules": []}
            yield _Surveyed(Counter(seen["seen"]), seen["modules"], told.violations)

        (found[name],) = side_by_side([look])
        reached = found[name].reached
        report.violations += found[name].violations
        report.places += len(reached)
        report.named += sum(min(often, 2) for often in reached.values())
        if lacking := loose(name, reached):
            report.violations.append(f"{name}: no run reaches {lacking}; a wrapper of places.py has come loose")
    import_everything([module for survey in found.values() for module in survey.modules])
    return found


@dataclass(frozen=True)
class _Share:
    """What one of the workers tries."""

    plan: Plan
    number: int
    surveys: dict[str, _Surveyed]
    folder: Path
    server: SeaweedS3 | None

    def play(self) -> Iterator[tuple[str, Told]]:
        """Try it; in the worker."""
        media = {name: medium_of(name, self.server) for name in self.plan.media}
        counter = count(1)

        def next_folder() -> Path:
            return self.folder / f"{self.number}-{next(counter)}"

        mine = slice(self.number, None, self.plan.workers)
        for medium, name, scenario, seed in self._scenarios()[mine]:
            yield medium, play(next_folder(), media[medium], scenario, seed, name=name)
        for kills, deaths, counts in (
            (self.plan.kills, islice(self._named(), *mine.indices(sys.maxsize)), is_named),
            (self.plan.random, self._random(), is_instant),
        ):
            left = -(-kills // self.plan.workers)
            while left > 0 and (planned := next(deaths, None)) is not None:
                medium, deeds, seed = planned
                told = try_deaths(next_folder(), media[medium], deeds, seed)
                left -= sum(map(counts, told.kills))
                yield medium, told

    def _scenarios(self) -> list[tuple[str, str, Scenario, int]]:
        chance = Random(f"scenarios {self.plan.seed}")
        return [
            (medium, name, scenario, chance.getrandbits(32))
            for _ in range(self.plan.repeat)
            for medium in self.plan.media
            for name, scenario in scenarios()
        ]

    def _named(self) -> Iterator[tuple[str, tuple[Deed, ...], int]]:
        """Die at a place, in the recovery there again, and in the next one anywhere; the well-known places first."""
        chance = Random(f"named {self.plan.seed}")
        well_known: list[tuple[str, str, int]] = []
        rest: list[tuple[str, str, int]] = []
        for medium, survey in self.surveys.items():
            known = {*MUST, *MUST_OF[medium]}
            for place, often in sorted(survey.reached.items()):
                (well_known if place in known else rest).extend((medium, place, nth) for nth in (1, 2) if nth <= often)
        chance.shuffle(well_known)
        chance.shuffle(rest)
        for medium, place, nth in [*well_known, *rest]:
            anywhere = KillNth(chance.randint(1, self.surveys[medium].reached.total()))
            yield medium, (KillAt(place, nth), KillAt(place, 1), anywhere), chance.getrandbits(32)

    def _random(self) -> Iterator[tuple[str, tuple[Deed, ...], int]]:
        """Die anywhere, up to three times in a row; without end."""
        chance = Random(f"random {self.plan.seed} {self.number}")
        while True:
            medium = chance.choice(self.plan.media)
            total = self.surveys[medium].reached.total()
            deeds: list[Deed] = []
            for _ in range(chance.randint(1, 3)):
                match chance.randrange(4):
                    case 0:
                        deeds.append(KillNth(chance.randint(1, total)))
                    case 1 | 2:
                        deeds.append(KillAfter(chance.uniform(0.0, 0.5)))
                    case _:
                        deeds.append(KillAfter(chance.uniform(0.4, 1.6), real=True))
            yield medium, tuple(deeds), chance.getrandbits(32)
