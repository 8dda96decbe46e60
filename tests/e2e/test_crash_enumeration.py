"""Die at effect 1, 2, 3 … until a run survives: the next run makes everything good, and nothing is paid twice.

An effect is a journal transaction, a write of the spool, a piece of a create's body, the gate, an answer or a piece
of one, a step of the backend or, inside it, a statement of SQLite or a call of S3. Every point is tried where a run
is quick, every so many where it is not. `python -m tests.kill.crashes` tries those between them, too, and counts.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from abatch import JobStopped
from abatch.protocol.facts import WishRefused
from abatch.sandbox import answer_text
from abatch.sandbox.api import Settings
from abatch.sandbox.faults import Status
from abatch.testing.crash import Crash, CrashPoints, died
from tests.e2e.jobs import assert_each_answered, raw_params, requests, write
from tests.e2e.test_lost import call_lost, recorded
from tests.harness.here import OpenRows, Server, quick_folder
from tests.harness.media import BUCKET, S3, Folder, Jsonl, Medium, Sqlite, s3_client
from tests.harness.places import make_in_backends, make_small_steps
from tests.harness.secrets import PROMPT, found_in, found_in_files, open_to_others
from tests.servers import SeaweedS3

pytestmark = [
    pytest.mark.anyio,
    # a dead run closes nothing
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

EVERY = {"jsonl": (1, 3), "folder": (2, 5), "sqlite": (1, 3), "s3": (13, 23)}
"""Of how many points one is tried, per medium: with one death, and with two in a row."""
ALL = bool(os.environ.get("ABATCH_NIGHTLY"))
"""Whether the others are tried, too, each share of them in a test of its own."""
OF_PARKED = 11
"""Of how many points one is tried where batches are parked."""
OF_PILOT = 7
"""The same, where a pilot decides about the rest."""
OF_CHANGED = 13
"""The same, where a job goes on with a changed input."""
OF_OPEN = (3, 7)
"""The same, for an open job: with one death, and with two in a row."""
OF_REFUSED = 5
"""The same, where an operator's word is refused."""
EFFECTS = {
    "the journal": "SqliteLog._append",
    "the spool": "SpoolWriter.seal",
    "the gate": "GET /v1/messages/batches",
    "a create": "POST /v1/messages/batches",
    "its body": "a piece of POST /v1/messages/batches",
    "a line": "a piece of the answer to GET .*/results",
    "the claim": "claim",
    "a sink": "open",
    "its lines": "write",
    "the seal": "seal",
    "the end": "finish",
}
WAYS = ("once", "twice")
INSIDE = {"jsonl": "_Sink._write", "folder": "_Sink._write", "sqlite": "sqlite COMMIT", "s3": "s3 upload_part"}


class Noted(CrashPoints):
    """Crash points that remember what they passed."""

    def __init__(self, point: int) -> None:
        super().__init__(point)
        self.places: Counter[str] = Counter()

    def reach(self, where: str) -> None:
        self.places[where] += 1
        super().reach(where)


async def die_at(
    server: Server, path: Path | OpenRows, to: str, crash: CrashPoints, patch: pytest.MonkeyPatch, **more: Any
) -> bool:
    """Whether the run died; a run that is to die never ends in any other way."""
    with crash, patch.context() as inside:
        make_in_backends(crash.reach, inside.setattr)
        try:
            await server.run(path, to, crash, **more)
        except BaseException as error:
            if not died(error):
                raise
    return crash.happened


async def bury() -> None:
    """Collect what the dead left here, where its warnings are ignored; what goes lets go of more."""
    for _ in range(5):
        gc.collect()
        await anyio.sleep(0.01)


@pytest.fixture
def quick_path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Modes of files are those that were asked for."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def medium(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Medium:
    if request.param != "s3":
        return {"jsonl": Jsonl, "folder": Folder, "sqlite": Sqlite}[request.param]()
    server: SeaweedS3 = request.getfixturevalue("s3_server")
    client = s3_client(server)
    if BUCKET not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    return S3(server)


