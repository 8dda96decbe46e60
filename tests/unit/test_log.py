"""No key reaches the log."""

from __future__ import annotations

import pytest
import structlog

from abatch.log import log, redact
from tests.unit.make import run

KEY = "sk-ant-api03-CANARY_canary-0123456789"


@pytest.mark.parametrize(
    "name",
    [
        "api_key",
        "apikey",
        "api-key",
        "x-api-key",
        "X-Api-Key",
        "ANTHROPIC_API_KEY",
        "authorization",
        "Authorization",
        "client_secret",
        "aws_secret_access_key",
        "session_token",
        "auth_token",
        "password",
        "credentials",
    ],
)
def test_a_value_under_a_name_that_says_secret_is_blanked(name):
    assert redact(None, "info", {"event": "e", name: "anything"}) == {"event": "e", name: "[redacted]"}


@pytest.mark.parametrize("value", [b"anything", 5, {"x": "anything"}, None])
def test_under_such_a_name_the_value_s_type_does_not_matter(value):
    assert redact(None, "info", {"event": "e", "api_key": value}) == {"event": "e", "api_key": "[redacted]"}


@pytest.mark.parametrize(
    "value",
    [
        KEY,
        f"Authorization: Bearer {KEY}",
        "Authorization: Bearer opaque-CANARY",
        "authorization: bearer opaque-CANARY",
        f'Traceback …\n  headers={{"x-api-key": "{KEY}"}}\nError',
        f"https://user:{KEY}@host/",
        KEY.encode(),
        {"headers": {"x": KEY}},
        [KEY],
        ("a", [KEY]),
    ],
    ids=str,
)
def test_what_looks_like_a_key_is_blanked_wherever_it_stands(value):
    assert "CANARY" not in repr(redact(None, "info", {"event": "e", "said": value}))


def test_a_key_in_the_event_itself_is_blanked():
    assert redact(None, "info", {"event": f"failed with {KEY}"}) == {"event": "failed with [redacted]"}


def test_a_secret_name_inside_a_value_is_blanked():
    event = redact(None, "info", {"event": "e", "headers": {"authorization": "opaque-CANARY", "accept": "x"}})
    assert "CANARY" not in repr(event)
    assert "accept" in repr(event)


def test_ids_counts_and_tokens_used_pass_through():
    event = {
        "event": "shard_accepted",
        "shard": 3,
        "batch_id": "msgbatch_1",
        "request_id": "req_1",
        "input_tokens": 5,
        "output_tokens": 6,
        "job": "key-of-a-job",
        "wait": 1.5,
        "nothing": None,
    }
    assert redact(None, "info", dict(event)) == event


def test_abatch_logs_through_structlog_as_the_application_set_it_up():
    with structlog.testing.capture_logs() as seen:
        log.info("shard_accepted", shard=3)
    assert seen == [{"event": "shard_accepted", "shard": 3, "log_level": "info"}]


def test_importing_abatch_sets_no_logging_up():
    program = """
import abatch, logging, structlog
print(structlog.is_configured(), logging.getLogger("abatch").handlers, logging.getLogger().handlers)
"""
    assert run(program) == "False [] []\n"
