"""Numbers in the pages are those of the code: each sentence is found, and its number compared with the constant."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from abatch.config import GRACE_FOREIGN_SOCKET, GRACE_OWN_SOCKET, Config
from abatch.engine import drain, proof, sealing
from abatch.engine.outage import LONGEST_WAIT
from abatch.engine.shutdown import Shutdown
from abatch.input import check, duplicates, files, iterables
from abatch.protocol import durations, parked, wire
from abatch.system import disk, threads
from abatch_backends import jsonl
from abatch_backends.s3 import backend as s3
from abatch_backends.s3.codec import RANGE
from abatch_backends.s3.upload import PART
from abatch_backends.sqlite import connections
from tests.docs.pages import ROOT

KIB = 2**10
MIB = 2**20
MINUTE = 60.0
HOUR = 3600.0
PATIENCE = Config().storage_patience.total_seconds()
WORDS = {"a": 1, "two": 2, "three": 3, "four": 4, "five": 5, "eight": 8, "ten": 10, "eleven": 11, "twelve": 12}
WORDS |= {"fifteen": 15, "sixteen": 16, "twenty": 20, "fifty": 50, "hundred": 100}


class Number(NamedTuple):
    """A number of a page."""

    page: str
    sentence: str
    """A pattern whose group is the number; a space in it is any white space."""
    unit: float
    value: float
    """The constant."""


NUMBERS = [
    Number("write-a-backend.md", r"about (\d+) KiB", KIB, sealing.WRITE_BYTES),
    Number("write-a-backend.md", r"`storage_patience` \((\d+) minutes\)", MINUTE, PATIENCE),
    Number("embed.md", r"at most (\w+) threads of abatch", 1, threads.THREADS),
    Number("embed.md", r"read (\d+) KiB at a time", KIB, drain.READ_BYTES),
    Number("embed.md", r"About (a) mebibyte is held", MIB, jsonl.CHUNK),
    Number("embed.md", r"(\d+) MiB of S3", MIB, RANGE),
    Number("embed.md", r"past their commit point up to (\d+) seconds", 1, Shutdown()._patience),
    Number("embed.md", r"differs in one of its first (\w+) rows", 1, iterables.HEAD_ROWS),
    Number("embed.md", r"so the grace is (\d+) minutes instead of 30", MINUTE, GRACE_FOREIGN_SOCKET.total_seconds()),
    Number("embed.md", r"so the grace is 45 minutes instead of (\d+)", MINUTE, GRACE_OWN_SOCKET.total_seconds()),
    Number("operate.md", r"below (\d+) MiB", MIB, Config().free_disk),
    Number("operate.md", r"`--storage-patience`, (\d+) minutes", MINUTE, PATIENCE),
    Number("operate.md", r"at least (\w+) hours old", HOUR, parked.LEAST),
    Number("operate.md", r"median of the last (\w+) batches", 1, parked.REMEMBERED),
    Number("operate.md", r"with fewer than (\w+) known", 1, parked.ENOUGH),
    Number("operate.md", r"a batch is parked after (\w+) hours", HOUR, parked.UNKNOWN),
    Number("recover.md", r"(\w+) reads in 23 hours", 1, drain.READS),
    Number("recover.md", r"After (\d+) hours it is \*lost\*", HOUR, durations.LOST_AFTER),
    Number("recover.md", r"after 1, 2, 4, … up to (\d+) seconds", 1, LONGEST_WAIT),
    Number("recover.md", r"counts as failing after (\w+) seconds", 1, connections.PATIENCE),
    Number("recover.md", r"storage has failed for (\d+) minutes", MINUTE, PATIENCE),
    Number("cli.md", r"a line from stdin (\d+) MiB", MIB, wire.MAX_LINE),
    Number("cli.md", r"as long as a batch, ([\d,]+) bytes", 1, Config().bytes_per_batch),
    Number("archive-to-s3.md", r"Below (\d+) MiB", MIB, PART),
    Number("archive-to-s3.md", r"part, of at most (\d+) MiB", MIB, PART),
    Number("archive-to-s3.md", r"up to (\w+) more", 1, s3.IN_FLIGHT),
    Number("design.md", r"at most (\d+) in a job", 1, check.HEADER_SETS),
    Number("design.md", r"A line over (\d+) MiB is an error", MIB, wire.MAX_LINE),
    Number("design.md", r"decoded and cut (\d+) KiB at a time", KIB, drain.READ_BYTES),
    Number("design.md", r"a block has (\d+) KiB", KIB, sealing.WRITE_BYTES),
    Number("design.md", r"[Ff]or each (\d+) MiB", MIB, disk.AHEAD),
    Number("design.md", r"checked and planned (\d+) KiB of lines at a time", KIB, files.PART),
    Number("design.md", r"([\d,]+) partitions", 1, duplicates.PARTITIONS),
    Number("design.md", r"of which (\w+) are open at once", 1, connections.OPEN),
    Number("design.md", r"S3 parts are (\d+) MiB", MIB, PART),
    Number("design.md", r"with a budget of (\w+) minutes an hour", MINUTE, proof.SECONDS_AN_HOUR),
    Number("design.md", r"So the first (\w+) lines are read", 1, proof.FIRST_LINES),
    Number("design.md", r"queue (\d+) hours after its creation", HOUR, durations.QUEUED_FOR),
    Number("design.md", r"in `ids/` for (\d+) days", 24 * HOUR, durations.KEPT_FOR),
]


def number(text: str) -> float:
    return WORDS[text] if text in WORDS else float(text.replace(",", ""))


@pytest.mark.parametrize("each", NUMBERS, ids=[f"{each.page}: {each.sentence}" for each in NUMBERS])
def test_the_number_is_that_of_the_code(each):
    text = (ROOT / "docs" / each.page).read_text()
    found = re.findall(each.sentence.replace(" ", r"\s+"), text)
    assert found, "the sentence is not on the page any more: correct the pattern"
    assert {number(one) * each.unit for one in found} == {each.value}
