"""Reads that fail: what passes, what stops jobs, and after how many looks."""

from __future__ import annotations

import pytest

from abatch.errors import ApiError
from abatch.protocol.reads import LOOKS, LOOKS_ONCE_USABLE, Reads, refusal_of
from abatch.protocol.reconcile import Refused, Replied, judge
from abatch.protocol.refusals import remedy_of

CREDIT = (
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase "
    "credits."
)
USAGE = "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."
WORKSPACE_USAGE = USAGE.replace("specified", "specified workspace")
CODES = {
    "enforced_spend_limit_reached": (429, "Console"),
    "contract_spend_limit_reached": (429, "contract"),
    "workspace_human_review_disabled": (400, "Human Review"),
    "organization_on_hold": (400, "appeal"),
    "cmek_key_disabled": (400, "encryption key"),
}
FORBIDDEN = ApiError("list", status=403, kind="permission_error", message="no")
PAGE = ApiError("list", status=200, message="the answer is not what the API sends")


def refused_after(reads: Reads, failure: ApiError) -> int:
    """How many looks in a row, each after its pause, until the refusal counts; 0 if a hundred are not enough."""
    now = 0.0
    for look in range(1, 101):
        now += reads.failed(failure, now)
        if reads.refusal is not None:
            return look
    return 0


@pytest.mark.parametrize(
    "failure",
    [
        ApiError("list", message="ConnectError"),
        *(ApiError("list", status=status) for status in (408, 409, 425, 429, 499, 500, 502, 503, 529)),
        ApiError("list", status=429, kind="rate_limit_error", message="50 requests per minute"),
    ],
    ids=str,
)
def test_what_may_pass_never_stops_a_job(failure):
    assert refusal_of(failure) is None
    assert refused_after(Reads(first=5.0), failure) == 0


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        (ApiError("list", status=401, kind="authentication_error"), "ANTHROPIC_API_KEY"),
        (ApiError("list", status=403, kind="permission_error"), "API key and workspace"),
        (ApiError("list", status=402, kind="billing_error"), "billing"),
        *((ApiError("list", status=status), "base URL") for status in (301, 302, 303, 307, 308, 404, 405, 410)),
        (ApiError("list", status=404, kind="not_found_error"), "base URL"),
        (PAGE, "base URL"),
        (ApiError("list", status=400, kind="invalid_request_error", message=CREDIT), "Buy credits in the Console"),
        (ApiError("list", status=400, kind="invalid_request_error", message=USAGE), "usage limit in the Console"),
        (ApiError("list", status=429, kind="r", error_code="contract_spend_limit_reached"), "contract"),
    ],
    ids=str,
)
def test_what_cannot_pass_is_refused_after_several_looks_with_a_remedy(failure, remedy):
    reads = Reads(first=5.0)
    assert refused_after(reads, failure) == LOOKS
    assert reads.refusal is not None
    assert (reads.refusal.reason, reads.refusal.whole_scope) == (str(failure), True)
    assert remedy in reads.refusal.remedy


def test_looks_within_a_pause_are_one_look():
    reads = Reads(first=5.0)
    assert [reads.failed(FORBIDDEN, now) for now in (0.0, 0.0, 1.0, 4.0)] == [5.0, 5.0, 4.0, 1.0]
    assert [reads.failed(FORBIDDEN, now) for now in (5.0, 6.0, 14.0)] == [10.0, 9.0, 1.0]
    assert reads.refusal is None
    reads.failed(FORBIDDEN, 15.0)
    assert reads.refusal is not None


@pytest.mark.parametrize("between", [None, ApiError("list", status=502), ApiError("list", message="ReadTimeout")])
def test_looks_that_are_refused_now_and_then_stop_nothing(between):
    reads, now = Reads(first=5.0), 0.0
    for _ in range(50):
        for _ in range(LOOKS - 1):
            now += reads.failed(FORBIDDEN, now)
        if between is None:
            reads.worked()
        else:
            now += reads.failed(between, now)
    assert reads.refusal is None


def test_a_gateway_that_worked_before_gets_more_looks_and_a_key_does_not():
    reads = Reads(first=5.0)
    reads.worked()
    assert refused_after(reads, PAGE) == LOOKS_ONCE_USABLE
    reads.worked()
    assert refused_after(reads, FORBIDDEN) == LOOKS


def test_a_read_that_works_ends_the_trouble_and_so_does_an_operator():
    reads = Reads(first=5.0)
    assert not reads.usable
    refused_after(reads, FORBIDDEN)
    reads.start_over()
    assert (reads.refusal, reads.wait(0.0), reads.trouble) == (None, 0.0, FORBIDDEN)
    assert refused_after(reads, FORBIDDEN) == LOOKS
    reads.worked()
    assert (reads.refusal, reads.wait(0.0), reads.trouble, reads.usable) == (None, 0.0, None, True)


@pytest.mark.parametrize(
    ("status", "error_code", "message", "remedy"),
    [
        *((status, code, "y", remedy) for code, (status, remedy) in CODES.items()),
        (400, None, CREDIT, "Buy credits in the Console"),
        (400, None, USAGE, "usage limit in the Console"),
        (400, None, WORKSPACE_USAGE, "usage limit in the Console"),
        (403, "organization_on_hold", "y", "appeal"),
    ],
)
def test_a_create_refused_for_the_account_stops_the_whole_scope_with_its_remedy(status, error_code, message, remedy):
    said = Replied(status=status, kind="invalid_request_error", error_code=error_code, message=message)
    verdict = judge(said)
    assert isinstance(verdict, Refused)
    assert verdict.whole_scope
    assert remedy in verdict.remedy
    assert "Change what the message names" not in verdict.remedy


@pytest.mark.parametrize("status", [200, 404, 413, 500, 529])
def test_words_of_a_limit_mean_nothing_under_another_status(status):
    assert remedy_of(status, "organization_on_hold", CREDIT) is None


def test_a_limit_in_a_proxy_s_page_is_no_refusal_of_the_api():
    assert not isinstance(judge(Replied(status=429, error_code="contract_spend_limit_reached")), Refused)
