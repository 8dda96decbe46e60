"""Name the refusals that only a person can clear, and the remedy of each. Pure.

The API answers a lack of credit, and most limits that a customer has set, with the envelope of a bad request (400),
both on a create and on a list. Such an answer does not depend on the request: every other call of the same key and
workspace gets it, too, until a person acts outside abatch. A few codes concern something that one job names
(`OF_ONE_JOB`).

This module lists every code of the SDK's error map with which a call of the batch endpoints can be refused, and which
does not pass by itself. Codes of other endpoints, and codes for a wrong request, are judged by their status.
"""

from __future__ import annotations

from typing import Final

__all__ = ["OF_ONE_JOB", "SPEND_LIMIT", "remedy_of"]

SPEND_LIMIT: Final = "enforced_spend_limit_reached"
_STATUSES: Final = frozenset({400, 402, 403, 429})
_AGAIN: Final = ", then run the same command again."
_BY_CODE: Final = {
    SPEND_LIMIT: "Raise the spend limit in the Console" + _AGAIN,
    "contract_spend_limit_reached": "Ask Anthropic to raise the spend limit of your contract" + _AGAIN,
    "linked_organization_spend_limit_reached": "Raise the spend limit of the linked organization" + _AGAIN,
    "linked_organization_billing_unavailable": "Have the linked organization settle its billing" + _AGAIN,
    "workspace_human_review_disabled": "Turn on Human Review for the workspace in the Console, or use a key of a "
    "workspace that has it" + _AGAIN,
    "organization_on_hold": "The organization was disabled by Anthropic: appeal in the Console" + _AGAIN,
    "organization_type_not_supported": "Ask your Anthropic account team to open batches to the organization" + _AGAIN,
    "cmek_key_disabled": "Enable the workspace's customer-managed encryption key" + _AGAIN,
    "cmek_key_network_blocked": "Let Anthropic pass the network access controls of the workspace's customer-managed "
    "encryption key" + _AGAIN,
    "cmek_not_approved": "Ask Anthropic to approve customer-managed encryption keys for the organization" + _AGAIN,
    "storage_not_approved": "Ask Anthropic to approve the customer-owned storage of the organization" + _AGAIN,
    "claude_code_key_creator_not_member": "Make the creator of the API key a member of its organization and "
    "workspace again" + _AGAIN,
    "sandbox_egress_restricted": "Leave the sandbox with restricted network access, or lift the restriction" + _AGAIN,
    # The codes from here on concern one job.
    "user_profile_billing_not_authorized": "Have the customer of the job's user profile authorize the billing" + _AGAIN,
    "user_profile_not_billable": "Have the manager of the job's user profile make it billable" + _AGAIN,
    "user_profile_not_found": "Create or activate the user profile that the message names" + _AGAIN,
    "workspace_policy_violation": "Have an admin of the organization change the rule that the message names, in the "
    "Console under Workspace Policy" + _AGAIN,
    "organization_not_eligible": "Ask your Anthropic account team for the feature that the message names" + _AGAIN,
    "organization_not_enrolled_in_beta": "Have the beta that the message names enabled for the organization" + _AGAIN,
    "request_body_timeout": "Use a faster connection to the API" + _AGAIN,
}
"""By `error.details.error_code`."""
OF_ONE_JOB: Final = frozenset(
    {
        "user_profile_billing_not_authorized",
        "user_profile_not_billable",
        "user_profile_not_found",
        "workspace_policy_violation",
        "organization_not_eligible",
        "organization_not_enrolled_in_beta",
        "request_body_timeout",
        "skill_read_blocked_undecryptable",
    }
)
"""Codes that are caused by something that one job names or sends. Other jobs of the key and workspace continue."""
_BY_CODE_OF_409: Final = {
    "skill_read_blocked_undecryptable": "Enable the encryption key of the skill that the requests name" + _AGAIN,
}
"""By `error.details.error_code` of a 409, a status that passes by itself with any other code."""
_BY_BEGINNING: Final = {
    "Your credit balance is too low": "Buy credits in the Console, under Plans & Billing" + _AGAIN,
    "You have reached your specified": "Raise the usage limit in the Console, under Limits, or wait until the time "
    "that the message names" + _AGAIN,
}
"""By the first words of `error.message`, where the API sends no code."""


def remedy_of(status: int, error_code: str | None, message: str) -> str | None:
    """Return the remedy for a refusal by the API's own envelope; None if not only a person can clear it."""
    if status == 409:
        return None if error_code is None else _BY_CODE_OF_409.get(error_code)
    if status not in _STATUSES:
        return None
    if error_code in _BY_CODE:
        return _BY_CODE[error_code]
    return next((remedy for begin, remedy in _BY_BEGINNING.items() if message.startswith(begin)), None)
