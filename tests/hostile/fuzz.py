"""Look for bytes that break a property, guided by coverage: `python -m tests.hostile.fuzz --seconds 60`.

The properties are those of the Hypothesis tests. Each target runs in a process of its own, for its share of the
seconds, from a few seeds. Needs atheris, which `make fuzz` installs; exit status 2 without it, 1 for a finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["main"]


def main() -> int:
    """The exit status."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=int, default=60, help="for all targets together")
    options.add_argument("--target", help="this one alone")
    options.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("fuzzing needs atheris, which is not installed here: make fuzz")
        return 2
    if asked.inside is not None:
        return _fuzz(asked.target, asked.seconds, asked.inside)
    from tests.hostile.targets import SEEDS

    chosen = [asked.target] if asked.target else list(SEEDS)
    return max(_run(name, SEEDS[name], max(asked.seconds // len(chosen), 1)) for name in chosen)


def _run(name: str, seeds: list[bytes], seconds: int) -> int:
    """Fuzz one target in a process of its own, and say what it came to; that it did nothing is a failure, too."""
    with tempfile.TemporaryDirectory(prefix="abatch-fuzz-") as folder:
        for number, seed in enumerate(seeds):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        command = [
            sys.executable,
            "-m",
            "tests.hostile.fuzz",
            "--target",
            name,
            "--seconds",
            str(seconds),
            "--inside",
            folder,
        ]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        executed = re.search(r"number_of_executed_units: (\d+)", ended.stderr)
        covered = re.findall(r"cov: (\d+)", ended.stderr)
        print(
            f"{name:<14} {executed[1] if executed else '?':>9} executions, {covered[-1] if covered else '?'} branches",
            flush=True,
        )
        if not ended.returncode and executed and int(executed[1]) > len(seeds) and covered:
            return 0
        print(f"{ended.stdout}\n{ended.stderr}")
        for found in Path(folder).glob("found-*"):
            print(f"{name}: {found.read_bytes()!r}")
    return 1


def _fuzz(name: str, seconds: int, folder: Path) -> int:
    """Never returns where it works: the fuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["abatch", "abatch_backends"]):
        from tests.hostile.targets import TARGETS
    arguments = [
        f"-max_total_time={seconds}",
        "-print_final_stats=1",
        "-timeout=10",
        f"-artifact_prefix={folder}/found-",
    ]
    atheris.Setup([name, *arguments, str(folder)], TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
