//! RequestAuthentication.

mod keys;

use super::common::{self, whole_milliseconds};
use super::{Report, codes, headers};
use crate::Severity;
use crate::security::{JwtRule, RequestAuthentication};

/// What becomes of tokens when there are no keys.
const EFFECT_REFUSED: &str =
    "every token of this issuer is refused with 401; requests without one pass";

pub(crate) fn check(spec: &RequestAuthentication, report: &mut Report<'_>) {
    common::selector(spec.selector.as_ref(), report);
    common::targets(spec.target_ref.as_ref(), &spec.target_refs, report);
    report.each("jwtRules", &spec.jwt_rules, rule);
}

fn rule(report: &mut Report<'_>, rule: &JwtRule) {
    if rule.issuer.is_empty() && rule.jwks_uri.is_empty() {
        report.error("a JWT rule needs `issuer` or `jwksUri`");
    }
    source_of_keys(report, rule);
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

/// Where the keys come from: the rule itself, a URI, or the issuer's OpenID configuration.
fn source_of_keys(report: &mut Report<'_>, rule: &JwtRule) {
    if !rule.jwks.is_empty() {
        report.key("jwks", |report| keys::set(&rule.jwks, report));
    } else if !rule.jwks_uri.is_empty() {
        report.key("jwksUri", |report| uri(&rule.jwks_uri, report));
    } else if !rule.issuer.is_empty() && host(&rule.issuer).is_none() {
        report.key("issuer", |report| {
            let message = format!(
                "there is neither `jwks` nor `jwksUri`, and `{}` is no URL with an OpenID configuration",
                rule.issuer
            );
            let fix = "add `jwksUri`, or the keys themselves as `jwks`".to_owned();
            advise(report, message, EFFECT_REFUSED, fix);
        });
    }
}

fn uri(uri: &str, report: &mut Report<'_>) {
    let Some((scheme, authority)) = host(uri) else {
        return; // told by the schema
    };
    if authority.contains('@') {
        let message = "the URI holds credentials, which everyone who may read the object sees";
        let fix = "serve the keys without credentials: they are public".to_owned();
        advise(report, message.to_owned(), EFFECT_REFUSED, fix);
    }
    let place = authority.rsplit('@').next().unwrap_or_default();
    let port = place.rsplit_once(':').map_or("", |(_, port)| port);
    if !port.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()) {
        report.error(format!("`{port}` is not a port"));
    }
    let name = authority.split(':').next().unwrap_or_default();
    let local = !name.contains('.')
        || name.ends_with(".local")
        || name.ends_with(".svc")
        || name.parse::<std::net::IpAddr>().is_ok()
        || name.split('.').count() == 2
            && name.split('.').next_back().is_some_and(|tld| tld.len() > 3);
    if scheme == "http" && !local && !authority.starts_with('[') {
        let message = format!("keys of `{name}` in plain text can be exchanged on the way");
        let effect = "the keys are fetched as written; who exchanges them can issue tokens";
        advise(report, message, effect, "use `https`".to_owned());
    }
}

/// Scheme and authority of a URL.
fn host(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    (matches!(scheme, "http" | "https") && !authority.is_empty()).then_some((scheme, authority))
}

/// A warning with what to write instead.
fn advise(report: &mut Report<'_>, message: String, effect: &str, fix: String) {
    report.push(
        codes::SCHEMA_WARNING,
        Severity::Warning,
        message,
        effect,
        Some(fix),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_authority_are_told_apart() {
        assert_eq!(host("https://a.example/x"), Some(("https", "a.example")));
        assert_eq!(host("http://a:80?x"), Some(("http", "a:80")));
        assert_eq!(host("testing@secure.istio.io"), None);
        assert_eq!(host("https:///x"), None);
    }
}
