"""The HTTP API: `/api/v1`. Every change may be repeated; `Idempotency-Key` names a job whose URL names none.

Reading needs the right `read`, adding jobs and requests `submit`, everything else that changes a job `steer`.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from abatch.engine.retry import RetryKind
from abatch.errors import AbatchError, BadRequest, ConfigError, ManagerClosed
from abatch.input.request import from_line
from abatch.journal.folder import JournalFolder
from abatch.log import log
from abatch.open_job import OpenJob
from abatch.service.openapi import DOCUMENT
from abatch.service.places import destination, input_file, own_destination
from abatch.service.replies import Refusal, json
from abatch.service.shown import job_in_full, job_in_short
from abatch.service.sse import event_stream
from abatch.service.state import state_of
from abatch.service.uploads import MOST, body_of, is_json, lines_of, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request

    from abatch.job import Job
    from abatch.service.state import State
    from abatch.service.tokens import Right, Token

__all__ = ["routes"]

Endpoint: TypeAlias = "Callable[[Request], Awaitable[Response]]"
NDJSON: Final = "application/x-ndjson"
KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
PAGE: Final = 100
"""Jobs of one answer, unless `limit` asks for more or fewer, at most `MOST`."""
LINGER: Final = 30 * 86_400.0
"""Seconds that a request of an open job may wait for others at most."""
WAIT: Final = 3_600.0
"""Seconds that a call may wait for a result at most."""


def with_right(right: Right) -> Callable[[Endpoint], Endpoint]:
    """Let only tokens with this right call a route, and log every change with the name of its token."""

    def guarded(endpoint: Endpoint) -> Endpoint:
        @wraps(endpoint)
        async def call(request: Request) -> Response:
            token: Token = request.scope["abatch.token"]
            if right not in token.rights:
                raise Refusal(403, f"the token {token.name!r} lacks the right {right!r}")
            response = await endpoint(request)
            if right != "read":
                log.info(
                    "changed_over_http", token=token.name, call=endpoint.__name__, job=request.path_params.get("key")
                )
            return response

        return call

    return guarded


class _NewJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str | None = None
    open: bool = False
    linger: float = 60.0


class _RetryOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kinds: tuple[RetryKind, ...] = ()
    final: bool = False


# ---- reading ------------------------------------------------------------------------------------------------------


@with_right("read")
async def list_jobs(request: Request) -> Response:
    """`GET /jobs?state=&text=&after=&limit=`: the jobs, the last submitted first."""
    view = state_of(request).view
    await view.refresh()
    query = request.query_params
    limit = _number(request, "limit", PAGE, 1, MOST)
    found = view.list_jobs(
        state=query.get("state"), text=query.get("text", ""), after=query.get("after") or None, limit=limit
    )
    return json({"jobs": [job_in_short(job) for job in found.jobs], "has_more": found.has_more})


@with_right("read")
async def show_job(request: Request) -> Response:
    """`GET /jobs/{key}?shards=1`: one job in full."""
    return json(await _shown(state_of(request), _key(request), shards="shards" in request.query_params))


@with_right("read")
async def read_results(request: Request) -> Response:
    """`GET /jobs/{key}/results?cursor=&failed=1&follow=1`: result lines in a stable order; `cursor` skips so many."""
    state, key = state_of(request), _key(request)
    cursor = _number(request, "cursor", 0, 0, 2**53)
    follow, failed = (_flag(request, name) for name in ("follow", "failed"))
    if follow and failed:
        raise Refusal(400, "follow and failed cannot be combined")
    await state.view.refresh()
    lines = _followed(state.manager.job(key)) if follow else state.view.lines(key, failed=failed)
    return StreamingResponse(_after(lines, cursor), media_type=NDJSON)


@with_right("read")
async def show_request(request: Request) -> Response:
    """`GET /jobs/{key}/requests/{custom_id}?wait=SECONDS`: the result line of one request of an open job."""
    job = _open_job(state_of(request), _key(request))
    wait = _number(request, "wait", 0, 0, int(WAIT))
    with anyio.move_on_after(wait or 1):
        result = await job.result(request.path_params["custom_id"])
        return Response(result.raw, media_type="application/json")
    return json({"custom_id": request.path_params["custom_id"], "state": "waiting"}, 202)


@with_right("read")
async def read_events(request: Request) -> Response:
    """`GET /events?since=`: everything that happens, as server-sent events; `Last-Event-ID` continues."""
    return event_stream(request)


@with_right("read")
async def describe(_: Request) -> Response:
    """`GET /openapi.json`: the description of this API."""
    return json(DOCUMENT)


# ---- changing -----------------------------------------------------------------------------------------------------


@with_right("submit")
async def submit_job(request: Request) -> Response:
    """`POST /jobs?key=&to=`: an upload of NDJSON, or `{"path"}`, or `{"open": true}` as JSON."""
    state = state_of(request)
    key = request.query_params.get("key") or request.headers.get("idempotency-key") or ""
    if not KEY.fullmatch(key):
        raise Refusal(400, f"a job needs ?key= that matches {KEY.pattern}, got {key!r}")
    to = request.query_params.get("to")
    place = own_destination(state.folder, key) if to is None else destination(to, state.settings.serve)
    if not is_json(request):
        upload = await stored(request, JournalFolder(state.folder))
        await state.manager.submit(upload, to=place, key=key)
    else:
        order = await body_of(request, _NewJob)
        if order.open == (order.path is not None):
            raise Refusal(400, 'the body must name either {"path": "…"} or {"open": true}')
        if not 0 <= order.linger <= LINGER:
            raise Refusal(400, f"linger must be from 0 to {LINGER:,.0f} seconds, got {order.linger}")
        if order.path is None:
            await state.manager.open_job(key, to=place, linger=timedelta(seconds=order.linger))
        else:
            await state.manager.submit(input_file(order.path, state.settings.serve), to=place, key=key)
    return json(await _shown(state, key), 201)


@with_right("submit")
async def put_requests(request: Request) -> Response:
    """`POST /jobs/{key}/requests`: NDJSON of requests; every one is answered, in their order."""
    job = _open_job(state_of(request), _key(request))
    lines = await lines_of(request)
    answers: list[dict[str, Any]] = [{}] * len(lines)

    async def put(number: int, line: bytes) -> None:
        try:
            row = from_line(line, number + 1)
            answers[number] = {"custom_id": msgspec.json.decode(row.custom_id), "new": await job.put(line)}
        except (BadRequest, ConfigError, AbatchError) as refused:
            if isinstance(refused, ManagerClosed):
                raise
            answers[number] = {"line": number + 1, "error": str(refused)}

    async with anyio.create_task_group() as group:
        for number, line in enumerate(lines):
            group.start_soon(put, number, line)
    refused = sum("error" in answer for answer in answers)
    return json({"requests": answers, "refused": refused}, 400 if refused and refused == len(answers) else 200)


@with_right("steer")
async def cancel_job(request: Request) -> Response:
    """`DELETE /jobs/{key}`: cancel a job; what is not in flight is not sent."""
    state, key = state_of(request), _key(request)
    await state.manager.job(key).cancel()
    return json(await _shown(state, key), 202)


@with_right("steer")
async def retry_job(request: Request) -> Response:
    """`POST /jobs/{key}/retry`: send the requests of a finished job that did not succeed again, as a new job."""
    state, key = state_of(request), _key(request)
    order = await body_of(request, _RetryOrder)
    await state.view.refresh()
    retry = await state.view.retry(key, kinds=order.kinds, final=order.final)
    if not retry:
        return json({"key": None, "counts": dict(retry.counts), "left_out": retry.left_out})
    await state.manager.submit(retry.requests(), **retry.terms)
    return json(await _shown(state, retry.key), 201)


@with_right("steer")
async def close_job(request: Request) -> Response:
    """`POST /jobs/{key}/close`: an open job takes no more requests, and ends when its requests have their results."""
    state, key = state_of(request), _key(request)
    await _open_job(state, key).close()
    return json(await _shown(state, key))


def routes() -> list[Route]:
    """Return the routes below `/api/v1`."""
    return [
        Route("/jobs", list_jobs, methods=["GET"]),
        Route("/jobs", submit_job, methods=["POST"]),
        Route("/jobs/{key}", show_job, methods=["GET"]),
        Route("/jobs/{key}", cancel_job, methods=["DELETE"]),
        Route("/jobs/{key}/results", read_results, methods=["GET"]),
        Route("/jobs/{key}/requests", put_requests, methods=["POST"]),
        Route("/jobs/{key}/requests/{custom_id:path}", show_request, methods=["GET"]),
        Route("/jobs/{key}/retry", retry_job, methods=["POST"]),
        Route("/jobs/{key}/close", close_job, methods=["POST"]),
        Route("/events", read_events, methods=["GET"]),
        Route("/openapi.json", describe, methods=["GET"]),
    ]


# ---- parts --------------------------------------------------------------------------------------------------------


async def _shown(state: State, key: str, *, shards: bool = False) -> dict[str, Any]:
    status = await state.view.status(key, shards=shards)
    return job_in_full(state.view, status.jobs[0], await state.view.failures(key))


def _key(request: Request) -> str:
    key: str = request.path_params["key"]
    return key


def _open_job(state: State, key: str) -> OpenJob:
    job = state.manager.job(key)
    if not isinstance(job, OpenJob):
        raise Refusal(400, f"job {key!r} is not an open job: its results are at /api/v1/jobs/{key}/results")
    return job


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    if not (given.isascii() and given.isdecimal() and len(given) < 20 and least <= int(given) <= most):
        raise Refusal(400, f"{name} must be a whole number from {least} to {most:,}, got {given!r}")
    return int(given)


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "0")
    if given not in ("0", "1"):
        raise Refusal(400, f"{name} must be 0 or 1, got {given!r}")
    return given == "1"


async def _followed(job: Job) -> AsyncIterator[bytes]:
    try:
        async for result in job.results():
            yield result.raw
    except ManagerClosed:
        return


async def _after(lines: AsyncIterator[bytes], cursor: int) -> AsyncIterator[bytes]:
    async with aclosing(lines):  # type: ignore[type-var]
        number = 0
        async for line in lines:
            number += 1
            if number > cursor:
                yield line.rstrip(b"\n") + b"\n"
