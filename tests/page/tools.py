"""The programs of the lane: Debian's chromium, and axe-core from npm, which is unpacked into `.venvs/axe`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
AXE = ROOT / ".venvs" / "axe"


def chromium() -> str:
    """Return the path of chromium; install Debian's package if it is missing."""
    if (found := shutil.which("chromium")) is not None:
        return found
    subprocess.run(["apt-get", "install", "--yes", "--quiet", "chromium"], check=True)
    installed = shutil.which("chromium")
    if installed is None:
        sys.exit("chromium is missing: install Debian's package `chromium`")
    return installed


def axe() -> str:
    """Return the script of axe-core; download it if it is missing."""
    script = AXE / "package" / "axe.min.js"
    if not script.exists():
        AXE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", "axe-core@4"], cwd=AXE, check=True)
        (packed,) = AXE.glob("axe-core-*.tgz")
        with tarfile.open(packed) as archive:
            archive.extract("package/axe.min.js", AXE, filter="data")
        packed.unlink()
    return script.read_text()
