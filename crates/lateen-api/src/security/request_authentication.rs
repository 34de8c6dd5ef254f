//! The fields of `security.v1beta1` (request authentication), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::time::Duration;

use crate::schema::{enumeration, object};
use crate::selector::{PolicyTargetReference, WorkloadSelector};

object! {
    /// `security.v1beta1.RequestAuthentication` of Istio's API.
    pub struct RequestAuthentication [AtMostOne(&["selector", "targetRef", "targetRefs"])] {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference> [max_items(16)],
        jwt_rules: Vec<JwtRule> [max_items(4096)],
    }
}

object! {
    /// `security.v1beta1.JWTRule` of Istio's API.
    pub struct JwtRule [AtMostOne(&["jwksUri", "jwks_uri", "jwks"])] {
        issuer: String [NOT_EMPTY],
        audiences: Vec<String> [EACH_NOT_EMPTY],
        jwks_uri: String = "jwksUri" | "jwks_uri" [NOT_EMPTY, max_len(2048), Check::Text(http_url)],
        jwks: String,
        from_headers: Vec<JwtHeader>,
        from_params: Vec<String> [EACH_NOT_EMPTY],
        output_payload_to_header: String,
        from_cookies: Vec<String> [EACH_NOT_EMPTY],
        forward_original_token: bool,
        output_claim_to_headers: Vec<ClaimToHeader>,
        timeout: Option<Duration> [MILLISECOND],
        space_delimited_claims: Vec<String> [max_items(64), EACH_NOT_EMPTY],
        presence: JwtPresence,
    }
}

object! {
    /// `security.v1beta1.JWTHeader` of Istio's API.
    pub struct JwtHeader {
        name: String [REQUIRED, NOT_EMPTY],
        prefix: String,
    }
}

object! {
    /// `security.v1beta1.ClaimToHeader` of Istio's API.
    pub struct ClaimToHeader {
        header: String [REQUIRED, NOT_EMPTY, Check::Text(header_name)],
        claim: String [REQUIRED, NOT_EMPTY],
    }
}

enumeration! {
    /// `security.v1beta1.JWTRule.Presence` of Istio's API.
    pub enum JwtPresence {
        Optional = "OPTIONAL",
        Required = "REQUIRED",
    }
}
