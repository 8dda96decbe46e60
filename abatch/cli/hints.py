"""Read options as people type them: by their earlier names, and with a hint for an unknown name.

The hint names visible options that begin like the unknown one or resemble it.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final

from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["HintingCommand", "nearest"]

ALIKE: Final = 0.7
"""The least similarity of two names, of 1: `quite` and `quiet` have 0.8. Dashes before them do not count."""
BEGINNING: Final = 2
"""The fewest letters that count as the beginning of a name, or as one word of it."""
MOST: Final = 3
OLD_SPELLINGS: Final[Mapping[str, str]] = {
    "--max-batch-requests": "--requests-per-batch",
    "--max-batch-bytes": "--bytes-per-batch",
    "--max-tries": "--tries",
    "--strict": "--params=strict",
    "--unchecked": "--params=unchecked",
    "--workspace": "--workspace-id",
}
"""Earlier names of options, which shell histories and scripts still have; no help text shows them."""


def nearest(unknown: str, options: Iterable[str]) -> list[str]:
    """Return the options that an unknown one may mean, the most similar first; empty if no name is similar."""
    wrong = unknown.lstrip("-").lower()
    found: list[tuple[float, str]] = []
    for option in options:
        name = option.lstrip("-")
        named = len(wrong) >= BEGINNING and (name.startswith(wrong) or wrong in name.split("-"))
        likeness = 1.0 if named else SequenceMatcher(None, wrong, name).ratio()
        if likeness >= ALIKE:
            found.append((-likeness, option))
    return [option for _, option in sorted(found)[:MOST]]


def renamed(args: Iterable[str]) -> list[str]:
    """Give the options among these arguments their present names; arguments after `--` are not options."""
    made: list[str] = []
    rest = iter(args)
    for argument in rest:
        name, equals, value = argument.partition("=")
        made.append(f"{OLD_SPELLINGS.get(name, name)}{equals}{value}")
        if argument == "--":
            break
    return [*made, *rest]


class HintingCommand(TyperCommand):
    """A command that accepts old names of options, and whose message about an unknown one names visible ones."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer has its own copy of click, or not
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, renamed(args))
        except Exception as failure:
            wrong: Any = failure  # NoSuchOption, of click or of typer's own copy of it
            if hasattr(wrong, "possibilities"):
                wrong.possibilities = nearest(wrong.option_name, self._visible(ctx))
            raise

    def _visible(self, ctx: Any) -> list[str]:  # noqa: ANN401 - as above
        shown = [each for each in self.get_params(ctx) if not getattr(each, "hidden", False)]
        return [name for each in shown for name in (*each.opts, *each.secondary_opts) if name.startswith("--")]
