"""What tokens cost."""

from __future__ import annotations

import json
from datetime import date
from typing import get_args

import anthropic.types
import msgspec
import pytest

from abatch import ConfigError, Result, Usage
from abatch.charges import MOST_REASONS
from abatch.prices import BATCH_DISCOUNT, Price, days_old, load
from abatch.protocol.facts import Spend
from abatch.protocol.wire import read_line

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


def test_the_list_is_dated():
    assert load().date == "2026-11-30"


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("claude-fable-5-2", 48),
        ("claude-opus-5-5", 24),
        ("claude-sonnet-5-5", 12),
        ("claude-haiku-5-5", 0.60),
        ("claude-opus-5", 30),
        ("claude-opus-4-5", 30),
        ("claude-opus-4-8", 30),
        ("claude-sonnet-5", 12),
        ("claude-sonnet-4-6", 18),
        ("claude-haiku-4-5", 6),
    ],
)
def test_a_million_tokens_each_way_cost_what_the_list_says(model, dollars):
    assert load().cost(MILLION, model, long=False) == pytest.approx(dollars)


@pytest.mark.parametrize("name", ["claude-haiku-4-5-20251001", "claude-haiku-4-5-latest", "haiku-4-5"])
def test_a_dated_name_has_the_price_of_its_family(name):
    assert load().price(name) == load().price("claude-haiku-4-5") == Price(input=1, output=5)


@pytest.mark.parametrize("name", ["claude-unheard-of", "", "claude-haiku-4-5-2025", "claude-haiku-4-5-20251001-x"])
def test_an_unknown_model_has_no_price_rather_than_a_wrong_one(name):
    assert load().price(name) is None
    assert load().cost(MILLION, name, long=False) is None


def test_long_prompts_cost_more_where_the_model_says_so():
    assert load().cost(MILLION, "claude-haiku-5-5", long=True) == pytest.approx(3.0)
    assert load().cost(MILLION, "claude-opus-5", long=True) == load().cost(MILLION, "claude-opus-5", long=False)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        (Usage(cache_read_tokens=1_000_000), 0.1),
        (Usage(cache_creation_tokens=1_000_000), 1.25),
        (Usage(cache_creation_tokens=1_000_000, cache_creation_1h_tokens=1_000_000), 2.0),
        (Usage(cache_creation_tokens=1_000_000, cache_creation_1h_tokens=400_000), 0.6 * 1.25 + 0.4 * 2),
        (Usage(), 0.0),
    ],
)
def test_cached_tokens_have_their_own_factors(usage, dollars):
    assert load().cost(usage, "claude-haiku-4-5", long=False) == pytest.approx(dollars)


def test_a_total_adds_up_what_models_used():
    spends = [
        Spend(model="claude-haiku-4-5", usage=MILLION),
        Spend(model="claude-haiku-5-5", usage=MILLION, long=True),
    ]
    assert load().total(spends) == pytest.approx(9.0)
    assert load().total([]) == 0.0


def test_one_unknown_model_leaves_the_total_unknown():
    spends = [Spend(model="claude-haiku-4-5", usage=MILLION), Spend(model="claude-new", usage=Usage(input_tokens=1))]
    assert load().total(spends) is None


def test_a_batch_costs_half():
    assert BATCH_DISCOUNT == 0.5


def test_a_user_s_list_is_put_over_the_shipped_one(tmp_path):
    own = tmp_path / "prices.json"
    own.write_text(
        json.dumps(
            {"date": "2027-01-01", "models": {"opus-5": {"input": 1, "output": 2}, "new-1": {"input": 3, "output": 4}}}
        )
    )
    prices = load(str(own))
    assert prices.date == "2027-01-01"
    assert prices.price("claude-opus-5") == Price(input=1, output=2)
    assert prices.price("claude-new-1") == Price(input=3, output=4)
    assert prices.price("claude-haiku-4-5") == Price(input=1, output=5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"date":"x"}',
        '{"date":"x","models":{"m":{"input":"1","output":2}}}',
        '{"date":"x","models":{"m":{"input":1}}}',
        '{"date":"x","models":{},"typo":1}',
    ],
)
def test_a_list_that_cannot_be_read_is_refused_by_name(tmp_path, text):
    own = tmp_path / "prices.json"
    own.write_text(text)
    with pytest.raises(ConfigError, match=r"prices\.json"):
        load(str(own))


