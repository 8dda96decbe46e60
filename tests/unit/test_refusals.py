"""Every error code of the SDK's map and of docs/api.md has its row: what a create that is refused with it comes to."""

from __future__ import annotations

import anthropic
import pytest
from anthropic._error_classes import ERROR_CLASSES  # the map itself: a code that the SDK gains must get a row here
from packaging.version import Version

from abatch.errors import ApiError
from abatch.protocol.reads import refusal_of
from abatch.protocol.reconcile import Later, Refused, Replied, TooLarge, Unknown, judge
from abatch.protocol.refusals import remedy_of

NEWEST = Version("2.15")
"""The SDK whose map these rows were compared with."""
SCOPE = {
    (429, "enforced_spend_limit_reached"): "spend limit in the Console",
    (429, "contract_spend_limit_reached"): "spend limit of your contract",
    (402, "linked_organization_spend_limit_reached"): "spend limit of the linked organization",
    (402, "linked_organization_billing_unavailable"): "settle its billing",
    (400, "workspace_human_review_disabled"): "Human Review",
    (400, "organization_on_hold"): "appeal",
    (400, "organization_type_not_supported"): "account team",
    (400, "cmek_key_disabled"): "Enable the workspace's customer-managed encryption key",
    (400, "cmek_key_network_blocked"): "network access controls",
    (400, "cmek_not_approved"): "approve customer-managed encryption keys",
    (400, "storage_not_approved"): "approve the customer-owned storage",
    (400, "claude_code_key_creator_not_member"): "creator of the API key",
    (403, "sandbox_egress_restricted"): "restricted network access",
}
"""Only a person can clear these, and every job of the key and workspace stops; with words of the remedy."""
JOB = {
    (403, "user_profile_billing_not_authorized"): "authorize the billing",
    (403, "user_profile_not_billable"): "billable",
    (400, "user_profile_not_found"): "activate the user profile",
    (400, "workspace_policy_violation"): "Workspace Policy",
    (400, "organization_not_eligible"): "account team",
    (400, "organization_not_enrolled_in_beta"): "beta that the message names",
    (400, "request_body_timeout"): "faster connection",
    (409, "skill_read_blocked_undecryptable"): "encryption key of the skill",
}
"""Only a person can clear these, and the job that names the cause stops."""
PASSES = {
    (429, "ramp_limit_exceeded"): Later,
    (413, "request_body_too_large_after_decoding"): TooLarge,
    (503, "authorization_check_unavailable"): Unknown,
    (503, "change_outcome_unknown"): Unknown,
    (503, "cmek_context_unavailable"): Unknown,
    (503, "cmek_key_unreachable"): Unknown,
    (503, "registration_pending"): Unknown,
    (503, "workspace_created_incomplete"): Unknown,
    (529, "compaction_unavailable"): Unknown,
}
"""Waited for, split, or settled from the list."""
OF_THE_REQUESTS = {
    *((400, f"compaction_{which}") for which in ("block_ambiguous", "block_misplaced", "content_mismatch")),
    *((400, f"compaction_{which}") for which in ("incomplete_turn", "nothing_to_summarize", "signature_invalid")),
    *((400, f"compaction_{which}") for which in ("too_many_tool_references", "tool_changes_mismatch")),
    *((400, f"thread_{which}") for which in ("already_continued", "continue_in_flight", "fingerprint_mismatch")),
    *((400, f"request_body_encoding_{which}") for which in ("invalid", "unsupported")),
    (400, "thread_unsupported_request"),
    (400, "available_tools_limit_exceeded"),
    (400, "claude_code_version_too_old"),
    (400, "file_not_downloadable"),
    (400, "image_dimensions_too_large"),
    (400, "invalid_metadata"),
    (400, "tool_name_conflict"),
    (400, "tool_reference_unresolved"),
    (400, "unsupported_charset"),
    (400, "user_profile_required"),
    (404, "file_expired"),
    (404, "thread_not_found"),
}
"""The job stops, and the requests have to be changed."""
OF_OTHER_ENDPOINTS = {
    400: """
        already_member approval_required bundle_attachment_not_supported bundle_on_call
        cannot_invite_emails_with_unverified_domains cannot_remove_last_member cannot_sign_out_primary_owner
        cannot_sign_out_self cmek_feature_unsupported email_domain_not_allowed environment_archived
        external_key_in_workspace_policy external_key_not_found external_key_provider_mismatch
        external_key_validation_failed external_key_validation_timed_out external_storage_in_use
        external_storage_in_workspace_policy external_storage_not_available gcp_project_not_verified
        grant_required human_review_not_available human_review_on_with_external_storage
        invalid_config_type_change invalid_storage_arn invite_already_exists key_profile_mismatch
        org_api_key_limit_exceeded org_member_limit_exceeded parent_organization_required
        provider_not_allowed rbac_group_grants_owner_access rbac_group_order_limit_exceeded
        rbac_group_owner_access_unconfirmed region_not_supported report_page_too_large scan_failed
        settings_document_limit_exceeded settings_history_limit_exceeded
        slack_channel_set_up_settings_refused storage_attach_limit_reached storage_not_attachable
        storage_profile_mismatch storage_profile_still_required storage_quota_exceeded
        storage_verification_failed too_many_report_groups transcripts_storage_required unsupported_region
        user_profile_cleared
        workspace_api_key_limit_exceeded workspace_member_limit_exceeded""",
    403: """
        api_key_requester_unconfirmed api_key_scope_missing cannot_sign_out_managed_member
        cannot_sign_out_membership_admin cannot_sign_out_owner cannot_sign_out_privileged_member
        claude_tag_writes_not_enabled compliance_configuration_restricted environment_create_disabled
        environment_update_disabled organization_level_scoped_api_key_required
        spend_limits_admin_api_writes_not_enabled""",
    404: """
        environment_not_found rbac_group_managed_settings_not_found rbac_group_not_found rbac_role_not_found
        slack_channel_set_up_environment_not_found""",
    409: """
        concurrent_membership_change external_key_changed gcp_project_controlled_by_another_organization
        plugin_name_taken scan_pending skill_name_taken slack_channel_set_up_settings_conflict
        storage_already_registered storage_attached_during_archive storage_changed_concurrently
        storage_in_use workspace_changed_concurrently""",
    412: """
        heartbeat_precondition_failed""",
}
"""They manage organizations, workspaces, storage, skills, channels and settings."""
ELSEWHERE = {(status, code) for status, codes in OF_OTHER_ENDPOINTS.items() for code in codes.split()}
BY_STATUS = {400: Refused, 403: Refused, 404: Refused, 409: Unknown, 412: Unknown}


