"""What the tests of whole jobs say: requests, a quick manager, and what must be true of the results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import anthropic

from abatch import BatchManager, Config, Job, Summary
from abatch.journal.folder import JournalFolder
from abatch.journal.ledger import Ledger
from abatch.journal.log import Entry
from abatch.journal.sqlite import SqliteLog
from abatch.protocol.facts import Fact, JobFact
from abatch.protocol.lifecycle import doubt_of
from abatch.sandbox import Sandbox, answer_text

T = TypeVar("T", bound=Fact)


def params(number: int, **more: Any) -> dict[str, Any]:
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 16,
        "messages": [{"role": "user", "content": f"question {number}"}],
        **more,
    }


def requests(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"custom_id": f"row {number}/é", "params": params(number, **more)} for number in range(count)]


def write(rows: list[dict[str, Any]], name: str = "input.jsonl") -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n" for row in rows))
    return path


def config(**more: Any) -> Config:
    quick: dict[str, Any] = {
        "requests_per_batch": 10,
        "poll_interval": timedelta(milliseconds=20),
        "poll_interval_max": timedelta(milliseconds=200),
        "grace": timedelta(seconds=0.3),
    }
    return Config(**{**quick, **more})


def manager(**more: Any) -> BatchManager:
    return BatchManager(config=config(**more))


def raw_params(row: dict[str, Any]) -> bytes:
    return json.dumps(row["params"], separators=(",", ":"), ensure_ascii=False).encode()


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def assert_each_answered(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """One line per request, and the line belongs to its request."""
    found = lines(path)
    assert Counter(line["custom_id"] for line in found) == Counter(row["custom_id"] for row in rows)
    expected = {row["custom_id"]: answer_text(raw_params(row)) for row in rows}
    for line in found:
        assert line["result"]["message"]["content"][0]["text"] == expected[line["custom_id"]]


def assert_paid_once(api: Sandbox, rows: list[dict[str, Any]]) -> None:
    assert api.account.violated == 0
    assert [api.account.times(raw_params(row)) for row in rows] == [1] * len(rows)


async def run(rows: Any, to: str = "results.jsonl", key: str = "job", **more: Any) -> tuple[Job, Summary]:
    async with manager(**more) as running:
        job = await running.submit(rows, to=to, key=key)
        return job, await job.wait()


async def recorded(kind: type[T]) -> list[T]:
    """The facts of this kind, in the order of the journal."""
    found: list[T] = []
    journal = await SqliteLog.open(JournalFolder(Path(".abatch").absolute()), drive=False)
    await journal.replay(lambda each: found.append(each.fact) if isinstance(each.fact, kind) else None)
    await journal.aclose()
    return found


async def record_wish(shard: int, word: Callable[[int], JobFact]) -> None:
    """Record an operator's word on the attempt of a shard, which it is given, from outside as `abatch resolve` does."""
    journal = await SqliteLog.open(JournalFolder(Path(".abatch").absolute()), drive=False)
    ledger = await Ledger.load(journal, journal.folder)
    record = ledger.shard(shard)
    assert record is not None
    doubt = doubt_of(record.state)
    assert doubt is not None
    await ledger.record(Entry(record.job, word(doubt.attempt)))
    await journal.aclose()


def sdk(api: Sandbox) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=api.url, api_key=api.key, max_retries=0)
