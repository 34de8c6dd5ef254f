//! Key sets that a rule holds itself: what is wrong with which key. Nothing is computed with them; proxies do that.
//!
//! A key that cannot be used is passed over, as RFC 7517 section 5 wants it, so that each is a warning. A set without a usable key
//! refuses every token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::super::Report;
use super::{EFFECT_REFUSED, advise};

/// Members of a JSON Web Key that must stay with whoever signs.
const PRIVATE: [&str; 6] = ["d", "p", "q", "dp", "dq", "qi"];

/// Base64url digits of the shortest RSA modulus that is used: 2048 bits (RFC 7518 section 3.3).
const MIN_RSA_DIGITS: usize = 342;

const EFFECT_NOT_USED: &str = "the key is not used";

/// A JSON Web Key Set.
pub(super) fn set(text: &str, report: &mut Report<'_>) {
    let parsed: Value = match serde_json::from_str(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            report.error(format!("not a JSON Web Key Set: {error}"));
            return;
        }
    };
    let Some(keys) = parsed.get("keys") else {
        single(&parsed, report);
        return;
    };
    let Some(keys) = keys.as_array() else {
        report.error("not a JSON Web Key Set: `keys` is not a list");
        return;
    };
    if keys.is_empty() {
        let fix = "put the issuer's public keys there, or name them by `jwksUri`";
        let message = "the key set holds no key".to_owned();
        advise(report, message, EFFECT_REFUSED, fix.to_owned());
    }
    for (index, key) in keys.iter().enumerate() {
        one(index, key, report);
    }
}

/// A single key where a set has to be: it reads well, and no proxy finds a key in it.
fn single(parsed: &Value, report: &mut Report<'_>) {
    if parsed.get("kty").is_none_or(|kind| !kind.is_string()) {
        report.error("not a JSON Web Key Set: there is no list `keys`");
        return;
    }
    let fix = "write {\"keys\": [KEY]}".to_owned();
    let message = "a single key is no key set".to_owned();
    advise(report, message, EFFECT_REFUSED, fix);
    one(0, parsed, report);
}

fn one(index: usize, key: &Value, report: &mut Report<'_>) {
    let Some(kind) = key.get("kty").and_then(Value::as_str) else {
        report.error("not a JSON Web Key Set: a key has no `kty`");
        return;
    };
    let name = match key.get("kid").and_then(Value::as_str) {
        Some(kid) => format!("key {index} (`{kid}`)"),
        None => format!("key {index}"),
    };
    if PRIVATE.iter().any(|member| key.get(member).is_some()) {
        report.warning(
            format!("{name} is a private key"),
            "only its public part is used; who can read this object can issue tokens",
        );
    }
    if let Some((problem, fix)) = problem(kind, key) {
        advise(report, format!("{name}: {problem}"), EFFECT_NOT_USED, fix);
    } else if kind == "oct" {
        report.warning(
            format!("{name} is a secret, not a public key"),
            "tokens it signed are taken; who can read this object can issue tokens",
        );
    }
}

/// What is wrong with a key, and what to write instead.
fn problem(kind: &str, key: &Value) -> Option<(String, String)> {
    let algorithm = key.get("alg").and_then(Value::as_str);
    let (members, algorithms): (&[&str], &[&str]) = match kind {
        "RSA" => (
            &["n", "e"],
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        ),
        "EC" => (&["x", "y"], &["ES256", "ES384", "ES512"]),
        "OKP" => (&["crv", "x"], &["EdDSA"]),
        "oct" => (&["k"], &["HS256", "HS384", "HS512"]),
        other => {
            let fix = "use a key of type RSA, EC or OKP".to_owned();
            return Some((format!("`{other}` is no type of key that is known"), fix));
        }
    };
    let missing = members
        .iter()
        .find(|member| !key.get(**member).is_some_and(Value::is_string));
    if let Some(missing) = missing {
        let fix = format!("add `{missing}`");
        return Some((format!("a key of type {kind} has a text `{missing}`"), fix));
    }
    if let Some(other) = algorithm.filter(|name| !algorithms.contains(name)) {
        let fix = format!("use one of {}", algorithms.join(", "));
        let problem = format!("`{other}` is no signature algorithm of {kind} keys");
        return Some((problem, fix));
    }
    match kind {
        "RSA" => short_modulus(key),
        "EC" => curve(key, &["P-256", "P-384", "P-521"]).or_else(|| off_curve(key)),
        "OKP" => curve(key, &["Ed25519"]),
        _ => None,
    }
}

fn short_modulus(key: &Value) -> Option<(String, String)> {
    let digits = key.get("n")?.as_str()?.trim_end_matches('=').len();
    (digits < MIN_RSA_DIGITS).then(|| {
        let problem = "an RSA key has to have 2048 bits at least".to_owned();
        (problem, "issue a longer key".to_owned())
    })
}

/// Proxies refuse a key whose coordinates are no point: a digit was lost, or it is a key of another curve.
fn off_curve(key: &Value) -> Option<(String, String)> {
    let member = |name: &str| key.get(name).and_then(Value::as_str);
    let curve = match (member("crv"), member("alg")) {
        (Some(name), _) => name,
        (None, Some("ES384")) => "P-384",
        (None, Some("ES512")) => "P-521",
        (None, _) => "P-256",
    };
    let number = |name: &str| {
        let text = member(name)?.trim_end_matches('=');
        URL_SAFE_NO_PAD.decode(text).ok()
    };
    let fix = || "copy `x` and `y` of the key anew".to_owned();
    match (number("x"), number("y")) {
        (Some(x), Some(y)) if crate::curve::has_point(curve, &x, &y) => None,
        (Some(_), Some(_)) => Some((format!("its `x` and `y` are no point on {curve}"), fix())),
        _ => Some(("its `x` and `y` are not both base64url".to_owned(), fix())),
    }
}

fn curve(key: &Value, known: &[&str]) -> Option<(String, String)> {
    let name = key.get("crv")?.as_str()?;
    (!known.contains(&name)).then(|| {
        let problem = format!("`{name}` is no curve that is known");
        (problem, format!("use {}", known.join(", ")))
    })
}
