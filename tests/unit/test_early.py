"""The first results of a job: when the rest of it is sent, and when submitting stops."""

from __future__ import annotations

import pytest

from abatch.protocol.early import SHOWN, judged, one_failure, stands, stop_after_pilot, stop_for
from abatch.protocol.facts import Counts, Drained
from abatch.protocol.failures import OTHERS
from abatch.result import Failure
from tests.unit.make import drained


def failure(count: int = 10, *, kind: str = "invalid_request_error", message: str = "no such model") -> Failure:
    return Failure(type=kind, message=message, count=count)


def failed(*failures: Failure, errored: int = 10) -> Drained:
    return drained(counts=Counts(errored=errored), failures=failures)


@pytest.mark.parametrize(
    ("succeeded", "failed", "verdict"),
    [(0, 0, "waits"), (79, 20, "waits"), (80, 0, "passed"), (80, 20, "passed"), (0, 21, "failed"), (79, 21, "failed")],
)
def test_a_pilot_passes_unless_more_than_a_fifth_of_it_can_fail(succeeded: int, failed: int, verdict: str) -> None:
    assert judged(100, succeeded=succeeded, failed=failed) == verdict


@pytest.mark.parametrize(
    ("pilot", "succeeded", "failed", "holds"),
    [(0, 0, 10, True), (0, 1, 10, False), (10, 7, 3, True), (10, 8, 2, False)],
)
def test_a_stop_for_failed_results_ends_with_a_success_unless_the_pilot_failed(
    pilot: int, succeeded: int, failed: int, holds: bool
) -> None:
    assert stands(pilot, succeeded=succeeded, failed=failed) is holds


def test_a_failed_pilot_names_its_most_frequent_failures_and_counts_the_other_kinds() -> None:
    kinds = [failure(9 - n, kind=f"kind_{n}", message="why" if n else "") for n in range(SHOWN + 2)]
    stopped = stop_after_pilot("job", 100, 35, kinds)
    assert stopped.failing
    assert stopped.reason == (
        "35 of the 100 requests of its pilot failed "
        "(9 of kind_0; 8 of kind_1: why; 7 of kind_2: why; and 2 other kinds)"
    )
    assert "other kinds" not in stop_after_pilot("job", 100, 35, kinds[:SHOWN]).reason


def test_a_batch_whose_requests_all_failed_with_one_error_names_it() -> None:
    assert one_failure(failed(failure()), rows=10, largest=20) == failure()


@pytest.mark.parametrize(
    ("what", "rows", "largest"),
    [
        (failed(failure(5), failure(5, message="another")), 10, 10),
        (failed(failure(9), errored=9), 10, 10),
        (failed(failure()), 10, 21),
        (failed(failure(9)), 10, 10),
        (failed(failure(kind=OTHERS)), 10, 10),
    ],
    ids=["two errors", "one request succeeded", "a small batch", "a failure without a group", "many kinds"],
)
def test_no_other_batch_stops_a_job(what: Drained, rows: int, largest: int) -> None:
    assert one_failure(what, rows, largest) is None


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (failure(1), "the only request of batch msgbatch_1 failed with invalid_request_error: no such model"),
        (
            failure(2_000, message=""),
            "each of the 2,000 requests of batch msgbatch_1 failed with invalid_request_error",
        ),
    ],
)
def test_a_stop_for_a_failed_batch_names_the_batch_and_the_error(of: Failure, words: str) -> None:
    stopped = stop_for(of, "msgbatch_1")
    assert stopped.failing
    assert stopped.reason.endswith(words)
