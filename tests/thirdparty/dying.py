"""Run the command line and die by SIGKILL around the nth of a backend's steps: `python dying.py STEP NTH run …`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import abatch_zip

STEP, NTH = sys.argv[1], int(sys.argv[2])
passed = 0
original = abatch_zip.ZipArchive.run


def reach(step: str) -> None:
    global passed  # noqa: PLW0603
    passed += step == STEP
    if passed == NTH:
        os.kill(os.getpid(), signal.SIGKILL)


async def run(self: Any, work: Any, /, *args: Any, **kwargs: Any) -> Any:
    reach(f"before {work.__name__}")
    done = await original(self, work, *args, **kwargs)
    reach(f"after {work.__name__}")
    return done


abatch_zip.ZipArchive.run = run  # type: ignore[method-assign]
sys.argv = ["abatch", *sys.argv[3:]]
from abatch.__main__ import main  # noqa: E402

main()
