"""The operator's page over plain HTTP, as a browser without JavaScript uses it; `make page` drives a real one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from abatch.sandbox import Sandbox
from abatch.service.guard import COOKIE
from abatch.service.page import detail, overview
from abatch.service.page.words import duration, moment, money, percent
from abatch.service.tokens import SESSION, Tokens
from tests.service.conftest import Starts
from tests.service.test_http_api import READ, error_of, lines, until_done

pytestmark = pytest.mark.anyio
HTML = {"accept": "text/html"}


async def signed_in(client: httpx2.AsyncClient, secret: str) -> None:
    """Sign in as a browser does, and forget the token."""
    client.headers.pop("authorization", None)
    response = await client.post("/login", data={"token": secret})
    assert (response.status_code, response.headers["location"]) == (303, "/")


def csrf_in(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


async def test_a_browser_signs_in_reads_and_signs_out(served: Starts, journal: Path) -> None:
    async with served() as client:
        secret = Tokens(journal).secret_of()
        client.headers.pop("authorization")
        sent = await client.get("/", headers=HTML)
        assert (sent.status_code, sent.headers["location"]) == (303, "/login")
        assert 'type="password"' in (await client.get("/login")).text
        wrong = await client.post("/login", data={"token": "abatch_wrong"})
        assert (wrong.status_code, COOKIE in client.cookies) == (403, False)
        link = await client.get("/login", params={"token": secret})
        cookie = link.headers["set-cookie"].lower()
        assert link.status_code == 303
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert secret not in client.cookies[COOKIE]
        page = await client.get("/", headers=HTML)
        assert page.status_code == 200
        assert "signed in as owner" in page.text
        assert "curl -H" in page.text
        assert secret not in page.text
        for answer in (page, await client.get("/login")):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        assert (await client.post("/logout", data={"csrf": "0" * 64})).status_code == 403
        gone = await client.post("/logout", data={"csrf": csrf_in(page.text)})
        assert (gone.status_code, gone.headers["location"]) == (303, "/login")
        assert (await client.get("/", headers=HTML)).status_code == 303


async def test_a_session_ends_with_its_token_and_after_a_week(journal: Path) -> None:
    journal.mkdir()
    tokens = Tokens(journal)
    session = tokens.session(tokens.secret_of(), 1_000.0)
    assert session is not None
    assert tokens.session("abatch_other", 1_000.0) is None
    found = tokens.find_session(session, 1_000.0 + SESSION - 1)
    assert found is not None
    assert found.name == "owner"
    assert tokens.find_session(session, 1_000.0 + SESSION) is None
    later = session.replace(str(1_000 + SESSION), str(2_000 + SESSION))
    for forged in (later, "", ".", f"{1_000 + SESSION}.", "x" + session, session[:-1] + "é"):
        assert tokens.find_session(forged, 1_000.0) is None
    (journal / "tokens" / "owner").unlink()
    assert tokens.find_session(session, 1_000.0) is None


async def test_what_the_page_shows_is_what_the_api_says_and_no_text_is_html(served: Starts, journal: Path) -> None:
    async with served() as client:
        evil = lines(1).replace(b"q/0", b"<script>alert(1)</script>")
        await client.post("/api/v1/jobs", params={"key": "birds"}, content=lines(5) + evil)
        job = await until_done(client, "birds")
        await signed_in(client, Tokens(journal).secret_of())
        listed = (await client.get("/")).text
        assert 'href="/jobs/birds"' in listed
        assert f"6 of 6 · {percent(6, 6)}" in listed
        assert money(job["cost_usd"]) in listed
        assert "state-done" in listed
        page = (await client.get("/jobs/birds")).text
        assert "q/3" in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert page.count("<script") == 1  # its own
        assert " style=" not in page + listed
        found = (await client.get("/jobs/birds", params={"id": "q/3"})).text
        assert ("q/3" in found, "q/2" in found) == (True, False)
        assert "No result matches" in (await client.get("/jobs/birds", params={"failed": "1"})).text
        assert (await client.get("/jobs/nope")).status_code == 404
        results = await client.get("/api/v1/jobs/birds/results")  # the link to download, with the cookie alone
        assert len(results.content.splitlines()) == 6


async def test_long_lists_have_pages_and_filters_in_the_url(
    served: Starts, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "SHOWN", 2)
    monkeypatch.setattr(detail, "LINES", 3)
    async with served() as client:
        for number in range(5):
            await client.post("/api/v1/jobs", params={"key": f"job-{number}"}, content=lines(4 + number))
            await until_done(client, f"job-{number}")
        await signed_in(client, Tokens(journal).secret_of())
        shown: list[str] = []
        path: str | None = "/"
        while path is not None:
            page = (await client.get(path)).text
            shown += re.findall(r'href="/jobs/([^"]+)"', page)
            more = re.search(r'<a href="(/\?[^"]+)">The next jobs', page)
            path = None if more is None else more[1].replace("&amp;", "&")
        assert shown == [f"job-{number}" for number in reversed(range(5))]
        one = (await client.get("/", params={"text": "b-3", "state": "done"})).text
        assert re.findall(r'href="/jobs/([^"]+)"', one) == ["job-3"]
        assert "No job matches" in (await client.get("/", params={"state": "held"})).text
        ids: list[str] = []
        path = "/jobs/job-4"
        while path is not None:
            page = (await client.get(path)).text
            ids += re.findall(r"<summary><code>(q/\d+)</code>", page)
            more = re.search(r'<a href="(\?[^"]+)#results">The next results', page)
            path = None if more is None else "/jobs/job-4" + more[1].replace("&amp;", "&")
        assert sorted(ids) == [f"q/{number}" for number in range(8)]


async def test_a_list_of_many_jobs_makes_the_status_of_those_it_shows(
    served: Starts, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from abatch import listing, reader

    made: list[str] = []

    def counted(ledger: Any, job: Any, **more: Any) -> Any:
        made.append(job.key)
        return status(ledger, job, **more)

    async with served() as client:
        for number in range(6):
            await client.post("/api/v1/jobs", params={"key": f"job-{number}"}, content=lines(1))
            await until_done(client, f"job-{number}")
        await signed_in(client, Tokens(journal).secret_of())
        status = listing.job_status
        monkeypatch.setattr(listing, "job_status", counted)
        monkeypatch.setattr(reader, "job_status", counted)
        monkeypatch.setattr(overview, "SHOWN", 2)
        assert (await client.get("/")).status_code == 200
        assert len(made) <= 3


async def test_forms_change_jobs_with_the_value_of_their_page_and_the_right_to(
    served: Starts, journal: Path, api: Sandbox
) -> None:
    async with served() as client:
        await client.post("/api/v1/jobs", params={"key": "tickets"}, json={"open": True, "linger": 0.05})
        await client.post("/api/v1/jobs/tickets/requests", content=lines(2))
        await signed_in(client, Tokens(journal).secret_of())
        page = (await client.get("/jobs/tickets")).text
        for forged in ({}, {"csrf": "0" * 64}):
            assert (await client.post("/jobs/tickets/cancel", data=forged)).status_code == 403
        refused = await client.request("DELETE", "/api/v1/jobs/tickets")  # the cookie alone changes nothing
        assert refused.status_code == 403
        form = {"csrf": csrf_in(page)}
        assert (await client.post("/jobs/tickets/paint", data=form)).status_code == 404
        closed = await client.post("/jobs/tickets/close", data=form)
        assert (closed.status_code, closed.headers["location"]) == (303, "/jobs/tickets")
        with anyio.fail_after(60):
            while "state-done" not in (await client.get("/jobs/tickets")).text:
                await anyio.sleep(0.05)
        retried = await client.post("/jobs/tickets/retry", data=form)
        assert (retried.status_code, "Not changed" in retried.text) == (409, True)

        await signed_in(client, Tokens(journal).secret_of("reader", READ))
        page = (await client.get("/jobs/tickets")).text
        assert "Cancel this job" not in page
        refused = await client.post("/jobs/tickets/cancel", data={"csrf": csrf_in(page)})
        assert error_of(refused)[::2] == (403, "the token 'reader' lacks the right 'steer'")
    assert (api.account.requests, api.account.violated) == (2, 0)


def test_numbers_and_times_are_told_as_people_read_them() -> None:
    assert [duration(seconds) for seconds in (None, 0, 59.6, 61, 3_600, 90_061)] == [
        "\N{EN DASH}", "0s", "1m", "1m 1s", "1h", "1d 1h",
    ]  # fmt: skip
    assert [money(dollars) for dollars in (None, 0.0, 0.00123, 12.5)] == ["\N{EN DASH}", "$0.00", "$0.0012", "$12.50"]
    assert (percent(0, None), percent(999, 1_000), percent(5, 5)) == (
        "",
        "99\N{NO-BREAK SPACE}%",
        "100\N{NO-BREAK SPACE}%",
    )
    assert moment(0.0)["exact"] == "1970-01-01T00:00:00+00:00"
    assert moment(None)["exact"] == ""
