"""The machine over HTTP: bodies that come slowly or never, faults of the transport, life and death."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import anyio
import httpx2
import pytest

from abatch.sandbox import Sandbox
from abatch.sandbox import faults as f

pytestmark = pytest.mark.anyio

BATCHES = "/v1/messages/batches"
KEY = {"authorization": "Bearer key"}


@pytest.fixture
async def api():
    async with Sandbox(seed=1) as api:
        yield api


@pytest.fixture
async def client(api):
    async with httpx2.AsyncClient(base_url=api.url, headers=KEY, timeout=20) as client:
        yield client


@pytest.fixture
def body(new_body, new_params):
    return new_body(*map(new_params, range(3)))


async def create(client, body):
    return (await client.post(BATCHES, content=body)).raise_for_status().json()["id"]


@pytest.fixture
async def begin(api):
    """Open a create by hand and send a part of its body."""
    open_streams = []

    async def begin(part, size):
        stream = await anyio.connect_tcp("127.0.0.1", int(api.url.rsplit(":", 1)[1]))
        open_streams.append(stream)
        head = f"POST {BATCHES} HTTP/1.1\r\nhost: localhost\r\nx-api-key: key\r\ncontent-length: {size}\r\n\r\n"
        await stream.send(head.encode() + part)
        return stream

    yield begin
    for stream in open_streams:
        await stream.aclose()


async def test_nothing_is_created_before_the_last_byte(api, client, begin, body):
    stream = await begin(body[:-2], len(body))
    assert (await client.get(BATCHES)).json()["data"] == []
    assert api.account.batches == 0
    await stream.send(body[-2:])
    assert (await stream.receive()).startswith(b"HTTP/1.1 200 ")
    assert api.account.batches == 1


async def test_an_aborted_body_creates_nothing_and_is_counted(api, client, begin, body):
    for length in (len(body) - 2, 10):
        stream = await begin(body[:length], len(body))
        await stream.aclose()
    with anyio.fail_after(10):
        while (await client.get("/sandbox/account")).json()["aborted"] < 2:
            pass
    account = (await client.get("/sandbox/account")).json()
    assert (account["batches"], account["most_bytes_aborted"]) == (0, len(body) - 2)


async def test_a_large_body_arrives_whole(api, client):
    params = b'{"model":"m","max_tokens":1,"messages":["%b"]}' % (b"x" * 1_000_000)
    items = b",".join(b'{"custom_id":"%d","params":%b}' % (n, params) for n in range(5))
    await create(client, b'{"requests":[%b]}' % items)
    assert api.account.times(params) == 5


async def test_results_stream_in_chunks_without_length(api, client, new_body, new_params):
    batch_id = await create(client, new_body(*map(new_params, range(2_000))))
    async with client.stream("GET", f"{BATCHES}/{batch_id}/results") as answer:
        assert "content-length" not in answer.headers
        assert answer.headers["content-type"] == "application/x-jsonl"
        lines = (await answer.aread()).splitlines()
    assert len({json.loads(line)["custom_id"] for line in lines}) == 2_000


# faults of the transport


@pytest.mark.parametrize(
    ("fault", "created"),
    [(f.Refuse(), 0), (f.ResetBeforeAccept(), 0), (f.ResetAfterAccept(), 1), (f.LateAccept(60), 0)],
)
async def test_a_lost_answer_is_a_broken_connection(api, client, body, fault, created):
    api.faults.next("create", fault)
    with pytest.raises((httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError)):
        await client.post(BATCHES, content=body)
    assert api.account.batches == created
    api.advance(60)
    listed = (await client.get(BATCHES)).json()["data"]
    assert len(listed) == (created or isinstance(fault, f.LateAccept))


async def test_a_reset_is_a_reset(api, begin, body):
    api.faults.next("create", f.ResetAfterAccept())
    stream = await begin(body, len(body))
    with pytest.raises(anyio.BrokenResourceError):  # a connection that is closed in order raises EndOfStream
        await stream.receive()


async def test_a_refusal_does_not_wait_for_the_body(api, begin, body):
    api.faults.next("create", f.Refuse())
    stream = await begin(b"", len(body))
    with pytest.raises(anyio.BrokenResourceError):
        await stream.receive()


async def test_an_early_answer_does_not_wait_for_the_body(api, begin, body):
    api.faults.next("create", f.Status(401, early=True))
    stream = await begin(b"", len(body))
    assert (await stream.receive()).startswith(b"HTTP/1.1 401 ")


async def test_an_early_answer_may_close_the_connection(api, begin, body):
    api.faults.next("create", f.Status(401, early=True, closes=True))
    stream = await begin(b"", len(body))
    got = b"".join([piece async for piece in stream])
    assert got.startswith(b"HTTP/1.1 401 ")


async def test_a_cut_body_breaks_the_answer_off(api, client, body):
    api.faults.next("create", f.CutBody(20))
    with pytest.raises(httpx2.RemoteProtocolError):
        await client.post(BATCHES, content=body)
    assert api.account.batches == 1


async def test_a_redirect_is_not_followed_by_itself(api, client, body):
    api.faults.next("create", f.Redirect())
    answer = await client.post(BATCHES, content=body)
    assert (answer.status_code, answer.headers["location"]) == (307, "/v1/elsewhere")


async def test_a_missing_date_is_missing_on_the_wire(api, client):
    api.faults.next("list", f.NoDate())
    assert "date" not in (await client.get(BATCHES)).headers
    assert "date" in (await client.get(BATCHES)).headers


async def test_a_stall_outlasts_the_patience_of_the_client(api, client, body):
    api.faults.next("create", f.Stall(3600))
    with pytest.raises(httpx2.ReadTimeout):
        await client.post(BATCHES, content=body, timeout=0.05)
    with anyio.fail_after(10):
        while not (await client.get(BATCHES)).json()["data"]:
            pass


async def collect(client, batch_id):
    """What of the results arrives, and how it ends."""
    got = b""
    try:
        async with client.stream("GET", f"{BATCHES}/{batch_id}/results") as answer:
            async for piece in answer.aiter_bytes():
                got += piece
    except httpx2.TransportError as error:
        return got, type(error)
    return got, None


async def test_broken_result_streams(api, client, new_body, new_params):
    batch_id = await create(client, new_body(*map(new_params, range(1_000))))
    whole, error = await collect(client, batch_id)
    assert (whole.count(b"\n"), error) == (1_000, None)
    ends = [
        (f.CutAtLine(300), 300, None),
        (f.CutAtLine(300, clean=False), 300, httpx2.RemoteProtocolError),
        (f.CutInLine(300), 300, httpx2.RemoteProtocolError),
        (f.CutInLine(300, clean=True), 300, None),
    ]
    api.faults.next("results", f.CutInLine(300, clean=True, newline=True))
    got, error = await collect(client, batch_id)
    assert whole.startswith(got[:-1])
    assert (got.count(b"\n"), got[-1:], error) == (301, b"\n", None)
    for fault, newlines, broken in ends:
        api.faults.next("results", fault)
        got, error = await collect(client, batch_id)
        assert whole.startswith(got)
        assert (got.count(b"\n"), error) == (newlines, broken), fault
    api.faults.next("results", f.ResetAt(5_000))
    got, error = await collect(client, batch_id)
    assert error is httpx2.ReadError
    assert whole.startswith(got)
    assert len(got) <= 5_000


async def test_slow_results_are_whole(api, client, body):
    batch_id = await create(client, body)
    api.faults.next("results", f.Slow(50_000))
    got, error = await collect(client, batch_id)
    assert (got.count(b"\n"), error) == (3, None)


async def test_a_gzip_bomb_goes_off_in_the_reader(api, client, body):
    batch_id = await create(client, body)
    api.faults.next("results", f.GzipBomb(30_000_000))
    got, error = await collect(client, batch_id)
    assert (got, error) == (b"\n" * 30_000_000, None)


# control


async def test_faults_account_and_batches_over_http(api, client, body):
    order = {"do": "next", "on": "create", "faults": [{"type": "Status", "status": 503, "accepted": True}]}
    assert (await client.post("/sandbox/faults", json=order)).status_code == 200
    assert (await client.post(BATCHES, content=body)).status_code == 503
    orders = [{"do": "always", "on": "list", "fault": {"type": "Status", "status": 500}}, {"do": "clear"}]
    assert (await client.post("/sandbox/faults", json=orders)).status_code == 200
    assert (await client.get(BATCHES)).status_code == 200
    api.add_foreign(5)
    account = (await client.get("/sandbox/account")).json()
    assert account == {
        "batches": 1, "requests": 3, "messages": 0, "violations": 0, "aborted": 0, "most_bytes_aborted": 0,
        "created": api.account.created, "canceled": [], "deleted": [],
    }  # fmt: skip
    own, foreign = (await client.get("/sandbox/batches")).json()
    assert (own["id"], own["requests"], own["foreign"], own["ended"]) == (
        account["created"][0],
        3,
        False,
        True,
    )
    assert (foreign["requests"], foreign["foreign"]) == (5, True)


async def test_somebody_deletes_a_batch_over_http(api, client, body):
    batch_id = await create(client, body)
    orders = [{"do": "delete", "batch_id": batch_id}]
    refused = await client.post("/sandbox/faults", json=[*orders, {"do": "delete", "batch_id": "msgbatch_none"}])
    assert (refused.status_code, "msgbatch_none" in refused.json()["error"]) == (400, True)
    assert (await client.get(f"{BATCHES}/{batch_id}")).status_code == 200
    assert (await client.post("/sandbox/faults", json=orders)).json() == {}
    assert (await client.get(f"{BATCHES}/{batch_id}")).status_code == 404
    assert (await client.get("/sandbox/account")).json()["deleted"] == [batch_id]
    other = await create(client, body)
    api.delete(other)
    assert (await client.get(BATCHES)).json()["data"] == []


async def test_a_fault_on_every_site_over_http(client, body):
    skew = {"do": "always", "on": "every", "fault": {"type": "Skew", "seconds": 86_400}}
    dates = [parsedate_to_datetime((await client.get(BATCHES)).headers["date"])]
    assert (await client.post("/sandbox/faults", json=skew)).json() == {}
    dates.append(parsedate_to_datetime((await client.get(BATCHES)).headers["date"]))
    dates.append(parsedate_to_datetime((await client.post(BATCHES, content=body)).headers["date"]))
    assert [(date - dates[0]).days for date in dates] == [0, 1, 1]


WORLDS = [
    ("create", {"type": "ForeignStream", "every": 5, "size": 4}),
    ("create", {"type": "Parked", "seconds": 3600}),
    ("create", {"type": "Deleted", "after_seconds": 3600}),
    ("create", {"type": "Redirect", "status": 303, "accepted": True}),
    ("create", {"type": "OutOfCredit", "details": None}),
    ("create", {"type": "UsageLimit", "details": "text"}),
    ("list", {"type": "Hide", "seconds": 60, "after": 6, "every": 120, "spread": 30, "share": 0.5}),
    ("list", {"type": "KeyPool", "workspaces": ["default", "other"]}),
    ("list", {"type": "Stale", "seconds": 60}),
    ("list", {"type": "Drift", "per_hour": 10}),
    ("list", {"type": "Jump", "at": 10, "seconds": 600}),
    ("list", {"type": "NullCounts"}),
    ("retrieve", {"type": "Revoked", "seconds": 60}),
    ("results", {"type": "Hang", "seconds": 0.01, "only_foreign": True}),
    ("results", {"type": "EmptyResults", "only_foreign": True}),
]


@pytest.mark.parametrize(("site", "fault"), WORLDS, ids=str)
async def test_every_fault_of_an_unkind_world_is_taken_over_http(api, client, body, site, fault):
    order = {"do": "always", "on": site, "fault": fault}
    assert (await client.post("/sandbox/faults", json=order)).json() == {}
    await client.post(BATCHES, content=body)
    await client.get(BATCHES)
    api.advance(30)
    assert (await client.get(BATCHES)).status_code == 200


@pytest.mark.parametrize("order", [{}, {"do": "next", "on": "nowhere", "faults": []}, [1], {"do": "clear", "x": 1}])
async def test_a_bad_order_is_refused(client, order):
    answer = await client.post("/sandbox/faults", json=order)
    assert (answer.status_code, "error" in answer.json()) == (400, True)


# life and death


async def test_leaving_the_block_ends_open_streams(body):
    async with httpx2.AsyncClient(headers=KEY, timeout=20) as client:
        async with Sandbox() as api:
            client.base_url = api.url
            batch_id = await create(client, body)
            api.faults.next("results", f.Slow(10))
            request = client.build_request("GET", f"{BATCHES}/{batch_id}/results")
            answer = await client.send(request, stream=True)
            pieces = answer.aiter_raw()
            await anext(pieces)
        with pytest.raises(httpx2.TransportError):
            async for _ in pieces:
                pass
        with pytest.raises(httpx2.ConnectError):
            await client.get(BATCHES)


def test_a_plain_with_block_works_too():
    with Sandbox() as api, httpx2.Client(base_url=api.url, headers=KEY) as client:
        assert client.get(BATCHES).json()["data"] == []


async def test_a_busy_port_is_an_error(api):
    with pytest.raises(OSError, match="in use"):
        async with Sandbox(port=int(api.url.rsplit(":", 1)[1])):
            pass


async def test_a_block_with_state_goes_on(tmp_path, body):
    seen = []
    for _ in range(2):
        async with (
            Sandbox(state=tmp_path) as api,
            httpx2.AsyncClient(base_url=api.url, headers=KEY) as client,
        ):
            seen.append([batch["id"] for batch in (await client.get(BATCHES)).json()["data"]])
            await create(client, body)
    assert (len(seen[0]), len(seen[1]), api.account.batches, api.account.violated) == (0, 1, 2, 3)


def test_the_lock_is_free_when_the_port_was_busy(tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(OSError, match="in use"), Sandbox(state=tmp_path, port=taken.getsockname()[1]):
        pass
    with Sandbox(state=tmp_path):
        pass


@contextmanager
def process(*arguments):
    """The sandbox as a child, and its URL."""
    child = subprocess.Popen(
        [sys.executable, "-m", "abatch.sandbox", "--exit-with-parent", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield child, child.stdout.readline().decode().strip()
    finally:
        child.kill()
        child.communicate(timeout=20)


def test_a_killed_process_remembers_what_it_answered(tmp_path, body):
    with process("--state", str(tmp_path), "--latency", "5,10") as (child, url):
        batch = httpx2.post(url + BATCHES, content=body, headers=KEY).json()
        child.kill()
        child.wait(timeout=20)
    log = tmp_path / "accepted.log"
    with log.open("ab") as torn:
        torn.write(os.urandom(11))
    with process("--state", str(tmp_path)) as (child, url):
        assert httpx2.get(f"{url}{BATCHES}/{batch['id']}", headers=KEY).json()["id"] == batch["id"]
        account = httpx2.get(f"{url}/sandbox/account").json()
        assert (account["requests"], account["created"]) == (3, [batch["id"]])


def test_a_process_ends_with_its_parent():
    with process() as (child, url):
        assert httpx2.get(url + BATCHES, headers=KEY).status_code == 200
        child.stdin.close()
        assert child.wait(timeout=20) == 0
        child.stdin = None
