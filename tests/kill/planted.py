"""Whether the judges would find it: one fault after another is planted in a job that is done. `-m tests.kill.planted`

Exits 1 if one is not found, or if they find one where none is.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable

from tests.harness.bench import medium_of, quick_folder, side_by_side
from tests.harness.processes import Deed
from tests.harness.secrets import KEY, PROMPT
from tests.harness.trials import Told, Trial, play

Plant = Callable[[Trial], None]


def nothing(_: Trial) -> None:
    """All is well."""


def lose_a_line(trial: Trial) -> None:
    """The last line goes."""
    path = trial.home / "results.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def repeat_a_line(trial: Trial) -> None:
    """The first line stands twice."""
    path = trial.home / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[0]]))


def mix_up_two(trial: Trial) -> None:
    """Two requests get each other's answer."""
    path = trial.home / "results.jsonl"
    first, second, *others = map(json.loads, path.read_bytes().splitlines())
    first["custom_id"], second["custom_id"] = second["custom_id"], first["custom_id"]
    path.write_text("".join(json.dumps(line) + "\n" for line in (first, second, *others)))


def pay_twice(trial: Trial) -> None:
    """Another journal sends the same requests."""
    Trial(trial.folder / "other", trial.medium, trial.api).run(Deed())


def tell_the_key(trial: Trial) -> None:
    """The key stands in a file."""
    _private(trial, KEY)


def keep_a_prompt(trial: Trial) -> None:
    """A prompt stays behind."""
    _private(trial, PROMPT)


def open_a_file(trial: Trial) -> None:
    """Others may read the results."""
    (trial.home / "results.jsonl").chmod(0o644)


def _private(trial: Trial, text: str) -> None:
    path = trial.home / ".abatch" / "note"
    path.touch(mode=0o600)
    path.write_text(f"so it was {text}.")


PLANTS: tuple[tuple[Plant, Callable[[Told], bool]], ...] = (
    (nothing, lambda told: not told.violations),
    (lose_a_line, lambda told: told.lost == 1),
    (repeat_a_line, lambda told: told.repeated == 1),
    (mix_up_two, lambda told: told.lost == 2 and told.repeated == 2),
    (pay_twice, lambda told: told.doubled > 0),
    (tell_the_key, lambda told: any("API key" in what for what in told.violations)),
    (keep_a_prompt, lambda told: any("prompt" in what for what in told.violations)),
    (open_a_file, lambda told: any("644" in what for what in told.violations)),
)


def main() -> int:
    """Plant and look."""
    folder = quick_folder()

    def look() -> list[str]:
        unseen: list[str] = []
        for plant, is_found in PLANTS:

            def scenario(trial: Trial, plant: Plant = plant) -> None:
                trial.run(Deed())
                plant(trial)

            told = play(folder / plant.__name__, medium_of("jsonl", None), scenario, 3, name=plant.__name__)
            if not is_found(told):
                unseen.append(f"{plant.__name__}: {told}")
        return unseen

    (unseen,) = side_by_side([lambda: iter([look()])])
    shutil.rmtree(folder)
    for each in unseen:
        print(f"NOT SEEN {each}")
    print(f"{len(PLANTS)} planted, {len(unseen)} not seen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
