"""Whole jobs against a server that answers in every recorded shape; its own account says what was paid."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import BatchManager, Config, Job, JobStopped
from tests.wire.recorded import ERAS, SCENARIOS, SHAPES, RecordedApi, digest

pytestmark = pytest.mark.anyio

ROWS = 24
DONE = {"done"}
STOPS = {"stops"}
ENDS = dict.fromkeys(SCENARIOS, DONE) | {
    "credit": STOPS,
    "usage": STOPS,
    "unauthorized": STOPS,
    "usage_list": STOPS,
    "details_odd": STOPS,
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "made-up-key")
    monkeypatch.chdir(tmp_path)


def rows() -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"row {number}",
            "params": {
                "model": "claude-haiku-4-5",
                "max_tokens": 16,
                "messages": [{"role": "user", "content": f"question {number}"}],
            },
        }
        for number in range(ROWS)
    ]


async def end_of(job: Job, *, patience: float) -> str:
    """How a job ends: it is done, it stops with a reason, or it still waits."""
    with anyio.move_on_after(patience):
        try:
            await job.wait()
        except JobStopped:
            return "stops"
        return "done"
    return "waits"


async def run(api: RecordedApi, scenario: str) -> str:
    config = Config(
        requests_per_batch=4 if scenario == "rate50" else 12,
        poll_interval=timedelta(seconds=0.02),
        poll_interval_max=timedelta(seconds=0.1),
        grace=timedelta(seconds=0.2),
    )
    async with BatchManager(config=config) as manager:
        job = await manager.submit(rows(), to="results.jsonl", key="job")
        if scenario in ("parked", "cancel_slow"):
            while sum(len(batch.rows) for batch in api.batches) < ROWS:
                await anyio.sleep(0.01)
            await job.cancel()
        patience = 0.7 if "waits" in ENDS[scenario] else 50
        return await end_of(job, patience=patience)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("era", ERAS)
async def test_no_shape_of_the_wire_pays_twice_or_loses_a_line(
    era: str, scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RecordedApi(era, scenario) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        end = await run(api, scenario)
        account = api.account
        assert account.paid_twice == []
        assert account.trapped == 0, "results_url was followed"
        assert (account.met > 0) == (scenario != "clean")
        assert end in ENDS[scenario]
        if ENDS[scenario] != DONE:
            assert api.batches == []
            return
        found = [json.loads(line) for line in Path("results.jsonl").read_bytes().removesuffix(b"\n").split(b"\n")]
        assert Counter(line["custom_id"] for line in found) == Counter(row["custom_id"] for row in rows())
        said = {row["custom_id"]: account.said[digest(row["params"])] for row in rows()}
        for line in Path("results.jsonl").read_bytes().removesuffix(b"\n").split(b"\n"):
            told = line[line.index(b'"result":') + len(b'"result":') : -1]
            assert told in said[json.loads(line)["custom_id"]]
        outcomes = Counter(line["result"]["type"] for line in found)
        assert outcomes == expected(api)


@pytest.mark.parametrize("era", ERAS)
async def test_what_the_recorded_api_charges_is_in_the_cost(era: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Web searches cost 10 dollars per thousand, also in a batch."""
    async with RecordedApi(era, "shapes") as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        config = Config(poll_interval=timedelta(seconds=0.02), poll_interval_max=timedelta(seconds=0.1))
        async with BatchManager(config=config) as manager:
            job = await manager.submit(rows(), to="results.jsonl", key="job")
            summary = await job.wait()
        assert api.account.paid_twice == []
        charged = [told for kind, told in (SHAPES[number % len(SHAPES)] for number in range(ROWS)) if kind != "final"]
        searches = sum("usage" in told for told in charged)
        assert searches == summary.usage.web_search_requests == 1
        tokens = len(charged) * (21 * 1.0 + 8 * 5.0) / 1_000_000
        assert summary.cost == pytest.approx(tokens / 2 + 0.01 * searches)
        assert summary.synchronous_cost == pytest.approx(tokens + 0.01 * searches)
        assert summary.stop_reasons == Counter(told.get("stop", "end_turn") for told in charged)


def expected(api: RecordedApi) -> Counter[str]:
    """How many rows end how."""
    match api.scenario:
        case "shapes":
            kinds = [SHAPES[number % len(SHAPES)] for number in range(ROWS)]
            return Counter(told["type"] if kind == "final" else "succeeded" for kind, told in kinds)
        case "cancel_slow":
            canceled = sum(len(batch.rows) // 2 for batch in api.batches)
            return Counter(succeeded=ROWS - canceled, canceled=canceled)
        case _:
            return Counter(succeeded=ROWS)


async def test_every_scenario_is_met_in_every_era_by_a_plain_client() -> None:
    """The server shows what its scenario says: without this a lane that never meets it would look safe."""
    body = json.dumps({"requests": rows()}).encode()
    for era in ERAS:
        for scenario in SCENARIOS:
            async with RecordedApi(era, scenario, seconds=0) as api:
                statuses = [await call(api, "POST", "", body), await call(api, "GET", "?limit=5")]
                assert statuses == STATUSES.get(scenario, [200, 200]), (era, scenario)


STATUSES = {
    "credit": [400, 200],
    "usage": [400, 200],
    "details_odd": [400, 200],
    "usage_list": [200, 400],
    "overloaded": [529, 529],
    "overloaded_after": [529, 200],
    "internal": [500, 200],
    "unauthorized": [401, 401],
}


async def call(api: RecordedApi, method: str, path: str, body: bytes = b"") -> int:
    """The status of one call over a bare socket."""
    stream = await anyio.connect_tcp("127.0.0.1", int(api.url.rsplit(":", 1)[1]))
    async with stream:
        head = f"{method} /v1/messages/batches{path} HTTP/1.1\r\nx-api-key: key\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send(head.encode() + body)
        return int((await stream.receive()).split(b" ", 2)[1])
