"""What a process chooses for the job that it submits to another: obeyed for that job, or refused with the reason."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta

import msgspec
import pytest

from abatch.config import Config
from abatch.protocol import facts
from abatch.protocol.terms import OF_THE_DRIVER, PER_JOB, Terms, chosen, obeyed, of_driver, refusal

OF_THE_PROCESS = {
    *("sealed_unsent", "uploads", "drains", "tier", "poll_interval", "poll_interval_max"),
    *("inbox_bytes", "free_disk", "storage_retry_every"),
}
"""Settings of the process that drives, which say nothing about a job."""


def test_every_setting_is_obeyed_or_refused_or_of_the_process():
    names = {each.name for each in fields(Config)}
    assert names == {*PER_JOB, *OF_THE_DRIVER} | OF_THE_PROCESS
    assert set(PER_JOB) & set(OF_THE_DRIVER) == set()


def test_only_what_differs_from_the_defaults_is_chosen():
    assert chosen(Config()) == {}
    assert chosen(Config(tier="scale", poll_interval=timedelta(seconds=1))) == {}
    config = Config(failing="go-on", requests_per_batch=7, storage_patience=timedelta(minutes=1), unresolved="hold")
    assert chosen(config) == {
        "failing": "go-on",
        "requests_per_batch": 7,
        "storage_patience": 60.0,
        "unresolved": "hold",
    }


def test_the_settings_of_a_job_take_the_place_of_the_drivers_for_that_job():
    own = Config(requests_per_batch=50, uploads=2)
    assert obeyed(own, None) is own
    assert obeyed(own, Terms()) is own
    wanted = Config(requests_per_batch=7, storage_patience=timedelta(minutes=1), unresolved="hold")
    config = obeyed(own, Terms(settings=chosen(wanted)))
    assert config == Config(requests_per_batch=7, uploads=2, storage_patience=timedelta(minutes=1))


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        (Terms(), ""),
        (Terms(settings={"failing": "go-on"}, base_url="https://a", fingerprint="f"), ""),
        (Terms(base_url="https://b"), "it was submitted for the API at https://b"),
        (Terms(fingerprint="g"), "it was submitted with another API key"),
        (Terms(settings={"unresolved": "hold"}), "it was submitted with unresolved=hold"),
        (
            Terms(settings={"grace": 7200.0}),
            "it was submitted with grace=7200.0, and its journal is driven with grace=60",
        ),
    ],
)
def test_a_job_that_cannot_be_sent_as_it_asks_is_refused(terms, why):
    settings = of_driver(Config(grace=timedelta(minutes=1)))
    refused = refusal(terms, Terms(settings=settings, base_url="https://a", fingerprint="f"))
    assert refused.startswith(why)
    assert bool(refused) == bool(why)


def test_a_driver_without_a_fixed_key_is_not_compared():
    assert refusal(Terms(fingerprint="g"), Terms(settings=of_driver(Config()), base_url="https://a")) == ""


def test_facts_of_a_journal_without_terms_are_read():
    assert facts.decode(b'{"type":"Resumed"}') == facts.Resumed(terms=None)
    fact = facts.Resumed(terms=Terms(settings={"grace": 1.5, "failing": "go-on", "requests_per_batch": 3}))
    again = facts.decode(facts.encode(fact))
    assert again == fact
    assert isinstance(again, facts.Resumed)
    assert again.terms is not None
    assert msgspec.json.decode(msgspec.json.encode(again.terms), type=Terms) == fact.terms
