"""Search every configuration and print what it came to: `python -m tests.model`, with `--long` the long ones, too.

Exits 1 if a safe configuration broke, was hardly searched or came to no end, or one that must break did not.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor

from tests.model.configurations import BROKEN, LONG, SAFE, WAITING, Least
from tests.model.search import Findings, explore

ROW = "{:<74} {:>8} {:>9} {:>7}  {}"


def main() -> int:
    """The exit status."""
    safe = {**SAFE, **LONG} if "--long" in sys.argv[1:] else SAFE
    print(ROW.format("configuration", "states", "moves", "seconds", "result"))
    with ProcessPoolExecutor() as pool:  # the longest first, so that none is left to run alone
        longest = sorted(safe, key=lambda each: -safe[each].states)
        found = [_told(findings) for findings in pool.map(explore, [*longest, *BROKEN])]
    for findings in found:
        if findings.violation is not None:
            print(f"\n{findings.told()}")
    hollow = [each.configuration.name for each in found if _is_hollow(each, safe.get(each.configuration))]
    if hollow:
        print(f"\nfewer states or ends, or other rows of the tables, than there must be: {hollow}")
    return int(bool(hollow) or any(each.violation != each.configuration.breaks for each in found))


def _is_hollow(findings: Findings, least: Least | None) -> bool:
    if least is None:
        return False
    no_end = not findings.settled or (findings.configuration in WAITING and not findings.held)
    return no_end or findings.states < least.states or set(findings.rules) != least.rules


def _told(findings: Findings) -> Findings:
    configuration = findings.configuration
    result = findings.violation or "safe"
    if findings.violation != configuration.breaks:
        result += f", BUT MUST BE {configuration.breaks or 'safe'}"
    seconds = f"{findings.seconds:.1f}"
    print(ROW.format(configuration.name, findings.states, findings.moves, seconds, result), flush=True)
    return findings


if __name__ == "__main__":
    sys.exit(main())