def test_a_list_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json"):
        load(str(tmp_path / "none.json"))


# ---- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "anthropic/claude-haiku-4-5",
        "anthropic/claude-haiku-4.5",
        "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "anthropic.claude-haiku-4-5-20251001-v1",
        "arn:aws:bedrock:us-east-1:1:inference-profile/global.anthropic.claude-haiku-4-5-20251001-v1:0",
        "publishers/anthropic/models/claude-haiku-4-5@20251001",
        "claude-haiku-4-5@default",
        "CLAUDE-HAIKU-4-5",
        " Claude-Haiku-4-5-20251001",
    ],
)
def test_a_model_has_its_price_under_every_name_that_platforms_give_it(name):
    assert load().price(name) == Price(input=1, output=5)


@pytest.mark.parametrize(
    ("name", "dollars"),
    [
        ("claude-3-5-haiku-20241022", 4.8),
        ("claude-3-7-sonnet-latest", 18),
        ("claude-3-opus-20240229", 90),
        ("claude-opus-4-20250514", 90),
        ("claude-sonnet-4-0", 18),
        ("claude-opus-4-1-20250805", 90),
    ],
)
def test_models_that_were_retired_keep_their_price(name, dollars):
    assert load().cost(MILLION, name, long=False) == pytest.approx(dollars)


@pytest.mark.parametrize("name", get_args(get_args(anthropic.types.Model)[0]))
def test_every_model_of_the_sdk_has_a_price_or_a_stated_reason(name):
    prices = load()
    reason = prices.why_no_price(name).partition(": ")[2]
    assert (prices.price(name) is not None) != bool(reason)
    assert (prices.cost(MILLION, name, long=False) is None) == bool(reason)


# ---- what is charged besides tokens ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ("claude-fable-5-2", 0.025),
        ("claude-fable-5-1", 0.025),
        ("claude-mythos-5-1", 0.025),
        ("claude-opus-5-5", 0.05),
        ("claude-sonnet-5-5", 0.05),
        ("claude-fable-5", 0.1),
        ("claude-opus-5", 0.1),
        ("claude-haiku-5-5", 0.1),
    ],
)
def test_a_cache_read_has_the_factor_of_its_model(model, factor):
    fresh = load().cost(Usage(input_tokens=1_000_000), model, long=False)
    assert load().cost(Usage(cache_read_tokens=1_000_000), model, long=False) == pytest.approx(fresh * factor)


def usage_of(**told) -> Usage:
    """What the strict reader and the lenient one make of a `usage`; they agree."""
    tokens = {"input_tokens": 1_000_000, "output_tokens": 0}
    message = {"model": "claude-haiku-4-5", "content": [], "stop_reason": "end_turn", "usage": tokens | told}
    line = json.dumps({"custom_id": "x", "result": {"type": "succeeded", "message": message}}).encode()
    seen = read_line(line)
    assert seen is not None
    assert seen.usage is not None
    assert seen.usage == Result(line).usage
    return seen.usage


