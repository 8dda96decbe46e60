"""kill -9 at every stage, through the real command line: the same command again finishes, and pays nothing twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from abatch.sandbox import Sandbox, answer_text
from tests.e2e.jobs import assert_paid_once, raw_params, requests, write
from tests.servers import SeaweedS3

DYING = Path(__file__).with_name("dying.py")
STAGES = [
    ("check", 1),
    ("checked", 1),
    ("planning", 1),
    ("spooled", 2),
    ("before Cut", 1),
    ("after Cut", 1),
    ("uploading", 2),
    ("before Committing", 1),
    ("after Committing", 2),
    ("tail sent", 1),
    ("answered", 2),
    ("after Accepted", 1),
    ("polling", 1),
    ("draining", 1),
    ("sealed", 1),
    ("after Drained", 2),
    ("finishing", 1),
    ("before Finished", 1),
]
JSONL_STAGES = [*STAGES, ("assembling", 1), ("linking", 1), ("linked", 3), ("linked", 4)]


@pytest.fixture(scope="session")
def s3(s3_server: SeaweedS3) -> SeaweedS3:
    s3_client(s3_server).create_bucket(Bucket="kill")
    return s3_server


def s3_client(server: SeaweedS3) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


def command(to: str) -> list[str]:
    return [
        "run", "input.jsonl", "--to", to, "--key", "job", "--max-batch-requests", "8", "--poll-interval", "0.05",
        "--grace", "0.3", "--quiet", "--json",
    ]  # fmt: skip


def survive(to: str, place: str, hit: int, rows: list[dict[str, Any]], env: dict[str, str]) -> None:
    died = subprocess.run(
        [sys.executable, str(DYING), place, str(hit), *command(to)], env=env, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()[-2000:]
    again = subprocess.run([sys.executable, "-m", "abatch", *command(to)], env=env, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()[-2000:]
    assert json.loads(again.stdout)["succeeded"] == len(rows)


def assert_answers(found: list[tuple[str, str]], rows: list[dict[str, Any]]) -> None:
    assert Counter(found) == Counter((row["custom_id"], answer_text(raw_params(row))) for row in rows)


def of_line(line: bytes) -> tuple[str, str]:
    result = json.loads(line)
    return result["custom_id"], result["result"]["message"]["content"][0]["text"]


@pytest.mark.parametrize(("place", "hit"), JSONL_STAGES)
def test_kill_into_jsonl(api: Sandbox, place: str, hit: int) -> None:
    rows = requests(20)
    write(rows)
    survive("results.jsonl", place, hit, rows, dict(os.environ))
    assert_answers([of_line(line) for line in Path("results.jsonl").read_bytes().splitlines()], rows)
    assert_paid_once(api, rows)


@pytest.mark.parametrize(("place", "hit"), [("tail sent", 2), ("draining", 2), ("sealed", 2), ("before Finished", 1)])
def test_kill_into_sqlite(api: Sandbox, place: str, hit: int) -> None:
    rows = requests(20)
    write(rows)
    survive("results.db", place, hit, rows, dict(os.environ))
    with closing(sqlite3.connect("results.db")) as db:
        found = db.execute(
            "SELECT custom_id, json_extract(result, '$.message.content[0].text') FROM results"
        ).fetchall()
    assert_answers(found, rows)
    assert_paid_once(api, rows)


@pytest.mark.parametrize(("place", "hit"), [("tail sent", 2), ("draining", 2), ("sealed", 2), ("before Finished", 1)])
def test_kill_into_s3(api: Sandbox, s3: SeaweedS3, place: str, hit: int) -> None:
    env = {**os.environ, "AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    rows = requests(20)
    write(rows)
    prefix = f"kill-{place.replace(' ', '-')}-{hit}"
    survive(f"s3://kill/{prefix}?endpoint_url={s3.url}&region=us-east-1", place, hit, rows, env)
    client = s3_client(s3)
    names = [each["Key"] for each in client.list_objects_v2(Bucket="kill", Prefix=prefix)["Contents"]]
    parts = [client.get_object(Bucket="kill", Key=name)["Body"].read() for name in names if "part-" in name]
    assert f"{prefix}/job/_SUCCESS" in names
    assert_answers([of_line(line) for part in parts for line in part.splitlines()], rows)
    assert_paid_once(api, rows)
