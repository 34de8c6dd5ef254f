//! The keys of token issuers: which are asked for, what is known of them, and what of it proxies get.
//!
//! Keys that a RequestAuthentication does not hold itself are fetched by the control plane, outside this crate; a snapshot is given
//! what was found. Whatever happens, a proxy never gets a key that anybody else could have the private part of: if there are no
//! keys it gets [`NO_KEYS`], and refuses every token.

mod usable;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lateen_api::Resource;
use lateen_api::mesh::{CertificateData, MeshConfig};
use lateen_api::security::{JwtRule, RequestAuthentication};
use serde_json::{Map, Value};

/// How long fetching keys may take if a rule does not say. Source: Istio, `convertToEnvoyJwtConfig`.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long fetching a SPIFFE bundle may take. Source: Istio, `trustbundle.remoteTimeout`.
const BUNDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the largest key set that is fetched or handed on.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Keys of the largest set that is fetched.
const MAX_KEYS: usize = 256;

/// The set that verifies nothing: nobody can have the private half of its key.
///
/// Istio has such a key, too, and asks its users to believe that its private half was thrown away; there was a time when it had not
/// been (CVE-2026-31837). This one can be checked: its `x` is the SHA-256 of the sentence `Lateen: nobody has the private half of
/// this key (2)`, the first in a row with 0, 1, 2, … that is the coordinate of a point on P-256, and `y` is the even one of the two
/// that belong to it. To know a private half would be to have solved the discrete logarithm for a hash.
///
/// An empty set would say it more simply, but Envoy refuses a listener with one.
pub(crate) const NO_KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"no-keys-are-known","x":"rwsk_xqZ6UevHakg1YvGZbl4gW5jOpEevZUqgqz_us0","y":"DgSyD8f2SAZ6uW5Ip5i0_aUF7PQEF3ECjVKClDp-7XY"}]}"#;

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JwksSource {
    /// At a URI (`jwksUri`).
    Uri(String),
    /// Where the issuer's OpenID configuration says (OpenID Connect Discovery 1.0).
    Discovery(String),
    /// No keys of an issuer, but the roots of another mesh, from a SPIFFE bundle endpoint.
    SpiffeBundle(String),
}

impl JwksSource {
    /// The source of a rule's keys; `None` if it holds them itself.
    pub fn of(rule: &JwtRule) -> Option<Self> {
        if !rule.jwks.is_empty() {
            None
        } else if rule.jwks_uri.is_empty() {
            Some(Self::Discovery(rule.issuer.clone()))
        } else {
            Some(Self::Uri(rule.jwks_uri.clone()))
        }
    }
}

impl JwksSource {
    /// Where the roots of another mesh are; `None` if they are written.
    pub fn of_root(root: &CertificateData) -> Option<Self> {
        let url = root.spiffe_bundle_url.as_deref()?;
        let written = root.pem.as_deref().is_some_and(|pem| !pem.is_empty());
        (!written && !url.is_empty()).then(|| Self::SpiffeBundle(url.to_owned()))
    }
}

impl std::fmt::Display for JwksSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uri(uri) => f.write_str(uri),
            Self::Discovery(issuer) => write!(f, "the OpenID configuration of {issuer}"),
            Self::SpiffeBundle(url) => write!(f, "the SPIFFE bundle {url}"),
        }
    }
}

/// What is known of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jwks {
    /// The last good set, as [`public_set`] left it; of a SPIFFE bundle its roots in PEM.
    pub keys: Option<Arc<str>>,
    /// Why the last attempt to fetch it failed.
    pub problem: Option<String>,
}

/// What is known of every source. One that is missing was not tried yet.
pub type JwksStore = BTreeMap<JwksSource, Jwks>;

/// The sources that objects name, with the longest that fetching each may take.
pub fn jwks_sources(resources: &[Resource]) -> BTreeMap<JwksSource, Duration> {
    let mut out = BTreeMap::new();
    for resource in resources {
        let Some(spec) = resource.spec_as::<RequestAuthentication>() else {
            continue;
        };
        for rule in &spec.jwt_rules {
            let Some(source) = JwksSource::of(rule) else {
                continue;
            };
            let timeout = rule.timeout.unwrap_or(DEFAULT_TIMEOUT);
            let longest = out.entry(source).or_insert(timeout);
            *longest = timeout.max(*longest);
        }
    }
    out
}

/// The SPIFFE bundles that a mesh trusts, with the longest that fetching each may take.
pub fn bundle_sources(mesh: &MeshConfig) -> BTreeMap<JwksSource, Duration> {
    let roots = mesh.ca_certificates.iter();
    roots
        .filter_map(|root| Some((JwksSource::of_root(root)?, BUNDLE_TIMEOUT)))
        .collect()
}

