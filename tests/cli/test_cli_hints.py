"""Typing errors in options, and destinations that are looked at before a job begins."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import boto3
import pytest

from abatch.cli.hints import nearest, renamed
from abatch.destination import missing_folder
from abatch.errors import BackendError
from abatch.sandbox import Sandbox
from tests.servers import SeaweedS3

FAST = ("--poll-interval", "0.05")
RUN = ("run", "in.jsonl", "--to", "out.jsonl")
OPTIONS = (
    "--to",
    "--tier",
    "--poll-interval",
    "--tries",
    "--dry-run",
    "--quiet",
    "--json",
    "--sandbox",
    "--params",
)


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("--poll", ["--poll-interval"]),
        ("--interval", ["--poll-interval"]),
        ("--tri", ["--tries"]),
        ("--dryrun", ["--dry-run"]),
        ("--quite", ["--quiet"]),
        ("--Json", ["--json"]),
        ("--sandbocks", ["--sandbox"]),
        ("--out", []),
        ("--t", []),
        ("--model", []),
    ],
)
def test_an_unknown_option_is_taken_for_one_that_resembles_it_or_for_none(unknown: str, meant: list[str]) -> None:
    assert nearest(unknown, OPTIONS) == meant


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["--max-tries", "1"], ["--tries", "1"]),
        (["--max-batch-requests=8"], ["--requests-per-batch=8"]),
        (["--max-batch-bytes", "5000", "--", "--max-tries"], ["--bytes-per-batch", "5000", "--", "--max-tries"]),
        (["--strict", "--workspace=w"], ["--params=strict", "--workspace-id=w"]),
        (["--unchecked", "--workspace", "w"], ["--params=unchecked", "--workspace-id", "w"]),
        (["in.jsonl", "--key", "a=b"], ["in.jsonl", "--key", "a=b"]),
    ],
)
def test_options_are_read_by_their_old_names_too(typed: list[str], read: list[str]) -> None:
    assert renamed(typed) == read


def test_a_command_of_an_old_shell_history_works_and_no_help_shows_its_names(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 6)
    old = ("--max-batch-requests", 4, "--max-batch-bytes=100000", "--max-tries", 1, "--unchecked")
    done = cli.here(*RUN, *old, *FAST)
    assert done.status == 0, done
    assert api.account.violated == 0
    assert cli.here(*RUN, "--requests-per-batch", 4, "--bytes-per-batch", 100_000, "--tries", 1, *FAST).status == 0
    shown = cli.here("run", "--help").out
    assert not any(name in shown for name in ("--max-", "--strict", "--unchecked", "--workspace "))
    present = ("--requests-per-batch", "--bytes-per-batch", "--tries", "--params", "--workspace-id")
    assert all(name in shown for name in present)
    refused = cli.here(*RUN, "--max-tries", 0)
    assert (refused.status, "--tries" in refused.err) == (2, True)


def test_a_typo_never_proposes_a_hidden_option_nor_to_for_poll(alone: Any) -> None:
    poll = alone.here(*RUN, "--poll", "3")
    assert poll.status == 2
    assert "--poll-interval" in poll.err
    assert "--to" not in poll.err.partition("No such option")[2]
    hidden = alone.here(*RUN, "--sandbox-latence", "3")
    assert hidden.status == 2
    assert "--sandbox-latency" not in hidden.err
    nothing = alone.here("status", "--zzz")
    assert (nothing.status, "ossible options" in nothing.err) == (2, False)


def test_folders_that_are_missing_are_made_and_named_before(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 4)
    for number, to in enumerate(("new/deeper/out.jsonl", "new/parts/", "other/out.db")):
        args = ("run", "in.jsonl", "--to", to, *FAST)
        folder = (cli.folder / to.rstrip("/")).parent
        there = folder.exists()
        tried = cli.here(*args, "--dry-run")
        assert (tried.status, f"The folder {folder} does not exist; the run creates it." in tried.err) == (0, not there)
        assert folder.exists() is there
        cli.write("in.jsonl", 4, first=10 * number)
        done = cli.here(*args)
        assert (done.status, f"The folder {folder} does not exist; abatch creates it." in done.err) == (0, not there), (
            done
        )
        assert "does not exist" not in cli.here(*args).err  # the job is known
    assert api.account.violated == 0


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_sent(cli: Any, api: Sandbox) -> None:
    cli.write("in.jsonl", 4)
    for more in ((), ("--dry-run",)):
        refused = cli.here("run", "in.jsonl", "--to", "in.jsonl/x/out.jsonl", *more)
        assert refused.status == 2, refused
        assert f"{cli.folder / 'in.jsonl'} is no folder" in refused.err
    assert api.account.requests == 0


@pytest.mark.parametrize(
    "command",
    [
        ("run", "in.jsonl", "--to", "LONG.jsonl"),
        ("run", "in.jsonl", "--to", "LONG/out.jsonl", "--dry-run"),
        ("run", "in.jsonl", "--to", "sqlite:///LONG"),
        ("run", "LONG*.jsonl", "--to", "out.jsonl"),
        ("run", "in.jsonl", "--to", "out.jsonl", "--journal", "LONG"),
        ("status", "--journal", "LONG"),
        ("submit", "in.jsonl", "--to", "out.jsonl", "--journal", "LONG"),
    ],
    ids=" ".join,
)
def test_a_name_that_is_too_long_is_refused_before_anything_is_sent(cli: Any, api: Sandbox, command: Any) -> None:
    cli.write("in.jsonl", 4)
    refused = cli.here(*(word.replace("LONG", "x" * 300) for word in command))
    assert refused.status in (2, 3), refused
    assert "\nerror: " in f"\n{refused.err}"
    assert "Traceback" not in refused.err
    assert api.account.requests == 0


def test_a_folder_that_is_there_is_filled_whatever_stands_above(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "results").mkdir()
    open_ = {tmp_path / "results"}
    monkeypatch.setattr("os.access", lambda path, _: path in open_)
    assert missing_folder(f"jsonl:///{tmp_path}/results/") is None
    with pytest.raises(BackendError, match="cannot be written"):
        missing_folder(f"jsonl:///{tmp_path}/other/")
    assert missing_folder("s3://bucket/x") is None


def test_a_dry_run_looks_whether_the_bucket_exists(alone: Any, s3_server: SeaweedS3) -> None:
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.url,
        region_name="us-east-1",
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    client.create_bucket(Bucket="dry-run")
    alone.write("in.jsonl", 4)

    def tried(bucket: str, **environment: str) -> Any:
        to = f"s3://{bucket}/runs?endpoint_url={quote(s3_server.url, safe='')}&region=us-east-1"
        return alone.here("run", "in.jsonl", "--to", to, "--dry-run", **environment)

    there = tried("dry-run", **keys)
    assert (there.status, "Nothing was sent" in there.err) == (0, True), there
    assert "Contents" not in client.list_objects_v2(Bucket="dry-run")  # nothing was made
    absent = tried("not-there", **keys)
    assert absent.status == 2, absent
    assert "NoSuchBucket; make the bucket first" in absent.err
    assert absent.out == ""
    wrong = tried("dry-run", **{**keys, "AWS_SECRET_ACCESS_KEY": "not-the-secret"})
    assert (wrong.status, "403" in wrong.err) == (2, True), wrong
    assert "not-the-secret" not in wrong.err
    client.close()
