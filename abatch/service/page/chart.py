"""The last 24 hours as a strip of SVG: what was sent, what came back, and what of it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from abatch.service.activity import Part

__all__ = ["strip"]

WIDTH: Final = 960
HEIGHT: Final = 64
HALF: Final = HEIGHT // 2
"""Sent above the line, results below it."""


def strip(parts: Sequence[Part]) -> Markup:
    """Return the picture; its bars have classes, and the stylesheet has their colours."""
    most = max((max(part.submitted, part.sealed) for part in parts), default=0) or 1
    step = WIDTH / max(len(parts), 1)
    bars: list[str] = []

    def bar(kind: str, left: float, top: float, height: float) -> None:
        if height:
            bars.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{step - 1:.1f}" height="{height:.1f}"/>'
            )

    for number, part in enumerate(parts):
        left = number * step
        sent, done, failed = (
            max(value and 1, HALF * value / most) for value in (part.submitted, part.sealed, part.failed)
        )
        bar("sent", left, HALF - sent, sent)
        bar("done", left, HALF + 1, done)
        bar("failed", left, HALF + 1, failed)
    sums = [f"{sum(getattr(part, name) for part in parts):,}" for name in ("submitted", "sealed", "failed")]
    label = "In the last 24 hours: {} requests sent, {} results, {} of them failed".format(*sums)
    return Markup(  # noqa: S704 - numbers only
        f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<line class="axis" x1="0" y1="{HALF}" x2="{WIDTH}" y2="{HALF}"/>{"".join(bars)}</svg>'
    )