/// The host and port that a `jwksUri` leads to; `None` if it is none.
pub(crate) fn host_and_port(uri: &str) -> Option<(&str, u32)> {
    let (scheme, rest) = uri.split_once("://")?;
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse::<u16>().ok()?.into()),
        _ => (authority, usual),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty() && !host.contains('@')).then_some((host, port))
}

/// Members of a JSON Web Key that say what it is and verify with it.
const PUBLIC: [&str; 9] = ["kty", "kid", "alg", "use", "crv", "x", "y", "n", "e"];

/// Members that are for who signs.
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// Why something that was fetched is no key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAKeySet {
    /// Not JSON.
    NotJson,
    /// No list `keys`.
    NoKeys,
    /// More than 256 keys.
    TooMany,
    /// No key with a type that a public key has.
    NoneUsable,
}

impl std::fmt::Display for NotAKeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotJson => "the answer is not JSON",
            Self::NoKeys => "the answer is no key set: it has no list `keys`",
            Self::TooMany => "the key set has more than 256 keys",
            Self::NoneUsable => "the key set holds no public key",
        })
    }
}

impl std::error::Error for NotAKeySet {}

/// The public keys of a fetched set, and nothing else of it, in one order.
///
/// What a server answered is not handed on as it is: a request that somebody made the control plane send could otherwise bring an
/// internal answer into the configuration that proxies show. Secrets (`oct`) are left out: a secret that a URI serves is none.
///
/// # Errors
/// It is no key set.
pub fn public_set(text: &[u8]) -> Result<Arc<str>, NotAKeySet> {
    let set: Value = serde_json::from_slice(text).map_err(|_| NotAKeySet::NotJson)?;
    let Some(Value::Array(list)) = set.get("keys") else {
        return Err(NotAKeySet::NoKeys);
    };
    if list.len() > MAX_KEYS {
        return Err(NotAKeySet::TooMany);
    }
    let mut keys: Vec<(String, String)> = list.iter().filter_map(public_key).collect();
    if keys.is_empty() {
        return Err(NotAKeySet::NoneUsable);
    }
    keys.sort();
    let keys: Vec<String> = keys.into_iter().map(|(_, text)| text).collect();
    Ok(format!("{{\"keys\":[{}]}}", keys.join(",")).into())
}

/// A public key's `kid` and its text; `None` if proxies could not use it.
fn public_key(key: &Value) -> Option<(String, String)> {
    if key.get("kty")?.as_str()? == "oct" || !usable::is_usable(key) {
        return None;
    }
    let members: Map<String, Value> = PUBLIC
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), key.get(*name)?)))
        .filter(|(_, value)| value.is_string())
        .map(|(name, value)| (name, value.clone()))
        .collect();
    let kid = key.get("kid").and_then(Value::as_str).unwrap_or_default();
    Some((kid.to_owned(), Value::Object(members).to_string()))
}

