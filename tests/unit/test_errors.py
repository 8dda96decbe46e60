"""The texts of errors carry the facts and say what to do."""

from __future__ import annotations

import copy
import inspect
import pickle
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

import abatch
from abatch import errors
from abatch.errors import (
    AbatchError,
    ApiError,
    BackendError,
    BackendNotFound,
    BackendUnavailable,
    BadAnswer,
    BadRequest,
    ConfigError,
    IllegalTransition,
    InboxClosed,
    JobConflict,
    JobFailed,
    JobNotFound,
    JobStopped,
    JournalCorrupt,
    JournalError,
    JournalLocked,
    LimitReached,
    LineTooLong,
    ManagerClosed,
    NoResult,
    Overtaken,
    RequestConflict,
    RequestNotFound,
    SpoolDamaged,
    SpoolUnusable,
    StillInDoubt,
    TooManyOpenFiles,
)
from abatch.protocol.lifecycle import Ready
from abatch.result import Summary
from tests.unit.make import committing

SUMMARY = Summary(key="k", location="x", requests=10, succeeded=7, errored=3, canceled=0, expired=0)
EACH = [
    (BackendNotFound("x.txt", ["a.jsonl", "s3://b"]), ["'x.txt'", "a.jsonl, s3://b"]),
    (BackendUnavailable("s3:", "s3"), ["s3:", "pip install 'abatch[s3]'"]),
    (BadRequest(7, "a", "max_tokens is missing"), ["line 7", "'a'", "max_tokens is missing"]),
    (BadRequest(7, None, "not JSON"), ["line 7: not JSON"]),
    (JobConflict("k", "other requests"), ["'k'", "other requests", "another key"]),
    (
        JobConflict("k", "it is so", why="change"),
        ["'k' cannot take the changed input: it is so. Submit what", "another key"],
    ),
    (InboxClosed("k"), ["'k' takes no further requests", "another open job"]),
    (RequestConflict("k", "a"), ["'k'", "another request with custom_id 'a'", "another custom_id"]),
    (RequestNotFound("k", "a"), ["'a'", "'k'"]),
    (NoResult("k", "a", "it was given up"), ["'a'", "'k'", "has no result: it was given up"]),
    (LimitReached("k", 1200), ["'k'", "only its first 1,200 requests", "without a limit"]),
    (JobStopped("k", "the key is invalid", "Check the API key."), ["'k'", "the key is invalid", "Check the API key."]),
    (ManagerClosed("k"), ["'k'", "was closed", "same key"]),
    (
        StillInDoubt("k", [(3, "r1"), (5, "r2")]),
        ["'k'", "shard 3: r1", "shard 5: r2", "abatch resolve SHARD", "--adopt", "--not-created"],
    ),
    (JobFailed(SUMMARY), ["'k'", "3 of 10", "job.failures()"]),
    (BackendError("s3://b", "access denied"), ["s3://b", "access denied"]),
    (TooManyOpenFiles("a.db"), ["a.db", "too many open files", "ulimit -n"]),
    (JournalLocked(Path("/j"), 42), ["/j", "process 42", "stop it"]),
    (JournalCorrupt(Path("/j"), "it has format 9"), ["/j", "format 9", "keep a copy"]),
    (IllegalTransition(Ready(), committing()), ["Committing cannot follow Ready", "was not changed", "Run again"]),
    (JobNotFound(Path("/j"), "k", ["a", "b"]), ["/j", "no job 'k'", "it has: a, b. Use one of these keys"]),
    (Overtaken(), ["another process", "Read the facts again"]),
    (SpoolDamaged(Path("/s"), "is gone"), ["/s is gone", "Put the file back"]),
    (SpoolUnusable(Path("/s"), "no space"), ["/s", "no space", "Free space"]),
    (LineTooLong(67), ["67 bytes", "with other tools"]),
    (BadAnswer("a", "it was cut"), ["request 'a'", "it was cut"]),
    (ApiError("create"), ["create", "no answer"]),
    (
        ApiError("list", status=429, kind="rate_limit_error", message="slow down", request_id="req_1"),
        ["list", "429", "rate_limit_error", "slow down", "req_1"],
    ),
]


@pytest.mark.parametrize(("error", "words"), EACH, ids=[type(error).__name__ for error, _ in EACH])
def test_the_text_says_what_happened_and_what_to_do(error, words):
    for word in words:
        assert word in str(error)


def test_every_error_has_its_text_tested():
    tree = {each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, AbatchError)}
    assert tree - {type(error) for error, _ in EACH} == {AbatchError, ConfigError, JournalError}
    assert sorted(each.__name__ for each in tree) == errors.__all__


def test_every_error_of_the_package_is_in_the_tree():
    for found in pkgutil.walk_packages(abatch.__path__, "abatch."):
        if not found.name.endswith("__main__"):
            import_module(found.name)
    outside = {
        each.__name__
        for each in descendants(AbatchError)
        if each.__module__.startswith("abatch.") and each.__module__ != errors.__name__
    }
    assert outside == {"OutputGone"}  # of the command line, which no Python caller meets


def descendants(kind):
    below = kind.__subclasses__()
    return set(below).union(*map(descendants, below))


def test_a_job_that_is_not_there_is_a_lookup_error_and_a_setting_that_cannot_work():
    assert issubclass(JobNotFound, LookupError)
    assert issubclass(JobNotFound, ConfigError)
    many = JobNotFound(Path("/j"), "k", [f"job-{n}" for n in range(1_023)])
    assert str(many).endswith("job-19, and 1,003 more. Use one of these keys, or name another journal.")
    assert str(JobNotFound(Path("/j"), "k")).endswith("it has: none. Name another journal.")


def test_the_tree_of_the_docstring_names_every_error():
    tree = (errors.__doc__ or "").split("\n\n")[1]
    assert sorted(line.strip("│├└─ ").partition(" ")[0] for line in tree.splitlines()) == errors.__all__


@pytest.mark.parametrize("kind", [JournalLocked, JournalCorrupt, IllegalTransition])
def test_what_breaks_the_journal_is_a_journal_error(kind):
    assert issubclass(kind, JournalError)


@pytest.mark.parametrize("kind", [BackendNotFound, BackendUnavailable])
def test_a_destination_that_cannot_work_is_a_setting_that_cannot_work(kind):
    assert issubclass(kind, ConfigError)
    assert issubclass(kind, ValueError)


def test_twenty_problems_are_shown_and_the_others_counted():
    more = [BadRequest(n, None, "not JSON") for n in range(2, 21)]
    error = BadRequest(1, "a", "not JSON", more=more, total=25)
    assert len(error.problems) == 20
    assert len(str(error).splitlines()) == 21
    assert str(error).endswith("and 5 more")


def test_a_long_custom_id_is_cut_in_the_text():
    assert len(str(BadRequest(1, "x" * 512, "bad"))) < 120


@pytest.mark.parametrize("error", [error for error, _ in EACH], ids=[type(error).__name__ for error, _ in EACH])
def test_an_error_can_be_sent_to_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(copy.copy(error)) == str(error)
