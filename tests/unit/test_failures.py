"""Failures are grouped by type and message, in few groups."""

from __future__ import annotations

import pytest

from abatch import Failure
from abatch.protocol.facts import Drained, decode, encode
from abatch.protocol.failures import OTHERS, Failures, failure_of, is_final, passes
from abatch.result import Line
from tests.unit.make import drained


def group(*failures: Failure, most: int = 5) -> tuple[Failure, ...]:
    found = Failures(most)
    found.update(failures)
    return found.groups


def bad(message: str, example: str = "", **more) -> Failure:
    return Failure(type="invalid_request_error", message=message, example=example, **more)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("prompt is too long: 210345 tokens > 200000 maximum", "prompt is too long: 200001 tokens > 200000 maximum"),
        ("file_011CNha8iCJcU1wXNR6q4V8w not found", "file_011CPMxVD3fHLUhvTqtsQA5w not found"),
        ("answer 0123456789abcdef failed", "answer fedcba9876543210 failed"),
    ],
)
def test_messages_that_differ_in_numbers_and_ids_are_one_group(one, other):
    assert group(bad(one, "a"), bad(other, "b")) == (bad(one, "a", count=2),)


def test_messages_that_differ_in_words_are_two_groups():
    assert len(group(bad("messages.0.content: Field required"), bad("messages.0.role: Field required"))) == 2
    assert len(group(bad("deadbeef coffee"), bad("decade facade"))) == 2


def test_groups_stay_few_and_every_failure_is_counted():
    kinds = [Failure(type=f"kind {chr(97 + n % 26)}{chr(97 + n // 26)}", message="m" * 5_000) for n in range(500)]
    found = group(*kinds, *kinds[:1])
    assert len(found) == 6
    assert (found[0].type, found[0].message, found[0].count) == (OTHERS, "", 495)
    assert found[1].count == 2
    assert sum(each.count for each in found) == 501
    assert len(encode(drained(failures=found))) < 2_500


def test_a_key_in_a_message_is_not_kept_and_odd_text_is_storable():
    (found,) = group(bad("no: sk-ant-api03-AAAABBBBCCCCDDDDEEEE \ud800", "\udcff"))
    assert "BBBB" not in found.message
    kept = decode(encode(drained(failures=(found,))))
    assert isinstance(kept, Drained)
    assert kept.failures == (found,)


@pytest.mark.parametrize(
    ("kind", "message", "final"),
    [
        ("invalid_request_error", "messages: Field required", True),
        ("not_found_error", "model: made-up-9", True),
        ("request_too_large", "", True),
        ("invalid_request_error", "Your credit balance is too low to access the API.", False),
        ("invalid_request_error", "You have reached your specified API usage limits.", False),
        ("invalid_request_error", "The request timed out while trying to download the file.", False),
        ("permission_error", "", False),
        ("authentication_error", "", False),
        ("billing_error", "", False),
        ("overloaded_error", "", False),
        ("new_error", "", False),
    ],
)
def test_what_cannot_succeed_as_it_is_is_told_from_what_somebody_may_mend(kind, message, final):
    raw = b'{"custom_id":"x","result":{"type":"errored","error":{"type":"error","error":{"type":"%b","message":"%b"}}}}'
    line = Line(raw % (kind.encode(), message.encode()), "x", "errored", kind)
    assert failure_of(line) == Failure(type=kind, message=message, example="x", final=final)
    assert is_final(kind, message) or not final


def test_a_line_that_is_no_error_has_its_outcome_as_type():
    assert failure_of(Line(b"no json", "x", "expired")) == Failure(type="expired", example="x")


def test_facts_of_an_older_journal_have_no_groups_and_no_stop_reasons():
    old = decode(b'{"type":"Drained","counts":{"succeeded":1,"errored":1},"sealed":{"part":0,"lines":2}}')
    assert isinstance(old, Drained)
    assert (old.failures, old.stops) == ((), {})
    spend = b'"spend":[{"model":"m","usage":{"input_tokens":7,"output_tokens":1}}]'
    usage = decode(b'{"type":"Drained","counts":{},"sealed":{"part":0,"lines":0},%b}' % spend).spend[0].usage
    assert (usage.input_tokens, usage.web_search_requests, usage.inference_geo, usage.unpriced) == (7, 0, "", ())


@pytest.mark.parametrize(
    ("outcome", "error_type", "again"),
    [
        ("expired", None, True),
        ("canceled", None, False),
        ("errored", "api_error", True),
        ("errored", "invalid_request_error", False),
    ],
)
def test_only_expired_requests_and_passing_errors_are_worth_another_try(
    outcome: str, error_type: str | None, again: bool
) -> None:
    assert passes(Line(b"{}", "a", outcome, error_type)) is again
