"""The programs of `peers.py`, each run by a Python that has its package: `python neighbours.py NAME REQUESTS`.

Each is what its documentation says for a job like this, asking as often as it can be told to; imports are left out
of the time. What it got stands beside its time as `rows`, counted in what it wrote, or in memory if it writes nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

from clients import Clock, Measured, sdk_run


def read(requests: str) -> list[dict]:
    with Path(requests).open("rb") as file:
        return [json.loads(line) for line in file]


def written(*files: Path) -> int:
    """How many requests have a line in files of results."""
    ids: set[str] = set()
    for file in files:
        with file.open("rb") as lines:
            ids.update(json.loads(line)["custom_id"] for line in lines)
    return len(ids)


def abatch(requests: str) -> Measured:
    from clients import abatch_run

    measured = abatch_run(requests)
    return measured | {"rows": written(Path("out.jsonl"))}


def sdk(requests: str) -> Measured:
    measured = asyncio.run(sdk_run(requests))
    return measured | {"rows": written(*Path().glob("out-*.jsonl"))}


def batchwizard(requests: str) -> Measured:
    os.environ["HOME"] = str(Path.cwd())
    from batchwizard.cli import app

    command = ["process", "--provider", "anthropic", requests, "--output-directory", "out", "--check-interval", "1"]
    clock = Clock()
    app(command, standalone_mode=False)
    measured = clock.stop()
    return measured | {"rows": written(*Path("out").rglob("*results*.jsonl"))}


def pydantic_ai(requests: str) -> Measured:
    import anthropic.types.beta  # noqa: F401 - so that its import is not measured
    from pydantic_ai import ModelRequest, ModelResponse
    from pydantic_ai.direct import model_request_batch
    from pydantic_ai.models import infer_model
    from pydantic_ai.models.batch import BatchRequest

    model = infer_model("anthropic:claude-haiku-4-5")
    clock = Clock()
    asked = [
        BatchRequest(
            custom_id=row["custom_id"],
            messages=[ModelRequest.user_text_prompt(row["params"]["messages"][0]["content"])],
            model_settings={"max_tokens": row["params"]["max_tokens"]},
        )
        for row in read(requests)
    ]
    often = timedelta(seconds=0.2)
    answers = asyncio.run(model_request_batch(model, asked, poll_interval=often, max_poll_interval=often))
    measured = clock.stop()
    return measured | {"rows": sum(isinstance(answer, ModelResponse) for answer in answers)}


def airflow(requests: str) -> Measured:
    os.environ["AIRFLOW_HOME"] = str(Path.cwd())
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "false"
    key, url = os.environ["ANTHROPIC_API_KEY"], os.environ["ANTHROPIC_BASE_URL"]
    os.environ["AIRFLOW_CONN_LLM"] = json.dumps({"conn_type": "pydanticai", "password": key, "host": url})
    from types import SimpleNamespace

    import anthropic.types.messages  # noqa: F401 - so that its import is not measured
    from airflow.providers.common.ai.operators.llm_batch import LLMBatchOperator

    clock = Clock()
    prompts = [row["params"]["messages"][0]["content"] for row in read(requests)]
    operator = LLMBatchOperator(
        task_id="batch",
        requests=prompts,
        result_path=f"file://{Path.cwd()}/out",
        llm_conn_id="llm",
        model_id="anthropic:claude-haiku-4-5",
        poll_interval=30,
        do_xcom_push=False,
    )
    task = SimpleNamespace(dag_id="bench", task_id="batch", run_id="run", map_index=-1)
    manifest = operator.execute({"task_instance": task, "ti": task})
    measured = clock.stop()
    return measured | {"rows": manifest["counts"]["succeeded"]}


PROGRAMS = {program.__name__.replace("_", "-"): program for program in (abatch, airflow, batchwizard, pydantic_ai, sdk)}


if __name__ == "__main__":
    print("\n" + json.dumps(PROGRAMS[sys.argv[1]](sys.argv[2])))
