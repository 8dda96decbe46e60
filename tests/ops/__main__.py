"""Check docs/ops with `promtool` of Debian's package `prometheus`, which is unpacked into `.venvs/prometheus`.

Prometheus reads the rules, each alert fires on its trouble and on nothing else, and every expression of the dashboard
is one that Prometheus understands.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPS = ROOT / "docs" / "ops"
UNPACKED = ROOT / ".venvs" / "prometheus"
PROMTOOL = UNPACKED / "usr" / "bin" / "promtool"


def unpack() -> None:
    """Download the package, and unpack it without installing it."""
    UNPACKED.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "--quiet", "prometheus"], cwd=UNPACKED, check=True)
    (package,) = UNPACKED.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, UNPACKED], check=True)
    package.unlink()


def expressions() -> list[str]:
    """Return the expressions of the dashboard."""
    panels = json.loads((OPS / "grafana.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def main() -> None:
    """Run every check; the first that fails ends the program with its status."""
    if not PROMTOOL.exists():
        unpack()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(OPS / "rules.yml", folder)
        shutil.copy(Path(__file__).with_name("alerts.yml"), folder)
        rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions())]
        Path(folder, "panels.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
        for words in (["check", "rules", "rules.yml", "panels.yml"], ["test", "rules", "alerts.yml"]):
            checked = subprocess.run([PROMTOOL, *words], cwd=folder, check=False)
            if checked.returncode:
                sys.exit(checked.returncode)


if __name__ == "__main__":
    main()
