"""The tables and views of a database, and a query that compares existing ones with them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SCHEMA", "SHAPES", "by_name", "expected_shapes"]

SCHEMA: Final = {
    "results": """
        CREATE TABLE results (
            job TEXT NOT NULL,
            custom_id TEXT NOT NULL,
            outcome TEXT NOT NULL,
            result TEXT NOT NULL,
            batch_id TEXT,
            model TEXT,
            input_tokens INTEGER,
            output_tokens INTEGER,
            cache_read_tokens INTEGER,
            cache_creation_tokens INTEGER,
            sealed_at TEXT NOT NULL,
            shard INTEGER NOT NULL,
            PRIMARY KEY (job, custom_id)
        )""",
    "abatch_jobs": """
        CREATE TABLE abatch_jobs (
            job TEXT NOT NULL PRIMARY KEY,
            lineage TEXT NOT NULL,
            claimed_at TEXT NOT NULL,
            finished_at TEXT
        )""",
    "abatch_shards": """
        CREATE TABLE abatch_shards (
            job TEXT NOT NULL,
            shard INTEGER NOT NULL,
            part INTEGER NOT NULL,
            batch_id TEXT,
            lines INTEGER NOT NULL,
            sealed_at TEXT NOT NULL,
            PRIMARY KEY (job, shard)
        )""",
    "abatch_missing": """
        CREATE TABLE abatch_missing (
            job TEXT NOT NULL,
            custom_id TEXT NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (job, custom_id)
        )""",
    "abatch_results_by_shard": """
        CREATE INDEX abatch_results_by_shard ON results (job, shard)""",
    "results_failed": """
        CREATE VIEW results_failed AS
        SELECT job, custom_id, outcome,
            CASE WHEN json_valid(result) THEN json_extract(result, '$.error.error.type') END AS error_type,
            CASE WHEN json_valid(result) THEN json_extract(result, '$.error.error.message') END AS message,
            batch_id, sealed_at
        FROM results WHERE outcome <> 'succeeded'""",
    # This view merges a job with its retries (`nightly.retry-1`): a success takes precedence over a failure, and a
    # later job over an earlier one. If a key only looks like a retry and the other job does not exist, it is a
    # separate job.
    "results_merged": """
        CREATE VIEW results_merged AS
        WITH split(job, lineage, head, number) AS (
            SELECT job, lineage, rtrim(job, '0123456789'),
                CAST(substr(job, length(rtrim(job, '0123456789')) + 1) AS INTEGER)
            FROM abatch_jobs
        ), family(job, root, number) AS (
            SELECT split.job, coalesce(first.job, split.job), CASE WHEN first.job IS NULL THEN 0 ELSE split.number END
            FROM split LEFT JOIN abatch_jobs AS first
                ON first.job = substr(split.head, 1, length(split.head) - 7) AND substr(split.head, -7) = '.retry-'
                AND split.job <> split.head AND split.lineage = first.lineage
        )
        SELECT family.root AS job, answer.custom_id, answer.outcome, answer.result, answer.batch_id, answer.model,
            answer.input_tokens, answer.output_tokens, answer.cache_read_tokens, answer.cache_creation_tokens,
            answer.sealed_at, answer.job AS answered_by
        FROM family JOIN results AS answer ON answer.job = family.job
        WHERE NOT EXISTS (
            SELECT 1 FROM family AS other
            JOIN results AS better ON better.job = other.job AND better.custom_id = answer.custom_id
            WHERE other.root = family.root AND other.job <> family.job
                AND (better.outcome = 'succeeded', other.number) > (answer.outcome = 'succeeded', family.number)
        )""",
}
_Shapes = dict[str, list[tuple[str, str | None, int | None]]]
SHAPES: Final = """
    SELECT object.name, object.type, field.name, field.pk
    FROM sqlite_master AS object LEFT JOIN pragma_table_info(object.name) AS field
    ORDER BY object.name, field.cid"""


@cache
def expected_shapes() -> _Shapes:
    """Return the kind of each of our names, with its columns and their positions in the primary key."""
    with closing(sqlite3.connect(":memory:")) as model:
        for statement in SCHEMA.values():
            model.execute(statement)
        return by_name(model.execute(SHAPES))


def by_name(rows: Iterable[Iterable[Any]]) -> _Shapes:
    """Gather the rows of the query `SHAPES` by the name of their object."""
    shapes: _Shapes = {}
    for name, kind, column, key in rows:
        shapes.setdefault(name, []).append((kind, column, key))
    return shapes