@pytest.mark.parametrize(
    ("told", "tokens", "searches"),
    [
        ({}, 1.0, 0.0),
        ({"service_tier": "batch", "inference_geo": "not_available", "speed": "standard"}, 1.0, 0.0),
        ({"inference_geo": "global", "server_tool_use": None, "iterations": None}, 1.0, 0.0),
        ({"inference_geo": "us"}, 1.1, 0.0),
        ({"server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 9}}, 1.0, 0.03),
        ({"server_tool_use": {"web_search_requests": 0, "code_execution_requests": 0}}, 1.0, 0.0),
        ({"inference_geo": "us", "server_tool_use": {"web_search_requests": 1}}, 1.1, 0.01),
        ({"iterations": [{"type": "message", "input_tokens": 5}]}, 1.0, 0.0),
    ],
)
def test_searches_and_places_are_in_the_cost_and_batches_have_no_discount_on_searches(told, tokens, searches):
    usage = usage_of(**told)
    bill = load().bill([Spend(model="claude-haiku-4-5", usage=usage)])
    assert load().cost(usage, "claude-haiku-4-5", long=False) == pytest.approx(tokens + searches)
    assert (bill.synchronous, bill.batch) == (pytest.approx(tokens + searches), pytest.approx(tokens / 2 + searches))


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"inference_geo": "eu"}, "inference_geo 'eu'"),
        ({"inference_geo": "mixed"}, "inference_geo 'mixed'"),
        ({"service_tier": "priority"}, "service tier 'priority'"),
        ({"service_tier": "standard"}, "service tier 'standard'"),
        ({"speed": "fast"}, "speed 'fast'"),
        ({"server_tool_use": {"code_execution_requests": 2}}, "server tool 'code_execution_requests'"),
        ({"server_tool_use": {"web_search_requests": "3"}}, "server tool 'web_search_requests'"),
        ({"iterations": [{"type": "message"}, {"type": "compaction", "input_tokens": 9}]}, "'compaction'"),
        ({"iterations": [{"type": "advisor_message", "model": "claude-opus-5"}]}, "'advisor_message'"),
        ({"output_tokens": "5"}, "output_tokens is no number of tokens"),
        ({"cache_creation": {"ephemeral_1h_input_tokens": -1}}, "ephemeral_1h_input_tokens is no number"),
        ({"service_tier": {"odd": 1}}, "service tier"),
    ],
)
def test_a_charge_that_the_list_does_not_know_makes_the_cost_none_with_the_reason(told, reason):
    usage = usage_of(**told)
    assert load().cost(usage, "claude-haiku-4-5", long=False) is None
    (why,) = load().why_unpriced(usage, "claude-haiku-4-5")
    assert reason in why
    spends = [Spend(model="claude-haiku-4-5", usage=MILLION), Spend(model="claude-haiku-4-5", usage=usage)]
    bill = load().bill(spends)
    assert (bill.synchronous, bill.batch, bill.unpriced) == (None, None, (why,))


def test_the_price_model_knows_every_field_of_the_sdk_s_usage():
    """A field that the SDK gains may be a charge: it has to be looked at, and then stands here."""
    free = {"output_tokens_details", "fallback_credit"}  # a part of output_tokens; never of a batch
    read = {"cache_creation", "cache_creation_input_tokens", "cache_read_input_tokens", "input_tokens", "output_tokens"}
    read |= {"inference_geo", "server_tool_use", "service_tier", "speed", "iterations"}
    assert set(anthropic.types.Usage.model_fields) | set(anthropic.types.beta.BetaUsage.model_fields) == read | free
    assert set(anthropic.types.ServerToolUsage.model_fields) == {"web_search_requests", "web_fetch_requests"}
    tiers = get_args(get_args(anthropic.types.Usage.model_fields["service_tier"].annotation)[0])
    assert set(tiers) == {"standard", "priority", "batch"}


def test_a_sum_of_two_places_has_no_cost_and_a_sum_of_one_has():
    home, us = usage_of(), usage_of(inference_geo="us")
    assert (us + us + Usage()).inference_geo == (Usage() + us).inference_geo == "us"
    assert (home + us).inference_geo == "mixed"
    assert load().cost(home + us, "claude-haiku-4-5", long=False) is None


def test_reasons_are_few_however_many_the_api_makes_up():
    usage = usage_of(server_tool_use={f"tool_{n}" + "x" * 5_000: 1 for n in range(50)})
    assert len(usage.unpriced) == MOST_REASONS
    assert len(msgspec.json.encode(usage + usage)) < 1_000


def test_a_user_s_list_states_factors_and_keeps_those_that_it_leaves_out(tmp_path):
    own = tmp_path / "prices.json"
    models = {"opus-5-5": {"input": 2, "output": 4}, "opus-5": {"input": 1, "output": 2, "cache_read": 0.5}}
    own.write_text(json.dumps({"date": "2027-01-01", "inference_geo": {"eu": 2}, "web_search": 20, "models": models}))
    prices = load(str(own))
    read = Usage(cache_read_tokens=1_000_000)
    assert prices.cost(read, "claude-opus-5-5", long=False) == pytest.approx(2 * 0.05)
    assert prices.cost(read, "claude-opus-5", long=False) == pytest.approx(0.5)
    assert prices.cost(usage_of(inference_geo="eu"), "claude-opus-5", long=False) == pytest.approx(2.0)
    assert prices.cost(usage_of(inference_geo="us"), "claude-opus-5", long=False) is None
    assert prices.cost(Usage(web_search_requests=1_000), "claude-opus-5", long=False) == pytest.approx(20.0)


def test_the_age_of_a_list_is_counted_in_days():
    assert days_old("2026-11-30", date(2027, 3, 1)) == 91
    assert days_old("spring", date(2027, 3, 1)) is None