def shares() -> Iterator[Any]:
    """Every medium and way to die, and the point to begin with; from there every so manyeth is tried."""
    for name, steps in EVERY.items():
        for twice, every in enumerate(steps):
            for first in range(1, every + 1 if ALL else 2):
                yield pytest.param(name, bool(twice), first, id=f"{name}-{WAYS[twice]}-{first}")


def told_or_open(medium: Medium, home: Path, *, at_rest: bool) -> list[str]:
    """Secrets that can be found, and files that others may read."""
    found = [*found_in_files(home, at_rest=at_rest), *open_to_others(home)]
    return [*found, *(each for name, content in medium.contents(home) for each in found_in(name, content))]


@pytest.mark.parametrize(("medium", "twice", "first"), list(shares()), indirect=["medium"])
async def test_death_at_any_effect_loses_nothing_and_pays_once(
    *,
    medium: Medium,
    twice: bool,
    first: int,
    monkeypatch: pytest.MonkeyPatch,
    quick_path: Path,
    record_property: Callable[[str, object], None],
    open_umask: None,
) -> None:
    make_small_steps(monkeypatch.setattr)
    rows = requests(11)
    for row in rows:
        row["params"]["system"] = PROMPT
    rows[2]["params"]["metadata"] = {"user_id": "sandbox:errored-once:overloaded_error"}
    wanted = Counter((row["custom_id"], answer_text(raw_params(row))) for row in rows)
    every = EVERY[medium.name][twice]
    tried = again = 0
    for point in count(first, every):
        home = quick_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, path, to = Server(), write(rows), medium.destination(home)
        crash = Noted(point)
        died_here = await die_at(server, path, to, crash, monkeypatch)
        if died_here and twice:  # anywhere in what is left to do, and less is as the first death comes later
            second = 1 + point * 37 % max(1, 250 - point)
            again += await die_at(server, path, to, CrashPoints(second), monkeypatch)
        told = f"after death at point {point}, {crash.where}"
        assert told_or_open(medium, home, at_rest=False) == [], told
        summary = await server.run(path, to)
        account = server.machine.account
        assert told_or_open(medium, home, at_rest=True) == [], told
        assert account.violated == 0, told
        assert [account.times(raw_params(row)) for row in rows] == [1, 1, 2] + [1] * 8, told
        assert summary.succeeded == 11, told
        assert Counter(medium.answers(home)) == wanted, told
        assert medium.is_complete(home), told
        shutil.rmtree(home)
        if not died_here:
            break
        tried += 1
    await bury()
    passed = {place.removeprefix("before ") for place in crash.places if place.startswith("before ")}
    assert [name for name, effect in EFFECTS.items() if not any(map(re.compile(effect).fullmatch, passed))] == []
    assert any(map(re.compile(INSIDE[medium.name]).fullmatch, passed))
    assert tried > 200 / every
    assert again >= twice * tried / 3
    record_property(medium.name, (WAYS[twice], tried, again))


async def test_request_that_is_too_large_is_not_sent_again_whenever_it_dies(
    monkeypatch: pytest.MonkeyPatch, quick_path: Path
) -> None:
    rows, killed = requests(1), list[str]()
    for point in count(1):
        home = quick_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, path = Server(), write(rows)
        server.machine.faults.next("create", Status(413, "request_too_large", "too large"))
        crash = CrashPoints(point)
        died_here = await die_at(server, path, "results.jsonl", crash, monkeypatch)
        summary = await server.run(path, "results.jsonl")
        # an answer that died with the process may come again; one that was heard counts
        assert (summary.errored, server.machine.account.requests) in [(1, 0), (0, 1)], point
        if not died_here:
            break
        killed.append(crash.where)
    await bury()
    assert summary.errored == 1
    assert len(killed) > 25
    # the file of a single part is that part under another name: a link of its own
    assert {"before _File._let_appear", "after _File._let_appear"} <= set(killed)


