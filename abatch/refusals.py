"""Name the refusals that concern a whole account or workspace, and the remedy of each. Pure.

The API answers a lack of credit, and most limits that a customer has set, with the envelope of a bad request (400),
on a create and on a list. Such an answer says nothing about the request: every other call of the same key and
workspace gets it, too, until somebody acts outside abatch.
"""

from __future__ import annotations

from typing import Final

__all__ = ["SPEND_LIMIT", "remedy_of"]

SPEND_LIMIT: Final = "enforced_spend_limit_reached"
_STATUSES: Final = frozenset({400, 402, 403, 429})
_AGAIN: Final = ", then run the same command again."
_BY_CODE: Final = {
    SPEND_LIMIT: "Raise the spend limit in the Console" + _AGAIN,
    "contract_spend_limit_reached": "Ask Anthropic to raise the spend limit of your contract" + _AGAIN,
    "linked_organization_spend_limit_reached": "Raise the spend limit of the linked organization" + _AGAIN,
    "workspace_human_review_disabled": "Turn on Human Review for the workspace in the Console, or use a key of a "
    "workspace that has it" + _AGAIN,
    "organization_on_hold": "The organization was disabled by Anthropic: appeal in the Console" + _AGAIN,
    "cmek_key_disabled": "Enable the workspace's customer-managed encryption key" + _AGAIN,
}
"""By `error.details.error_code`."""
_BY_BEGINNING: Final = {
    "Your credit balance is too low": "Buy credits in the Console, under Plans & Billing" + _AGAIN,
    "You have reached your specified": "Raise the usage limit in the Console, under Limits, or wait until the time "
    "that the message names" + _AGAIN,
}
"""By the first words of `error.message`, where the API sends no code."""


def remedy_of(status: int, error_code: str | None, message: str) -> str | None:
    """What lifts this refusal by the API's own envelope; None if it is not one of a whole account or workspace."""
    if status not in _STATUSES:
        return None
    if error_code in _BY_CODE:
        return _BY_CODE[error_code]
    return next((remedy for begin, remedy in _BY_BEGINNING.items() if message.startswith(begin)), None)
