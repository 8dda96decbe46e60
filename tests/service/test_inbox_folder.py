"""Files that are moved into an inbox folder become jobs, each once, whatever dies between two steps."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import BatchManager
from abatch.errors import ConfigError
from abatch.sandbox import Sandbox
from abatch.service import inbox_folder
from abatch.service.inbox_folder import InboxFolder
from abatch.testing import memory

pytestmark = pytest.mark.anyio


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setattr(inbox_folder, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(inbox_folder, "RETRY_EVERY", 0.01)
    with Sandbox(seed=7) as sandbox:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sandbox.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", sandbox.key)
        yield sandbox


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


def requests(count: int, topic: str = "herons") -> bytes:
    """The lines of a file."""
    message = {"role": "user", "content": topic}
    rows = (
        {
            "custom_id": f"{topic}-{number}",
            "params": {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [message], "system": str(number)},
        }
        for number in range(count)
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def drop(inbox: Path, name: str, content: bytes) -> None:
    """Move a complete file in, as a user does."""
    inbox.mkdir(exist_ok=True)
    elsewhere = inbox.parent / "elsewhere"
    elsewhere.write_bytes(content)
    elsewhere.replace(inbox / name)


@asynccontextmanager
async def served(inbox: Path) -> AsyncIterator[BatchManager]:
    """A manager that drives the jobs of an inbox folder."""
    async with BatchManager(inbox.parent / ".abatch", config=Sandbox.config()) as manager:
        folder = InboxFolder(inbox, manager)
        await folder.prepare()
        async with anyio.create_task_group() as group:
            group.start_soon(folder.run)
            yield manager
            group.cancel_scope.cancel()


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.sleep(0.01)


def ids(path: Path) -> set[str]:
    return {json.loads(line)["custom_id"] for line in path.read_bytes().splitlines()}


async def test_a_file_becomes_a_job_and_its_results_stand_in_the_folder(api: Sandbox, inbox: Path) -> None:
    async with served(inbox) as manager:
        drop(inbox, "birds.jsonl", requests(3))
        drop(inbox, "more.jsonl.gz", gzip.compress(requests(2, "owls")))
        await until((inbox / "done" / "birds.jsonl").exists)
        await until((inbox / "done" / "more.jsonl.gz").exists)
        assert manager.job("birds").done
        assert manager.job("more").done
    assert ids(inbox / "results" / "birds.jsonl") == {"herons-0", "herons-1", "herons-2"}
    assert ids(inbox / "results" / "more.jsonl") == {"owls-0", "owls-1"}
    assert not (inbox / "birds.jsonl").exists()
    assert (inbox / "claimed" / "birds.jsonl").read_bytes() == requests(3)  # a retry reads it
    assert inbox.joinpath("claimed", "birds.jsonl").readlink() == Path("../done/birds.jsonl")
    assert (api.account.requests, api.account.violated) == (5, 0)


async def test_everything_that_it_creates_is_closed_to_others(api: Sandbox, inbox: Path) -> None:
    async with served(inbox):
        await until((inbox / "refused").exists)
    folders = [inbox, *(path for path in inbox.iterdir())]
    assert {oct(path.stat().st_mode & 0o777) for path in folders} == {"0o700"}


async def test_settings_beside_a_file_name_the_key_and_the_destination(api: Sandbox, inbox: Path) -> None:
    drop(inbox, "birds.toml", b'key = "birds-of-may"\nto = "answers/birds.db"\n')
    drop(inbox, "birds.jsonl", requests(2))
    async with served(inbox) as manager:
        await until((inbox / "done" / "birds.jsonl").exists)
        assert manager.job("birds-of-may").summary().location == str(inbox / "answers" / "birds.db")
        await until((inbox / "done" / "birds.jsonl.toml").exists)
    assert not (inbox / "birds.toml").exists()


@pytest.mark.parametrize(
    ("content", "settings", "why"),
    [
        (b'{"custom_id": "a"}\n', b"", "params"),
        (b"", b"", "no request"),
        (requests(1), b'ky = "a"', "unknown name 'ky'; did you mean key?"),
        (requests(1), b'colour = "a"', "unknown name 'colour'; it may hold key and to"),
        (requests(1), b"key = 7", "Expected `str | null`, got `int`"),
        (requests(1), b"key = ", "birds.toml cannot be used"),
        (requests(1), b'key = "a/b"', "key"),
        (requests(1), b'to = "ftp://x/y"', "ftp"),
    ],
)
async def test_a_file_that_cannot_be_sent_is_refused_with_the_reason(
    api: Sandbox, inbox: Path, content: bytes, settings: bytes, why: str
) -> None:
    if settings:
        drop(inbox, "birds.toml", settings)
    drop(inbox, "birds.jsonl", content)
    async with served(inbox):
        await until((inbox / "refused" / "birds.jsonl").exists)
    assert why in (inbox / "refused" / "birds.jsonl.error.txt").read_text()
    assert (inbox / "refused" / "birds.jsonl").read_bytes() == content
    assert (inbox / "refused" / "birds.jsonl.toml").exists() == bool(settings)
    assert list((inbox / "claimed").iterdir()) == []
    assert api.account.requests == 0


async def test_a_second_file_of_the_same_name_is_refused_or_done_at_once_and_the_first_stays(
    api: Sandbox, inbox: Path
) -> None:
    async with served(inbox):
        drop(inbox, "birds.jsonl", requests(2))
        await until((inbox / "done" / "birds.jsonl").exists)
        drop(inbox, "birds.jsonl", requests(2))
        await until((inbox / "done" / "birds-2.jsonl").exists)
        drop(inbox, "birds.jsonl", requests(2, "owls"))
        await until((inbox / "refused" / "birds.jsonl").exists)
    assert "birds" in (inbox / "refused" / "birds.jsonl.error.txt").read_text()
    assert (inbox / "claimed" / "birds.jsonl").read_bytes() == requests(2)
    assert (api.account.requests, api.account.violated) == (2, 0)


async def test_a_file_that_is_open_for_writing_or_grows_is_left_alone(api: Sandbox, inbox: Path) -> None:
    async with BatchManager(inbox.parent / ".abatch", config=Sandbox.config()) as manager:
        folder = InboxFolder(inbox, manager)
        await folder.prepare()
        with (inbox / "birds.jsonl").open("wb") as writing:
            writing.write(requests(1))
            writing.flush()
            assert [folder._look() for _ in range(3)] == [([], "")] * 3
        assert folder._look() == ([inbox / "claimed" / "birds.jsonl"], "")
        with (inbox / "owls.jsonl").open("ab") as writing:
            writing.write(requests(1, "owls"))
        assert folder._look() == ([], "")
        with (inbox / "owls.jsonl").open("ab") as writing:  # closed again before the next look
            writing.write(requests(1, "more"))
        assert folder._look() == ([], "")
        assert folder._look() == ([inbox / "claimed" / "owls.jsonl"], "")


async def test_links_hidden_files_and_other_names_are_left_alone(api: Sandbox, inbox: Path) -> None:
    drop(inbox, ".birds.jsonl", requests(1))
    drop(inbox, "birds.jsonl.part", requests(1))
    drop(inbox, "birds.csv", b"a,b\n")
    (inbox / "birds.jsonl").symlink_to("/etc/passwd")
    (inbox / "folder.jsonl").mkdir()
    async with served(inbox):
        drop(inbox, "last.jsonl", requests(1))
        await until((inbox / "done" / "last.jsonl").exists)
    assert {path.name for path in inbox.iterdir() if path.name.startswith((".", "birds", "folder"))} == {
        ".birds.jsonl", "birds.jsonl.part", "birds.csv", "birds.jsonl", "folder.jsonl",
    }  # fmt: skip
    assert api.account.requests == 1


async def test_a_destination_that_fails_temporarily_is_waited_for(api: Sandbox, inbox: Path) -> None:
    memory.outage("inbox-outage")
    drop(inbox, "birds.toml", b'to = "memory:inbox-outage"')
    drop(inbox, "birds.jsonl", requests(2))
    async with served(inbox):
        await until((inbox / "claimed" / "birds.jsonl").exists)
        await anyio.sleep(0.1)
        assert list((inbox / "refused").iterdir()) == []
        memory.restore("inbox-outage")
        await until((inbox / "done" / "birds.jsonl").exists)
    assert len(memory.lines("inbox-outage")) == 2


async def test_a_folder_that_cannot_be_used_says_so(api: Sandbox, inbox: Path) -> None:
    inbox.write_bytes(b"")
    async with BatchManager(inbox.parent / ".abatch", config=Sandbox.config()) as manager:
        with pytest.raises(ConfigError, match=f"the inbox folder {inbox} cannot be used: File exists"):
            await InboxFolder(inbox, manager).prepare()


async def test_a_folder_that_goes_away_stops_nothing_and_is_used_again(api: Sandbox, inbox: Path) -> None:
    async with served(inbox):
        await until((inbox / "refused").exists)
        inbox.rename(inbox.with_name("away"))
        await anyio.sleep(0.1)
        inbox.with_name("away").rename(inbox)
        drop(inbox, "birds.jsonl", requests(1))
        await until((inbox / "done" / "birds.jsonl").exists)


class Killed(BaseException):
    """The process dies here."""


class Death:
    """Kills the process in place of the n-th move below a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        for name in ("replace", "rename", "link", "symlink", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._killing(getattr(os, name), str(folder)))

    def _killing(self, move: Callable[..., Any], folder: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(str(path).startswith(folder) for path in args[:2]):
                self.left -= 1
                if self.left == 0:
                    raise Killed
            return move(*args, **kwargs)

        return call


async def test_a_death_between_any_two_steps_loses_and_repeats_nothing(
    api: Sandbox, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox.mkdir()
    death = Death(inbox, monkeypatch)
    for point in range(1, 40):
        topic = f"topic-{point}"
        (inbox / f"{topic}.toml").write_text(f'key = "{topic}-key"')
        (inbox / f"{topic}.jsonl").write_bytes(requests(2, topic))
        done, claimed = inbox / "done" / f"{topic}.jsonl", inbox / "claimed" / f"{topic}.jsonl"
        death.left = point
        try:
            async with served(inbox):
                await until(Path(f"{done}.toml").exists)
        except* Killed:
            pass
        survived = death.left > 0
        death.left = 0
        async with served(inbox) as manager:
            await until(claimed.is_symlink)
            assert done.exists()
            assert manager.job(f"{topic}-key").done
        assert claimed.read_bytes() == requests(2, topic)
        assert api.account.requests == 2 * point
        if survived:
            break
    assert survived
    assert point > 6
    assert api.account.violated == 0
