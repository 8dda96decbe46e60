"""The Grafana dashboard and the Prometheus rules in docs/ops: every metric in them exists; see also `make ops`."""

from __future__ import annotations

import re

import pytest

from abatch.service.metrics import Metrics
from tests.docs.pages import ROOT

OPS = ROOT / "docs" / "ops"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


def names() -> set[str]:
    families = Metrics().registry.collect()
    return {family.name + suffix for family in families for suffix in SUFFIXES[family.type]}


@pytest.mark.parametrize("file", ["rules.yml", "grafana.json"])
def test_every_metric_of_the_rules_and_the_dashboard_exists(file: str) -> None:
    used = set(re.findall(r"\babatch_[a-z_]+\b", (OPS / file).read_text()))
    assert len(used) > 5
    assert used <= names()


def test_the_page_of_the_service_names_every_metric() -> None:
    text = (ROOT / "docs" / "serve.md").read_text()
    told = set(re.findall(r"`(abatch_[a-z_]+)(?:\{[a-z,]+\})?`", text))
    assert told == {name.removesuffix("_bucket") for name in names() if not name.endswith(("_sum", "_count"))}
