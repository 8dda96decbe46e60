"""One job: its state, its batches, why requests failed, and its results."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import msgspec

from abatch.open_job import OpenJob
from abatch.result import Result
from abatch.service.page.overview import job_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from abatch.service.state import State

__all__ = ["detail"]

BATCHES: Final = 200
"""Batches that a page shows at most: those with something left to do come first."""
LINES: Final = 20
"""Results of one page."""
LOOKED_AT: Final = 20_000
"""Result lines that one page reads at most, in search of those that it shows."""
LONGEST: Final = 20_000
"""Characters of a result that a page shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A result, as the page shows it."""

    custom_id: str
    outcome: str
    text: str
    """The answer, or the error, in short."""
    pretty: str
    """The whole line as indented JSON."""


async def detail(state: State, key: str, query: Mapping[str, str], rights: frozenset[str]) -> dict[str, Any]:
    """Return what the template of a job needs.

    Args:
        state: the state of the service.
        key: the job.
        query: what of its results to show, in the names of the URL: `id`, `failed`, `cursor`.
        rights: what the reader may do.

    Raises:
        JobNotFound: there is no such job.

    """
    view = state.view
    await view.refresh()
    job = view.job(key)
    batches = view.open_shards(key)
    waits = {} if view.driver is None else view.driver.waiting
    failures = await view.failures(key) if job.progress.failed else ()
    shown, cursor, why = await _results(state, key, query)
    more = None if cursor is None else "?" + urlencode({**_filter(query), "cursor": cursor}) + "#results"
    return {
        **await job_row(state, job),
        "summary": view.summary(key),
        "batches": batches[:BATCHES],
        "hidden": max(len(batches) - BATCHES, 0),
        "waits": waits,
        "failures": failures,
        "query": {name: query.get(name, "") for name in ("id", "failed")},
        "results": shown,
        "results_why": why,
        "more": more,
        "path": quote(key, safe=""),
        "is_open": isinstance(state.manager.job(key), OpenJob) and not job.done,
        "may_steer": "steer" in rights,
    }


def _filter(query: Mapping[str, str]) -> dict[str, str]:
    return {name: query[name] for name in ("id", "failed") if query.get(name)}


async def _results(state: State, key: str, query: Mapping[str, str]) -> tuple[list[Shown], int | None, str]:
    """Return results that match, the place of the next ones if there may be more, and why none can be read."""
    begin = query.get("cursor", "")
    first = int(begin) if begin.isascii() and begin.isdecimal() and len(begin) < 16 else 0
    wanted, failed = query.get("id", ""), query.get("failed") == "1"
    found: list[Shown] = []
    place = 0
    try:
        async with aclosing(state.view.lines(key, failed=failed)) as lines:
            async for line in lines:
                place += 1
                if place <= first:
                    continue
                if len(found) == LINES:
                    return found, place - 1, ""
                if place > first + LOOKED_AT:
                    return found, place - 1, f"{LOOKED_AT:,} results were searched; the next ones are one click away."
                if wanted and wanted.encode() not in line:
                    continue
                result = Result(line)
                if wanted in result.custom_id:
                    found.append(_shown(result))
    except Exception as error:  # noqa: BLE001 - a destination that fails must not hide the rest of the page
        return found, None, f"The results cannot be read: {error}"
    return found, None, ""


def _shown(result: Result) -> Shown:
    text = result.text
    if text is None:
        error = result.error
        text = "" if error is None else f"{error.type}: {error.message}"
    pretty = msgspec.json.format(result.raw, indent=2).decode("utf-8", "replace")
    if len(pretty) > LONGEST:
        pretty = pretty[:LONGEST] + f"\n… {len(pretty) - LONGEST:,} more characters"
    return Shown(custom_id=result.custom_id, outcome=result.outcome, text=text[:300], pretty=pretty)
