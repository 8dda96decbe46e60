#!/bin/sh
# Run the suite against the built wheel, from a folder that holds nothing but the tests.
set -eu
python=${1:-python3}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
pip="$work/venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --upgrade 'pip>=25.1' build
"$work/venv/bin/python" -m build --outdir "$work/dist" "$here" > /dev/null
$pip install "$(ls "$work"/dist/*.whl)[all]"
for part in tests benchmarks examples docs README.md mkdocs.yml pyproject.toml Makefile Dockerfile .github .pre-commit-config.yaml; do cp -R "$here/$part" "$work/"; done
(cd "$work" && $pip install --group test --group docs --group lint)
cd "$work" && "$work/venv/bin/python" -m pytest -p no:cacheprovider
