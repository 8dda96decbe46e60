"""What tokens cost."""

from __future__ import annotations

import json

import pytest

from abatch import ConfigError, Usage
from abatch.facts import Spend
from abatch.prices import BATCH_DISCOUNT, Price, load

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


def test_the_list_is_dated():
    assert load().date == "2026-11-01"


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
