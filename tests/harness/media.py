"""The places of results, read without abatch: plain files, `sqlite3`, boto3. Also while a job is unfinished."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from tests.servers import SeaweedS3

BUCKET = "kill"
TEXT = "$.message.content[0].text"

Answer = tuple[str, str]
"""A custom_id, and the text that answers it."""


class Medium(Protocol):
    """Where the results of a job go."""

    name: str

    def destination(self, home: Path) -> str:
        """What stands behind `--to`, for a run in this folder."""
        ...

    def answers(self, home: Path) -> list[Answer]:
        """Every line that can be seen, also of a job that is not done."""
        ...

    def is_complete(self, home: Path) -> bool:
        """Whether the medium says that the job is done, and nothing is left behind."""
        ...

    def contents(self, home: Path) -> Iterator[tuple[str, bytes]]:
        """What is kept outside the folder."""
        ...


class Jsonl:
    """One file, assembled from parts."""

    name = "jsonl"

    def destination(self, home: Path) -> str:
        return "results.jsonl"

    def answers(self, home: Path) -> list[Answer]:
        whole = home / "results.jsonl"
        return _of_files([whole] if whole.exists() else home.glob(".results.jsonl.abatch/part-*.jsonl"))

    def is_complete(self, home: Path) -> bool:
        return (home / "results.jsonl").exists() and not (home / ".results.jsonl.abatch").exists()

    def contents(self, home: Path) -> Iterator[tuple[str, bytes]]:
        yield from ()


class Folder:
    """A folder of parts."""

    name = "folder"

    def destination(self, home: Path) -> str:
        return "results/"

    def answers(self, home: Path) -> list[Answer]:
        return _of_files(home.glob("results/part-*.jsonl"))

    def is_complete(self, home: Path) -> bool:
        names = {path.name for path in (home / "results").iterdir()}
        return "_SUCCESS" in names and not any(name.endswith(".tmp") for name in names)

    def contents(self, home: Path) -> Iterator[tuple[str, bytes]]:
        yield from ()


class Sqlite:
    """A database."""

    name = "sqlite"

    def destination(self, home: Path) -> str:
        return "results.db"

    def answers(self, home: Path) -> list[Answer]:
        query = f"SELECT custom_id, json_extract(result, '{TEXT}') FROM results"
        return [(each, text) for each, text in self._ask(home, query)]

    def is_complete(self, home: Path) -> bool:
        return len(self._ask(home, "SELECT 1 FROM abatch_jobs WHERE finished_at IS NOT NULL")) == 1

    def contents(self, home: Path) -> Iterator[tuple[str, bytes]]:
        yield from ()

    def _ask(self, home: Path, query: str) -> list[Any]:
        path = home / "results.db"
        if not path.exists():
            return []
        with tempfile.TemporaryDirectory(dir=home.parent) as copy:  # to open it would tidy up for the run that died
            for part in (path, path.with_name("results.db-wal")):
                if part.exists():
                    shutil.copy(part, copy)
            return self._ask_copy(Path(copy, path.name), query)

    def _ask_copy(self, path: Path, query: str) -> list[Any]:
        with closing(sqlite3.connect(path)) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'results'").fetchall():
                return []
            return database.execute(query).fetchall()


class S3:
    """Objects below a prefix that is named for the folder."""

    name = "s3"

    def __init__(self, server: SeaweedS3) -> None:
        self._server = server
        self.client = s3_client(server)

    def destination(self, home: Path) -> str:
        return f"s3://{BUCKET}/{self._prefix(home)}?endpoint_url={self._server.url}&region=us-east-1"

    def answers(self, home: Path) -> list[Answer]:
        found = [body for name, body in self._objects(home) if "/part-" in name]
        return [_of_line(line) for body in found for line in body.splitlines()]

    def is_complete(self, home: Path) -> bool:
        names = [name.rpartition("/")[2] for name, _ in self._objects(home)]
        uploads = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=self._prefix(home)).get("Uploads", [])
        return "_SUCCESS" in names and "_manifest.json" in names and not uploads

    def contents(self, home: Path) -> Iterator[tuple[str, bytes]]:
        yield from self._objects(home)

    def _prefix(self, home: Path) -> str:
        return "-".join(home.parts[-2:])

    def _objects(self, home: Path) -> list[tuple[str, bytes]]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self._prefix(home)}/").get("Contents", [])
        names = [each["Key"] for each in found]
        return [(name, self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()) for name in names]


def s3_client(server: SeaweedS3) -> Any:
    """A client of another make than the one under test."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


def _of_files(paths: Any) -> list[Answer]:
    return [_of_line(line) for path in paths for line in path.read_bytes().splitlines()]


def _of_line(line: bytes) -> Answer:
    result = json.loads(line)
    return result["custom_id"], result["result"]["message"]["content"][0]["text"]