/// Keys that a rule holds itself, without what is for who signs; [`NO_KEYS`] if none of them can be used, since Envoy refuses a
/// listener for that.
pub(crate) fn inline_set(text: &str) -> String {
    let none = || NO_KEYS.to_owned();
    let Ok(mut set) = serde_json::from_str::<Value>(text) else {
        return none();
    };
    let Some(Value::Array(keys)) = set.get_mut("keys") else {
        return none();
    };
    if !keys.iter().any(usable::is_usable) {
        return none();
    }
    let mut stripped = false;
    for key in keys.iter_mut().filter_map(Value::as_object_mut) {
        for member in PRIVATE {
            stripped |= key.shift_remove(member).is_some();
        }
    }
    if stripped {
        set.to_string()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 32 bytes: an Ed25519 key, and no coordinate of a point with itself.
    const X: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    /// A point on P-256.
    const PX: &str = "rwsk_xqZ6UevHakg1YvGZbl4gW5jOpEevZUqgqz_us0";
    const PY: &str = "DgSyD8f2SAZ6uW5Ip5i0_aUF7PQEF3ECjVKClDp-7XY";

    #[test]
    fn a_uri_leads_to_a_host_and_a_port() {
        let cases = [
            (
                "http://keys.auth.svc.cluster.local/jwks",
                Some(("keys.auth.svc.cluster.local", 80)),
            ),
            ("https://a.example?x=1", Some(("a.example", 443))),
            ("http://a.example:8080", Some(("a.example", 8080))),
            ("https://[fd00::1]:8443/", Some(("fd00::1", 8443))),
            ("https://[fd00::1]/", Some(("fd00::1", 443))),
            ("https://me@a.example/", None),
            ("http://a.example:99999/", None),
            ("ftp://a.example/", None),
            ("http://", None),
            ("a.example", None),
        ];
        for (uri, place) in cases {
            assert_eq!(host_and_port(uri), place, "{uri}");
        }
    }

    #[test]
    fn a_fetched_set_is_reduced_to_public_keys_in_one_order() {
        let n = "n".repeat(344);
        let one = format!(
            r#"{{"secret": "x", "keys": [
            {{"kty": "RSA", "kid": "b", "n": "{n}", "e": "AQAB", "d": "D", "x5c": ["C"]}},
            {{"kty": "EC", "kid": "a", "crv": "P-256", "x": "{PX}", "y": "{PY}"}},
            {{"kty": "oct", "k": "c2VjcmV0"}}, {{"kid": "c"}}, 7, {{"kty": "RSA", "n": "short", "e": "AQAB"}}
        ]}}"#
        );
        let two = format!(
            r#"{{"keys": [
            {{"kid": "a", "kty": "EC", "y": "{PY}", "x": "{PX}", "crv": "P-256"}},
            {{"e": "AQAB", "kty": "RSA", "kid": "b", "n": "{n}"}}
        ]}}"#
        );
        let set = public_set(one.as_bytes()).unwrap();
        assert_eq!(set, public_set(two.as_bytes()).unwrap());
        assert_eq!(
            *set,
            *format!(
                r#"{{"keys":[{{"kty":"EC","kid":"a","crv":"P-256","x":"{PX}","y":"{PY}"}},{{"kty":"RSA","kid":"b","n":"{n}","e":"AQAB"}}]}}"#
            )
        );
    }

    #[test]
    fn what_is_no_key_set_is_not_handed_on() {
        let check = |text: &str| public_set(text.as_bytes()).unwrap_err();
        assert_eq!(check("<html>"), NotAKeySet::NotJson);
        assert_eq!(check("{\"password\": \"x\"}"), NotAKeySet::NoKeys);
        assert_eq!(check("{\"keys\": {\"a\": 1}}"), NotAKeySet::NoKeys);
        assert_eq!(check("[]"), NotAKeySet::NoKeys);
        assert_eq!(check("{\"keys\": []}"), NotAKeySet::NoneUsable);
        assert_eq!(
            check("{\"keys\": [{\"kty\": \"oct\", \"k\": \"x\"}]}"),
            NotAKeySet::NoneUsable
        );
        let many = format!("{{\"keys\": [{}]}}", vec!["{}"; MAX_KEYS + 1].join(","));
        assert_eq!(check(&many), NotAKeySet::TooMany);
    }

    #[test]
    fn private_members_of_inline_keys_stay_with_the_control_plane() {
        let public = format!(r#"{{ "keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{X}"}}] }}"#);
        assert_eq!(inline_set(&public), public);
        assert_eq!(
            inline_set(&public.replace("\"crv\"", "\"d\": \"D\", \"crv\"")),
            format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{X}"}}]}}"#)
        );
    }

    #[test]
    fn inline_keys_that_are_none_become_the_key_that_nobody_has() {
        for text in [
            "",
            "not json",
            "[]",
            "{}",
            r#"{"keys": []}"#,
            r#"{"keys": [{"kty": "RSA"}]}"#,
            // No point on its curve: Envoy refuses a listener for it.
            &format!(r#"{{"keys": [{{"kty": "EC", "crv": "P-256", "x": "{X}", "y": "{X}"}}]}}"#),
        ] {
            assert_eq!(inline_set(text), NO_KEYS, "{text}");
        }
        assert!(
            public_set(NO_KEYS.as_bytes()).is_ok(),
            "proxies take it for a key set"
        );
    }

    #[test]
    fn a_rule_has_its_keys_from_one_place() {
        let rule = |uri: &str, jwks: &str| JwtRule {
            issuer: "https://i".to_owned(),
            jwks_uri: uri.to_owned(),
            jwks: jwks.to_owned(),
            ..Default::default()
        };
        assert_eq!(JwksSource::of(&rule("", "{}")), None);
        assert_eq!(
            JwksSource::of(&rule("http://u", "")),
            Some(JwksSource::Uri("http://u".to_owned()))
        );
        assert_eq!(
            JwksSource::of(&rule("", "")),
            Some(JwksSource::Discovery("https://i".to_owned()))
        );
    }
}