@pytest.mark.parametrize("first", range(1, OF_PARKED + 1 if ALL else 2))
async def test_parked_batch_is_given_up_and_each_row_is_paid_once_whenever_it_dies(
    monkeypatch: pytest.MonkeyPatch, quick_path: Path, first: int
) -> None:
    """Batches of twenty hours: the first two of a row are cancelled at twelve, the last is left alone."""
    rows, killed, twice = requests(3), list[str](), 0
    slow = Settings(latency=20 * 3600.0)
    for point in count(first, OF_PARKED):
        home = quick_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, path = Server(slow, each_call=timedelta(hours=1)), write(rows)
        crash = CrashPoints(point)
        died_here = await die_at(server, path, "results.jsonl", crash, monkeypatch, parked="cancel-and-retry")
        summary = await server.run(path, "results.jsonl", parked="cancel-and-retry")
        account = server.machine.account
        told = f"after death at point {point}, {crash.where}"
        assert account.violated == 0, told
        assert (summary.succeeded, summary.missing) == (3, 0), told
        assert len(account.created) == len(account.canceled) + 1, told
        twice += len(account.canceled) == 2
        assert_each_answered("results.jsonl", rows)
        if not died_here:
            break
        killed.append(crash.where)
    await bury()
    assert twice > len(killed) / 2  # a batch in doubt is not cancelled before it is proven ours
    assert len(killed) > 15


@pytest.mark.parametrize("first", range(1, OF_PILOT + 1 if ALL else 2))
@pytest.mark.parametrize("wrong", [0, 2], ids=["a pilot that passes", "a pilot that fails"])
async def test_a_pilot_decides_about_the_rest_and_each_row_is_paid_once_whenever_it_dies(
    monkeypatch: pytest.MonkeyPatch, quick_path: Path, wrong: int, first: int
) -> None:
    rows, killed, pilot = requests(9), list[str](), 4
    for row in rows[:wrong]:
        row["params"]["metadata"] = {"user_id": "sandbox:errored:not_found_error"}
    for point in count(first, OF_PILOT):
        home = quick_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, path = Server(), write(rows)
        server.submitting = {"pilot": pilot}
        account, crash = server.machine.account, CrashPoints(point)

        async def until_it_dies() -> bool:
            try:
                return await die_at(server, path, "results.jsonl", crash, monkeypatch)  # noqa: B023 - called below
            except JobStopped:
                return False

        died_here = await until_it_dies()
        told = f"after death at point {point}, {crash.where}"
        if wrong:
            with pytest.raises(JobStopped, match="2 of the 4 requests of its pilot failed"):
                await server.run(path, "results.jsonl")
            assert [account.times(raw_params(row)) for row in rows] == [1] * pilot + [0] * 5, told
        summary = await server.run(path, "results.jsonl", failing="go-on" if wrong else "stop")
        assert account.violated == 0, told
        assert [account.times(raw_params(row)) for row in rows] == [1] * 9, told
        assert (summary.succeeded, summary.errored) == (9 - wrong, wrong), told
        if not died_here:
            break
        killed.append(crash.where)
    await bury()
    assert len(killed) > 15


@pytest.mark.parametrize("first", range(1, OF_CHANGED + 1 if ALL else 2))
async def test_changed_input_is_taken_once_and_each_row_is_paid_once_whenever_it_dies(
    monkeypatch: pytest.MonkeyPatch, quick_path: Path, first: int
) -> None:
    rows, corrected, killed = requests(20), requests(22, temperature=0.5), list[str]()
    for point in count(first, OF_CHANGED):
        home = quick_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, path = Server(), write(rows)
        account, crash = server.machine.account, CrashPoints(point)
        server.machine.faults.next("create")  # as always
        server.machine.faults.next("create", Status(400, "invalid_request_error", "requests.1.params: no"))
        with pytest.raises(JobStopped, match="of this batch is line"):
            await server.run(path, "results.jsonl", uploads=1)
        sent = [account.times(raw_params(row)) for row in rows]
        assert 0 < sum(sent) < 20
        new = [row if times else other for row, other, times in zip(rows, corrected, sent, strict=False)]
        new = [*corrected[20:], *new[::-1]]
        write(new)
        server.submitting = {"changed_input": True}
        died_here = await die_at(server, path, "results.jsonl", crash, monkeypatch)
        summary = await server.run(path, "results.jsonl")
        told = f"after death at point {point}, {crash.where}"
        assert account.violated == 0, told
        assert [account.times(raw_params(row)) for row in new] == [1] * 22, told
        assert account.requests == 22, told
        assert summary.succeeded == summary.requests == 22, told
        assert_each_answered("results.jsonl", new)
        if not died_here:
            break
        killed.append(crash.where)
    await bury()
    assert len(killed) * OF_CHANGED > 100