def refused(status: int, code: str) -> Replied:
    return Replied(status=status, kind="an_error", error_code=code, message="words")


@pytest.mark.parametrize(("status", "code"), SCOPE)
def test_a_code_that_only_a_person_can_clear_stops_every_job_of_the_scope_with_its_remedy(status, code):
    verdict = judge(refused(status, code))
    assert isinstance(verdict, Refused)
    assert (verdict.whole_scope, verdict.definite) == (True, False)
    assert SCOPE[status, code] in verdict.remedy
    assert verdict.remedy.endswith("then run the same command again.")
    seen = refusal_of(ApiError("list", status=status, kind="an_error", error_code=code, message="words"))
    assert seen is not None
    assert (seen.remedy, seen.whole_scope) == (verdict.remedy, True)


@pytest.mark.parametrize(("status", "code"), JOB)
def test_a_code_of_what_one_job_names_stops_that_job_with_its_remedy(status, code):
    verdict = judge(refused(status, code))
    assert isinstance(verdict, Refused)
    assert not verdict.whole_scope
    assert JOB[status, code] in verdict.remedy
    assert verdict.remedy.endswith("then run the same command again.")


@pytest.mark.parametrize(("status", "code"), PASSES)
def test_a_code_that_passes_stops_nothing(status, code):
    assert isinstance(judge(refused(status, code)), PASSES[status, code])
    assert remedy_of(status, code, "words") is None


@pytest.mark.parametrize(("status", "code"), sorted(OF_THE_REQUESTS | ELSEWHERE))
def test_a_code_of_the_requests_or_of_another_endpoint_is_judged_by_its_status(status, code):
    verdict = judge(refused(status, code))
    assert isinstance(verdict, BY_STATUS[status])
    assert remedy_of(status, code, "words") is None


def test_every_code_of_the_sdk_has_one_row():
    """A code that the SDK gains has to be looked at, and to get its row."""
    rows = [*SCOPE, *JOB, *PASSES, *OF_THE_REQUESTS, *ELSEWHERE]
    assert len(rows) == len(set(rows))
    codes = {code for code in ERROR_CLASSES if code[1]}
    assert codes <= set(rows)
    if Version(anthropic.__version__) >= NEWEST:
        assert set(rows) <= codes  # an older SDK has fewer codes


@pytest.mark.parametrize(("status", "code"), [*SCOPE, *JOB])
def test_the_same_code_in_a_proxy_s_page_is_no_refusal_of_the_api(status, code):
    assert isinstance(judge(Replied(status=status, error_code=code, message="words")), Unknown)
