"""Values that the unit tests are made of; each keyword replaces a plain default."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from abatch.input.spool import SpoolReader, SpoolWriter, Written
from abatch.protocol import facts
from abatch.protocol.clocks import Moment
from abatch.protocol.facts import Planned
from abatch.protocol.lifecycle import InDoubt
from abatch.protocol.reconcile import BatchSeen, Doubt, Listing

KEY = bytes(range(32))
"""A lineage key."""
WIRE_ID = b"a1-00000001-01-0123456789AB-0002"
NOON = 1_800_000_000.0
"""The server's clock at the commit point of every doubt here."""
MINUTE = 60.0
GRACE = 30 * MINUTE

Rows = list[tuple[bytes, bytes, bytes]]
"""custom_id as a JSON string, params as JSON, fallback line or nothing."""


def names(folder: Path) -> list[str]:
    """What stands in a folder."""
    return sorted(path.name for path in folder.iterdir())


def fields(defaults: dict[str, Any], changes: dict[str, Any]) -> Any:
    return {**defaults, **changes}


def batch(batch_id: str = "msgbatch_1", **changes: Any) -> BatchSeen:
    """A batch of 100 requests that runs, made a minute after noon."""
    status = "ended" if changes.get("ended") else "in_progress"
    return BatchSeen(
        **fields({"batch_id": batch_id, "status": status, "created_at": NOON + MINUTE, "total": 100}, changes)
    )


def doubt(shard: int = 1, **changes: Any) -> Doubt:
    """An attempt of 100 rows, committed at noon."""
    own: dict[str, Any] = {
        name: changes.pop(name) for name in ("rows", "waited", "guarded", "empty_at") if name in changes
    }
    committed = InDoubt(**fields({"attempt": 1, "date": NOON, "fingerprint": "f"}, changes))
    return Doubt(**fields({"shard": shard, "rows": 100, "committed": committed}, own))


def moment(after: float) -> Moment:
    """So many seconds after noon, on every clock."""
    return Moment(date=NOON + after, boot=after, boot_id="boot", wall=NOON + after)


def listing(after: float, *batches: BatchSeen, by_id: tuple[BatchSeen, ...] = ()) -> Listing:
    """A list whose pages join, so many seconds after noon."""
    return Listing(
        at=moment(after),
        shown={batch.batch_id: batch for batch in batches},
        by_id={batch.batch_id: batch for batch in by_id},
    )


def planned(**changes: Any) -> Planned:
    defaults = {
        "part": 0,
        "rows": 10,
        "body_bytes": 1_000,
        "spool": "00000001.spool",
        "params_digest": "p",
        "ids_digest": "i",
    }
    return Planned(**fields(defaults, changes))


def submitted(key: str = "job", **changes: Any) -> facts.Submitted:
    return facts.Submitted(key=key, **fields({"to": "memory:", "source": facts.IterableSource()}, changes))


def committing(attempt: int = 1) -> facts.Committing:
    return facts.Committing(attempt=attempt, date=NOON, fingerprint="f")


def drained(**changes: Any) -> facts.Drained:
    defaults = {
        "counts": facts.Counts(succeeded=10),
        "sealed": facts.SealedRecord(part=0, lines=10),
    }
    return facts.Drained(**fields(defaults, changes))


def rows_of(*texts: str) -> Rows:
    """Rows with these custom_ids, and params that name them."""
    return [(msgspec.json.encode(text), msgspec.json.encode({"max_tokens": 1, "said": text}), b"") for text in texts]


def write_spool(folder: Path, rows: Rows, name: str = "00000001.spool") -> Written:
    writer = SpoolWriter(folder)
    for custom_id, params, fallback in rows:
        writer.add(custom_id, params, fallback)
    return writer.seal(name)


def planned_for(written: Written, name: str = "00000001.spool") -> Planned:
    """The fact that describes a spool file."""
    return planned(
        rows=written.rows,
        body_bytes=written.body_bytes,
        spool=name,
        params_digest=written.params_digest,
        ids_digest=written.ids_digest,
    )


def read_spool(folder: Path, written: Written, name: str = "00000001.spool") -> SpoolReader:
    return SpoolReader(folder, planned_for(written, name))


def request_line(custom_id: str, **params: Any) -> bytes:
    """One line of an input file, with its newline."""
    request = {"custom_id": custom_id, "params": {"model": "m", "max_tokens": 8, **params}}
    return msgspec.json.encode(request) + b"\n"


def request_lines(*custom_ids: str) -> bytes:
    return b"".join(request_line(custom_id) for custom_id in custom_ids)


def packed(name: str, raw: bytes) -> bytes:
    """The bytes of a file of that name."""
    if name.endswith(".gz"):
        return gzip.compress(raw, mtime=0)
    return zstandard.compress(raw) if name.endswith(".zst") else raw


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Run a Python program in a process of its own; its standard output and input are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: str, *arguments: object) -> str:
    """Run a Python program to its end and return what it printed."""
    process = start(program, *arguments)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return out
