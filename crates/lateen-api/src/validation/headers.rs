//! Headers: names in matches, names and values in manipulations.

use std::collections::BTreeMap;

use super::Report;
use crate::networking::{HeaderOperations, Headers};

/// Pseudo headers that a match may name.
const PSEUDO: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];

/// The prefix of header names that mean a claim of the request's JWT.
pub(crate) const JWT_CLAIM: &str = "@request.auth.claims";

/// Whether a header name means a claim of the request's JWT: `@request.auth.claims.x` or `@request.auth.claims[x]`.
pub(crate) fn is_jwt_claim(name: &str) -> bool {
    name.strip_prefix(JWT_CLAIM).is_some_and(|rest| {
        rest.strip_prefix('.')
            .is_some_and(|claim| !claim.is_empty())
            || (rest.starts_with('[') && rest.ends_with(']') && rest.len() > 2)
    })
}

/// Whether a name is a token of RFC 9110.
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// What is wrong with a header's name in a match.
pub(crate) fn match_name(name: &str) -> Option<String> {
    let holds = is_jwt_claim(name) || PSEUDO.contains(&name) || is_token(name);
    (!holds).then(|| format!("`{name}` is not a header name"))
}

/// `headers` of a route or of a destination.
pub(crate) fn manipulations(report: &mut Report<'_>, headers: &Headers) {
    report.some("request", headers.request.as_ref(), |report, operations| {
        manipulation(operations, Direction::Request, report);
    });
    report.some(
        "response",
        headers.response.as_ref(),
        |report, operations| {
            manipulation(operations, Direction::Response, report);
        },
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

fn manipulation(operations: &HeaderOperations, direction: Direction, report: &mut Report<'_>) {
    set("set", &operations.set, direction, report);
    set("add", &operations.add, direction, report);
    report.each("remove", &operations.remove, |report, name| {
        if let Some(why) = changed_name(name, Direction::Response) {
            report.error(why);
        }
    });
}

fn set(
    key: &str,
    headers: &BTreeMap<String, String>,
    direction: Direction,
    report: &mut Report<'_>,
) {
    report.key(key, |report| {
        for (name, value) in headers {
            report.key(name, |report| {
                let why = changed_name(name, direction).or_else(|| header_value(value));
                if let Some(why) = why {
                    report.error(why);
                }
            });
        }
    });
}

/// What is wrong with the name of a header that is to be changed.
fn changed_name(name: &str, direction: Direction) -> Option<String> {
    if name.is_empty() {
        return Some("a header name must not be empty".to_owned());
    }
    // In requests, Istio rewrites the authority where it is set by either of its names.
    if direction == Direction::Request && is_authority(name) {
        return None;
    }
    if name.eq_ignore_ascii_case("host") {
        return Some("the Host header cannot be changed here".to_owned());
    }
    name.starts_with(':')
        .then(|| format!("the pseudo header `{name}` cannot be changed here"))
}

/// Whether a name means the authority.
pub(crate) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// What is wrong with a header's value. Envoy fills in `%COMMAND%` and `%COMMAND(…)%`; `%%` is a percent sign.
pub(crate) fn header_value(value: &str) -> Option<String> {
    if value.chars().any(|c| c.is_ascii_control() && c != '\t') {
        return Some("a header's value cannot hold control characters".to_owned());
    }
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        let after = &rest[at + 1..];
        rest = match after.strip_prefix('%') {
            Some(literal) => literal,
            None => match command_end(after) {
                Some(end) => &after[end..],
                None => {
                    return Some(format!(
                        "`{value}` has a `%` that begins no %COMMAND%; write `%%` for a percent sign"
                    ));
                }
            },
        };
    }
    None
}

/// Where a command ends whose opening `%` is before `text`: after its closing `%`.
fn command_end(text: &str) -> Option<usize> {
    let name_end = text.find(['%', '('])?;
    if text[name_end..].starts_with('%') {
        return Some(name_end + 1);
    }
    let close = text[name_end..].find(')')? + name_end;
    let tail = text[close + 1..].trim_start_matches(' ');
    let closed = text.len() - tail.len();
    tail.starts_with('%').then_some(closed + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_begin_commands() {
        for fine in [
            "",
            "x",
            "%HOSTNAME%",
            "100%%",
            "a %REQ(X)% b",
            "%ENV(A:B) %",
        ] {
            assert_eq!(header_value(fine), None, "{fine}");
        }
        for wrong in ["100%", "%START_TIME%%", "%REQ(X%", "a\nb"] {
            assert!(header_value(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn claims_have_two_forms() {
        assert!(is_jwt_claim("@request.auth.claims.group"));
        assert!(is_jwt_claim("@request.auth.claims[a.b][c]"));
        assert!(!is_jwt_claim("@request.auth.claims"));
    }
}
