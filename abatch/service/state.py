"""The state that the routes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from abatch.service.activity import Activity
from abatch.service.metrics import Metrics
from abatch.service.pulse import Pulse

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from abatch.manager import BatchManager
    from abatch.service.settings import ServiceSettings
    from abatch.view import JournalView

__all__ = ["State", "state_of"]


@dataclass(slots=True, kw_only=True)
class State:
    """What a running service has; one value for its life."""

    manager: BatchManager
    """Drives the journal, and submits."""
    view: JournalView
    """Reads the same journal."""
    settings: ServiceSettings
    """The settings in effect; a reload replaces them."""
    stopping: anyio.Event = field(default_factory=anyio.Event)
    """Set when the service begins to end, so that streams end."""
    pulse: Pulse = field(default_factory=Pulse)
    """Measures the event loop."""
    metrics: Metrics = field(default_factory=Metrics)
    """Counts what happens."""
    activity: Activity = field(default_factory=Activity)
    """What happened in the last 24 hours."""
    sending: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    """The scope of the webhooks; cancelled after a reload, so that they start again with the new settings."""

    @property
    def folder(self) -> Path:
        """The folder of the journal."""
        return self.view.folder


def state_of(request: Request) -> State:
    """Return the state of the service that received a request."""
    state: State = request.app.state.service
    return state