@pytest.mark.parametrize("first", range(1, OF_OPEN[0] + 1 if ALL else 2))
@pytest.mark.parametrize("twice", [False, True], ids=WAYS)
async def test_each_request_that_was_put_has_one_line_and_is_paid_once_whenever_it_dies(
    monkeypatch: pytest.MonkeyPatch, quick_path: Path, *, twice: bool, first: int
) -> None:
    rows, killed, again = requests(9), list[str](), 0
    for point in count(first, OF_OPEN[twice]):
        home = quick_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, to = Server(), Sqlite().destination(home)
        crash = Noted(point)
        died_here = await die_at(server, OpenRows(rows), to, crash, monkeypatch)
        if died_here and twice:
            again += await die_at(
                server, OpenRows(rows), to, CrashPoints(1 + point * 37 % max(1, 150 - point)), monkeypatch
            )
        acknowledged = set(server.acknowledged)
        summary = await server.run(OpenRows(rows), to)
        account = server.machine.account
        told = f"after death at point {point}, {crash.where}"
        assert account.violated == 0, told
        assert [account.times(raw_params(row)) for row in rows] == [1] * 9, told
        assert (summary.succeeded, summary.requests) == (9, 9), told
        found = Counter(custom_id for custom_id, _ in Sqlite().answers(home))
        assert found == Counter(row["custom_id"] for row in rows), told
        assert acknowledged <= set(found), told
        if not died_here:
            break
        killed.append(crash.where)
    await bury()
    assert len(killed) * OF_OPEN[twice] > 60
    assert {"before SqliteLog._put", "after SqliteLog._put"} <= set(crash.places)
    assert again >= twice * len(killed) / 3


class AfterAcceptance(CrashPoints):
    """Die as soon as it is on record that a batch was accepted."""

    def __init__(self, server: Server) -> None:
        super().__init__(0)
        self._server = server

    def reach(self, where: str) -> None:
        if self._server.machine.account.batches and where == "after SqliteLog._append":
            self._left = 1
        super().reach(where)


@pytest.mark.parametrize("first", range(1, OF_REFUSED + 1 if ALL else 2))
async def test_operator_s_word_that_is_refused_loses_nothing_whenever_it_dies(
    monkeypatch: pytest.MonkeyPatch, quick_path: Path, first: int
) -> None:
    """A batch that the API shows was called lost: wherever a run dies, its lines come, and the word is refused."""
    rows, killed = requests(3), list[str]()
    for point in count(first, OF_REFUSED):
        home = quick_path / f"{point}"
        home.mkdir()
        monkeypatch.chdir(home)
        server, path = Server(Settings(latency=2 * 3600.0), each_call=timedelta(minutes=10)), write(rows)
        assert await die_at(server, path, "results.jsonl", AfterAcceptance(server), monkeypatch)
        await call_lost(1)
        crash = CrashPoints(point)
        died_here = await die_at(server, path, "results.jsonl", crash, monkeypatch)
        summary = await server.run(path, "results.jsonl")
        told = f"after death at point {point}, {crash.where}"
        assert (server.machine.account.violated, len(server.machine.account.created)) == (0, 1), told
        assert (summary.succeeded, summary.missing) == (3, 0), told
        assert len(await recorded(WishRefused)) == 1, told
        assert_each_answered("results.jsonl", rows)
        if not died_here:
            break
        killed.append(crash.where)
    await bury()
    assert len(killed) > 10


def test_crash_is_not_an_ordinary_exception() -> None:
    assert not issubclass(Crash, Exception)
