"""How hard the hostile tests try: quick by default, long with ABATCH_LONG=1."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "hostile",
    deadline=None,
    derandomize=os.environ.get("ABATCH_LONG") != "1",
    database=None,
    max_examples=3_000 if os.environ.get("ABATCH_LONG") == "1" else 150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.load_profile("hostile")
