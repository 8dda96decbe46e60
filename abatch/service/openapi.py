"""The description of the HTTP API, in OpenAPI 3.1."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["DOCUMENT"]

ERROR: Final = {"$ref": "#/components/schemas/Error"}
JOB: Final = {"$ref": "#/components/schemas/Job"}
NDJSON: Final = "application/x-ndjson"
KEY_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MEANINGS: Final = {
    400: "The request cannot be used.",
    401: "The token is missing or unknown.",
    403: "The token lacks a right, or the place is not allowed.",
    404: "There is no such job or request.",
    405: "The path has other methods.",
    409: "The job or request exists with other content, or its state does not allow this.",
    413: "The body is too large.",
    421: "The Host is not a name of this service.",
    503: "A storage, the journal or the API is not available; try again.",
}


def _error(status: int) -> dict[str, Any]:
    return {"description": MEANINGS[status], "content": {"application/json": {"schema": ERROR}}}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _call(summary: str, answers: dict[int, dict[str, Any]], *refusals: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    errors = {status: _error(status) for status in (*refusals, 400, 401, 403, 421, 503)}
    responses = {str(status): answer for status, answer in sorted({**errors, **answers}.items())}
    return {"summary": summary, "responses": responses, **more}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _object(**members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": sorted(members)}


TEXT: Final[dict[str, Any]] = {"type": "string"}
COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 0}
FLAG: Final[dict[str, Any]] = {"enum": ["0", "1"]}
KEY: Final[dict[str, Any]] = {"name": "key", "in": "path", "required": True, "schema": TEXT}
CUSTOM_ID: Final[dict[str, Any]] = {"name": "custom_id", "in": "path", "required": True, "schema": TEXT}

DOCUMENT: Final[dict[str, Any]] = {
    "openapi": "3.1.0",
    "info": {
        "title": "abatch",
        "version": "1",
        "description": "Jobs on the Message Batches API. Every change may be repeated: it happens once.",
    },
    "servers": [{"url": "/api/v1"}],
    "security": [{"token": []}],
    "components": {
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        "schemas": {
            "Error": _object(
                type={"const": "error"}, error=_object(type=TEXT, message=TEXT), request_id={"type": "string"}
            ),
            "Job": _object(
                key=TEXT,
                state=TEXT,
                reason=TEXT,
                remedy=TEXT,
                done={"type": "boolean"},
                destination=TEXT,
                planned=COUNT,
                in_flight=COUNT,
                sealed=COUNT,
                failed=COUNT,
                batches=COUNT,
            ),
        },
    },
    "paths": {
        "/jobs": {
            "get": _call(
                "List the jobs, the last submitted first",
                {200: _json(_object(jobs={"type": "array", "items": JOB}, has_more={"type": "boolean"}), "The jobs.")},
                parameters=[
                    _query("state", TEXT, "Only jobs in this state."),
                    _query("text", TEXT, "Only jobs whose key contains this text."),
                    _query("after", TEXT, "Continue after this job."),
                    _query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000}, "Jobs of one answer."),
                ],
            ),
            "post": _call(
                "Submit a job: an upload of NDJSON, a file in an allowed folder, or an open job",
                {201: _json(JOB, "The job; it is durable.")},
                409,
                413,
                parameters=[
                    _query("key", {"type": "string", "pattern": KEY_PATTERN}, "The name of the job."),
                    _query("to", TEXT, "The destination; without it the service keeps the results."),
                    {
                        "name": "Idempotency-Key",
                        "in": "header",
                        "schema": TEXT,
                        "description": "Names the job if key does not.",
                    },
                ],
                requestBody={
                    "content": {
                        NDJSON: {"schema": {"type": "string"}},
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"path": TEXT, "open": {"type": "boolean"}, "linger": {"type": "number"}},
                                "additionalProperties": False,
                            }
                        },
                    }
                },
            ),
        },
        "/jobs/{key}": {
            "parameters": [KEY],
            "get": _call(
                "Show one job in full",
                {200: _json(JOB, "The job.")},
                404,
                parameters=[_query("shards", FLAG, "With its shards.")],
            ),
            "delete": _call("Cancel a job", {202: _json(JOB, "The job; the request is durable.")}, 404),
        },
        "/jobs/{key}/results": {
            "parameters": [KEY],
            "get": _call(
                "Read result lines, in a stable order",
                {200: {"description": "Result lines.", "content": {NDJSON: {"schema": {"type": "string"}}}}},
                404,
                parameters=[
                    _query("cursor", COUNT, "Skip this number of lines."),
                    _query("failed", FLAG, "Only requests that did not succeed."),
                    _query("follow", FLAG, "Wait for more lines until the job is done."),
                ],
            ),
        },
        "/jobs/{key}/requests": {
            "parameters": [KEY],
            "post": _call(
                "Put requests into an open job; every one is answered",
                {
                    200: _json(
                        _object(requests={"type": "array", "items": {"type": "object"}}, refused=COUNT),
                        "In the order of the lines: `custom_id` and `new`, or `line` and `error`.",
                    )
                },
                404,
                409,
                413,
                requestBody={"required": True, "content": {NDJSON: {"schema": {"type": "string"}}}},
            ),
        },
        "/jobs/{key}/requests/{custom_id}": {
            "parameters": [KEY, CUSTOM_ID],
            "get": _call(
                "Read the result of one request of an open job",
                {
                    200: _json({"type": "object"}, "The result line."),
                    202: _json(_object(custom_id=TEXT, state=TEXT), "There is no result yet."),
                },
                404,
                409,
                parameters=[_query("wait", COUNT, "Seconds to wait for it.")],
            ),
        },
        "/jobs/{key}/retry": {
            "parameters": [KEY],
            "post": _call(
                "Send the requests of a finished job that did not succeed again, as a new job",
                {
                    200: _json({"type": "object"}, "There is nothing to send again."),
                    201: _json(JOB, "The new job."),
                },
                404,
                409,
                413,
                requestBody={
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {
                                    "kinds": {"type": "array", "items": {"enum": ["failed", "missing", "canceled"]}},
                                    "final": {"type": "boolean"},
                                },
                                "additionalProperties": False,
                            }
                        }
                    }
                },
            ),
        },
        "/jobs/{key}/close": {
            "parameters": [KEY],
            "post": _call("Close an open job", {200: _json(JOB, "The job.")}, 404),
        },
        "/events": {
            "get": _call(
                "Follow everything that happens, as server-sent events",
                {200: {"description": "Events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
                parameters=[_query("since", COUNT, "Begin after this event.")],
            ),
        },
        "/openapi.json": {"get": _call("Show this description", {200: _json({"type": "object"}, "OpenAPI 3.1.")})},
    },
}
"""The whole description, as `GET /api/v1/openapi.json` returns it."""
