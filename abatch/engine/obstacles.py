"""Why a job that goes on gets no further at the moment, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from abatch.journal.status import Obstacle
from abatch.protocol.lifecycle import InDoubt, Processing

if TYPE_CHECKING:
    from abatch.engine.scope import Scope
    from abatch.journal.records import JobRecord

__all__ = ["obstacle_of"]

ODD_ENTRY: Final = (
    "abatch asks for each batch by its id, so nothing is to be done while that works. If a gateway answers in the "
    "API's place, let it pass on GET /v1/messages/batches unchanged."
)


def obstacle_of(job: JobRecord, scope: Scope) -> Obstacle | None:
    """Return why a job gets no further at the moment; None if it does, or that is not known.

    Args:
        job: an unfinished job.
        scope: the job's scope.

    """
    if scope.odd and any(isinstance(shard.state, InDoubt | Processing) for shard in job.open_shards.values()):
        return Obstacle(reason=scope.odd, remedy=ODD_ENTRY)
    return None
