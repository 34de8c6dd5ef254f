//! RequestAuthentication.

use super::destination_rule::whole_milliseconds;
use super::{Report, common, headers};
use crate::security::{JwtRule, RequestAuthentication};

/// Members of a JSON Web Key that must stay with whoever signs.
const PRIVATE: [&str; 2] = ["d", "k"];

pub(crate) fn check(spec: &RequestAuthentication, report: &mut Report<'_>) {
    common::selector(spec.selector.as_ref(), report);
    common::targets(spec.target_ref.as_ref(), &spec.target_refs, report);
    report.each("jwtRules", &spec.jwt_rules, rule);
}

fn rule(report: &mut Report<'_>, rule: &JwtRule) {
    if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
        report.error("a JWT rule needs `issuer` or `jwksUri`");
    }
    if !rule.jwks.is_empty() {
        report.key("jwks", |report| key_set(&rule.jwks, report));
    }
    report.each("fromHeaders", &rule.from_headers, |report, header| {
        if !header.name.is_empty() && !headers::is_token(&header.name) {
            report.error_at("name", format!("`{}` is not a header name", header.name));
        }
    });
    let output = &rule.output_payload_to_header;
    if !output.is_empty() && !headers::is_token(output) {
        report.error_at(
            "outputPayloadToHeader",
            format!("`{output}` is not a header name"),
        );
    }
    whole_milliseconds("timeout", rule.timeout, report);
}

/// An inline JSON Web Key Set, or a single key.
fn key_set(text: &str, report: &mut Report<'_>) {
    let parsed: serde_json::Value = match serde_json::from_str(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            report.error(format!("not a JSON Web Key Set: {error}"));
            return;
        }
    };
    let keys: Vec<&serde_json::Value> = match parsed.get("keys").and_then(|keys| keys.as_array()) {
        Some(keys) => keys.iter().collect(),
        None => vec![&parsed],
    };
    for key in keys {
        if !key.get("kty").is_some_and(serde_json::Value::is_string) {
            report.error("not a JSON Web Key Set: a key has no `kty`");
        } else if PRIVATE.iter().any(|member| key.get(member).is_some()) {
            report.warning(
                "the key set holds a private key",
                "only public keys are used",
            );
        }
    }
}
