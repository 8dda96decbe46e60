"""Jobs over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from abatch.protocol import wire
from abatch.sandbox import Sandbox
from abatch.sandbox.answers import Outcomes
from abatch.service import uploads
from abatch.service.tokens import Right, Tokens
from tests.service.conftest import Starts

pytestmark = pytest.mark.anyio
READ: tuple[Right, ...] = ("read",)
SUBMIT: tuple[Right, ...] = ("submit",)


def line(number: int, **more: Any) -> bytes:
    message = {"role": "user", "content": f"question {number}"}
    params = {"model": "claude-haiku-4-5", "max_tokens": 8, "messages": [message], **more}
    return json.dumps({"custom_id": f"q/{number}", "params": params}).encode() + b"\n"


def lines(count: int) -> bytes:
    return b"".join(map(line, range(count)))


async def until_done(client: httpx2.AsyncClient, key: str) -> dict[str, Any]:
    with anyio.fail_after(60):
        while not (job := (await client.get(f"/api/v1/jobs/{key}")).json())["done"]:
            await anyio.sleep(0.05)
    return dict(job)


def error_of(response: httpx2.Response) -> tuple[int, str, str]:
    body = response.json()
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    return response.status_code, body["error"]["type"], body["error"]["message"]


async def test_an_upload_becomes_a_job_whose_results_are_read_over_http(served: Starts, api: Sandbox) -> None:
    async with served() as client:
        made = await client.post("/api/v1/jobs", params={"key": "birds"}, content=lines(5))
        assert (made.status_code, made.json()["key"], made.json()["total"]) == (201, "birds", 5)
        done = await until_done(client, "birds")
        assert (done["succeeded"], done["failed"], done["state"]) == (5, 0, "done")
        assert done["cost_usd"] < done["synchronous_cost_usd"]
        everything = (await client.get("/api/v1/jobs/birds/results")).content.splitlines()
        assert {json.loads(each)["custom_id"] for each in everything} == {f"q/{number}" for number in range(5)}
        rest = (await client.get("/api/v1/jobs/birds/results", params={"cursor": 3})).content.splitlines()
        assert rest == everything[3:]
        assert (await client.get("/api/v1/jobs/birds/results", params={"failed": 1})).content == b""
        listed = (await client.get("/api/v1/jobs")).json()
        assert [job["key"] for job in listed["jobs"]] == ["birds"]
    assert (api.account.requests, api.account.violated) == (5, 0)


async def test_every_change_may_be_repeated(served: Starts, api: Sandbox) -> None:
    async with served() as client:
        for _ in range(3):
            made = await client.post("/api/v1/jobs", headers={"Idempotency-Key": "birds"}, content=lines(2))
            assert made.status_code == 201
        await until_done(client, "birds")
        again = await client.post("/api/v1/jobs", params={"key": "birds"}, content=lines(2))
        assert (again.status_code, again.json()["state"]) == (201, "done")
        other = await client.post("/api/v1/jobs", params={"key": "birds"}, content=lines(3))
        assert error_of(other)[:2] == (409, "invalid_request_error")
    assert (api.account.requests, api.account.violated) == (2, 0)


async def test_requests_are_put_one_by_one_and_read_one_by_one(served: Starts, api: Sandbox) -> None:
    async with served() as client:
        opened = await client.post("/api/v1/jobs", params={"key": "tickets"}, json={"open": True, "linger": 0.1})
        assert opened.status_code == 201
        mixed = lines(2) + b"\n" + line(0) + b'{"custom_id": "bad"}'
        put = await client.post("/api/v1/jobs/tickets/requests", content=mixed)
        assert put.status_code == 200
        answers = put.json()
        assert answers["requests"][:2] == [{"custom_id": "q/0", "new": True}, {"custom_id": "q/1", "new": True}]
        assert answers["requests"][2] == {"custom_id": "q/0", "new": False}
        assert answers["requests"][3]["line"] == 4
        assert answers["refused"] == 1
        conflict = await client.post("/api/v1/jobs/tickets/requests", content=line(0, system="other"))
        assert conflict.status_code == 400
        assert "q/0" in conflict.json()["requests"][0]["error"]
        result = await client.get("/api/v1/jobs/tickets/requests/q/0", params={"wait": 60})
        assert (result.status_code, result.json()["custom_id"]) == (200, "q/0")
        unknown = await client.get("/api/v1/jobs/tickets/requests/q/7")
        assert error_of(unknown)[:2] == (404, "not_found_error")
        assert (await client.post("/api/v1/jobs/tickets/close")).status_code == 200
        late = await client.post("/api/v1/jobs/tickets/requests", content=line(9))
        assert "takes no further requests" in late.json()["requests"][0]["error"]
        assert (await until_done(client, "tickets"))["succeeded"] == 2
    assert (api.account.requests, api.account.violated) == (2, 0)


async def test_a_file_in_an_allowed_folder_is_submitted_and_another_is_not(
    served: Starts, api: Sandbox, tmp_path: Path
) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    for folder in (allowed, outside):
        folder.mkdir()
        (folder / "in.jsonl").write_bytes(lines(2))
    (allowed / "link.jsonl").symlink_to(outside / "in.jsonl")
    (allowed / "link").symlink_to(outside)
    async with served(folders=(allowed,), destinations=("memory:mine-",)) as client:

        async def post(path: Path | str, to: str | None = None) -> httpx2.Response:
            more = {} if to is None else {"to": to}
            return await client.post("/api/v1/jobs", params={"key": "birds", **more}, json={"path": str(path)})

        around = allowed / ".." / "outside" / "in.jsonl"
        for path in (outside / "in.jsonl", allowed / "link.jsonl", around, "/etc/passwd"):
            assert error_of(await post(path))[:2] == (403, "permission_error")
        good = allowed / "in.jsonl"
        for to in (
            f"{outside}/r.jsonl",
            f"{allowed}/link/r.jsonl",
            f"sqlite:///{outside}/r.db",
            "memory:other",
            "s3://b/p",
        ):
            assert error_of(await post(good, to))[:2] == (403, "permission_error")
        for to in ("r.jsonl", f"{allowed}/r.jsonl?x=1"):
            assert error_of(await post(good, to))[:2] == (400, "invalid_request_error")
        assert api.account.requests == 0
        made = await post(good, f"{allowed}/r.jsonl")
        assert made.status_code == 201
        await until_done(client, "birds")
        assert len((allowed / "r.jsonl").read_bytes().splitlines()) == 2
        to_memory = await client.post(
            "/api/v1/jobs", params={"key": "more", "to": "memory:mine-1"}, json={"path": str(good)}
        )
        assert to_memory.status_code == 201
        await until_done(client, "more")


async def test_a_client_can_neither_redirect_a_destination_nor_hide_its_path(
    served: Starts, api: Sandbox, tmp_path: Path
) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    allowed.mkdir()
    async with served(folders=(allowed,), destinations=("s3://b/p/", "s3://c/q?region=x")) as client:
        for to in (
            "s3://b/p/r?endpoint_url=http://127.0.0.1:9",
            "s3://c/q?region=x&endpoint_url=http://127.0.0.1:9",
            f"jsonl:///{outside}/r:///{allowed}/r.jsonl",
            f"sqlite:///{outside}/r:///{allowed}/r.db",
        ):
            refused = await client.post("/api/v1/jobs", params={"key": "birds", "to": to}, content=lines(1))
            assert error_of(refused)[:2] == (403, "permission_error"), to
        assert (await client.get("/api/v1/jobs")).json()["jobs"] == []
    assert api.account.requests == 0
    assert not outside.exists()


async def test_failed_requests_are_shown_and_sent_again(served: Starts, api: Sandbox) -> None:
    api.machine.settings = type(api.machine.settings)(outcome=Outcomes(errored=1.0))  # type: ignore[misc]
    async with served() as client:
        await client.post("/api/v1/jobs", params={"key": "birds"}, content=line(0))
        job = await until_done(client, "birds")
        assert job["errored"] == 1
        assert job["failures"]
        failed = (await client.get("/api/v1/jobs/birds/results", params={"failed": 1})).content
        assert json.loads(failed)["custom_id"] == "q/0"
        api.machine.settings = type(api.machine.settings)(outcome=Outcomes())  # type: ignore[misc]
        retried = await client.post("/api/v1/jobs/birds/retry", json={"kinds": ["failed"], "final": True})
        assert (retried.status_code, retried.json()["key"]) == (201, "birds.retry-1")
        assert (await until_done(client, "birds.retry-1"))["succeeded"] == 1
        nothing = await client.post("/api/v1/jobs/birds/retry")
        assert (nothing.status_code, nothing.json()["key"]) == (200, None)


async def test_a_job_is_cancelled(served: Starts, api: Sandbox) -> None:
    async with served() as client:
        await client.post("/api/v1/jobs", params={"key": "tickets"}, json={"open": True, "linger": 3600})
        await client.post("/api/v1/jobs/tickets/requests", content=line(0))
        assert (await client.delete("/api/v1/jobs/tickets")).status_code == 202
        assert (await until_done(client, "tickets"))["canceled"] == 1
        again = await client.delete("/api/v1/jobs/tickets")
        assert again.status_code in (202, 400)
    assert api.account.requests == 0


async def test_jobs_are_listed_in_pages_and_found(served: Starts) -> None:
    async with served() as client:
        for number in range(5):
            await client.post("/api/v1/jobs", params={"key": f"job-{number}"}, json={"open": True})
        first = (await client.get("/api/v1/jobs", params={"limit": 2})).json()
        assert ([job["key"] for job in first["jobs"]], first["has_more"]) == (["job-4", "job-3"], True)
        rest = (await client.get("/api/v1/jobs", params={"limit": 3, "after": "job-3"})).json()
        assert ([job["key"] for job in rest["jobs"]], rest["has_more"]) == (["job-2", "job-1", "job-0"], False)
        found = (await client.get("/api/v1/jobs", params={"text": "b-3", "state": "running"})).json()
        states = (await client.get("/api/v1/jobs", params={"text": "b-3"})).json()
        assert len(states["jobs"]) == 1
        assert len(found["jobs"]) == (states["jobs"][0]["state"] == "running")
        assert error_of(await client.get("/api/v1/jobs", params={"after": "nope"}))[0] == 400


async def test_events_are_streamed_and_continue_after_the_last_one(served: Starts) -> None:
    async with served() as client:
        await client.post("/api/v1/jobs", params={"key": "birds"}, content=lines(2))
        await until_done(client, "birds")

        async def events(**more: Any) -> list[tuple[int, str]]:
            seen: list[tuple[int, str]] = []
            async with client.stream("GET", "/api/v1/events", **more) as stream:
                number = 0
                async for text in stream.aiter_lines():
                    if text.startswith("id: "):
                        number = int(text[4:])
                    if text.startswith("event: "):
                        seen.append((number, text[7:]))
                        if text == "event: job.finished":
                            return seen
            return seen

        everything = await events(params={"since": 0})
        assert (everything[0][1], everything[-1][1]) == ("job.submitted", "job.finished")
        last = everything[1][0]
        assert await events(headers={"Last-Event-ID": str(last)}) == everything[2:]
        assert error_of(await client.get("/api/v1/events", params={"since": "x"}))[0] == 400

        async with client.stream("GET", "/api/v1/events") as stream:
            texts = stream.aiter_lines()
            assert await anext(texts) == ": abatch"
            await client.post("/api/v1/jobs", params={"key": "fish"}, content=lines(2))
            first = [await anext(texts) for _ in range(3)]
            assert first[2] == "event: job.submitted"
            assert int(first[1].removeprefix("id: ")) > everything[-1][0]


async def test_one_call_puts_a_bounded_number_of_requests_and_bytes(
    served: Starts, api: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served() as client:
        await client.post("/api/v1/jobs", params={"key": "tickets"}, json={"open": True})

        async def put(body: bytes) -> tuple[int, str]:
            status, _, message = error_of(await client.post("/api/v1/jobs/tickets/requests", content=body))
            return status, message

        assert await put(b"1\n" * 10_001) == (
            413,
            "one call takes 10,000 requests; none of these was put. Send several calls",
        )
        monkeypatch.setattr(uploads, "BATCH_BYTES", 1_000)
        status, message = await put(lines(10))
        assert (status, "one call takes 1,000 bytes" in message) == (413, True)
        monkeypatch.setattr(wire, "MAX_LINE", 1_000)
        monkeypatch.setattr(uploads, "BATCH_BYTES", 256_000_000)
        status, message = await put(line(1, system="x" * 2_000).rstrip())
        assert (status, "none of the requests was put" in message) == (413, True)
        assert (await client.get("/api/v1/jobs/tickets")).json()["submitted"] == 0


async def test_followed_results_end_with_the_job(served: Starts, api: Sandbox) -> None:
    async with served() as client:
        await client.post("/api/v1/jobs", params={"key": "tickets"}, json={"open": True, "linger": 0.05})
        await client.post("/api/v1/jobs/tickets/requests", content=lines(3))
        seen = []
        async with client.stream("GET", "/api/v1/jobs/tickets/results", params={"follow": 1}) as stream:
            async for text in stream.aiter_lines():
                seen.append(json.loads(text)["custom_id"])
                if len(seen) == 3:
                    await client.post("/api/v1/jobs/tickets/close")
        assert sorted(seen) == ["q/0", "q/1", "q/2"]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "words"),
    [
        ("GET", "/api/v1/jobs/nope", b"", 404, "nope"),
        ("GET", "/api/v1/jobs/nope/results", b"", 404, "nope"),
        ("DELETE", "/api/v1/jobs/nope", b"", 404, "nope"),
        ("POST", "/api/v1/jobs/nope/retry", b"", 404, "nope"),
        ("GET", "/api/v1/nothing", b"", 404, "does not exist"),
        ("GET", "/nothing", b"", 404, "does not exist"),
        ("PUT", "/api/v1/jobs", b"", 405, "other methods"),
        ("POST", "/api/v1/jobs", b"{}", 400, "?key="),
        ("POST", "/api/v1/jobs?key=a/b", b"{}", 400, "?key="),
        ("POST", "/api/v1/jobs?key=..", b"{}", 400, "?key="),
        ("POST", "/api/v1/jobs?key=a", b"", 400, "no request"),
        ("POST", "/api/v1/jobs?key=a", b'{"custom_id": "x"}', 400, "params"),
        ("GET", "/api/v1/jobs?limit=0", b"", 400, "limit must be"),
        ("GET", "/api/v1/jobs?limit=\u0663", b"", 400, "limit must be"),
    ],
)
async def test_a_bad_call_is_answered_with_its_reason(
    served: Starts, *, api: Sandbox, method: str, path: str, content: bytes, status: int, words: str
) -> None:
    async with served() as client:
        response = await client.request(method, path, content=content)
        got, _, message = error_of(response)
        assert got == status
        assert words in message
    assert api.account.requests == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"path": 7}', "path"),
        (b'{"open": true, "path": "/x"}', "either"),
        (b"{}", "either"),
        (b'{"opened": true}', "opened"),
        (b"[", "cannot be used"),
        (b'{"open": true, "linger": -1}', "linger"),
        (b'{"open": true, "linger": 1e300}', "linger"),
        (b" " * 70_000, "65,536 bytes"),
    ],
)
async def test_a_bad_json_body_is_answered_with_its_reason(served: Starts, body: bytes, words: str) -> None:
    async with served() as client:
        headers = {"content-type": "application/json"}
        response = await client.post("/api/v1/jobs", params={"key": "a"}, content=body, headers=headers)
        status, _, message = error_of(response)
        assert status in (400, 413)
        assert words in message


async def test_a_token_does_only_what_its_rights_allow(served: Starts, journal: Path, api: Sandbox) -> None:
    async with served() as client:
        reader = {"authorization": f"Bearer {Tokens(journal).secret_of('reader', READ)}"}
        writer = {"x-api-key": Tokens(journal).secret_of("writer", SUBMIT)}
        assert (await client.get("/api/v1/jobs", headers=reader)).status_code == 200
        for method, path in (
            ("POST", "/api/v1/jobs?key=a"),
            ("DELETE", "/api/v1/jobs/a"),
            ("POST", "/api/v1/jobs/a/close"),
        ):
            refused = await client.request(method, path, headers=reader, content=lines(1))
            assert error_of(refused)[:2] == (403, "permission_error")
        client.headers.pop("authorization")
        assert (await client.post("/api/v1/jobs?key=a", headers=writer, content=lines(1))).status_code == 201
        assert error_of(await client.get("/api/v1/jobs", headers=writer))[:2] == (403, "permission_error")
        (journal / "tokens" / "writer").unlink()
        revoked = await client.post("/api/v1/jobs?key=b", headers=writer, content=lines(1))
        assert error_of(revoked)[:2] == (401, "authentication_error")


async def test_metrics_agree_with_the_account(served: Starts, api: Sandbox) -> None:
    async with served() as client:
        await client.post("/api/v1/jobs", params={"key": "birds"}, content=lines(4))
        await until_done(client, "birds")
        with anyio.fail_after(60):
            while "abatch_jobs_finished_total 1.0" not in (text := (await client.get("/metrics")).text):
                await anyio.sleep(0.02)
        values = dict(each.rsplit(" ", 1) for each in text.splitlines() if not each.startswith("#"))
        delivered = float(values['abatch_rows_delivered_total{outcome="succeeded",sink="sqlite"}'])
        assert delivered == api.account.requests == 4
        assert float(values['abatch_submissions_total{outcome="A4"}']) == api.account.batches
        job = (await client.get("/api/v1/jobs/birds")).json()
        assert float(values["abatch_cost_usd_total"]) == pytest.approx(job["cost_usd"])
        tokens = 'abatch_tokens_total{model="claude-haiku-4-5",type="output"}'
        assert float(values[tokens]) == job["usage"]["output_tokens"] > 0
        assert float(values['abatch_batches_accepted_total{by="answer"}']) == api.account.batches
        assert float(values['abatch_jobs{state="done"}']) == 1
        assert float(values["abatch_duplicate_submissions_total"]) == 0
        assert "birds" not in text
