//! The fields of `security.v1beta1` (request authentication), as in Istio 1.30.
//!
//! Field tables only; meaning is checked in `validate`.

use std::time::Duration;

use crate::schema::object;
use crate::selector::{PolicyTargetReference, WorkloadSelector};

object! {
    /// `security.v1beta1.RequestAuthentication` of Istio's API.
    pub struct RequestAuthentication {
        selector: Option<WorkloadSelector>,
        target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>,
        jwt_rules: Vec<JwtRule>,
    }
}

object! {
    /// `security.v1beta1.JWTRule` of Istio's API.
    pub struct JwtRule {
        issuer: String,
        audiences: Vec<String>,
        jwks_uri: String,
        jwks: String,
        from_headers: Vec<JwtHeader>,
        from_params: Vec<String>,
        output_payload_to_header: String,
        from_cookies: Vec<String>,
        forward_original_token: bool,
        output_claim_to_headers: Vec<ClaimToHeader>,
        timeout: Option<Duration>,
        space_delimited_claims: Vec<String>,
    }
}

object! {
    /// `security.v1beta1.JWTHeader` of Istio's API.
    pub struct JwtHeader {
        name: String,
        prefix: String,
    }
}

object! {
    /// `security.v1beta1.ClaimToHeader` of Istio's API.
    pub struct ClaimToHeader {
        header: String,
        claim: String,
    }
}
