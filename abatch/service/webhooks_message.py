"""Make the body of a message about an event: ids, counts and places, never a prompt, an answer or a text of the API.

The envelope is that of Anthropic's own webhooks, so a receiver verifies and reads both with the same code.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from abatch import events

if TYPE_CHECKING:
    from abatch import JournalView
    from abatch.events import Event

__all__ = ["body_of", "envelope"]


def body_of(event: Event, message_id: str, view: JournalView) -> bytes:
    """Return the body of the message about an event, with the state of the job as the view shows it."""
    job, summary = view.job(event.job), view.summary(event.job)
    content: dict[str, object] = {
        "type": event.kind,
        "id": event.job,
        "seq": event.seq,
        "state": job.state,
        "requests": summary.requests,
        "succeeded": summary.succeeded,
        "errored": summary.errored,
        "canceled": summary.canceled,
        "expired": summary.expired,
        "missing": summary.missing,
        "cost_usd": summary.cost,
        "results": event.location if isinstance(event, events.JobFinished) else job.destination,
    }
    for name in ("shard", "batch_id"):
        if (value := getattr(event, name, None)) is not None:
            content[name] = value
    return envelope(message_id, event.at, content)


def envelope(message_id: str, at: float, content: dict[str, object]) -> bytes:
    """Return a message as JSON."""
    created_at = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message = {"type": "event", "id": message_id, "created_at": created_at, "data": content}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
